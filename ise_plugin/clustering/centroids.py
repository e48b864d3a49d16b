"""How images lie to the centroids of clusters. For now the least that the engine needs."""

from typing import NamedTuple

import numpy as np
import torch

from ..method import cluster_centroids


class CentroidSimilarities(NamedTuple):
    """Cosines (N,) to the own and the nearest other centroid, and which that is."""

    own: np.ndarray
    other: np.ndarray
    nearest: np.ndarray


def similarity_to_centroids(features, labels, centroids=None) -> CentroidSimilarities:
    """See :class:`CentroidSimilarities`."""
    features = torch.as_tensor(features)
    centroids = cluster_centroids(features, torch.from_numpy(labels)) if centroids is None else centroids
    similarities, rows = (features @ centroids.T).cpu().numpy(), np.flatnonzero(labels >= 0)
    own = np.full(len(labels), np.nan, np.float32)
    own[rows] = similarities[rows, labels[rows]]
    similarities[rows, labels[rows]] = -np.inf
    return CentroidSimilarities(own, similarities.max(axis=1), similarities.argmax(axis=1))
