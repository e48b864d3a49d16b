"""Bottom-up clustering: every image a cluster of its own at first, and the nearest clusters merged step after step.

Lin et al., "A Bottom-up Clustering Approach to Unsupervised Person Re-identification", AAAI 2019 (called paper below). Its
repelled loss is the sample-extension loss without support samples, and its lookup table the cluster memory (README.md).
"""

import math

import numpy as np
import torch
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from ise_plugin.config import own_settings
from ise_plugin.engine.labelling import DBSCANPseudoLabelHook
from ise_plugin.errors import UsageError
from ise_plugin.registry import HOOK

# Images whose distances to all others are looked at together.
_ROWS_AT_ONCE = 1024


def cluster_distances(features: Tensor, labels: np.ndarray) -> np.ndarray:
    """The distance of two clusters, the Euclidean one of their nearest images (paper, minimum distance criterion).

    Args:
        features: (N, D), float32.
        labels: (N,), int64, 0..M-1, each with at least one image.

    Returns:
        (M, M), float32, symmetric, the diagonal 0.
    """
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    nearest = np.full((len(starts), len(starts)), np.inf, np.float32)
    ordered = features[torch.from_numpy(order).to(features.device)]
    for start in range(0, len(order), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        of_images = np.minimum.reduceat(torch.cdist(ordered[rows], ordered).cpu().numpy(), starts, axis=1)
        clusters, first = np.unique(labels[order[rows]], return_index=True)
        nearest[clusters] = np.minimum(nearest[clusters], np.minimum.reduceat(of_images, first, axis=0))
    nearest = np.minimum(nearest, nearest.T)  # rounding may differ in the two directions
    np.fill_diagonal(nearest, 0)
    return nearest


def merge_clusters(distances: np.ndarray, sizes: np.ndarray, merges: int, diversity: float) -> np.ndarray:
    """Merges the pairs of clusters that are nearest by ``distance + diversity * (size + size)``.

    All pairs are ranked once. A pair that others have joined already is passed over, so the number of clusters falls by
    ``merges``. (These are the first merges of a single-linkage tree over that criterion.)

    Args:
        distances: (M, M), symmetric, see :func:`cluster_distances`.
        sizes: (M,), int64, images of each cluster.
        merges: pairs to merge, in 0..M-1.
        diversity: weight of the regularisation that keeps clusters small (lambda in the paper), >= 0.

    Returns:
        (M,), int64, the new cluster of each in 0..M-merges-1, in the order of their first old one.
    """
    weights = (diversity * sizes).astype(distances.dtype)
    criterion = distances + weights[:, None] + weights
    np.fill_diagonal(criterion, 0)
    tree = linkage(squareform(criterion, checks=False), method="single")
    cut = cut_tree(tree, n_clusters=len(sizes) - merges).ravel()
    _, first, merged = np.unique(cut, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[merged]


@HOOK.register()
class BottomUpPseudoLabelHook(DBSCANPseudoLabelHook):
    """Labels by bottom-up clustering of what neighbours are searched by, embeddings with or without ``ISE.APPEARANCE``.

    Keys, below ``ISE.OWN.BUC``:
        MERGE_SHARE: pairs merged at a labelling, as a share of the images, in (0, 1). Paper: 0.05.
        DIVERSITY: weight of the diversity regularisation, >= 0. Paper: 0.005.
        START_EPOCHS: epochs in which every image stays a cluster of its own, >= 1. Paper: 20.
        STOP_SHARE: clusters that stay, as a share of the images, in (0, 1]. The paper stops where a validation says so.
    """

    def __init__(self, cfg):
        super().__init__(cfg)
        defaults = {"MERGE_SHARE": 0.05, "DIVERSITY": 0.005, "START_EPOCHS": 20, "STOP_SHARE": 0.1}
        self._settings = own = own_settings(cfg, "BUC", **defaults)
        if not (0 < own.MERGE_SHARE < 1 and 0 < own.STOP_SHARE <= 1 and own.DIVERSITY >= 0 and own.START_EPOCHS >= 1):
            raise UsageError(
                "ISE.OWN.BUC: MERGE_SHARE must be greater than 0 and less than 1, STOP_SHARE greater than 0 and at most 1, "
                f"DIVERSITY at least 0, START_EPOCHS at least 1, not {dict(own)}"
            )

    def assign(self, features: Tensor, parts: dict) -> np.ndarray:
        """The clusters of before, the nearest of them merged; at first every image for itself."""
        if self.labels is None:
            return np.arange(len(features))
        sizes, own = np.bincount(self.labels), self._settings
        least = max(2, math.ceil(own.STOP_SHARE * len(features)))
        merges = min(round(own.MERGE_SHARE * len(features)), len(sizes) - least)
        if self.trainer.epoch < own.START_EPOCHS or merges <= 0:
            return self.labels
        merged = merge_clusters(cluster_distances(features, self.labels), sizes, merges, own.DIVERSITY)
        return merged[self.labels]
