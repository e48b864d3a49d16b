"""Embeddings on disk, an index over them, and search by image."""

from .embeddings import Embeddings, EmbeddingStore, read_embeddings
from .index import SearchIndex, build_index

__all__ = ["EmbeddingStore", "Embeddings", "SearchIndex", "build_index", "read_embeddings"]
