"""Loaders that run on any device. fastreid's own ``DataLoaderX`` needs CUDA."""

import os
from typing import Iterator

import numpy as np
import torch
from fastreid.data.transforms import build_transforms
from torch.utils.data import DataLoader

from ..distributed import shard, world_size
from ..errors import UsageError
from .image_dataset import ImageDataset
from .image_sets import TrainingImages, read_evaluation_images
from .samplers import CrossCameraBatchSampler


class UserErrorLoader(DataLoader):
    """A loader whose workers' :class:`UsageError` arrives as one, without the worker's traceback around its message."""

    def __iter__(self) -> Iterator:
        batches = super().__iter__()
        while True:
            try:
                yield next(batches)
            except StopIteration:
                return
            except UsageError as error:
                # torch repeats the traceback as text and puts the message on the last line
                raise UsageError(str(error).strip().splitlines()[-1].split("UsageError: ")[-1]) from None


def build_extraction_loader(cfg, images: TrainingImages) -> DataLoader:
    """This process's share of the training images, once, in order, with the test transform."""
    dataset = ImageDataset(images.paths, build_transforms(cfg, is_train=False), cameras=images.cameras)
    return _sequential_loader(cfg, dataset)


def build_pseudo_label_loader(cfg, images: TrainingImages, labels: np.ndarray, seed: int) -> DataLoader:
    """This process's share of one epoch's batches of pseudo-labelled images, with the training transform.

    Args:
        cfg: configuration.
        images: N training images.
        labels: (N,), int64 pseudo labels, -1 for outliers.
        seed: of this epoch's draws and augmentations.
    """
    sampler = CrossCameraBatchSampler(
        labels,
        images.cameras,
        num_instances=cfg.DATALOADER.NUM_INSTANCE,
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
        num_batches=cfg.ISE.ITERS_PER_EPOCH,
        seed=seed,
    )
    dataset = ImageDataset(images.paths, build_transforms(cfg, is_train=True), cameras=images.cameras)
    return UserErrorLoader(dataset, batch_sampler=sampler, **_loading_options(cfg))


def build_test_loader(cfg, dataset_name: str) -> tuple[DataLoader, int]:
    """This process's share of a data set's query and gallery images, queries first, and the number of queries."""
    items, num_query = read_evaluation_images(dataset_name)
    paths, identities, cameras = zip(*items)
    dataset = ImageDataset(paths, build_transforms(cfg, is_train=False), targets=identities, cameras=cameras)
    return _sequential_loader(cfg, dataset), num_query


def _sequential_loader(cfg, dataset: ImageDataset) -> DataLoader:
    batch_size = max(1, cfg.TEST.IMS_PER_BATCH // world_size())
    return UserErrorLoader(dataset, batch_size=batch_size, sampler=shard(len(dataset)), **_loading_options(cfg))


def _loading_options(cfg) -> dict:
    return {
        "num_workers": min(cfg.DATALOADER.NUM_WORKERS, available_cores()),  # more would only take turns
        "pin_memory": torch.device(cfg.MODEL.DEVICE).type == "cuda",
    }


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
