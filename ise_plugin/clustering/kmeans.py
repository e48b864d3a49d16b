"""Spherical k-means, by faiss."""

from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from ..neighbors.checks import Features, integer, unit_rows
from ..registry import CLUSTERER
from .eps import LARGEST_EPS
from .labels import numbered

# Rounds of assigning rows and moving centroids; faiss's default.
_ROUNDS = 25
# The largest int of faiss. So many rows for a centroid are never sampled from: every row has a say in its own.
_MOST = 2**31 - 1


@CLUSTERER.register()
class KMeans:
    """k-means on the unit sphere (Dhillon and Modha, Machine Learning 2001): rows in the cluster of the nearest of k centroids.

    It works on vectors; the graph serves only to hold its labels to constraints.

    Args:
        num_clusters: k, at least 1 and at most the number of rows. Clusters can be fewer: of equal rows some centroids get none.
        min_samples: images of the smallest cluster, at least 1; those of smaller ones become outliers.
        seed: of the first centroids.

    Attributes:
        max_distance: how far the graph must reach.
        summary_: what came of the last labels, as text.

    Raises:
        ValueError: num_clusters or min_samples < 1.
    """

    wants = ("features",)
    max_distance = LARGEST_EPS

    def __init__(self, num_clusters: int = 500, min_samples: int = 1, seed: int = 0):
        self.num_clusters = integer(num_clusters, "num_clusters", 1)
        self.min_samples, self.seed = integer(min_samples, "min_samples", 1), seed

    @classmethod
    def from_config(cls, cfg: Any) -> dict:
        """``ISE.PSEUDO_LABEL.KMEANS``, ``ISE.PSEUDO_LABEL.MIN_SAMPLES`` and ``SEED``."""
        settings = cfg.ISE.PSEUDO_LABEL
        return {
            "num_clusters": settings.KMEANS.NUM_CLUSTERS,
            "min_samples": settings.MIN_SAMPLES,
            "seed": cfg.SEED,
        }

    def fit_predict(self, graph: csr_matrix, features: Features) -> np.ndarray:
        """
        Args:
            graph: of the same rows; not looked at.
            features: (N, D) unit rows, numpy or torch, on any device.

        Returns:
            (N,) int64, 0..M-1 in the order of the clusters' first rows, -1 for outliers.

        Raises:
            ValueError: more clusters than rows, features that are no finite unit rows.
        """
        import faiss  # here, because it takes a while and other clusterers need none of it

        rows = unit_rows(features).cpu().numpy()
        if self.num_clusters > len(rows):
            raise ValueError(
                f"k-means cannot make {self.num_clusters} clusters of {len(rows)} images; lower "
                "ISE.PSEUDO_LABEL.KMEANS.NUM_CLUSTERS"
            )
        kmeans = faiss.Kmeans(
            rows.shape[1],
            self.num_clusters,
            niter=_ROUNDS,
            spherical=True,
            seed=self.seed % _MOST,
            min_points_per_centroid=1,
            max_points_per_centroid=_MOST // self.num_clusters,
        )
        kmeans.train(rows)
        nearest = kmeans.index.search(rows, 1)[1].ravel()
        labels = numbered(nearest, self.min_samples)
        self.summary_ = (
            f"k-means: {labels.max() + 1} of {self.num_clusters} clusters have {self.min_samples} images or more"
        )
        return labels
