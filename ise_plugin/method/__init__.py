"""The method of the paper as small pure functions and one module. Imports torch only."""

from .losses import label_preserving_loss, sample_extension_loss
from .memory import ClusterMemory, cluster_centroids
from .support_samples import generate_support_samples, progressive_degree

__all__ = [
    "ClusterMemory",
    "cluster_centroids",
    "generate_support_samples",
    "label_preserving_loss",
    "progressive_degree",
    "sample_extension_loss",
]
