"""The method of the paper as small pure functions and one module. Imports torch only."""

from .camera_proxies import inter_camera_loss, intra_camera_loss, number_proxies
from .losses import label_preserving_loss, sample_extension_loss
from .memory import ClusterMemory, cluster_centroids, moved_in_turn
from .support_samples import DEGREE_SCHEDULES, constant_degree, generate_support_samples, progressive_degree

__all__ = [
    "ClusterMemory",
    "DEGREE_SCHEDULES",
    "cluster_centroids",
    "constant_degree",
    "generate_support_samples",
    "inter_camera_loss",
    "intra_camera_loss",
    "label_preserving_loss",
    "moved_in_turn",
    "number_proxies",
    "progressive_degree",
    "sample_extension_loss",
]
