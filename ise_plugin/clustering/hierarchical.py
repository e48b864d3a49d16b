"""Hierarchical clusterings of sparse distance graphs; a pair that the graph does not store is 1 apart."""

from typing import Any, Iterator, Union

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from ..neighbors.checks import integer
from ..registry import CLUSTERER
from .clusterers import EpsClusterer
from .eps import LARGEST_EPS, kth_neighbor_distances
from .labels import numbered
from .quality import OUTLIER

LINKAGES = ("average", "complete", "single")
# Images whose distances to one another are all held at once: 8 bytes a pair and as much again while they are joined, 7 GB.
_MOST_AT_ONCE = 30_000
# Distances that rounding cannot tell from none. A spanning tree would take a zero for no edge.
_SMALLEST = 1e-6
# What a pair that is not stored counts.
_FARTHEST = 1.0
# The smallest cluster that HDBSCAN knows.
_FEWEST = 2


@CLUSTERER.register()
class Agglomerative(EpsClusterer):
    """Agglomerative clustering: the two nearest clusters are joined, again and again, as long as they are at most eps apart.

    The labels are those of ``sklearn.cluster.AgglomerativeClustering(metric="precomputed", distance_threshold=eps)`` on the
    dense matrix (both by ``scipy.cluster.hierarchy.linkage``). Clusters cannot grow over images that no chain of pairs within
    eps connects, so each connected part is clustered on its own, and only of such a part all pairs are held in memory.

    Args:
        eps: largest distance of two clusters that are joined; otherwise as for :class:`.clusterers.EpsClusterer`.
        min_samples: images of the smallest cluster, at least 1; those of smaller ones become outliers.
        linkage: distance of two clusters: of their pairs the "average", the largest ("complete") or the smallest ("single").

    Raises:
        ValueError: as :class:`.clusterers.EpsClusterer`, and an unknown linkage. ``fit_predict``: a part of more than 30,000
            images.
    """

    def __init__(self, eps: Union[float, str] = 0.6, min_samples: int = 4, linkage: str = LINKAGES[0]):
        super().__init__(eps, min_samples)
        if linkage not in LINKAGES:
            raise ValueError(f"linkage must be one of {', '.join(LINKAGES)}, got {linkage!r}")
        self.linkage = linkage
        self.max_distance = max(self.max_distance, LARGEST_EPS)  # a mean is of near and far pairs

    @classmethod
    def from_config(cls, cfg: Any) -> dict:
        """eps, min_samples and linkage as ``ISE.PSEUDO_LABEL`` has them."""
        return {**super().from_config(cfg), "linkage": cfg.ISE.PSEUDO_LABEL.AGGLOMERATIVE.LINKAGE}

    def _clusters(self, graph: csr_matrix, eps: float) -> np.ndarray:
        labels, parts = np.arange(graph.shape[0]), list(_connected(graph, eps))
        if (largest := max(map(len, parts))) > _MOST_AT_ONCE:
            raise ValueError(
                f"Agglomerative holds all pairs of images that eps {eps:g} connects, {largest} here, and can hold "
                f"{_MOST_AT_ONCE}; lower ISE.PSEUDO_LABEL.EPS, or take DBSCAN or HDBSCAN"
            )
        for part in parts:
            if len(part) > 1:
                labels[part] = part[_joined(graph[part][:, part], eps, self.linkage)]
        return numbered(labels, self.min_samples)


def _connected(graph: csr_matrix, eps: float) -> Iterator[np.ndarray]:
    """The rows (n,) of every part that pairs at distance <= eps connect, ascending."""
    pairs = graph.tocoo()
    near = pairs.data <= eps
    # ones, because a distance of zero would be no edge
    edges = coo_matrix((np.ones(near.sum(), np.bool_), (pairs.row[near], pairs.col[near])), graph.shape)
    parts = connected_components(edges, directed=False)[1]
    order = np.argsort(parts, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(parts[order])) + 1)


def _joined(graph: csr_matrix, eps: float, linkage: str) -> np.ndarray:
    """(n,) the place of a member for every one of n >= 2 rows, the same for the rows of a cluster."""
    from scipy.cluster.hierarchy import fcluster  # here, because only this clusterer needs it
    from scipy.cluster.hierarchy import linkage as join

    count, pairs = graph.shape[0], graph.tocoo()
    upper = pairs.row < pairs.col
    rows, columns = pairs.row[upper].astype(np.int64), pairs.col[upper].astype(np.int64)
    distances = np.full(count * (count - 1) // 2, _FARTHEST)
    distances[rows * (2 * count - rows - 1) // 2 + columns - rows - 1] = pairs.data[
        upper
    ]  # row after row of the triangle
    clusters = fcluster(join(distances, linkage), np.float32(eps), "distance")  # as exact as the graph
    _, first, inverse = np.unique(clusters, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)]


@CLUSTERER.register()
class HDBSCAN:
    """HDBSCAN (Campello, Moulavi, Sander, PAKDD 2013), scikit-learn's: clusters that persist over a range of distances, no eps.

    The hierarchy follows from a minimum spanning tree of the mutual reachability distances alone. It is made from the sparse
    graph, its parts joined at distance 1, and scikit-learn is handed the tree: memory grows with the pairs of the graph, and the
    labels are those of the dense matrix in which pairs that are not stored are 1 apart, but for ties: many of these distances
    are equal, and a row that joins two clusters at the same one may go to either. Distances below 1e-6 count as 1e-6.

    Args:
        min_samples: images of the smallest cluster (2 at least), and neighbours, the image itself included, whose distance says
            how dense an image lies; at least 1.

    Attributes:
        max_distance: how far the graph must reach.
        summary_: what came of the last labels, as text.

    Raises:
        ValueError: min_samples < 1.
    """

    max_distance = LARGEST_EPS

    def __init__(self, min_samples: int = 4):
        self.min_samples = integer(min_samples, "min_samples", 1)

    @classmethod
    def from_config(cls, cfg: Any) -> dict:
        """min_samples as ``ISE.PSEUDO_LABEL`` has it."""
        return {"min_samples": cfg.ISE.PSEUDO_LABEL.MIN_SAMPLES}

    def fit_predict(self, graph: csr_matrix) -> np.ndarray:
        """
        Args:
            graph: (N, N) symmetric CSR with the diagonal stored.

        Returns:
            (N,) int64, 0..M-1 in the order of the clusters' first rows, -1 for outliers. One cluster of everything is never
            found, since nothing is left to tell it from.
        """
        from sklearn.cluster import HDBSCAN as ScikitHDBSCAN  # here, because it takes a while

        smallest = max(_FEWEST, self.min_samples)
        if graph.shape[0] < smallest:
            self.summary_ = f"HDBSCAN: {graph.shape[0]} images are fewer than the {smallest} of the smallest cluster"
            return np.full(graph.shape[0], OUTLIER, np.int64)
        # with 1 neighbour, the row itself, mutual reachability is the tree's own distance
        scikit = ScikitHDBSCAN(min_cluster_size=smallest, min_samples=1, metric="precomputed", copy=True)
        scikit.fit(_spanning_tree(graph, self.min_samples))
        labels = numbered(scikit.labels_)
        found = labels != OUTLIER
        certain = f"{scikit.probabilities_[found].mean():.2f}" if found.any() else "none"
        self.summary_ = f"HDBSCAN: mean strength of membership {certain}"
        return labels


def _spanning_tree(graph: csr_matrix, min_samples: int) -> csr_matrix:
    """(N, N) symmetric, N - 1 edges: a minimum spanning tree of max(d(i, j), core(i), core(j)), N >= 2."""
    count, pairs = graph.shape[0], graph.tocoo()
    cores = kth_neighbor_distances(graph, min_samples - 1) if min_samples > 1 else np.zeros(count, np.float32)
    upper = pairs.row < pairs.col
    rows, columns = pairs.row[upper], pairs.col[upper]
    reach = np.maximum.reduce([pairs.data[upper], cores[rows], cores[columns], np.full(len(rows), _SMALLEST)])
    forest = minimum_spanning_tree(csr_matrix((reach.astype(np.float64), (rows, columns)), graph.shape)).tocoo()
    parts = connected_components(forest, directed=False)[1]
    _, first = np.unique(parts, return_index=True)
    ends = np.r_[forest.row, np.zeros(len(first) - 1, int)], np.r_[forest.col, first[first > 0]]
    tree = csr_matrix((np.r_[forest.data, np.full(len(first) - 1, _FARTHEST)], ends), graph.shape)
    return tree + tree.T
