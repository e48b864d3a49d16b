"""Embeddings in, pseudo labels out: neighbour search, k-reciprocal Jaccard graph, DBSCAN. Knows nothing of fastreid."""

from .camera_jaccard import CameraJaccard
from .centroids import CentroidSimilarities, similarity_to_centroids
from .clusterers import DBSCAN, generate_pseudo_labels
from .eps import kth_neighbor_distances
from .jaccard import Jaccard, jaccard_distance, jaccard_graph
from .quality import OUTLIER
from .retrieval import rerank_distance

__all__ = [
    "CameraJaccard",
    "CentroidSimilarities",
    "DBSCAN",
    "Jaccard",
    "OUTLIER",
    "generate_pseudo_labels",
    "jaccard_distance",
    "jaccard_graph",
    "kth_neighbor_distances",
    "rerank_distance",
    "similarity_to_centroids",
]
