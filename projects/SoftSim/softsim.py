"""Softened similarity: every image a class of its own, its target shared with the images that are least unlike it.

Lin et al., "Unsupervised Person Re-identification via Softened Similarity Learning", CVPR 2020 (called paper below). Its
lookup table is the cluster memory, with a cluster for every image (README.md).
"""

from typing import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ise_plugin.config import own_settings
from ise_plugin.engine.labelling import DBSCANPseudoLabelHook, Labelling
from ise_plugin.errors import UsageError
from ise_plugin.registry import HOOK, LOSS
from ise_plugin.utils.distributed import computed_once, gather_rows, unwrapped

# Keys below ISE.OWN.SOFTSIM with their defaults; README.md says which are the paper's.
DEFAULTS = {
    "OWN_SHARE": 0.6,
    "RELIABLE": 4,
    "PARTS": 8,
    "PART_WEIGHT": 0.5,
    "CAMERA_PENALTY": 0.1,
    "HARD_EPOCHS": 20,
}
# Images whose dissimilarities to all others are looked at together.
_ROWS_AT_ONCE = 512


def stripes(feature_map: Tensor, count: int) -> Tensor:
    """Unit embeddings (B, count, C), float32, of horizontal stripes of a feature map (B, C, H, W), the topmost first."""
    pooled = F.adaptive_avg_pool2d(feature_map.float(), (count, 1))[..., 0]
    return F.normalize(pooled.transpose(1, 2), dim=2)


def dissimilarities(
    rows: Tensor, features: Tensor, parts: Tensor, cameras: Tensor, part_weight: float, camera_penalty: float
) -> Tensor:
    """How unlike images are: by embeddings, by parts, and by whether one camera took both (cross-camera encouragement).

    ``(1 - part_weight) * |f_i - f_j| + part_weight / p * sum over parts of |f_i^k - f_j^k|``, and ``camera_penalty`` more for
    two images of one camera.

    Args:
        rows: (S,), int64, the images that are compared with all.
        features: (N, D), unit rows, the embeddings, or whatever neighbours are searched by.
        parts: (N, p, C), unit rows, see :func:`stripes`.
        cameras: (N,), int64, -1 where unknown: no image is of the same camera then.
        part_weight: in [0, 1].
        camera_penalty: >= 0.

    Returns:
        (S, N), float32.
    """
    by_parts = sum(torch.cdist(parts[rows, k].float(), parts[:, k].float()) for k in range(parts.shape[1]))
    unlike = (1 - part_weight) * torch.cdist(features[rows], features) + part_weight * by_parts / parts.shape[1]
    own = cameras[rows].unsqueeze(1)
    return unlike + camera_penalty * ((own == cameras) & (own >= 0))


def reliable_images(features: Tensor, parts: Tensor, cameras: Tensor, count: int, **weights: float) -> Tensor:
    """(N, count), int64: the images that are least unlike each, itself left out; arguments as for :func:`dissimilarities`."""
    found = []
    for rows in torch.arange(len(features), device=features.device).split(_ROWS_AT_ONCE):
        unlike = dissimilarities(rows, features, parts, cameras, **weights)
        unlike.scatter_(1, rows.unsqueeze(1), torch.inf)
        found.append(unlike.topk(count, dim=1, largest=False).indices)
    return torch.cat(found)


def softened_loss(logits: Tensor, images: Tensor, reliable: Tensor, own_share: float = 0.6) -> Tensor:
    """Cross-entropy with a softened target: ``own_share`` for the image's own class, the rest in equal parts for reliable ones.

    Args:
        logits: (B, N), similarities of the embeddings to the lookup table, over the temperature.
        images: (B,), int64, each image's own class.
        reliable: (B, k), int64, classes of the images like it; with k = 0 its own class has all.
        own_share: lambda in the paper, in [0, 1].

    Returns:
        Scalar, >= 0, the mean over the batch.
    """
    probabilities = logits.log_softmax(1)
    own = -probabilities.gather(1, images.unsqueeze(1)).squeeze(1)
    if not reliable.shape[1]:
        return own.mean()
    others = -probabilities.gather(1, reliable).mean(1)
    return (own_share * own + (1 - own_share) * others).mean()


@LOSS.register()
class SoftenedLoss(nn.Module):
    """:func:`softened_loss` of the batch against the memory.

    Attributes:
        reliable: (N, k), int64, the images like each; :class:`SoftenedLabelHook` sets it.
    """

    reliable: Tensor

    def __init__(self, cfg):
        super().__init__()
        self.temperature = cfg.ISE.MEMORY.TEMPERATURE
        self.own_share = own_settings(cfg, "SOFTSIM", **DEFAULTS).OWN_SHARE
        if not 0 <= self.own_share <= 1:
            raise UsageError(f"ISE.OWN.SOFTSIM.OWN_SHARE must be at least 0 and at most 1, not {self.own_share}")
        self.register_buffer("reliable", torch.empty(0, 0, dtype=torch.int64), persistent=False)

    def forward(self, outputs: dict) -> dict[str, Tensor]:
        """``{"loss_softened": scalar}`` of what the head returns."""
        images = outputs["labels"]
        logits = outputs["features"] @ outputs["centroids"].T / self.temperature
        return {"loss_softened": softened_loss(logits, images, self.reliable[images], self.own_share)}


@HOOK.register()
class SoftenedLabelHook(DBSCANPseudoLabelHook):
    """Makes every image a class of its own, and finds the images like it, at every labelling anew.

    Attributes:
        reliable: (N, k), int64, on the CPU; k is 0 in the first ``ISE.OWN.SOFTSIM.HARD_EPOCHS``, then ``RELIABLE``.
    """

    def __init__(self, cfg):
        super().__init__(cfg)
        self._settings = own = own_settings(cfg, "SOFTSIM", **DEFAULTS)
        if not (
            min(own.RELIABLE, own.PARTS) >= 1
            and 0 <= own.PART_WEIGHT <= 1
            and min(own.CAMERA_PENALTY, own.HARD_EPOCHS) >= 0
        ):
            raise UsageError(
                "ISE.OWN.SOFTSIM: RELIABLE and PARTS must be at least 1, PART_WEIGHT at least 0 and at most 1, "
                f"CAMERA_PENALTY and HARD_EPOCHS at least 0, not {dict(own)}"
            )
        self._parts: list[Tensor] = []  # of the batches of an extraction
        self._searched = torch.empty(0, 0)  # what neighbours are searched by, in the first process
        self.reliable = torch.empty(0, 0, dtype=torch.int64)

    def assign(self, features: Tensor, parts: dict) -> np.ndarray:
        """(N,), every image for itself."""
        self._searched = features
        return np.arange(len(features))

    def label(self) -> Labelling:
        """As any labelling; then the images like each by embeddings, parts and cameras."""
        labelling, own = super().label(), self._settings
        count = own.RELIABLE if self.trainer.epoch >= own.HARD_EPOCHS else 0
        parts = gather_rows(torch.cat(self._parts))
        cameras = torch.from_numpy(self.trainer.images.cameras).to(parts.device)
        weights = {"part_weight": own.PART_WEIGHT, "camera_penalty": own.CAMERA_PENALTY}
        self.reliable = computed_once(lambda: reliable_images(self._searched, parts, cameras, count, **weights).cpu())
        return labelling

    def _extract(self, loader: Iterable[dict]) -> Tensor:
        """Embeddings, and on the way the stripes of the feature maps they are made of."""
        self._parts = []
        watch = unwrapped(self.trainer.model).heads.register_forward_pre_hook(
            lambda _, inputs: self._parts.append(stripes(inputs[0], self._settings.PARTS).half())
        )
        try:
            return super()._extract(loader)
        finally:
            watch.remove()

    def before_epoch(self) -> None:
        """As any labelling; then the loss learns which images are like each."""
        super().before_epoch()
        model = unwrapped(self.trainer.model)
        for loss in model.loss_modules:
            if hasattr(loss, "reliable"):
                loss.reliable = self.reliable.to(model.device)

    def state_dict(self) -> dict:
        """Labels, memory and the images like each."""
        state = super().state_dict()
        return {**state, "reliable": self.reliable} if state else state

    def load_state_dict(self, state: dict) -> None:
        """Takes what :meth:`state_dict` gave."""
        super().load_state_dict(state)
        self.reliable = state.get("reliable", self.reliable)
