"""The two losses of the paper, as free functions."""

import torch
import torch.nn.functional as F
from torch import Tensor

OUTLIER = -1  # the pseudo label of an image in no cluster
EPSILON = 1e-6  # the released program adds it to the denominator and to the logarithm of the label-preserving loss


def sample_extension_loss(features: Tensor, labels: Tensor, centroids: Tensor, temperature: float = 0.05) -> Tensor:
    """InfoNCE over centroids, for real and support samples alike: mean of ``-log(exp(f.c_y / t) / sum_m exp(f.c_m / t))``.

    Source: Zhang et al., CVPR 2022, section 3.2; without support samples it is the loss of Cluster Contrast.

    Args:
        features: (B, D), float, unit rows.
        labels: (B,), int64, in 0..M-1; -1 marks outliers, which do not count.
        centroids: (M, D), float, unit rows; no gradient flows into them.
        temperature: > 0.

    Returns:
        Scalar, >= 0; 0 where all are outliers.

    Raises:
        ValueError: ``temperature`` is not positive.
    """
    _check_temperature(temperature)
    logits = features @ centroids.detach().t() / temperature
    total = F.cross_entropy(logits, labels, ignore_index=OUTLIER, reduction="sum")
    return total / (labels != OUTLIER).sum().clamp(min=1)


def label_preserving_loss(
    features: Tensor, supports: Tensor, labels: Tensor, support_labels: Tensor, temperature: float = 0.6
) -> Tensor:
    """Keeps support samples with their cluster: the hardest positive against the hardest negative of every other cluster.

    With ``s_ij = exp(f_i . f~_j / t)`` over the batch's support samples: ``pos`` is the smallest s among the supports of
    i's label, ``neg`` the largest s among the supports of each other cluster, and the loss is the mean of
    ``-log(pos / (pos + sum of neg + 1e-6) + 1e-6)``. Clusters are found by label, so that any batch will do.
    Source: Zhang et al., CVPR 2022, section 3.3.

    Args:
        features: (B, D), float, unit rows.
        supports: (S, D), float, unit rows.
        labels: (B,), int64; each must occur in ``support_labels``, but -1, which marks outliers, that do not count.
        support_labels: (S,), int64.
        temperature: > 0.

    Returns:
        Scalar. No loop over samples or clusters and no device-to-host synchronisation.

    Raises:
        ValueError: ``temperature`` is not positive, or there is no support sample.
    """
    _check_temperature(temperature)
    if len(supports) == 0:
        raise ValueError("supports is empty: the loss compares each sample with the batch's support samples")
    similarity = torch.exp(features @ supports.t() / temperature)  # (B, S)
    own, counted = labels.unsqueeze(1) == support_labels.unsqueeze(0), labels != OUTLIER
    # an outlier has no positive; its row must stay finite
    positive = similarity.masked_fill(~own, torch.inf).amin(1).where(counted, 1)
    # A cluster is named by the position of its first support sample: S slots, of which only those in use hold anything.
    slot = (support_labels.unsqueeze(1) == support_labels.unsqueeze(0)).to(torch.uint8).argmax(1)
    hardest = torch.zeros_like(similarity).scatter_reduce(
        1, slot.expand_as(similarity), similarity.masked_fill(own, 0), "amax"
    )
    losses = -torch.log(positive / (positive + hardest.sum(1) + EPSILON) + EPSILON)
    return losses.where(counted, 0).sum() / counted.sum().clamp(min=1)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be greater than 0, not {temperature}")
