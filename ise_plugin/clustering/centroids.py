"""How every image lies to the centroids of its own and of the nearest other cluster."""

from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor

from ..method import cluster_centroids
from ..neighbors.checks import Features, unit_rows

# Similarities held at once, in elements (128 MiB of float32).
_BLOCK_ELEMENTS = 1 << 25


class CentroidSimilarities(NamedTuple):
    """Cosines of N images with centroids, in [-1, 1]."""

    own: np.ndarray  # (N,) float32, with the centroid of the image's cluster; NaN for an outlier
    other: np.ndarray  # (N,) float32, with the most similar centroid of any other cluster; NaN where there is no other
    nearest: np.ndarray  # (N,) int64, the number of that other cluster; -1 where there is none

    @property
    def silhouette(self) -> np.ndarray:
        """(N,) float32 in [-1, 1], the simplified silhouette (Hruschka, de Castro and Campello, ICDM 2004).

        (b - a) / max(a, b) with the cosine distances a to the own and b to the nearest other centroid; 0 for outliers, with a
        single cluster, and where both distances are 0.
        """
        own, other = 1 - self.own, 1 - self.other
        larger = np.maximum(own, other)
        return np.divide(other - own, larger, out=np.zeros_like(own), where=larger > 0)


def similarity_to_centroids(
    features: Features, labels: np.ndarray, centroids: Optional[Tensor] = None
) -> CentroidSimilarities:
    """Compares every image with all centroids, on the device of the features.

    Args:
        features: (N, D) unit rows, numpy or torch.
        labels: (N,) int64, 0..M-1 and -1 for outliers, every cluster with at least one image.
        centroids: (M, D) unit rows; computed by :func:`ise_plugin.method.cluster_centroids` where there are none yet.

    Raises:
        ValueError: features that are no finite unit rows; a cluster without images.
    """
    rows = unit_rows(features)
    own, other = (np.full(len(rows), np.nan, np.float32) for _ in range(2))
    nearest = np.full(len(rows), -1, np.int64)
    if labels.max(initial=-1) < 0:
        return CentroidSimilarities(own, other, nearest)
    numbers = torch.from_numpy(np.ascontiguousarray(labels)).to(rows.device)
    centroids = cluster_centroids(rows, numbers) if centroids is None else centroids.to(rows.device)
    size = max(1, _BLOCK_ELEMENTS // len(centroids))
    for start in range(0, len(rows), size):
        block = slice(start, start + size)
        similarities = rows[block] @ centroids.T
        members = torch.nonzero(numbers[block] >= 0)[:, 0]
        place = members, numbers[block][members]
        own[block][members.cpu().numpy()] = similarities[place].cpu().numpy()
        similarities[place] = -torch.inf
        best = similarities.max(dim=1)
        other[block], nearest[block] = best.values.cpu().numpy(), best.indices.cpu().numpy()
    alone = np.isneginf(other)  # in the only cluster
    other[alone], nearest[alone] = np.nan, -1
    return CentroidSimilarities(own, other, nearest)
