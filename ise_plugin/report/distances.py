"""Where eps lies among the distances."""

from typing import Optional

import numpy as np

from ..clustering import Jaccard
from ..registry import NEIGHBOR_SEARCH

# Rows whose distances to all images are counted; each has a few hundred below one.
_SAMPLE = 200
_BINS = 40


def distance_histogram(
    features, identities: Optional[np.ndarray], k1: int, k2: int, search: str, eps: float, seed: int = 0
) -> dict:
    """Jaccard distances of a sample of images to all others, those below one: the rest have no neighbour in common.

    Args:
        features: (N, D), unit rows, N >= 2.
        identities: (N,), any; None where they are not known.
        k1, k2: of the distance.
        search: a registered neighbour search.
        eps: the clustering's.
        seed: of the sample.

    Returns:
        ``edges`` (B + 1 numbers), ``eps``, and counts of B bins: ``same`` and ``different`` identity, or ``all``.
    """
    count = len(features)
    rows = np.sort(np.random.default_rng(seed).choice(count, min(_SAMPLE, count), replace=False))
    k1 = min(k1, count - 1)
    neighbors = NEIGHBOR_SEARCH.get(search)(features, k1)
    distances = Jaccard(k1, k2)(features, neighbors).of_rows(rows)
    counted = distances < 1
    counted[np.arange(len(rows)), rows] = False
    edges = np.linspace(0, 1, _BINS + 1)
    parts = {"all": counted}
    if identities is not None:
        same = identities[rows, None] == identities[None]
        parts = {"same": counted & same, "different": counted & ~same}
    counts = {name: np.histogram(distances[where], edges)[0].tolist() for name, where in parts.items()}
    return {"edges": np.round(edges, 4).tolist(), "eps": float(eps), **counts}
