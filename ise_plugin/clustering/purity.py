"""How pure clusters are, estimated without identities.

Purity is that of :func:`.quality.purity`: the share of images that belong to the most frequent identity of their cluster.
What tells it without identities is how far the images of a cluster share their neighbours: in a cluster of one person all
have the same, in one of look-alikes only some. The curve from one to the other was fitted on clusters of Market-1501's
training images and of drawn persons, embedded by networks from untrained to supervised; docs/benchmarks.md has the fit and
its errors. It supposes what holds in such sets: some 10 to 30 images of a person. With fewer, the estimate is too high,
with more too low. Nothing in the embeddings tells how many there are.
"""

import math

import numpy as np
from scipy.sparse import csr_matrix

from .eps import LARGEST_EPS
from .quality import OUTLIER

# The Jaccard distance up to which pairs count; the images of a pair further apart share hardly a neighbour.
REACH = LARGEST_EPS
# purity = 1 / (1 + exp(-(SLOPE * cohesion + OFFSET))), by weighted logistic regression; the offset balances whole runs.
_SLOPE, _OFFSET = 5.7, -1.2
# Estimated purity from which groups can be used as they are, and below which they are mixtures of people.
GOOD, MIXED = 0.8, 0.6
# A first labelling to train on: with less purity, or a smaller share of the images in groups, runs on Market-1501 hardly
# learned (docs/benchmarks.md).
_START_PURITY, _START_SHARE = 0.7, 0.5
# Rows of the graph that are looked at together: some 100 MB.
_ROWS_AT_ONCE = 1 << 16


def cohesion(labels: np.ndarray, graph: csr_matrix) -> np.ndarray:
    """Mean Jaccard similarity of all pairs of images of a cluster.

    Args:
        labels: (N,) int64, 0..M-1 and -1 for outliers, every cluster with at least one image.
        graph: (N, N) symmetric graph of the distances up to :data:`REACH`, its diagonal stored. A pair that it does not
            store has similarity 0.

    Returns:
        (M,) float64, in [0, 1]; 1 for a cluster of one image.
    """
    sizes = np.bincount(labels[labels != OUTLIER])
    together = np.zeros(len(sizes))
    for start in range(0, len(labels), _ROWS_AT_ONCE):
        rows = graph[start : start + _ROWS_AT_ONCE]
        own = np.repeat(labels[start : start + _ROWS_AT_ONCE], np.diff(rows.indptr))
        inside = (own != OUTLIER) & (own == labels[rows.indices])
        together += np.bincount(own[inside], 1 - rows.data[inside], minlength=len(sizes))
    pairs = sizes * (sizes - 1)
    return np.divide(together - sizes, pairs, out=np.ones(len(sizes)), where=pairs > 0).clip(0, 1)


def estimate_purities(labels: np.ndarray, graph: csr_matrix) -> np.ndarray:
    """(M,) float64, the estimated purity of every cluster, in (0, 1]; arguments as for :func:`cohesion`."""
    purities = 1 / (1 + np.exp(-(_SLOPE * cohesion(labels, graph) + _OFFSET)))
    purities[np.bincount(labels[labels != OUTLIER]) == 1] = 1.0
    return purities


def mean_purity(labels: np.ndarray, purities: np.ndarray) -> float:
    """The purity of a whole labelling (N,) from those of its clusters (M,): their mean over images; NaN without clusters."""
    clustered = labels[labels != OUTLIER]
    return float(purities[clustered].mean()) if len(clustered) else math.nan


def describe_start(clustered: float, purity: float) -> str:
    """Whether training can go on from a first labelling, in a word or two.

    Args:
        clustered: share of the images that are in a cluster, in [0, 1].
        purity: estimated, in [0, 1].
    """
    if purity < MIXED:
        return "too mixed to learn from"
    return "a start to learn from" if purity >= _START_PURITY and clustered >= _START_SHARE else "a weak start"
