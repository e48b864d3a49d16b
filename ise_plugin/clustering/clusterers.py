"""Clustering algorithms for sparse distance graphs, registered by name."""

from typing import Union

import numpy as np
from numba import njit
from scipy.sparse import csr_matrix

from ..neighbors._checks import integer, unit_interval
from ..registry import CLUSTERER
from .eps import LARGEST_EPS, choose_eps
from .quality import OUTLIER

AUTO = "auto"


@CLUSTERER.register()
class DBSCAN:
    """DBSCAN (Ester et al., KDD 1996) on a sparse distance graph.

    Gives exactly the labels of ``sklearn.cluster.DBSCAN(metric="precomputed")`` on the dense matrix, border points
    included: clusters are numbered in the order of their first core point, and a border point belongs to the first
    cluster that reaches it.

    Args:
        eps: largest distance of two neighbours, in [0, 1]. Larger values give fewer, larger clusters. "auto" chooses it from
            the graph (:func:`.eps.choose_eps`), at every clustering anew.
        min_samples: neighbours, itself included, that make a row a core point, at least 1. Larger values give more
            outliers.

    Attributes:
        max_distance: how far the graph must reach.
        eps_: the distance that the last labels were made with.
        reason_: why that one, as text; None where eps was given.

    Raises:
        ValueError: eps neither "auto" nor in [0, 1], min_samples < 1.
    """

    def __init__(self, eps: Union[float, str] = 0.6, min_samples: int = 4):
        self.eps = eps if eps == AUTO else unit_interval(eps, "eps")
        self.max_distance = LARGEST_EPS if eps == AUTO else self.eps
        self.min_samples = integer(min_samples, "min_samples")
        if self.min_samples < 1:
            raise ValueError(f"min_samples must be at least 1, got {self.min_samples}")

    @classmethod
    def from_config(cls, cfg) -> dict:
        """eps and min_samples as ``ISE.PSEUDO_LABEL`` has them."""
        return {"eps": cfg.ISE.PSEUDO_LABEL.EPS, "min_samples": cfg.ISE.PSEUDO_LABEL.MIN_SAMPLES}

    def fit_predict(self, graph: csr_matrix) -> np.ndarray:
        """Cluster the rows of a symmetric graph.

        Args:
            graph: (N, N) CSR that stores every pair at distance <= ``max_distance``, the diagonal among them. Entries beyond
                eps are ignored.

        Returns:
            (N,) int64, 0..M-1, -1 for outliers.
        """
        if graph.shape[0] != graph.shape[1]:
            raise ValueError(f"graph must be square, got shape {graph.shape}")
        self.eps_, self.reason_ = self.eps, None
        if self.eps == AUTO:
            self.eps_, self.reason_, _ = choose_eps(graph, self.min_samples, type(self))
        near = graph.data <= self.eps_
        return _grow_clusters(graph.indptr, graph.indices, near, self.min_samples)


@njit(nogil=True, cache=True)
def _grow_clusters(starts, columns, near, min_samples):
    """Scan the rows; from each core point without a label, spread a new label through core points."""
    num_rows = starts.size - 1
    core = np.zeros(num_rows, dtype=np.bool_)
    for i in range(num_rows):
        neighbors = 0
        for entry in range(starts[i], starts[i + 1]):
            neighbors += near[entry]
        core[i] = neighbors >= min_samples
    labels = np.full(num_rows, OUTLIER, dtype=np.int64)
    waiting = np.empty(num_rows, dtype=np.int64)
    label = 0
    for seed in range(num_rows):
        if labels[seed] != OUTLIER or not core[seed]:
            continue
        labels[seed] = label
        waiting[0] = seed
        num_waiting = 1
        while num_waiting > 0:
            num_waiting -= 1
            i = waiting[num_waiting]
            for entry in range(starts[i], starts[i + 1]):
                j = columns[entry]
                if near[entry] and labels[j] == OUTLIER:
                    labels[j] = label
                    # A border point takes the label but does not pass it on.
                    if core[j]:
                        waiting[num_waiting] = j
                        num_waiting += 1
        label += 1
    return labels
