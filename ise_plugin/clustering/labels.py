"""How clusters are numbered, the same for every clusterer."""

import numpy as np

from .quality import OUTLIER


def numbered(labels: np.ndarray, smallest: int = 1) -> np.ndarray:
    """Labels with clusters as 0..M-1 in the order of their first images.

    Args:
        labels: (N,) integers, any numbers of clusters, -1 for outliers.
        smallest: images of the smallest cluster that is kept; those of smaller ones become outliers.

    Returns:
        (N,) int64.
    """
    kept = np.flatnonzero(np.asarray(labels) != OUTLIER)
    _, first, inverse, sizes = np.unique(labels[kept], return_index=True, return_inverse=True, return_counts=True)
    large = sizes >= smallest
    numbers = np.full(len(sizes), OUTLIER, np.int64)
    numbers[large] = np.argsort(np.argsort(first[large]))
    found = np.full(len(labels), OUTLIER, np.int64)
    found[kept] = numbers[inverse.reshape(-1)]
    return found
