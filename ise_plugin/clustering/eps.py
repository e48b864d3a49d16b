"""Chooses DBSCAN's eps from the data, without labels."""

from typing import Callable, NamedTuple, Optional, Sequence

import numpy as np
from scipy.sparse import csr_matrix

from ..neighbors.checks import integer
from .quality import OUTLIER, stability

# Distance between two candidates. On drawn persons, with steps of half this size, the choice stays within two steps.
STEP = 0.05
# The largest distance that is looked at: two images further apart share hardly a neighbour.
LARGEST_EPS = 0.8
# Candidates lie where between a tenth and all but a hundredth of the images would be core points. Below, almost all are
# outliers; above, clusters can only swallow one another, and one cluster of everything is perfectly stable.
_CORE_QUANTILES = (0.10, 0.99)


class Candidate(NamedTuple):
    """An eps that was tried."""

    eps: float
    clusters: int  # how many it gives
    clustered: float  # share of images in one of them, in [0, 1]
    largest: float  # share of images in the largest, in [0, 1]
    # The smaller adjusted Rand index between this labelling and those one step below and above, an outlier being a
    # cluster of its own; 1: the labels do not depend on eps here.
    stability: float

    @property
    def score(self) -> float:
        """sqrt(stability) x (clustered - largest): a cluster that swallows the others is stable as well, but explains nothing.

        The square root, because an eps that leaves most images alone is stable too, and clusters are lost by it.
        Labellings that agree less than by chance score 0.
        """
        return max(0.0, self.stability) ** 0.5 * (self.clustered - self.largest)


class EpsChoice(NamedTuple):
    """The chosen eps, why, and all that was tried, in ascending order."""

    eps: float
    reason: str
    candidates: list


def choose_eps(
    graph: csr_matrix, min_samples: int, clusterer: Callable, units: Optional[np.ndarray] = None
) -> EpsChoice:
    """The eps whose labelling changes least from one candidate to the next and leaves the fewest outliers.

    The distances of all images to their neighbour number ``min_samples - 1`` bound the range of candidates. Each is
    scored by sqrt(stability) x share of images in clusters other than the largest: the first falls where clusters run into one
    another, the second where eps is too small, or so large that one has swallowed the rest. The larger score wins, of equal
    ones the smaller eps.

    Args:
        graph: (N, N) symmetric distance graph that stores the diagonal and every pair at distance <= LARGEST_EPS.
        min_samples: of the clusterer, at least 1.
        clusterer: called with ``(eps=..., min_samples=...)``, as :class:`.clusterers.DBSCAN`.
        units: (N,) integers, equal for images that are known to be one person (:class:`.constraints.Constraints`). The largest
            candidate follows from neighbours of other units: within one they are near whatever joins it with others.

    Raises:
        ValueError: min_samples < 1.
    """
    others = max(1, integer(min_samples, "min_samples", 1) - 1)
    low, high = np.quantile(kth_neighbor_distances(graph, others), _CORE_QUANTILES)
    if units is not None:
        high = np.quantile(kth_neighbor_distances(_between(graph, units), others), _CORE_QUANTILES[1])
    grid = _grid(low, high)
    labels = [clusterer(eps=eps, min_samples=min_samples).fit_predict(graph) for eps in grid]
    candidates = _judged(grid, labels)
    best = max(candidates, key=lambda c: (c.score, -c.eps))
    reason = (
        f"of {len(candidates)} candidates from {candidates[0].eps:.2f} to {candidates[-1].eps:.2f} (where 10 % to 99 % of the "
        f"images have {others} neighbours) its labelling is the most stable with the fewest outliers: "
        f"{best.clusters} clusters, {best.clustered:.0%} of the images in them, adjusted Rand index {best.stability:.2f} "
        f"to the labellings one step of {STEP} away"
    )
    return EpsChoice(best.eps, reason, candidates)


def kth_neighbor_distances(graph: csr_matrix, k: int) -> np.ndarray:
    """Distance of every row to its k-th nearest other row.

    Its quantiles show which ``eps`` would make how many rows core points of DBSCAN.

    Args:
        graph: symmetric distance graph with the diagonal stored, as :func:`.jaccard.jaccard_graph` gives.
        k: at least 1; the row itself does not count.

    Returns:
        (N,) float32; 1.0 where the graph stores fewer than k other rows.
    """
    k = integer(k, "k", 1)
    found = np.ones(graph.shape[0], dtype=np.float32)
    for row in np.flatnonzero(np.diff(graph.indptr) > k):
        # The row's own zero is one of the k + 1 smallest.
        found[row] = np.partition(graph.data[graph.indptr[row] : graph.indptr[row + 1]], k)[k]
    return found


def _between(graph: csr_matrix, units: np.ndarray) -> csr_matrix:
    """The graph without pairs of one unit, but with its diagonal."""
    pairs = graph.tocoo()
    kept = (units[pairs.row] != units[pairs.col]) | (pairs.row == pairs.col)
    return csr_matrix((pairs.data[kept], (pairs.row[kept], pairs.col[kept])), shape=graph.shape)


def _grid(low: float, high: float) -> list[float]:
    """Multiples of STEP that enclose [low, high], and one more at either end, within (0, LARGEST_EPS]."""
    last = round(LARGEST_EPS / STEP)
    first = min(max(1, int(np.floor(low / STEP)) - 1), last - 2)
    stop = max(min(last, int(np.ceil(high / STEP)) + 1), first + 2)
    return [round(number * STEP, 10) for number in range(first, stop + 1)]


def _judged(grid: Sequence[float], labels: Sequence[np.ndarray]) -> list[Candidate]:
    """All but the two at the ends, which serve for comparison only."""
    agreement, candidates = [stability(one, other) for one, other in zip(labels, labels[1:])], []
    for eps, found, below, above in zip(grid[1:], labels[1:-1], agreement, agreement[1:]):
        sizes = np.bincount(found[found != OUTLIER], minlength=1) / len(found)
        shares = float(sizes.sum()), float(sizes.max())
        candidates.append(Candidate(eps, int(found.max()) + 1, *shares, min(below, above)))
    return candidates
