"""Batches of whole groups: images of one pseudo identity, taken by several cameras."""

from itertools import islice
from typing import Iterator

import numpy as np
from torch.utils.data import Sampler

from ..utils.distributed import rank, shards, world_size

# the largest seed that numpy's legacy generator, which some augmentations use, accepts
_SEED_LIMIT = 2**32 - 1


class Share(list):
    """This process's keys of a batch, and what it has to know of the others'.

    Attributes:
        labels, cameras: (B,), int64, of the global batch, in the order of the processes.
        counts: images of every process.
    """

    labels: np.ndarray
    cameras: np.ndarray
    counts: tuple


class CrossCameraBatchSampler(Sampler):
    """Draws batches of clusters x instances from pseudo-labelled images, the instances across cameras where it can.

    A pass visits the clusters in random order. From each it takes one random image and ``num_instances - 1`` others of
    the cluster: by other cameras where there are any, otherwise by the same; with replacement when there are too few.
    An image of unknown camera takes any others, and any other takes it as one by another camera.
    A cluster with a single image makes no group. Passes follow one another until the epoch has its batches; every batch
    is made of distinct clusters, the clusters left over at the end of a pass are dropped. With several processes all draw the
    same batches, and each takes its share of the groups of every batch, or where there are fewer groups than processes of
    its images. Source: the multiple-gallery sampler that Cluster Contrast and ISE train with (``docs/method.md``).

    Args:
        labels: (N,), int64 pseudo labels, -1 for outliers, which are never drawn.
        cameras: (N,), int64 camera of each image; -1: unknown.
        num_instances: images per group, >= 1.
        batch_size: images per batch, a multiple of ``num_instances``. With fewer clusters than groups in a batch, the
            batch shrinks to one group per cluster.
        num_batches: batches per epoch.
        seed: of this epoch's draws.
        by_proxy: a group is of one camera of a cluster, a camera proxy, instead of the cluster, so that cameras with few
            images are drawn as often as others; a batch may then have several groups of a cluster, and an image alone in
            its group is repeated. Images of unknown camera are a group of their cluster. Source: proxy-balanced sampling
            of Wang et al., AAAI 2021.

    Attributes:
        clusters_per_batch: groups in every batch.

    Iterating gives lists of ``(index, label, seed)``: the image, its pseudo label, and the seed of its augmentation, so
    that what an image looks like does not depend on which worker prepares it. With several processes the lists are
    :class:`Share` s.

    Raises:
        ValueError: no cluster has two images, or ``batch_size`` is not a multiple of ``num_instances``.
    """

    def __init__(
        self,
        labels: np.ndarray,
        cameras: np.ndarray,
        num_instances: int,
        batch_size: int,
        num_batches: int,
        seed: int,
        by_proxy: bool = False,
    ):
        if num_instances < 1 or batch_size < num_instances or batch_size % num_instances:
            raise ValueError(f"batch_size must be a multiple of num_instances ({num_instances}), not {batch_size}")
        labels, cameras = np.asarray(labels), np.asarray(cameras)
        clusters, counts = np.unique(labels, return_counts=True)
        drawn = np.isin(labels, clusters[(clusters >= 0) & (counts > 1)])
        units = np.unique(np.stack([labels, cameras]), axis=1, return_inverse=True)[1].ravel() if by_proxy else labels
        members = np.argsort(units, kind="stable")
        values, starts = np.unique(units[members], return_index=True)
        groups = np.split(members, starts[1:])
        self.members = {int(v): g for v, g in zip(values, groups) if drawn[g[0]]}
        if not self.members:
            raise ValueError("labels has no cluster of two or more images: there is nothing to draw")
        self.labels, self.cameras = labels, cameras
        self.num_instances, self.num_batches, self.seed = num_instances, num_batches, seed
        self.clusters_per_batch = min(batch_size // num_instances, len(self.members))

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list]:
        return islice(self._passes(), self.num_batches)

    def _passes(self) -> Iterator[list]:
        rng = np.random.default_rng(self.seed)
        clusters = np.array(sorted(self.members))
        while True:
            order = rng.permutation(clusters)
            for start in range(0, len(order) - self.clusters_per_batch + 1, self.clusters_per_batch):
                yield self._batch(order[start : start + self.clusters_per_batch], rng)

    def _batch(self, clusters: np.ndarray, rng: np.random.Generator) -> list:
        indices = np.concatenate([self._group(self.members[int(c)], rng) for c in clusters])
        seeds = rng.integers(_SEED_LIMIT, size=len(indices))
        keys = [(int(i), int(self.labels[i]), int(s)) for i, s in zip(indices, seeds)]
        if world_size() == 1:
            return keys
        unit = self.num_instances if len(clusters) >= world_size() else 1
        shares = shards(len(keys) // unit)
        mine = shares[rank()]
        share = Share(keys[mine.start * unit : mine.stop * unit])
        share.labels, share.cameras = self.labels[indices], self.cameras[indices]
        share.counts = tuple(len(s) * unit for s in shares)
        return share

    def _group(self, members: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        first = rng.choice(members)
        camera = self.cameras[first]
        candidates = members[(self.cameras[members] != camera) & (camera >= 0)]
        if len(candidates) == 0:
            candidates = members[members != first] if len(members) > 1 else members
        wanted = self.num_instances - 1
        return np.append(first, rng.choice(candidates, size=wanted, replace=len(candidates) < wanted))
