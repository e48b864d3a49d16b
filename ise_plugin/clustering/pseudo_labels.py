"""Embeddings in, pseudo labels out."""

from typing import Optional

import numpy as np

from ..neighbors._checks import Features
from .clusterers import DBSCAN
from .jaccard import jaccard_graph


def generate_pseudo_labels(
    features: Features,
    eps: float = 0.6,
    min_samples: int = 4,
    k1: int = 30,
    k2: int = 6,
    search: str = "exact",
    show_progress: Optional[bool] = None,
    **search_options,
) -> np.ndarray:
    """Cluster embeddings by DBSCAN on their k-reciprocal Jaccard distance.

    Args:
        features: (N, D) unit rows, numpy or torch, float32, float16 or bfloat16, on any device.
        eps: largest distance of two neighbours, in [0, 1]. Larger values give fewer, larger clusters; 1 makes every
            pair of rows neighbours.
        min_samples: neighbours, itself included, that make a row a core point, at least 1. Larger values give more
            outliers.
        k1: size of a neighbourhood, the row itself included, 1 <= k1 < N.
        k2: neighbours whose weights are averaged, at least 1; 1 switches that off.
        search: name of a registered neighbour search: ``"exact"``, ``"ivf"``, ``"hnsw"``.
        show_progress: True or False overrules the look at the terminal.
        search_options: passed on to the neighbour search.

    Returns:
        (N,) int64, 0..M-1 in the order of the clusters' first core rows, -1 for outliers.

    Raises:
        ValueError: features that are no finite unit rows, k1 outside [1, N), k2 < 1, eps outside [0, 1],
        min_samples < 1. A single row is allowed with any k1.
    """
    clusterer = DBSCAN(eps, min_samples)
    graph = jaccard_graph(features, k1, k2, clusterer.eps, search, show_progress, **search_options)
    return clusterer.fit_predict(graph)
