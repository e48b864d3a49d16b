"""A labelled source and an unlabelled target: true identities of the one beside pseudo labels of the other."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Callable, Iterator, Sequence

import numpy as np
from fastreid.data.datasets import DATASET_REGISTRY

from ise_plugin.config import own_settings
from ise_plugin.data import BatchSampler
from ise_plugin.data.datasets.synthetic_persons import SyntheticPersons
from ise_plugin.data.image_sets import datasets_root
from ise_plugin.data.samplers import CrossCameraBatchSampler, RandomBatchSampler
from ise_plugin.engine.labelling import DBSCANPseudoLabelHook
from ise_plugin.errors import UsageError
from ise_plugin.registry import HOOK, SAMPLER, registered

TARGET = -1  # the identity of an image of the target, which nothing tells

SOURCE_KEY = "ISE.OWN.DOMAIN_ADAPTATION.SOURCE"


def settings_of(cfg):
    """The project's keys: SOURCE, the labelled ones of ``DATASETS.NAMES``, and WITH_OUTLIERS, whether batches have outliers."""
    settings = own_settings(cfg, "DOMAIN_ADAPTATION", SOURCE=(), WITH_OUTLIERS=False)
    if not settings.SOURCE or not set(settings.SOURCE) <= set(cfg.DATASETS.NAMES):
        known = ", ".join(cfg.DATASETS.NAMES)
        raise UsageError(
            f"{SOURCE_KEY} must name labelled data sets of DATASETS.NAMES ({known}), not {settings.SOURCE}"
        )
    return settings


def read_identities(names: Sequence[str], paths: Sequence[str]) -> np.ndarray:
    """Who is on N images, by the readers of the named data sets: (N,) int64 numbers 0..I-1, -1 for images of other sets."""
    told: dict = {}
    for name in names:
        data = registered(DATASET_REGISTRY, name, SOURCE_KEY)(root=datasets_root())
        told.update((path, f"{name} {identity}") for path, identity, _camera in data.train)
    numbers = {identity: number for number, identity in enumerate(sorted(set(told.values())))}
    return np.array([numbers[told[path]] if path in told else TARGET for path in paths], np.int64)


def unified_labels(identities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Classes of the source and, numbered after them, clusters of the target. Source: Ge et al., SpCL, NeurIPS 2020, section 3.1.

    Args:
        identities: (N,), int64, 0..I-1 in the source, -1 in the target.
        labels: (N,), int64, of a clustering; -1: outlier. Those of source images are passed over.

    Returns:
        (N,), int64: 0..I-1 in the source; I, I + 1, ... for the target's clusters in the order of their labels; -1 for outliers.
    """
    target = identities == TARGET
    clustered = target & (labels >= 0)
    unified = np.where(target, -1, identities)
    unified[clustered] = identities.max(initial=-1) + 1 + np.unique(labels[clustered], return_inverse=True)[1]
    return unified


def neighbors_within(
    search: Callable, features, k: int, domains: np.ndarray, **options
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest images of each image within its own domain.

    Args:
        search: as in :data:`ise_plugin.registry.NEIGHBOR_SEARCH`.
        features: (N, D), unit rows.
        k: neighbours, the image itself included.
        domains: (N,), of any values.
        options: for the search.

    Returns:
        similarities (N, k) float32 and indices (N, k) int64.

    Raises:
        UsageError: a domain has fewer than k images.
    """
    similarities, indices = np.empty((len(domains), k), np.float32), np.empty((len(domains), k), np.int64)
    for domain in np.unique(domains):
        rows = np.flatnonzero(domains == domain)
        if len(rows) < k:
            raise UsageError(f"a domain has {len(rows)} images, fewer than ISE.PSEUDO_LABEL.K1 {k}; lower it")
        similarities[rows], found = search(features[rows], k, **options)
        indices[rows] = rows[found]
    return similarities, indices


@HOOK.register()
class SourceTargetLabelHook(DBSCANPseudoLabelHook):
    """Labels images of the source by their true identities, and those of the target by clustering them among themselves.

    Where all data sets are labelled nothing is left to cluster, and this is supervised training.
    """

    def __init__(self, cfg):
        super().__init__(cfg)
        self._source = settings_of(cfg).SOURCE
        if hasattr(self._distance, "find_neighbors"):
            raise UsageError(
                f"SourceTargetLabelHook looks for neighbours within domains, but {cfg.ISE.PSEUDO_LABEL.DISTANCE} looks for its "
                "own; set ISE.PSEUDO_LABEL.DISTANCE Jaccard"
            )

    @cached_property
    def _identities(self) -> np.ndarray:
        return read_identities(self._source, self.trainer.images.paths)

    def _neighbors(self, features, **options):
        # no image of the one domain has a neighbour in the other, so no cluster has images of both
        domains = self._identities == TARGET
        return neighbors_within(self._search, features, self.cfg.ISE.PSEUDO_LABEL.K1, domains, **options)

    def assign(self, features, parts: dict) -> np.ndarray:
        """See ``DBSCANPseudoLabelHook.assign``."""
        return unified_labels(self._identities, super().assign(features, parts))


@SAMPLER.register()
class SourceTargetBatchSampler(BatchSampler):
    """Batches whose first half is of the source, in groups of an identity, and whose second half is of the target.

    Args:
        labels, seed, num_batches: of :class:`BatchSampler`.
        cameras: (N,), int64.
        camera_names: with the data set in front.
        source: names of the labelled data sets.
        batch_size: images of a batch, a multiple of twice ``num_instances``.
        num_instances: images of a group.
        with_outliers: the second half is drawn from all images of the target, instead of in groups of its clusters.

    Raises:
        UsageError: the batch has no halves of whole groups, or images of unknown camera, or one of the domains has no images.
    """

    wants = ("cameras", "camera_names")
    drawn = "identities or clusters of two or more images"

    def __init__(
        self,
        labels: np.ndarray,
        cameras: np.ndarray,
        camera_names: Sequence[str],
        source: Sequence[str],
        num_instances: int,
        batch_size: int,
        num_batches: int,
        seed: int,
        with_outliers: bool = False,
    ):
        super().__init__(labels, num_batches, seed)
        if batch_size % (2 * num_instances):
            raise UsageError(
                f"SourceTargetBatchSampler halves the batch: SOLVER.IMS_PER_BATCH ({batch_size}) must be a multiple of twice "
                f"DATALOADER.NUM_INSTANCE ({num_instances})"
            )
        names = np.array([name.split("/")[0] for name in camera_names])
        if (cameras < 0).any():
            raise UsageError("SourceTargetBatchSampler knows an image's domain by its camera, and some have none")
        in_source = np.isin(names[cameras], source)
        if in_source.all() or not in_source.any():
            raise UsageError("SourceTargetBatchSampler needs images of both domains; name another data set as well")
        rows = self._rows = [np.flatnonzero(in_source), np.flatnonzero(~in_source)]
        of_epoch = {"num_batches": num_batches, "seed": seed, "batch_size": batch_size // 2}
        in_groups, target = {"num_instances": num_instances, **of_epoch}, self.labels[rows[1]]
        source_half = CrossCameraBatchSampler(self.labels[rows[0]], cameras[rows[0]], **in_groups)
        target_half = (
            RandomBatchSampler(target, **of_epoch)
            if with_outliers
            else CrossCameraBatchSampler(target, cameras[rows[1]], **in_groups)
        )
        self._halves = [source_half, target_half]
        self.unit = num_instances
        self.images_per_batch = sum(half.images_per_batch for half in self._halves)

    @classmethod
    def from_config(cls, cfg) -> dict:
        settings = settings_of(cfg)
        return {
            "source": settings.SOURCE,
            "num_instances": cfg.DATALOADER.NUM_INSTANCE,
            "batch_size": cfg.SOLVER.IMS_PER_BATCH,
            "num_batches": cfg.ISE.ITERS_PER_EPOCH,
            "with_outliers": settings.WITH_OUTLIERS,
        }

    def batches(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """See ``BatchSampler.batches``."""
        for source, target in zip(*(half.batches(rng) for half in self._halves)):
            yield np.concatenate([self._rows[0][source], self._rows[1][target]])


@DATASET_REGISTRY.register()
class SyntheticSource(SyntheticPersons):
    """Other drawn persons, as a labelled source: those in the folder ``source`` of the folder of data sets."""

    dataset_name = "syntheticsource"

    def __init__(self, root: str = "datasets", **kwargs) -> None:
        super().__init__(os.path.join(root, "source"), **kwargs)
