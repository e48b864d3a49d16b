"""What may help a start that knows no people, each beside the package's recipe: a mean teacher, two uses of outliers."""

import contextlib
import dataclasses
import math
from typing import Any, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ise_plugin.config import own_settings
from ise_plugin.data import CrossCameraBatchSampler
from ise_plugin.engine.labelling import DBSCANPseudoLabelHook, Labelling
from ise_plugin.method import moved_in_turn
from ise_plugin.modeling import Memory
from ise_plugin.modeling.memories import of_images
from ise_plugin.registry import HOOK, LOSS, MEMORY, SAMPLER
from ise_plugin.utils.distributed import unwrapped

# Keys below ISE.OWN.LEVERS. Share of the teacher's weights kept at a step; Tarvainen and Valpola, NeurIPS 2017: 0.99 at first.
TEACHER_MOMENTUM = 0.99
# Outliers at least as near to a centroid as this share of the clustered images is to theirs join its cluster, in [0, 1].
NEAREST_SHARE = 0.5
# Most of a batch that outliers may be, in [0, 1).
OUTLIER_SHARE = 0.5


def _settings(cfg: Any) -> Any:
    return own_settings(
        cfg,
        "LEVERS",
        TEACHER_MOMENTUM=TEACHER_MOMENTUM,
        NEAREST_SHARE=NEAREST_SHARE,
        OUTLIER_SHARE=OUTLIER_SHARE,
    )


@HOOK.register()
class TeacherPseudoLabelHook(DBSCANPseudoLabelHook):
    """Embeds for clustering with a mean teacher, the average of the weights over the steps, and trains as ever.

    Source: Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017. Running statistics are averaged as well.
    """

    def __init__(self, cfg: Any):
        super().__init__(cfg)
        self._momentum = _settings(cfg).TEACHER_MOMENTUM
        self._teacher: dict[str, Tensor] = {}

    def after_step(self) -> None:
        """Moves the teacher."""
        student = self._student()
        if not self._teacher:
            self._teacher = {name: value.clone() for name, value in student.items()}
        torch._foreach_lerp_([self._teacher[name] for name in student], list(student.values()), 1 - self._momentum)

    def label(self) -> Labelling:
        """See :class:`DBSCANPseudoLabelHook`."""
        with self._taught():
            return super().label()

    def _student(self) -> dict[str, Tensor]:
        state = unwrapped(self.trainer.model).state_dict()
        return {name: value for name, value in state.items() if value.is_floating_point()}

    @contextlib.contextmanager
    def _taught(self) -> Iterator[None]:
        """The teacher's weights in the network, and then its own again."""
        student = self._student()
        own = {name: student[name].clone() for name in self._teacher}
        try:
            for name, value in self._teacher.items():
                student[name].copy_(value)
            yield
        finally:
            for name, value in own.items():
                student[name].copy_(value)

    def state_dict(self) -> dict:
        """The labels' state, and the teacher."""
        state = super().state_dict()
        return {**state, "teacher": self._teacher} if state else state

    def load_state_dict(self, state: dict) -> None:
        """Takes what :meth:`state_dict` gave."""
        device = next(unwrapped(self.trainer.model).parameters()).device
        self._teacher = {name: value.to(device) for name, value in state.pop("teacher", {}).items()}
        super().load_state_dict(state)


@HOOK.register()
class NearestPseudoLabelHook(DBSCANPseudoLabelHook):
    """Outliers that are near to a centroid join its cluster: as near as ``NEAREST_SHARE`` of the clustered images to theirs."""

    def label(self) -> Labelling:
        """See :class:`DBSCANPseudoLabelHook`."""
        found = super().label()
        share = _settings(self.cfg).NEAREST_SHARE
        return found if found.clusters < 2 else dataclasses.replace(found, labels=with_nearest(found, share))


def with_nearest(found: Labelling, share: float) -> np.ndarray:
    """(N,) int64, labels in which an outlier has its nearest cluster, if as near as ``share`` of the images are to theirs."""
    own, other, nearest = found.similarities
    outliers = found.labels == -1
    near = outliers & (other >= np.quantile(own[~outliers], 1 - share))
    return np.where(near, nearest, found.labels)


@MEMORY.register()
class OutlierMemory(Memory):
    """A unit row for each outlier, moved by the batches it is in. Losses get ``outliers`` (O, D) and ``own_outliers`` (B,), the
    row of each image of the batch, -1 of clustered ones.

    Args:
        momentum: share of the old row kept at an update, in [0, 1).
    """

    rows: Tensor

    def __init__(self, momentum: float = 0.2):
        super().__init__()
        self.momentum = momentum
        self._numbers = torch.empty(0, dtype=torch.int64)
        self.register_buffer("rows", torch.empty(0, 0), persistent=False)

    @classmethod
    def from_config(cls, cfg: Any) -> dict:
        """``ISE.MEMORY.INSTANCE_MOMENTUM``."""
        return {"momentum": cfg.ISE.MEMORY.INSTANCE_MOMENTUM}

    def fill(self, features: Tensor, labels: Tensor, images: Any) -> None:
        """See :meth:`Memory.fill`."""
        self._number(labels)
        self.rows = features[(labels == -1).to(features.device)].detach().clone()

    def forward(self, features: Tensor, batch: Any) -> dict:
        """See :meth:`Memory.forward`."""
        own, before = self._numbers[of_images(batch)], self.rows
        self.rows = moved_in_turn(before, features, own, self.momentum)
        return {"outliers": before, "own_outliers": own.to(features.device, non_blocking=True)}

    def restore(self, state: dict, labels: Tensor, images: Any) -> None:
        """See :meth:`Memory.restore`."""
        self._number(labels)
        super().restore(state, labels, images)

    def _number(self, labels: Tensor) -> None:
        outliers = labels == -1
        self._numbers = torch.where(outliers, outliers.cumsum(0) - 1, -1)


@LOSS.register()
class OutlierLoss(nn.Module):
    """Each outlier as a class of its own, beside ISELoss: against all centroids and all outliers, the mean over the batch.

    Source: the unified contrastive loss of Ge et al., "Self-paced Contrastive Learning", NeurIPS 2020, equation 1, of outliers.

    Args:
        temperature: > 0.
    """

    wants = ("OutlierMemory",)

    def __init__(self, temperature: float = 0.05):
        super().__init__()
        self.temperature = temperature

    @classmethod
    def from_config(cls, cfg: Any) -> dict:
        """``ISE.MEMORY.TEMPERATURE``."""
        return {"temperature": cfg.ISE.MEMORY.TEMPERATURE}

    def forward(self, outputs: dict) -> dict[str, Tensor]:
        """``{"loss_outliers": scalar}``; 0 in a batch without outliers."""
        features, centroids, own = outputs["features"], outputs["centroids"], outputs["own_outliers"]
        logits = features @ torch.cat([centroids, outputs["outliers"]]).t() / self.temperature
        targets = torch.where(own >= 0, own + len(centroids), -1)
        return {"loss_outliers": F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum") / len(features)}


@SAMPLER.register()
class WithOutliersBatchSampler(CrossCameraBatchSampler):
    """Groups of clusters, and beside them outliers: by their share of the images, but no more of a batch than ``OUTLIER_SHARE``.

    Args:
        labels, cameras, num_instances, batch_size, options: of :class:`CrossCameraBatchSampler`.
        outlier_share: most of a batch that outliers may be, in [0, 1).
    """

    def __init__(
        self,
        labels: np.ndarray,
        cameras: np.ndarray,
        num_instances: int,
        batch_size: int,
        outlier_share: float = OUTLIER_SHARE,
        **options: Any,
    ):
        self._outliers = np.flatnonzero(labels == -1)
        share = min(outlier_share, len(self._outliers) / len(labels))
        groups = math.ceil((1 - share) * batch_size / num_instances)
        super().__init__(labels, cameras, num_instances, groups * num_instances, **options)
        self._count = min(batch_size - groups * num_instances, len(self._outliers))
        self.images_per_batch += self._count
        self.unit = 1

    @classmethod
    def from_config(cls, cfg: Any) -> dict:
        """Those of :class:`CrossCameraBatchSampler`, and ``ISE.OWN.LEVERS.OUTLIER_SHARE``."""
        return {**super().from_config(cfg), "outlier_share": _settings(cfg).OUTLIER_SHARE}

    def batches(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """See :meth:`BatchSampler.batches`."""
        for batch in super().batches(rng):
            yield np.append(batch, rng.choice(self._outliers, self._count, replace=False))
