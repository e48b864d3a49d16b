"""Embeddings in, pseudo labels out: neighbour search, distance, clusterer. Knows nothing of fastreid."""

from .camera_jaccard import CameraJaccard
from .centroids import CentroidSimilarities, similarity_to_centroids
from .clusterers import DBSCAN, generate_pseudo_labels
from .eps import kth_neighbor_distances
from .hierarchical import HDBSCAN, Agglomerative
from .infomap import Infomap
from .jaccard import Jaccard, jaccard_distance, jaccard_graph
from .kmeans import KMeans
from .neighbor_distances import Cosine, Euclidean
from .quality import OUTLIER
from .retrieval import rerank_distance
from .self_paced import SelfPacedDBSCAN

__all__ = [
    "Agglomerative",
    "CameraJaccard",
    "CentroidSimilarities",
    "Cosine",
    "DBSCAN",
    "Euclidean",
    "HDBSCAN",
    "Infomap",
    "Jaccard",
    "KMeans",
    "OUTLIER",
    "SelfPacedDBSCAN",
    "generate_pseudo_labels",
    "jaccard_distance",
    "jaccard_graph",
    "kth_neighbor_distances",
    "rerank_distance",
    "similarity_to_centroids",
]
