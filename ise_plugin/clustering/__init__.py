"""Embeddings in, pseudo labels out: neighbour search, k-reciprocal Jaccard graph, DBSCAN. Knows nothing of fastreid."""

from ..neighbors import approximate_search as approximate_neighbors  # importing registers the searches
from ..neighbors import exact_search as neighbors
from .clusterers import DBSCAN
from .jaccard import jaccard_distance, jaccard_graph, kth_neighbor_distances
from .pseudo_labels import generate_pseudo_labels
from .reranking import rerank_distance

__all__ = [
    "DBSCAN",
    "approximate_neighbors",
    "generate_pseudo_labels",
    "jaccard_distance",
    "jaccard_graph",
    "kth_neighbor_distances",
    "neighbors",
    "rerank_distance",
]
