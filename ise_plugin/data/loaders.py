"""Loaders that run on any device. fastreid's own ``DataLoaderX`` needs CUDA."""

import math
import os
from itertools import islice
from typing import Iterable, Iterator, Optional, Sequence

import numpy as np
import torch
from fastreid.data.transforms import build_transforms
from fastreid.utils import comm
from torch.utils.data import DataLoader, Dataset

from ..errors import UsageError
from ..registry import SAMPLER, build, registered
from ..utils.distributed import WholeBatch, shard, world_size
from ..utils.files import free_space
from ..utils.parallel import available_cores
from .augmentation import batch_augmentation, training_transform
from .image_cache import ImageCache, open_image_cache
from .image_dataset import ImageDataset
from .image_sets import TrainingImages, read_evaluation_images
from .samplers import Share
from .workers import UserErrorLoader

# where workers leave batches for their process; torch gives it up with a bus error once it is full
_SHARED_MEMORY = "/dev/shm"
# batches that a worker makes ahead (torch's default), and that its process holds: one in the step, one on its way
_PREFETCHED, _HELD = 2, 2
MEBIBYTE = 2**20


class TrainingLoader:
    """The batches of a run's training images, for extraction and for training; both share workers and cache.

    The workers live as long as the run. One pass at a time: a new one ends the one before.

    Args:
        cfg: configuration.
        images: N training images.
    """

    def __init__(self, cfg, images: TrainingImages):
        self._cfg = cfg
        self._images = images
        self._batches = _Batches()
        dataset, options = _TrainingDataset(cfg, images), _loading_options(cfg)
        _check_shared_memory(dataset.batch_bytes(cfg), options["num_workers"])
        self._loader = UserErrorLoader(
            dataset,
            batch_sampler=self._batches,
            persistent_workers=options["num_workers"] > 0,
            generator=torch.Generator(),  # the global one would be drawn from in a first pass, and not in later ones
            **options,
        )

    def extraction(self) -> Iterable[dict]:
        """This process's share of the images, once, in order, with the test transform."""
        mine = shard(len(self._images))
        size = _extracted_at_once(self._cfg)
        batches = [list(mine[start : start + size]) for start in range(0, len(mine), size)]
        return _Pass(self._loader, self._batches, batches)

    def pseudo_labelled(self, labels: np.ndarray, seed: int) -> "_Pass":
        """This process's share of one epoch's batches of pseudo-labelled images, with the training transform.

        Args:
            labels: (N,), int64 pseudo labels, -1 for outliers.
            seed: of this epoch's draws and augmentations.

        Returns:
            An iterable that gives the same batches every time, with its :class:`BatchSampler` as ``batch_sampler``.
        """
        name, key = self._cfg.ISE.SAMPLER, "ISE.SAMPLER"
        known = {each: getattr(self._images, each) for each in getattr(registered(SAMPLER, name, key), "wants", ())}
        sampler = build(SAMPLER, name, key, self._cfg, labels=labels, seed=seed, **known)
        return _Pass(self._loader, self._batches, sampler)


class _Batches:
    """A batch sampler that can be exchanged; torch's loader and its workers stay."""

    current: Iterable = ()

    def __iter__(self) -> Iterator:
        return iter(self.current)


class _Pass:
    """One way through the images; can be iterated again."""

    def __init__(self, loader: DataLoader, batches: _Batches, batch_sampler):
        self._loader, self._batches, self.batch_sampler = loader, batches, batch_sampler

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[dict]:
        return self.after(0)

    def after(self, count: int) -> Iterator[dict]:
        """The batches after the first ``count``; those are drawn, but no image of them is read."""
        self._batches.current = islice(self.batch_sampler, count, None)
        yield from self._loader


class _TrainingDataset(Dataset):
    """Keys with a pseudo label mean the training transform, plain indices the test transform."""

    def __init__(self, cfg, images: TrainingImages):
        known = {"cameras": images.cameras, "stand_ins": images.stand_ins}
        transforms = training_transform(cfg), build_transforms(cfg, is_train=False)
        self._train, self._test = (ImageDataset(images.paths, transform, **known) for transform in transforms)
        self._train.views = images.views
        if cfg.DATALOADER.AUGMENT_ON_DEVICE:
            self._train.on_device = batch_augmentation(cfg, self._train.steps)
        self._train.cache = _open_cache(cfg, self._train)
        same_size = self._train.steps.size == self._test.steps.size
        self._test.cache = self._train.cache if same_size else _open_cache(cfg, self._test)

    def __len__(self) -> int:
        return len(self._test)

    def batch_bytes(self, cfg) -> int:
        """Of the larger of this process's batches, for training and for extraction."""
        trained, extracted = -(-cfg.SOLVER.IMS_PER_BATCH // world_size()), min(len(self), _extracted_at_once(cfg))
        return max(self._train.image_bytes * trained, self._test.image_bytes * extracted)

    def __getitems__(self, keys: Sequence) -> dict:
        training = isinstance(keys, Share) or isinstance(keys[0], tuple)
        dataset = self._train if training else self._test
        dataset.worker_files = self.worker_files
        if not isinstance(keys, Share):
            return dataset.__getitems__(keys)
        # a process without images still needs to know how large and of which type they are
        batch = dataset.__getitems__(keys or [(0, 0, 0)])
        batch = {name: values[: len(keys)] for name, values in batch.items()}
        return {
            **batch,
            "whole": WholeBatch(torch.from_numpy(keys.labels), keys.counts, torch.from_numpy(keys.indices)),
        }


def build_test_loader(cfg, dataset_name: str) -> tuple[DataLoader, int]:
    """This process's share of a data set's query and gallery images, queries first, and the number of queries."""
    items, num_query = read_evaluation_images(dataset_name, cfg)
    paths, identities, cameras = zip(*items)
    dataset = ImageDataset(paths, build_transforms(cfg, is_train=False), targets=identities, cameras=cameras)
    size, options = max(1, cfg.TEST.IMS_PER_BATCH // world_size()), _loading_options(cfg)
    _check_shared_memory(dataset.image_bytes * min(len(dataset), size), options["num_workers"])
    return UserErrorLoader(dataset, batch_size=size, sampler=shard(len(dataset)), **options), num_query


def _extracted_at_once(cfg) -> int:
    return max(1, (cfg.ISE.EXTRACTION.IMS_PER_BATCH or cfg.TEST.IMS_PER_BATCH) // world_size())


def _open_cache(cfg, dataset: ImageDataset) -> Optional[ImageCache]:
    loader = cfg.DATALOADER
    if loader.CACHE == "none":
        return None
    if dataset.steps.size is None:
        advice = "name height and width in INPUT.SIZE_TRAIN and INPUT.SIZE_TEST, set INPUT.AUTOAUG off, or CACHE none"
        raise UsageError(f"DATALOADER.CACHE keeps images of one size; {advice}")
    return open_image_cache(
        loader.CACHE,
        dataset.files,
        dataset.steps.size,
        recipe=str(dataset.steps.resize),
        folder=loader.CACHE_DIR or os.path.join(cfg.OUTPUT_DIR, "cache"),
        limit_gib=loader.CACHE_GIB,
        processes=comm.get_local_size(),
    )


def _loading_options(cfg) -> dict:
    cores = max(1, available_cores() // comm.get_local_size())
    return {
        "num_workers": min(cfg.DATALOADER.NUM_WORKERS, cores),  # more would only take turns
        "pin_memory": torch.device(cfg.MODEL.DEVICE).type == "cuda",
    }


def _check_shared_memory(batch_bytes: int, num_workers: int) -> None:
    """Raises UsageError where the batches of this machine's processes that wait to be taken have no room."""
    if not num_workers or not os.path.isdir(_SHARED_MEMORY):
        return
    needed = batch_bytes * (_PREFETCHED * num_workers + _HELD) * comm.get_local_size()
    free = free_space(_SHARED_MEMORY)
    if needed > free:
        raise UsageError(
            f"{_SHARED_MEMORY} has {free / MEBIBYTE:.0f} MiB free and the batches of the loader's workers need "
            f"{math.ceil(needed / MEBIBYTE)} MiB; make it larger (docker run --shm-size) or lower DATALOADER.NUM_WORKERS "
            f"({num_workers} in use; 0 needs none)"
        )
