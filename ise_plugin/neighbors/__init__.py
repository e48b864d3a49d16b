"""Nearest neighbours of unit rows, exact and approximate, on any device. Knows nothing of fastreid."""

from .approximate_search import hnsw, ivf
from .camera_search import search_by_camera
from .exact_search import Neighbors, exact

__all__ = ["Neighbors", "exact", "hnsw", "ivf", "search_by_camera"]
