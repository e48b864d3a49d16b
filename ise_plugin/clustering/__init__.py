"""Embeddings in, pseudo labels out: neighbour search, k-reciprocal Jaccard graph, DBSCAN. Knows nothing of fastreid."""

from .clusterers import DBSCAN
from .jaccard import jaccard_distance, jaccard_graph, kth_neighbor_distances
from .neighbors import exact
from .pseudo_labels import generate_pseudo_labels

__all__ = [
    "exact",
    "DBSCAN",
    "generate_pseudo_labels",
    "jaccard_distance",
    "jaccard_graph",
    "kth_neighbor_distances",
]
