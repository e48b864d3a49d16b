"""What to ask a person first: the answers that would put the most images right.

A question shows some images of one person, and beside them others that may be the same: the other half of that person's images,
other people, undecided images. Joining groups of a and b images that are one person, or parting them where they are two, changes
2 a b / (a + b) images' worth of B-cubed recall or precision. The value of a question is the sum of these, each times the
probability that the ledger is wrong there.
"""

from typing import NamedTuple, Optional, Sequence

import numpy as np

from ..errors import UsageError
from .answers import Part, Question, apply, said_of
from .identity_ledger import IdentityLedger
from .likeness import Likeness

# Images of a part that are shown, the most typical ones.
SHOWN = 6
# Beside the first part; more do not fit on a screen.
MOST_OTHERS = 8
# What is less likely to be wrong than this is not worth a look.
_LEAST_CHANCE = 0.02
# Before anything is answered: halves of people, and likenesses to people who are near but not the nearest, count together as so
# many answers.
_PRIOR_ANSWERS, _NEAREST_LEFT_OUT = 20, 2
# These are drawn where there are more: enough for two numbers.
_PRIOR_PEOPLE, _PRIOR_PAIRS = 500, 2000
# Likenesses are divided by this before the fit, whose penalty is then weak.
_LIKENESS_SCALE, _WEAK_PENALTY = 0.1, 10.0
# A pair of labels as one number.
_SHIFT = 1 << 31


class Questions:
    """The questions of a ledger, the most valuable one first, as it is now; a change costs only what it touches.

    Args:
        ledger: an open one.

    Example::

        questions = Questions(ledger)
        while found := questions.first(1):
            questions.answer(found[0], [True, False, None])
    """

    def __init__(self, ledger: IdentityLedger):
        self._ledger, self._likeness = ledger, Likeness()
        self._images = np.empty(0, np.int64)
        self._revision = self._model = -1
        self._unsure: set = set()
        self._answered: tuple[list, list] = ([], [])  # (likeness, same) of people, of halves
        self._prior: Optional[np.ndarray] = None

    def first(self, count: int = 1) -> list[Question]:
        """The most valuable questions, at most so many; no pair is in two of them. Empty: nothing is worth asking."""
        if not self._follow():
            return []
        options = self._options()
        found = []
        for _ in range(count):
            label, rows = options.best()
            if label is None:
                break
            found.append(self._question(label, rows, options))
            options.gains[np.isin(options.keys, options.keys[rows])] = 0
        return found

    def answer(self, question: Question, same: Sequence[Optional[bool]]) -> list[str]:
        """Writes an answer into the ledger, as one change, and learns from it what a likeness means; None: unsure.

        Returns:
            a line for each that could not be taken (see :func:`apply`).
        """
        if len(same) != len(question.others):
            raise UsageError(f"{len(same)} answers do not fit a question about {len(question.others)} others")
        self.learn(question, same)
        return apply(self._ledger, [said_of(question, same)])

    def learn(self, question: Question, same: Sequence[Optional[bool]]) -> None:
        """Takes an answer for what it tells of others, before it is written: what a likeness means, what not to ask again."""
        about, people = question.about, self._likeness
        place = lambda part: int(np.searchsorted(self._images, part.images[0]))
        for part, said in zip(question.others, same):
            own, other = (int(people.of_place[place(found)]) for found in (about, part))
            if said is None:
                self._unsure.add(_key(own, other))
            elif part.own and own in people.cuts:
                self._answered[1].append((people.cuts[own].likeness, said))
            elif not part.own and own != other:
                self._answered[0].append((float(people.between(np.array([own]), np.array([other]))[0]), said))

    # -- what is known

    def _follow(self) -> bool:
        store = self._ledger.store
        revision = store.counter("revision")
        if revision == self._revision:
            return len(self._images) > 1
        gallery, images = self._ledger.gallery()
        if len(images) < 2:
            return False
        model = self._ledger.model().number
        anew = model != self._model or not np.array_equal(images, self._images)
        if anew:
            rows = store.connection.execute("SELECT camera FROM images JOIN embeddings USING (id) WHERE length(vector)")
            numbers: dict = {}
            self._cameras = np.array([numbers.setdefault(camera, len(numbers)) for (camera,) in rows], np.int64)
        self._images, self._model, self._revision = images, model, revision
        self._likeness.follow(gallery, self._cameras, anew)
        if anew or self._prior is None:
            self._prior = self._known()
        return True

    def _known(self) -> np.ndarray:
        """(n, 3) likeness, whether it is of one person, weight: what the ledger itself tells, before anything is answered."""
        same = self._likeness.halves(_PRIOR_PEOPLE)
        both = self._likeness.edges[:, 1] >= 0
        pairs, alike = self._likeness.edges[both], self._likeness.alike[both]
        order = np.lexsort((-alike, pairs[:, 0]))
        people, alike = pairs[order, 0], alike[order]
        place = np.arange(len(people)) - np.searchsorted(people, people)
        two = np.random.default_rng(0).permutation(alike[place >= _NEAREST_LEFT_OUT])[:_PRIOR_PAIRS]
        weigh = lambda values, said: np.stack(
            [values, np.full(len(values), said), np.full(len(values), _PRIOR_ANSWERS / 2 / max(1, len(values)))], 1
        )
        return np.concatenate([weigh(same, 1.0), weigh(two, 0.0)])

    def _probability(self, kind: int, likeness: np.ndarray) -> np.ndarray:
        """That two are one person, by their likeness: a logistic regression on what is known and what was answered."""
        from sklearn.linear_model import LogisticRegression

        assert self._prior is not None
        answered = np.array([(value, same, 1.0) for value, same in self._answered[kind]]).reshape(-1, 3)
        values, same, weights = np.concatenate([self._prior, answered]).T
        if not len(likeness) or len(np.unique(same)) < 2:
            return np.full(len(likeness), 0.5)
        middle = np.average(values, weights=weights)
        scaled = lambda found: ((found - middle) / _LIKENESS_SCALE)[:, None]
        fitted = LogisticRegression(C=_WEAK_PENALTY).fit(scaled(values), same, sample_weight=weights)
        return fitted.predict_proba(scaled(likeness))[:, 1]

    def _options(self) -> "_Options":
        people = self._likeness
        apart, linked, locked = self._said()
        pairs = people.edges
        keys = pairs[:, 0] * _SHIFT + pairs[:, 1]
        closed = np.isin(keys, [*apart, *self._unsure]) | np.isin(pairs, list(locked)).any(1)
        chance = self._probability(0, people.alike)
        a, b = (people.sizes[np.searchsorted(people.labels, column)] for column in pairs.T)
        gains = np.where(closed | (chance < _LEAST_CHANCE), 0, chance * _worth(a, b))
        both = pairs[:, 1] >= 0  # either of two people may be the one that is asked about
        cut = [n for n in people.cuts if n not in linked and n not in locked and _key(n, n) not in self._unsure]
        same = self._probability(1, np.array([people.cuts[n].likeness for n in cut]))
        sizes = np.array([(len(people.cuts[n].one), len(people.cuts[n].other)) for n in cut]).reshape(-1, 2)
        parted = np.where(1 - same < _LEAST_CHANCE, 0, (1 - same) * _worth(*sizes.T))
        own = np.array(cut, np.int64)
        return _Options(
            np.r_[pairs[:, 0], pairs[both, 1], own],
            np.r_[pairs[:, 1], pairs[both, 0], own],
            np.r_[keys, keys[both], own * _SHIFT + own],
            np.r_[chance, chance[both], same],
            np.r_[gains, gains[both], parted],
        )

    def _said(self) -> tuple[set, set, set]:
        """Keys of pairs that were said to be two; people whose halves were said to be one; locked people."""
        run = self._ledger.store.connection.execute
        answers = np.array(run("SELECT one, other, same FROM answers").fetchall(), np.int64).reshape(-1, 3)
        answers = answers[np.isin(answers[:, :2], self._images).all(1)]
        places = np.searchsorted(self._images, answers[:, :2])
        labels, same = self._likeness.of_place[places], answers[:, 2].astype(bool)
        apart = {_key(a, b) for a, b in labels[~same].tolist() if a != b}
        linked = set()
        for (one, other), (label, second) in zip(places[same].tolist(), labels[same].tolist()):
            cut = self._likeness.cuts.get(label) if label == second else None
            if cut is not None and (one in cut.one) != (other in cut.one):
                linked.add(label)
        locked = {number for (number,) in run("SELECT id FROM people WHERE locked")}
        return apart, linked, locked

    # -- the question

    def _question(self, label: int, rows: np.ndarray, options: "_Options") -> Question:
        people = self._likeness
        halved = (options.others[rows] == label).any()
        about = self._part(label, people.cuts[label].one if halved else people.places(label), False, 1.0)
        others = []
        for row in rows.tolist():
            other = int(options.others[row])
            places = people.cuts[label].other if other == label else people.places(other)
            others.append(self._part(other, places, other == label, float(options.chances[row])))
        return Question(about, tuple(others), float(options.gains[rows].sum()))

    def _part(self, label: int, places: np.ndarray, own: bool, probability: float) -> Part:
        numbers = lambda found: tuple(self._images[found].tolist())
        shown = numbers(self._likeness.typical(places, SHOWN))
        return Part(label if label >= 0 else None, numbers(places), shown, own, round(probability, 4))


class _Options(NamedTuple):
    """Everything that could be asked, a row each: of whom, against whom (a person against itself: its halves), the pair as a
    number, the probability that they are one, the gain."""

    people: np.ndarray
    others: np.ndarray
    keys: np.ndarray
    chances: np.ndarray
    gains: np.ndarray

    def best(self) -> tuple[Optional[int], np.ndarray]:
        """The person whose question gains most, and its rows, the one that gains most first."""
        open_ = np.flatnonzero(self.gains > 0)
        order = open_[np.lexsort((-self.gains[open_], self.people[open_]))]
        people = self.people[order]
        kept = order[np.arange(len(order)) - np.searchsorted(people, people) < MOST_OTHERS]
        if not len(kept):
            return None, kept
        numbers, of = np.unique(self.people[kept], return_inverse=True)
        sums = np.bincount(of.reshape(-1), self.gains[kept])
        best = int(numbers[sums.argmax()])
        return best, kept[self.people[kept] == best]


def _worth(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return 2 * a * b / (a + b)


def _key(one: int, other: int) -> int:
    """A pair of labels, as in :attr:`.Likeness.edges`, as one number."""
    low, high = sorted((one, other))
    return (low * _SHIFT + high) if low >= 0 else (high * _SHIFT + low)
