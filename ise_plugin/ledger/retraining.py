"""A network trained anew: its groups get the numbers of the people that they mostly are, and every correction holds."""

import logging
from typing import NamedTuple, Optional, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ..clustering import OUTLIER
from ..clustering.calibration import calibrate
from ..errors import UsageError
from .batch import to_bytes, unit_keys
from .decide import KNOWN, NEW, UNDECIDED
from .identity_ledger import IdentityLedger
from .vectors import DTYPE

logger = logging.getLogger("fastreid.ise.ledger")


class Corrections(NamedTuple):
    """What people said, as pairs of images of a list.

    Attributes:
        links: (L, 2) int64, pairs that are one person.
        apart: (P, 2) int64, pairs that are two.
    """

    links: np.ndarray
    apart: np.ndarray

    def violated(self, labels: np.ndarray) -> int:
        """How many of the pairs labels (N,) do not hold to. Two images in no group hold to anything."""
        equal = lambda pairs: labels[pairs[:, 0]] == labels[pairs[:, 1]]
        return int((~equal(self.links)).sum() + (equal(self.apart) & (labels[self.apart[:, 0]] != OUTLIER)).sum())


class Relabelled(NamedTuple):
    """What a new labelling changed.

    Attributes:
        kept: share of the images with a person that kept it.
        new, gone: numbers of new people, and of those who have no image any more.
        moved: (image, person before, person after) of each that moved; None: undecided.
    """

    kept: float
    new: list
    gone: list
    moved: list


def corrections(ledger: IdentityLedger, paths: Sequence[str]) -> Corrections:
    """What people said, for images of a list: answers; locked people stay together, and two of them apart.

    Pairs of which an image is not in the list are left out, but what follows from them is not: a is c where a is b and b is c.
    """
    place = {path: i for i, path in enumerate(map(to_bytes, paths))}
    run = ledger.store.connection.execute
    known = {image: place[path] for image, path in run("SELECT id, path FROM images") if path in place}
    answers = run("SELECT one, other, same FROM answers ORDER BY id").fetchall()
    links = [(a, b) for a, b, same in answers if same]
    apart = [(a, b) for a, b, same in answers if not same]
    firsts = []
    for person in ledger.people():
        if person.locked and person.images:
            own = ledger.images_of(person.number)
            links += zip(own, own[1:])
            firsts.append(own[0])
    apart += [(a, b) for i, a in enumerate(firsts) for b in firsts[:i]]
    # images that are not in the list stand for their person by one that is
    images = sorted({image for pair in [*links, *apart] for image in pair})
    number = {image: i for i, image in enumerate(images)}
    unit = _units(len(images), [(number[a], number[b]) for a, b in links])
    members: dict[int, list[int]] = {}
    for image in images:
        if image in known:
            members.setdefault(int(unit[number[image]]), []).append(known[image])
    pairs = [pair for own in members.values() for pair in zip(own, own[1:])]
    parted = {tuple(sorted((int(unit[number[a]]), int(unit[number[b]])))) for a, b in apart}
    two = [(members[a][0], members[b][0]) for a, b in sorted(parted) if a != b and a in members and b in members]
    shape = lambda found: np.array(found, np.int64).reshape(-1, 2)
    return Corrections(shape(pairs), shape(two))


def _units(count: int, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """(count,) one number for what pairs connect."""
    rows, columns = np.array(pairs, np.int64).reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def relabel(
    ledger: IdentityLedger,
    paths: Sequence[str],
    vectors: np.ndarray,
    labels: np.ndarray,
    fingerprint: str,
    run: str = "",
    probabilities: Optional[np.ndarray] = None,
    eps: Optional[float] = None,
    seen: Optional[np.ndarray] = None,
) -> Relabelled:
    """Takes the embeddings and groups of a network trained anew; people keep their numbers, names and locks. One change.

    Each group becomes the person that shares most images with it, by an optimal assignment (Kuhn, "The Hungarian method for the
    assignment problem", 1955); a group that shares none with a person who is still free is a new person. Images of locked people
    keep them whatever the labels say.

    Args:
        paths: of images of the ledger, in any order. Those that are not among them, whose files are gone, stay whose they are.
        vectors, labels, probabilities: of these, as for :meth:`.IdentityLedger.create`.
        fingerprint, run, eps: of the network.
        seen: (N,) bool, images that were labelled. The others stay whose they are; those that are nobody's are decided of by what
            the network knows now, as images that come in are. None: all.

    Raises:
        UsageError: an image that is not in the ledger; labels do not hold to a correction.
    """
    known = list(ledger.images())
    place = {image: i for i, image in enumerate(ledger.image_numbers(paths))}
    rows = np.array([place.get(row.image, -1) for row in known], np.int64)
    if (rows < 0).any():
        logger.warning(
            f"{(rows < 0).sum()} images of the ledger are not among these: they stay whose they are, without embedding"
        )
    left = rows < 0 if seen is None else (rows < 0) | ~seen[rows]
    vectors, labels = vectors[rows], np.where(left, OUTLIER, labels[rows])
    locked = {person.number for person in ledger.people() if person.locked}
    said = corrections(ledger, [row.path for row, alone in zip(known, left) if not alone])
    wrong = said.violated(labels[~left])
    if wrong:
        raise UsageError(f"the new labels do not hold to {wrong} corrections; train with ISE.CORRECTIONS")
    before = [row.person for row in known]
    with ledger.store.change("retrain") as change:
        assigned = _assigned(labels, before, locked)
        fresh = sorted({label for label in labels.tolist() if label != OUTLIER and label not in assigned})
        people = ledger.store.insert("people", [(None, 0, None)] * len(fresh))
        assigned |= dict(zip(fresh, people))
        after = [
            old if old in locked or alone else assigned.get(label)
            for old, label, alone in zip(before, labels.tolist(), left)
        ]
        likely = None if probabilities is None else np.where(left, np.nan, probabilities[rows])
        _write(ledger, known, after, set(people), likely)
        _replace_embeddings(ledger, [row.image for row in known], vectors, rows >= 0, labels, fingerprint, run, eps)
        ledger.decide_again([row.image for row, alone, at in zip(known, left, rows) if alone and at >= 0])
        found = _changes(known, [row.person for row in ledger.images()], people)
        ledger.store.describe(change, f"{found.kept:.1%} of the images keep their person, {len(people)} new people")
    return found


def _assigned(labels: np.ndarray, before: Sequence[Optional[int]], locked: set) -> dict[int, int]:
    """Group -> person, so that the most images keep theirs. A group with images of a locked person is that person."""
    pairs = [(label, old) for label, old in zip(labels.tolist(), before) if label != OUTLIER and old is not None]
    if not pairs:
        return {}
    groups, rows = np.unique([label for label, _ in pairs], return_inverse=True)
    people, columns = np.unique([old for _, old in pairs], return_inverse=True)
    shared = coo_matrix((np.ones(len(pairs)), (rows.reshape(-1), columns.reshape(-1)))).toarray()
    shared[:, np.isin(people, list(locked))] *= len(pairs) + 1
    chosen = zip(*linear_sum_assignment(shared, maximize=True))
    return {int(groups[row]): int(people[column]) for row, column in chosen if shared[row, column] > 0}


def _write(
    ledger: IdentityLedger, known: Sequence, after: Sequence[Optional[int]], new: set, likely: Optional[np.ndarray]
) -> None:
    rows = []
    for place, (row, person) in enumerate(zip(known, after)):
        if person == row.person and person is not None:
            continue
        verdict = UNDECIDED if person is None else NEW if person in new else KNOWN
        chance = None if likely is None or person is None or np.isnan(likely[place]) else float(likely[place])
        rows.append((verdict, person, chance, row.image))
    ledger.store.connection.executemany(
        "UPDATE decisions SET verdict = ?, person = ?, candidate = NULL, probability = ?, source = 'retraining' "
        "WHERE id = ?",
        rows,
    )


def _replace_embeddings(
    ledger: IdentityLedger,
    images: list,
    vectors: np.ndarray,
    there: np.ndarray,
    labels: np.ndarray,
    fingerprint: str,
    run: str,
    eps: Optional[float],
) -> None:
    store = ledger.store
    units = unit_keys(store.connection.execute("SELECT camera, track, sequence FROM images ORDER BY id").fetchall())
    sure = np.isin(images, [row.image for row in ledger.images() if row.source == "person"]) & (labels != OUTLIER)
    calibration = calibrate(vectors[there], labels[there], units[there], sure[there], eps)
    store.connection.execute("DELETE FROM embeddings")
    store.connection.execute("DELETE FROM models")
    text = calibration and calibration.to_json()
    model = store.insert("models", [(fingerprint, to_bytes(run), vectors.shape[1], text)])[0]
    kept = zip(vectors.astype(DTYPE), there)
    store.insert("embeddings", [(model, vector.tobytes() if known else b"") for vector, known in kept], images)
    store.count("losses")


def _changes(known: Sequence, after: Sequence[Optional[int]], new: list) -> Relabelled:
    moved = [(row.image, row.person, person) for row, person in zip(known, after) if row.person != person]
    had = sum(row.person is not None for row in known)
    lost = sum(old is not None for _, old, _ in moved)
    gone = sorted({row.person for row in known if row.person is not None} - set(after))
    return Relabelled(1 - lost / had if had else 1.0, new, gone, moved)
