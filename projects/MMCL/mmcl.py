"""Multi-label classification: every image a class of its own, and the classes of the same person found in the memory.

Wang and Zhang, "Unsupervised Person Re-identification via Multi-label Classification", CVPR 2020 (called paper below). Its
memory of all images is the cluster memory, with a cluster for every image (README.md).
"""

import numpy as np
import torch
from torch import Tensor, nn

from ise_plugin.config import own_settings
from ise_plugin.engine.labelling import DBSCANPseudoLabelHook
from ise_plugin.errors import UsageError
from ise_plugin.registry import HOOK, LOSS
from ise_plugin.utils.distributed import unwrapped

# Keys below ISE.OWN.MMCL with their defaults; README.md says which are the paper's.
DEFAULTS = {"THRESHOLD": 0.6, "NEGATIVE_SHARE": 0.01, "POSITIVE_WEIGHT": 5.0, "MOMENTUM": 0.5, "SINGLE_EPOCHS": 5}
# Candidates whose own neighbours are looked at together.
_CANDIDATES_AT_ONCE = 32


@torch.no_grad()
def predict_positives(memory: Tensor, images: Tensor, threshold: float = 0.6) -> Tensor:
    """Memory-based positive label prediction (paper, section 3.2): similarity, then cycle consistency.

    The candidates of image i are the k_i images of similarity >= ``threshold``, the most similar first, itself among them. As
    long as i is one of the k_i nearest of a candidate, too, the candidate is a positive; the first one of which i is not ends
    the list.

    Args:
        memory: (N, D), unit rows.
        images: (B,), int64, rows of the memory.
        threshold: least similarity of a candidate, in [-1, 1].

    Returns:
        (B, N), bool; an image is always its own positive.
    """
    positives = torch.zeros(len(images), len(memory), dtype=torch.bool, device=memory.device)
    positives.scatter_(1, images.unsqueeze(1), True)
    for row, image in enumerate(images.tolist()):
        similarities, order = (memory @ memory[image]).sort(descending=True, stable=True)
        candidates = order[similarities >= threshold]
        for some in candidates.split(_CANDIDATES_AT_ONCE):
            theirs = memory[some] @ memory.T
            nearer = (theirs > theirs[:, image : image + 1]).sum(1)  # images that a candidate has nearer than this one
            mutual = (nearer < len(candidates)).cumprod(0).bool()
            positives[row, some[mutual]] = True
            if not mutual[-1]:
                break
    return positives


def multi_label_loss(scores: Tensor, positives: Tensor, negative_share: float = 0.01, weight: float = 5.0) -> Tensor:
    """Memory-based multi-label classification loss (paper, section 3.3), the mean over the batch.

    ``weight / |P| * sum over P of (score - 1)^2 + 1 / |Q| * sum over Q of (score + 1)^2``, where Q are the hardest of the other
    classes, those of the highest scores.

    Args:
        scores: (B, N), similarities of the embeddings to the memory, in [-1, 1].
        positives: (B, N), bool, P of each, with at least one.
        negative_share: |Q| as a share of the classes that are no positives, in (0, 1]; one at least, where there is one.
        weight: of the positives (delta in the paper), >= 0.

    Returns:
        Scalar, >= 0.
    """
    counts = positives.sum(1)
    others = scores.shape[1] - counts
    hardest = (others * negative_share).round().clamp(min=1).minimum(others)
    largest = max(1, round(scores.shape[1] * negative_share))
    places = scores.detach().masked_fill(positives, -torch.inf).topk(largest, dim=1).indices
    chosen = torch.arange(largest, device=scores.device) < hardest.unsqueeze(1)
    pull = ((scores - 1).square() * positives).sum(1) / counts
    push = ((scores.gather(1, places) + 1).square() * chosen).sum(1) / hardest.clamp(min=1)
    return (weight * pull + push).mean()


@LOSS.register()
class MultiLabelLoss(nn.Module):
    """:func:`multi_label_loss` of the batch against the memory, the positives as :func:`predict_positives` finds them.

    Attributes:
        threshold, negative_share, weight: of these two.
        predicting: whether positives are predicted; otherwise an image has its own class alone. :class:`MultiLabelHook` sets it.
    """

    def __init__(self, cfg):
        super().__init__()
        own = own_settings(cfg, "MMCL", **DEFAULTS)
        self.threshold, self.negative_share, self.weight = own.THRESHOLD, own.NEGATIVE_SHARE, own.POSITIVE_WEIGHT
        if not (-1 <= self.threshold <= 1 and 0 < self.negative_share <= 1 and self.weight >= 0):
            raise UsageError(
                "ISE.OWN.MMCL: THRESHOLD must be at least -1 and at most 1, NEGATIVE_SHARE greater than 0 and at most 1, "
                f"POSITIVE_WEIGHT at least 0, not {dict(own)}"
            )
        self.predicting = False

    def forward(self, outputs: dict) -> dict[str, Tensor]:
        """``{"loss_multi_label": scalar}`` of what the head returns."""
        features, images, memory = outputs["features"], outputs["labels"], outputs["centroids"]
        if self.predicting:
            positives = predict_positives(memory, images, self.threshold)
        else:
            positives = images.unsqueeze(1) == torch.arange(len(memory), device=images.device)
        loss = multi_label_loss(features @ memory.T, positives, self.negative_share, self.weight)
        return {"loss_multi_label": loss}


@HOOK.register()
class MultiLabelHook(DBSCANPseudoLabelHook):
    """Makes every image a class of its own, and says how the memory moves and whether positives are predicted.

    The share of the old row that an update keeps grows from 0 in the first epoch to ``ISE.OWN.MMCL.MOMENTUM`` in the last. After
    ``SINGLE_EPOCHS`` positives are predicted.
    """

    def __init__(self, cfg):
        super().__init__(cfg)
        own = own_settings(cfg, "MMCL", **DEFAULTS)
        self._momentum, self._single = own.MOMENTUM, own.SINGLE_EPOCHS
        if not (0 <= self._momentum < 1 and self._single >= 0):
            raise UsageError(
                f"ISE.OWN.MMCL: MOMENTUM must be at least 0 and less than 1, SINGLE_EPOCHS at least 0, not {dict(own)}"
            )

    def assign(self, features: Tensor, parts: dict) -> np.ndarray:
        """(N,), every image for itself."""
        return np.arange(len(features))

    def before_epoch(self) -> None:
        """As any labelling; then what changes from epoch to epoch."""
        super().before_epoch()
        epoch, model = self.trainer.epoch, unwrapped(self.trainer.model)
        model.heads.memory.momentum = self._momentum * epoch / max(1, self.trainer.max_epoch - 1)
        for loss in model.loss_modules:
            if hasattr(loss, "predicting"):
                loss.predicting = epoch >= self._single
