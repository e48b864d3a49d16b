"""Which images make a batch: whole groups of a pseudo identity, taken by several cameras, or all images at random."""

from itertools import islice
from typing import Any, Iterator

import numpy as np
from torch.utils.data import Sampler

from ..registry import SAMPLER
from ..utils.distributed import rank, shards, world_size

# the largest seed that numpy's legacy generator, which some augmentations use, accepts
_SEED_LIMIT = 2**32 - 1


class Share(list):
    """This process's keys of a batch, and what it has to know of the others'.

    Attributes:
        labels, indices: (B,), int64, of the global batch, in the order of the processes.
        counts: images of every process.
    """

    labels: np.ndarray
    indices: np.ndarray
    counts: tuple


class BatchSampler(Sampler):
    """Draws the batches of an epoch. A subclass says which images a batch has; it is registered in
    ``ise_plugin.registry.SAMPLER`` and has ``from_config(cfg)`` for what no labelling decides.

    Iterating gives lists of ``(index, label, seed)``: the image, its pseudo label, and the seed of its augmentation, so
    that what an image looks like does not depend on which worker prepares it. With several processes all draw the same
    batches, and the lists are :class:`Share` s of them.

    Args:
        labels: (N,), int64 pseudo labels, -1 for outliers.
        num_batches: batches per epoch.
        seed: of this epoch's draws.

    Attributes:
        images_per_batch: images in every batch.
        drawn: what batches are made of, for messages.
        unit: images that follow one another in a batch and stay together, in one process, where there are enough of them.
    """

    images_per_batch: int
    drawn = "images"
    unit = 1

    def __init__(self, labels: np.ndarray, num_batches: int, seed: int):
        self.labels, self.num_batches, self.seed = np.asarray(labels), num_batches, seed

    def batches(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Without end the images of one batch after the other, (B,) int64 positions in the list of training images."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list]:
        rng = np.random.default_rng(self.seed)
        return (self._keys(indices, rng) for indices in islice(self.batches(rng), self.num_batches))

    def _keys(self, indices: np.ndarray, rng: np.random.Generator) -> list:
        seeds = rng.integers(_SEED_LIMIT, size=len(indices))
        keys = [(int(i), int(self.labels[i]), int(s)) for i, s in zip(indices, seeds)]
        if world_size() == 1:
            return keys
        unit = self.unit if len(keys) >= self.unit * world_size() else 1
        shares = shards(len(keys) // unit)
        mine = shares[rank()]
        share = Share(keys[mine.start * unit : mine.stop * unit])
        share.labels, share.indices = self.labels[indices], indices
        share.counts = tuple(len(s) * unit for s in shares)
        return share


@SAMPLER.register()
class RandomBatchSampler(BatchSampler):
    """Draws batches of all images, outliers included, for methods whose memory has a row for each image.

    A pass visits the images in random order, each once; passes follow one another until the epoch has its batches, and the
    images left over at the end of a pass are dropped.

    Args:
        labels, num_batches, seed: of :class:`BatchSampler`.
        batch_size: images per batch; with fewer images the batch has all.
    """

    def __init__(self, labels: np.ndarray, batch_size: int, num_batches: int, seed: int):
        super().__init__(labels, num_batches, seed)
        self.images_per_batch = min(batch_size, len(self.labels))

    @classmethod
    def from_config(cls, cfg: Any) -> dict:
        """fastreid's batch, and ``ISE.ITERS_PER_EPOCH``."""
        return {"batch_size": cfg.SOLVER.IMS_PER_BATCH, "num_batches": cfg.ISE.ITERS_PER_EPOCH}

    def batches(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """See :meth:`BatchSampler.batches`."""
        count, size = len(self.labels), self.images_per_batch
        while True:
            order = rng.permutation(count)
            yield from (order[start : start + size] for start in range(0, count - size + 1, size))


@SAMPLER.register()
class CrossCameraBatchSampler(BatchSampler):
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

    Raises:
        ValueError: no cluster has two images, or ``batch_size`` is not a multiple of ``num_instances``.
    """

    wants = ("cameras",)
    drawn = "clusters of two or more images"

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
        super().__init__(labels, num_batches, seed)
        labels, cameras = self.labels, np.asarray(cameras)
        clusters, counts = np.unique(labels, return_counts=True)
        drawn = np.isin(labels, clusters[(clusters >= 0) & (counts > 1)])
        units = np.unique(np.stack([labels, cameras]), axis=1, return_inverse=True)[1].ravel() if by_proxy else labels
        members = np.argsort(units, kind="stable")
        values, starts = np.unique(units[members], return_index=True)
        groups = np.split(members, starts[1:])
        self.members = {int(v): g for v, g in zip(values, groups) if drawn[g[0]]}
        if not self.members:
            raise ValueError("labels has no cluster of two or more images: there is nothing to draw")
        self.cameras = cameras
        self.num_instances = self.unit = num_instances
        self._groups = min(batch_size // num_instances, len(self.members))
        self.images_per_batch = self._groups * num_instances

    @classmethod
    def from_config(cls, cfg: Any) -> dict:
        """fastreid's batch and instances, ``ISE.ITERS_PER_EPOCH`` and ``ISE.CAMERAS.PROXY.BALANCE``."""
        return {
            "num_instances": cfg.DATALOADER.NUM_INSTANCE,
            "batch_size": cfg.SOLVER.IMS_PER_BATCH,
            "num_batches": cfg.ISE.ITERS_PER_EPOCH,
            "by_proxy": cfg.ISE.CAMERAS.PROXY.BALANCE,
        }

    def batches(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """See :meth:`BatchSampler.batches`."""
        clusters = np.array(sorted(self.members))
        while True:
            order = rng.permutation(clusters)
            for start in range(0, len(order) - self._groups + 1, self._groups):
                chosen = order[start : start + self._groups]
                yield np.concatenate([self._group(self.members[int(c)], rng) for c in chosen])

    def _group(self, members: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        first = rng.choice(members)
        camera = self.cameras[first]
        candidates = members[(self.cameras[members] != camera) & (camera >= 0)]
        if len(candidates) == 0:
            candidates = members[members != first] if len(members) > 1 else members
        wanted = self.num_instances - 1
        return np.append(first, rng.choice(candidates, size=wanted, replace=len(candidates) < wanted))
