"""The paper's total loss as a component that a config names."""

import torch
from fastreid.config import configurable
from torch import Tensor, nn

from ..method import label_preserving_loss, sample_extension_loss
from ..registry import LOSS


@LOSS.register()
class ISELoss(nn.Module):
    """Sample-extension loss over real and support samples, plus the weighted label-preserving loss.

    Source: Zhang et al., CVPR 2022, equation of the overall loss.

    Args:
        temperature: of the sample-extension loss, > 0.
        lp_weight: weight of the label-preserving loss, >= 0; 0 leaves it out.
        lp_temperature: of the label-preserving loss, > 0.
    """

    @configurable
    def __init__(self, *, temperature: float = 0.05, lp_weight: float = 0.1, lp_temperature: float = 0.6):
        super().__init__()
        self.temperature = temperature
        self.lp_weight = lp_weight
        self.lp_temperature = lp_temperature

    @classmethod
    def from_config(cls, cfg):
        return {
            "temperature": cfg.ISE.MEMORY.TEMPERATURE,
            "lp_weight": cfg.ISE.LABEL_PRESERVING.WEIGHT,
            "lp_temperature": cfg.ISE.LABEL_PRESERVING.TEMPERATURE,
        }

    def forward(self, outputs: dict) -> dict[str, Tensor]:
        """
        Args:
            outputs: what :meth:`ClusterMemoryHead.forward` returns in training.

        Returns:
            ``{"loss_se": scalar, "loss_lp": scalar}``, the second weighted, and absent without support samples or weight;
            their sum is the loss to minimise.
        """
        features, labels = outputs["features"], outputs["labels"]
        supports, support_labels = outputs["supports"], outputs["support_labels"]
        extended, extended_labels = torch.cat([features, supports]), torch.cat([labels, support_labels])
        losses = {"loss_se": sample_extension_loss(extended, extended_labels, outputs["centroids"], self.temperature)}
        if self.lp_weight > 0 and len(supports):
            loss = label_preserving_loss(features, supports, labels, support_labels, self.lp_temperature)
            losses["loss_lp"] = self.lp_weight * loss
        return losses
