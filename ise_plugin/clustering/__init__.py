"""Embeddings in, pseudo labels out: neighbour search, k-reciprocal Jaccard graph, DBSCAN. Knows nothing of fastreid."""

from ..neighbors import approximate_search as approximate_neighbors  # importing registers the searches
from ..neighbors import exact_search as neighbors
from .centroids import CentroidSimilarities, similarity_to_centroids
from .clusterers import DBSCAN
from .eps import kth_neighbor_distances
from .jaccard import Jaccard, jaccard_distance, jaccard_graph
from .pseudo_labels import generate_pseudo_labels
from .quality import OUTLIER
from .reranking import rerank_distance

__all__ = [
    "CentroidSimilarities",
    "DBSCAN",
    "Jaccard",
    "OUTLIER",
    "approximate_neighbors",
    "generate_pseudo_labels",
    "jaccard_distance",
    "jaccard_graph",
    "kth_neighbor_distances",
    "neighbors",
    "rerank_distance",
    "similarity_to_centroids",
]
