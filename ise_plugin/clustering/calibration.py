"""From cosine similarities to probabilities, for one network, without identities.

What is wanted is how similar a person who is not known is to the most similar known one. Groups of a labelling tell too little of
it: people who look alike were put into one group, so no two groups are as alike as two such people are. *Cores* tell it, the
groups of the same embeddings with a smaller eps: there look-alikes stand apart. Some people then stand in several cores; their
scores are told from those of strangers as a mixture of two normal distributions, of which that of the right person is known.
docs/howto/ledger.md has what was measured.
"""

import json
import logging
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple, Optional

import numpy as np
from scipy.sparse import csr_matrix
from scipy.stats import norm

from ..neighbors.checks import unit_interval
from ..utils.files import digest_of, shown, write_atomically
from .clusterers import DBSCAN
from .eps import LARGEST_EPS, choose_eps
from .jaccard import jaccard_graph
from .quality import OUTLIER

logger = logging.getLogger("fastreid.ise.clustering")

CALIBRATION_NAME = "calibration.json"  # in the folder of a run
# A person's score is the mean cosine of its images most similar to the query, so many at most: one alone may be an accident.
BEST = 3
# Neighbours of an image among which people are looked for.
NEIGHBORS = 256
# Of the labelling's eps; means are taken over these. On drawn persons, 25 to 75 in a ledger, a smaller share gives too few false
# accepts, because people stand in too many cores, a larger one too many (docs/howto/ledger.md).
CORE_SHARES = (0.6, 0.7, 0.8)
# Images that a calibration looks at, in whole groups: seconds.
MOST_IMAGES = 10_000
# Of the Jaccard distance and of DBSCAN, as in the configs for folders; two images make a core.
_K1, _MIN_SAMPLES, _CORE_SAMPLES = 20, 4, 2
PAIR_NEIGHBORS = 10  # of an image, for whom a pair is looked at
_FEWEST = 20  # images that a calibration can rest on
_ROUNDS = 200  # of expectation maximisation
_LEAST_SPREAD = 1e-3


class Scored(NamedTuple):
    """Rows (query, person, score), ordered by query."""

    queries: np.ndarray
    people: np.ndarray
    scores: np.ndarray

    def best(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(Q,) person, -1 where a query has none, and its score, -1 there; of equal ones the lower number."""
        person, score = np.full(count, -1, np.int64), np.full(count, -1.0)
        order = np.lexsort((self.people, -self.scores, self.queries))
        queries = self.queries[order]
        first = order[np.r_[True, np.diff(queries) > 0]] if len(order) else order
        person[self.queries[first]], score[self.queries[first]] = self.people[first], self.scores[first]
        return person, score


@dataclass(frozen=True)
class Calibration:
    """What scores mean.

    Attributes:
        strange_mean, strange_spread: of the highest score of people who are not known, as a normal distribution.
        own_mean, own_spread: of the score for the right person.
        slope, offset: log of how much likelier a score is for the right person: slope x score + offset.
        pair_slope, pair_offset: log-odds that an image and one of its 10 nearest are one person, by their cosine.
        eps: of the labelling whose cores it rests on.
        people, images: that it rests on.
    """

    strange_mean: float
    strange_spread: float
    own_mean: float
    own_spread: float
    slope: float
    offset: float
    pair_slope: float
    pair_offset: float
    eps: float
    people: int
    images: int

    def threshold(self, false_accept: float, people: int = 0) -> float:
        """The score that this share of people who are not known reaches, in (0, 1), among so many who are.

        More people than the calibration rests on are taken for further independent draws, of which the highest counts.
        """
        level = (1 - unit_interval(false_accept, "false_accept")) ** min(1.0, self.people / max(1, people))
        return self.strange_mean + self.strange_spread * float(norm.ppf(level))

    def among(self, people: int) -> "Calibration":
        """The same among more people than it rests on: the strangers' best score is then the highest of so many more draws."""
        level = 0.5 ** min(1.0, self.people / max(1, people))
        mean = self.strange_mean + self.strange_spread * float(norm.ppf(level))
        slope, offset = _odds(mean, self.strange_spread, self.own_mean, self.own_spread)
        return replace(self, slope=slope, offset=offset)

    def recognised(self, threshold: float) -> float:
        """The share of known people's images whose score for the right person reaches a threshold."""
        return float(norm.sf(threshold, self.own_mean, self.own_spread))

    def probability(self, scores: np.ndarray, prior: float = 0.5) -> np.ndarray:
        """That the most similar person is the right one, when a share ``prior`` of the queries have one."""
        return _logistic(self.slope * np.asarray(scores) + self.offset + np.log(prior / (1 - prior)))

    def pair_probability(self, cosines: np.ndarray) -> np.ndarray:
        """That an image and a near one, by their cosine, are one person."""
        return _logistic(self.pair_slope * np.asarray(cosines) + self.pair_offset)

    def prior(self, scores: np.ndarray) -> float:
        """The share of queries whose person is known, from their scores alone.

        Source: Saerens et al., "Adjusting the outputs of a classifier to new a priori probabilities", Neural Computation 2002.
        """
        prior = 0.5
        for _ in range(_ROUNDS):
            prior = float(np.clip(self.probability(scores, prior).mean() if len(scores) else prior, 0.01, 0.99))
        return prior

    def to_json(self) -> str:
        """One line; numbers to six places."""
        return json.dumps({name: round(value, 6) for name, value in asdict(self).items()})

    @classmethod
    def from_json(cls, text: str) -> "Calibration":
        """What :meth:`to_json` gave; ValueError for anything else."""
        try:
            values = json.loads(text)
            found = cls(**values)
            if not np.isfinite(np.array(list(values.values()), np.float64)).all():
                raise ValueError("numbers that are not finite")
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"no calibration ({error})") from error
        return found


def write_calibration(run: str, calibration: Optional[Calibration], weights: str) -> None:
    """Keeps, in a run's folder, what similarities mean for a file of weights; None: that nothing is known."""
    path = os.path.join(run, CALIBRATION_NAME)
    if calibration is None:
        with suppress(FileNotFoundError):
            os.remove(path)
        return
    content = {"weights": digest_of(weights), "calibration": json.loads(calibration.to_json())}
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def read_calibration(run: str, weights: str) -> Optional[Calibration]:
    """What :func:`write_calibration` kept for a file of weights; None where it kept nothing, or for others.

    The log says where it is damaged."""
    path = os.path.join(run, CALIBRATION_NAME)
    if not os.path.isfile(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        found = Calibration.from_json(json.dumps(content["calibration"]))
        return found if content["weights"] == digest_of(weights) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        logger.warning(f"{shown(path)} is damaged ({error}); similarities come without probabilities")
        return None


def _logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -50, 50)))


def score_people(similarities: np.ndarray, people: np.ndarray, sizes: np.ndarray) -> Scored:
    """Scores of the people among the nearest images of each query.

    A person with images that are not among them is taken to have one as similar as the last of them.

    Args:
        similarities: (Q, k) cosines, descending.
        people: (Q, k) int64, 0..P-1; -1: nobody.
        sizes: (P,) or (Q, P) images of each person that could have been found.
    """
    count, k = people.shape
    rows, columns = np.nonzero(people >= 0)
    own = people[rows, columns]
    order = np.lexsort((columns, own, rows))
    rows, own, near = rows[order], own[order], similarities[rows, columns][order].astype(np.float64)
    if not len(rows):
        return Scored(rows, own, near)
    starts = np.flatnonzero(np.r_[True, (np.diff(rows) != 0) | (np.diff(own) != 0)])
    place = np.arange(len(rows)) - np.repeat(starts, np.diff(np.r_[starts, len(rows)]))
    best = place < BEST
    sums = np.add.reduceat(np.where(best, near, 0), starts)
    found = np.add.reduceat(best.astype(np.int64), starts)
    rows, own = rows[starts], own[starts]
    counted = np.clip(sizes[own] if sizes.ndim == 1 else sizes[rows, own], found, BEST)
    return Scored(rows, own, (sums + (counted - found) * similarities[rows, k - 1]) / counted)


def calibrate(
    features: np.ndarray,
    labels: np.ndarray,
    units: Optional[np.ndarray] = None,
    sure: Optional[np.ndarray] = None,
    eps: Optional[float] = None,
    graph: Optional[csr_matrix] = None,
    seed: int = 0,
) -> Optional[Calibration]:
    """A calibration from a labelling of a network's embeddings.

    Every image of a core is compared with the other cores, as if its person were not known, and with the rest of its group, its
    own track left out.

    Args:
        features: (N, D) float32 unit rows.
        labels: (N,) int64, -1 for outliers.
        units: (N,) int64, one number for the images of a track; None: no tracks.
        sure: (N,) bool, images whose group a person has confirmed: it is a core as it is.
        eps: of the labelling; None: chosen from the graph.
        graph: (N, N) symmetric distances, every pair within that eps and the diagonal stored; None: made of the embeddings.

    Returns:
        None where there are too few groups to learn from.
    """
    kept = some_groups(labels, seed)
    labels, features = np.unique(labels[kept], return_inverse=True)[1].reshape(-1), features[kept]
    units = np.arange(len(kept)) if units is None else units[kept]
    if len(labels) < _FEWEST or labels.max() < 1:
        return None
    similarities, indices = nearest(features, features, min(NEIGHBORS, len(features)))
    own = _own(similarities, np.where(units[indices] == units[:, None], -1, labels[indices]), labels, units)
    if (own > -1).sum() < _FEWEST:
        return None
    own_mean, own_spread = _middle(own[own > -1])
    if graph is None:
        graph = jaccard_graph(features, min(_K1, len(features) - 1), max_distance=LARGEST_EPS)
    else:
        graph = graph[kept][:, kept]
    eps = float(choose_eps(graph, _MIN_SAMPLES, DBSCAN).eps) if eps is None else eps
    found = []
    for share in CORE_SHARES:
        cores = DBSCAN(share * eps, _CORE_SAMPLES).fit_predict(graph)
        if sure is not None:
            cores = np.where(sure[kept], len(cores) + labels, cores)
        cores[cores >= 0] = np.unique(cores[cores >= 0], return_inverse=True)[1].reshape(-1)
        strange = _others_best(similarities, cores[indices], cores)
        asked = (cores >= 0) & (strange > -1)
        if asked.sum() >= _FEWEST:
            shares = 1 / np.bincount(cores[cores >= 0])[cores[asked]]
            found.append(_strangers(strange[asked], shares / shares.sum(), own_mean, own_spread))
    if not found:
        return None
    mean, spread = map(float, np.mean(found, axis=0))
    odds = _odds(mean, spread, own_mean, own_spread)
    pairs = _pairs(similarities, indices, labels, units)
    return Calibration(mean, spread, own_mean, own_spread, *odds, *pairs, eps, int(labels.max()) + 1, len(labels))


def nearest(queries: np.ndarray, features: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines (Q, k), descending, and indices (Q, k) int64 of the nearest rows; float32 unit rows."""
    import faiss  # late: it takes a second

    return faiss.knn(
        np.ascontiguousarray(queries), np.ascontiguousarray(features), k, metric=faiss.METRIC_INNER_PRODUCT
    )


def some_groups(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Rows, ascending, of whole groups, drawn until there are :data:`MOST_IMAGES`; no outliers."""
    numbers, sizes = np.unique(labels[labels != OUTLIER], return_counts=True)
    order = np.random.default_rng(seed).permutation(len(numbers))
    taken = order[: np.searchsorted(np.cumsum(sizes[order]), MOST_IMAGES) + 1]
    return np.flatnonzero(np.isin(labels, numbers[taken]) & (labels != OUTLIER))


def _others_best(similarities: np.ndarray, found: np.ndarray, cores: np.ndarray) -> np.ndarray:
    """(N,) score of the best core beside one's own; -1 where there is none."""
    others = np.where(found == cores[:, None], -1, found)
    return score_people(similarities, others, np.bincount(cores[cores >= 0])).best(len(cores))[1]


def _own(similarities: np.ndarray, found: np.ndarray, labels: np.ndarray, units: np.ndarray) -> np.ndarray:
    """(N,) score of the rest of one's own group; -1 where there is none."""
    units = np.unique(units, return_inverse=True)[1].reshape(-1)
    rest = np.bincount(labels)[labels] - np.bincount(units)[units]
    mine = np.where(found == labels[:, None], np.arange(len(labels))[:, None], -1)  # each row a person of its own
    scores = score_people(similarities, mine, np.maximum(rest, 0)).best(len(labels))[1]
    return np.where(rest > 0, np.where(scores > -1, scores, similarities[:, -1]), -1)


def _middle(values: np.ndarray) -> tuple[float, float]:
    """Mean and spread of a normal distribution by the median and the lowest tenth: what is higher may be cut off at 1."""
    low, middle = np.quantile(values, [0.1, 0.5])
    return float(middle), max(float((middle - low) / norm.ppf(0.9)), _LEAST_SPREAD)


def _strangers(scores: np.ndarray, shares: np.ndarray, own_mean: float, own_spread: float) -> tuple[float, float]:
    """Mean and spread of the scores (n,) that are not of the right person, which some may be, by expectation maximisation.

    Args:
        shares: (n,) weights that sum to 1.
        own_mean, own_spread: of scores for the right person; beyond the mean they are as likely as there.
    """
    order, least = np.argsort(scores, kind="stable"), np.finfo(float).tiny
    low, quarter, middle = np.interp([0.05, 0.25, 0.5], np.cumsum(shares[order]) - shares[order] / 2, scores[order])
    mean, spread, right = quarter, max((middle - low) / norm.ppf(0.95), _LEAST_SPREAD), 0.3
    of_right = norm.pdf(np.minimum(scores, own_mean), own_mean, own_spread)
    for _ in range(_ROUNDS):
        strange = (1 - right) * norm.pdf(scores, mean, spread)
        weights = shares * strange / (strange + right * of_right + least)
        total = max(weights.sum(), least)
        mean, right = (weights * scores).sum() / total, max(0.0, 1 - total)
        spread = max(np.sqrt((weights * (scores - mean) ** 2).sum() / total), _LEAST_SPREAD)
    return float(mean), float(spread)


def _odds(strange_mean: float, strange_spread: float, own_mean: float, own_spread: float) -> tuple[float, float]:
    """Slope and offset of the log of how much likelier a score is for the right person. Both distributions are given one spread,
    so that it never falls (linear discriminant analysis)."""
    slope = max(0.0, own_mean - strange_mean) / ((strange_spread**2 + own_spread**2) / 2)
    return slope, -slope * (own_mean + strange_mean) / 2


def _pairs(similarities: np.ndarray, indices: np.ndarray, labels: np.ndarray, units: np.ndarray) -> tuple[float, float]:
    """Slope and offset of a logistic regression on the cosines of images to their nearest of other tracks: one person or two, by
    the labels. Zeros where all are the same."""
    from sklearn.linear_model import LogisticRegression

    near, cosines = indices[:, 1 : PAIR_NEIGHBORS + 1], similarities[:, 1 : PAIR_NEIGHBORS + 1]
    apart = units[near] != units[:, None]
    same, cosines = (labels[near] == labels[:, None])[apart], cosines[apart].astype(np.float64)
    if not 0 < same.sum() < len(same):
        return 0.0, 0.0
    middle, spread = float(cosines.mean()), float(cosines.std()) or 1.0
    model = LogisticRegression(C=1e6).fit((cosines[:, None] - middle) / spread, same)
    slope = max(0.0, float(model.coef_[0, 0]) / spread)  # a lower similarity never speaks for the same person
    return slope, float(model.intercept_[0]) - slope * middle
