"""Progressive linear interpolation: synthetic embeddings between a sample and its neighbouring clusters."""

import math
from typing import Callable, Union

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def progressive_degree(
    progress: Union[float, np.ndarray, Tensor], base: float = 0.25
) -> Union[float, np.ndarray, Tensor]:
    """Degree of extension at a point of training: ``base * ln((e - 1) * progress + 1)``, from 0 to ``base``.

    Source: Zhang et al., CVPR 2022, section 3.2, with the factor of the released program (``docs/method.md``).

    Args:
        progress: steps done / all steps, in [0, 1]; a number, a numpy array or a tensor of any shape.
        base: the degree at the end of training, >= 0.

    Returns:
        The degree, of the type and shape of ``progress``.

    Raises:
        ValueError: some progress lies outside [0, 1].
    """
    points = progress if isinstance(progress, Tensor) else np.asarray(progress)
    if not bool(((points >= 0) & (points <= 1)).all()):
        raise ValueError(f"progress must be in [0, 1], not {progress}")
    if isinstance(progress, Tensor):
        return base * torch.log((math.e - 1) * progress + 1)
    degree = base * np.log((math.e - 1) * progress + 1)
    return float(degree) if isinstance(progress, (int, float)) else degree


def constant_degree(progress: float, base: float = 0.25) -> float:
    """``base`` at every point of training: what :func:`progressive_degree` is compared with. Arguments as there."""
    return float(base)


# The values of ``ISE.SUPPORT.SCHEDULE``: (steps done / all steps, base) -> degree.
DEGREE_SCHEDULES: dict[str, Callable] = {"progressive": progressive_degree, "constant": constant_degree}


def generate_support_samples(
    features: Tensor, labels: Tensor, centroids: Tensor, num_neighbors: int = 1, degree: float = 0.25
) -> tuple[Tensor, Tensor]:
    """Extends every embedding towards the nearest centroids that are not its own.

    For embedding f with centroid c and each of its K nearest other centroids c*: ``normalize(f + degree * (c* - c))``.
    Gradients flow through the embeddings, not through the centroids. Source: Zhang et al., CVPR 2022, section 3.2.

    Args:
        features: (B, D), float, unit rows.
        labels: (B,), int64, in 0..M-1.
        centroids: (M, D), float, unit rows.
        num_neighbors: K, in 1..M-1.
        degree: factor on the difference of the two centroids, >= 0.

    Returns:
        supports (B*K, D), unit rows, the K of sample 0 first (nearest first), then those of sample 1, and so on;
        and their labels (B*K,), those of the samples they came from.

    Raises:
        ValueError: ``num_neighbors`` is below 1 or there are not that many other centroids.
    """
    if not 1 <= num_neighbors < len(centroids):
        raise ValueError(f"num_neighbors must be in 1..M-1 with M = {len(centroids)} centroids, not {num_neighbors}")
    centroids = centroids.detach()
    with torch.no_grad():
        similarity = features @ centroids.t()
        similarity.scatter_(1, labels.unsqueeze(1), -torch.inf)
        neighbors = similarity.topk(num_neighbors, dim=1).indices
        direction = centroids[neighbors] - centroids[labels].unsqueeze(1)
    supports = F.normalize(features.unsqueeze(1) + degree * direction, dim=2)
    return supports.flatten(0, 1), labels.repeat_interleave(num_neighbors)
