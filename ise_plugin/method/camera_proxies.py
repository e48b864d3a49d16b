"""Camera proxies: a centroid for each camera of each cluster, and the losses within and across cameras that use them.

Wang et al., "Camera-aware Proxies for Unsupervised Person Re-Identification", AAAI 2021 (CAP). Images of outliers and of
unknown cameras have no proxy; they take no part in anything here.
"""

import torch
from torch import Tensor

NO_PROXY = -1


def number_proxies(labels: Tensor, cameras: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs of cluster and camera that occur, each of which is a proxy.

    Args:
        labels: (N,), int64 pseudo labels, -1 for outliers.
        cameras: (N,), int64, -1 where unknown.

    Returns:
        pairs (P, 2), int64, label and camera of each proxy in rising order; numbers (N,), int64, each image's proxy in
        0..P-1, -1 without one.
    """
    known = (labels >= 0) & (cameras >= 0)
    numbers = torch.full_like(labels, NO_PROXY)
    pairs, numbers[known] = torch.unique(torch.stack([labels, cameras], 1)[known], dim=0, return_inverse=True)
    return pairs, numbers


def intra_camera_loss(logits: Tensor, own: Tensor, proxy_cameras: Tensor) -> Tensor:
    """Every image against the proxies of its own camera: ``-log(exp(l_own) / sum of exp(l_p) over its camera's p)``.

    The mean over the images of each camera, and of these the mean over the cameras of the batch, so that a camera with
    few images counts as much as any, however many cameras there are. Source: CAP, intra-camera loss.

    Args:
        logits: (B, P), similarities of the embeddings to the proxies, over the temperature.
        own: (B,), int64, each image's proxy; -1 without one.
        proxy_cameras: (P,), int64, the proxies' cameras.

    Returns:
        Scalar, >= 0; 0 where no image has a proxy.
    """
    if not logits.shape[1]:
        return logits.sum()
    known, place = own >= 0, own.clamp(min=0)
    cameras = proxy_cameras[place]
    together = (cameras.unsqueeze(1) == cameras) & known
    weights = known.to(logits.dtype) / together.sum(1).clamp(min=1)
    rivals = logits.masked_fill(cameras.unsqueeze(1) != proxy_cameras, -torch.inf)
    losses = rivals.logsumexp(1) - logits.gather(1, place.unsqueeze(1)).squeeze(1)
    return (weights * losses).sum() / weights.sum().clamp(min=1)


def inter_camera_loss(logits: Tensor, own: Tensor, proxy_labels: Tensor, num_negatives: int = 50) -> Tensor:
    """Every image against the proxies P of its cluster in other cameras and the nearest proxies Q of other clusters.

    The mean over the batch of ``-1/|P| sum over p in P of log(exp(l_p) / (sum over P of exp(l_u) + sum over Q of exp(l_q)))``.
    Images of clusters with one camera, and those without a proxy, count 0. Source: CAP, inter-camera loss.

    Args:
        logits, own: as for :func:`intra_camera_loss`.
        proxy_labels: (P,), int64, the proxies' clusters.
        num_negatives: size of Q, >= 1, of all cameras; fewer where there are not so many.

    Returns:
        Scalar, >= 0.
    """
    if not logits.shape[1]:
        return logits.sum()
    place = own.clamp(min=0).unsqueeze(1)
    cluster = proxy_labels[place] == proxy_labels
    positive = cluster.scatter(1, place, False)
    counts = positive.sum(1)
    counted = (own >= 0) & (counts > 0)
    hardest = logits.masked_fill(cluster, -torch.inf).topk(min(num_negatives, logits.shape[1]), dim=1).values
    # a row without positives has to stay finite, or its gradient would be no number in spite of the weight 0
    positives = logits.masked_fill(~positive & counted.unsqueeze(1), -torch.inf)
    total = torch.cat([positives, hardest], 1).logsumexp(1)
    mean = logits.masked_fill(~positive, 0).sum(1) / counts.clamp(min=1)
    return (counted * (total - mean)).sum() / max(1, len(logits))
