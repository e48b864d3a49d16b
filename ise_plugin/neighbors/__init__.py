"""Nearest neighbours of unit rows, exact and approximate, on any device. Knows nothing of fastreid."""

from .approximate_search import hnsw, ivf
from .exact_search import Neighbors, exact

__all__ = ["Neighbors", "exact", "hnsw", "ivf"]
