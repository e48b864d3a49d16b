"""One centroid per cluster, moved after every training step by the embeddings of the step."""

import numpy as np
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

    centroids: Tensor

    def __init__(self, centroids: Tensor, momentum: float = 0.2, update: str = "hard", persistent: bool = True):
        super().__init__()
        if centroids.ndim != 2 or len(centroids) < 1:
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
            labels: (B,), int64, in 0..M-1, on any device. Those of "mean" updates are needed on the CPU: where they are there
                already nothing waits for the device.
        """
        if len(features) == 0:
            return
        if self.update_rule == "mean":
            self.centroids = moved_in_turn(self.centroids, features, labels, self.momentum)
            return
        features, labels = features.detach().to(self.centroids.dtype), labels.to(features.device, non_blocking=True)
        # samples of one cluster carry the same row, so it does not matter which of them is written last
        self.centroids = self.centroids.index_copy(0, labels, self._hard(features, labels))

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
        return _moved(own, features[hardest[labels]], self.momentum)


@torch.no_grad()
def moved_in_turn(memory: Tensor, features: Tensor, numbers: Tensor, momentum: float) -> Tensor:
    """The rows of a memory after a batch, ``v <- normalize(m v + (1 - m) f)`` with one sample after the other.

    Args:
        memory: (M, D), float, unit rows; stays as it is, because autograd may still need it.
        features: (B, D), float, unit rows.
        numbers: (B,), int64, the row in 0..M-1 that each sample moves, -1: none. The order is worked out on the CPU: with
            numbers that are there already nothing waits for the device.
        momentum: share m of the old row that is kept, in [0, 1).

    Returns:
        (M, D). Loops over the samples of the row that has most, not over rows.
    """
    known = np.flatnonzero(numbers.cpu().numpy() >= 0)
    features = features.detach().to(memory.dtype)
    if len(known) < len(numbers):
        place = torch.from_numpy(known)
        features, numbers = features[place.to(features.device, non_blocking=True)], numbers.cpu()[place]
    if not len(known):
        return memory
    moved, slot, members, present = (index.to(memory.device, non_blocking=True) for index in _groups(numbers))
    rows = memory[moved]
    for r in range(members.shape[1]):
        rows = torch.where(present[:, r : r + 1], _moved(rows, features[members[:, r]], momentum), rows)
    numbers = numbers.to(memory.device, non_blocking=True)
    # samples of one row carry the same result, so it does not matter which of them is written last
    return memory.index_copy(0, numbers, rows[slot])


def _moved(rows: Tensor, features: Tensor, momentum: float) -> Tensor:
    return F.normalize(momentum * rows + (1 - momentum) * features, dim=1)


def _groups(labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Who belongs to which cluster of a batch of B labels with C different ones, R the most samples of one.

    Returns:
        On the CPU: clusters (C,); slot (B,), the position of each sample's cluster in them; members (C, R), the positions of
        each cluster's samples in the order of the batch, filled up with 0; present (C, R), which of them are no filling.
    """
    clusters, slot, counts = torch.unique(labels.cpu(), return_inverse=True, return_counts=True)
    order = torch.argsort(slot, stable=True)
    present = torch.arange(int(counts.max())) < counts.unsqueeze(1)
    members = torch.zeros(present.shape, dtype=torch.int64)
    members[present] = order
    return clusters, slot, members, present
