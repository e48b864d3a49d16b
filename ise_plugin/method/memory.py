"""One centroid per cluster, moved after every training step by the embeddings of the step."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

UPDATES = ("hard", "mean")


def cluster_centroids(features: Tensor, labels: Tensor) -> Tensor:
    """L2-normalised mean embedding of every cluster.

    Args:
        features: (N, D), float, unit rows.
        labels: (N,), int64 pseudo labels 0..M-1; -1 marks outliers, which take no part.

    Returns:
        (M, D), dtype and device of ``features``, unit rows, M = largest label + 1.

    Raises:
        ValueError: no label is >= 0, or some label between 0 and M-1 has no member.
    """
    member = labels >= 0
    if not bool(member.any()):
        raise ValueError("labels has no cluster: every value is -1")
    features, labels = features[member], labels[member]
    count = torch.bincount(labels)
    if bool((count == 0).any()):
        raise ValueError(f"labels must be consecutive: label {int((count == 0).nonzero()[0])} has no member")
    # summed one cluster after the other in row order: the result does not depend on the number of threads
    order = torch.argsort(labels, stable=True)
    sums = torch.segment_reduce(features[order].contiguous(), "sum", lengths=count, axis=0)
    return F.normalize(sums / count.unsqueeze(1).to(features.dtype), dim=1)


class ClusterMemory(nn.Module):
    """The memory of cluster centroids that the losses compare embeddings with.

    Dai et al., "Cluster Contrast for Unsupervised Person Re-Identification", arXiv 2103.11568; with support
    samples as Zhang et al., CVPR 2022, use it.

    Args:
        centroids: (M, D), float; normalised to unit rows here.
        momentum: share of the old centroid kept at an update, in [0, 1).
        update: "hard": of each cluster in the batch, the member least similar to its centroid updates it.
            "mean": every member updates it, in the order of the batch, normalised each time.
        persistent: whether ``state_dict`` holds the centroids.

    Attributes:
        centroids: (M, D), unit rows, a buffer.

    Raises:
        ValueError: ``centroids`` is not two-dimensional or has no row, ``momentum`` or ``update`` is none of the above.

    Example::

        memory = ClusterMemory(centroids, momentum=0.2, update="hard")
        loss = sample_extension_loss(features, labels, memory.centroids)
        memory.update(features, labels)
    """

    def __init__(self, centroids: Tensor, momentum: float = 0.2, update: str = "hard", persistent: bool = True):
        super().__init__()
        if centroids.ndim != 2 or len(centroids) == 0:
            raise ValueError(f"centroids must have shape (M, D) with M >= 1, not {tuple(centroids.shape)}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), not {momentum}")
        if update not in UPDATES:
            raise ValueError(f"update must be one of {', '.join(UPDATES)}, not {update!r}")
        self.momentum = momentum
        self.update_rule = update
        self.register_buffer("centroids", F.normalize(centroids.detach().float(), dim=1), persistent=persistent)

    def extra_repr(self) -> str:
        return f"centroids={tuple(self.centroids.shape)}, momentum={self.momentum}, update={self.update_rule}"

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Moves the centroids of the clusters in the batch.

        A new tensor replaces :attr:`centroids`, because autograd may still need the old one.

        Args:
            features: (B, D), float, unit rows.
            labels: (B,), int64, in 0..M-1.
        """
        features = features.detach().to(self.centroids.dtype)
        if len(features) == 0:
            return
        rows = self._hard(features, labels) if self.update_rule == "hard" else self._mean(features, labels)
        # samples of one cluster carry the same row, so it does not matter which of them is written last
        self.centroids = self.centroids.index_copy(0, labels, rows)

    def _hard(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B, D): the updated centroid of each sample's cluster. No loop, no device-to-host synchronisation."""
        own = self.centroids[labels]
        similarity = (features * own).sum(1)
        clusters, last = len(self.centroids), len(labels) - 1
        least = similarity.new_full((clusters,), torch.inf).scatter_reduce(0, labels, similarity, "amin")
        # among equals the first of the batch, as an argmin finds it
        position = torch.arange(len(labels), device=labels.device)
        candidate = torch.where(similarity == least[labels], position, last)
        hardest = labels.new_full((clusters,), last).scatter_reduce(0, labels, candidate, "amin")
        return self._moved(own, features[hardest[labels]])

    def _mean(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B, D): the updated centroid of each sample's cluster; round r applies the r-th member of every cluster at once."""
        order = torch.argsort(labels, stable=True)
        ordered = labels[order]
        counts = torch.bincount(labels, minlength=len(self.centroids))
        starts = torch.cumsum(counts, 0) - counts
        rank = torch.arange(len(labels), device=labels.device) - starts[ordered]
        rows = self.centroids.clone()
        for r in range(int(counts.max())):
            members = order[rank == r]
            cluster = labels[members]
            rows[cluster] = self._moved(rows[cluster], features[members])
        return rows[labels]

    def _moved(self, centroids: Tensor, features: Tensor) -> Tensor:
        return F.normalize(self.momentum * centroids + (1 - self.momentum) * features, dim=1)
