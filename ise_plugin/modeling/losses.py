"""The losses that a config names: the paper's total loss, and that over camera proxies."""

import torch
from fastreid.config import configurable
from torch import Tensor, nn

from ..errors import UsageError
from ..method import inter_camera_loss, intra_camera_loss, label_preserving_loss, sample_extension_loss
from ..registry import LOSS


@LOSS.register()
class ISELoss(nn.Module):
    """Sample-extension loss over real and support samples, plus the weighted label-preserving loss.

    Source: Zhang et al., CVPR 2022, equation of the overall loss.

    Args:
        temperature: of the sample-extension loss, > 0.
        lp_weight: weight of the label-preserving loss, >= 0; 0 leaves it out.
        lp_temperature: of the label-preserving loss, > 0.
        supports_in_contrast: whether the sample-extension loss takes the support samples, too.
    """

    with_supports = True  # tells the head to make them

    @configurable
    def __init__(
        self,
        *,
        temperature: float = 0.05,
        lp_weight: float = 0.1,
        lp_temperature: float = 0.6,
        supports_in_contrast: bool = True,
    ):
        super().__init__()
        self.supports_in_contrast = supports_in_contrast
        self.temperature = temperature
        self.lp_weight = lp_weight
        self.lp_temperature = lp_temperature

    @classmethod
    def from_config(cls, cfg):
        return {
            "temperature": cfg.ISE.MEMORY.TEMPERATURE,
            "lp_weight": cfg.ISE.LABEL_PRESERVING.WEIGHT,
            "lp_temperature": cfg.ISE.LABEL_PRESERVING.TEMPERATURE,
            "supports_in_contrast": cfg.ISE.SUPPORT.IN_CONTRAST,
        }

    def forward(self, outputs: dict) -> dict[str, Tensor]:
        """
        Args:
            outputs: what :meth:`ClusterMemoryHead.forward` returns in training.

        Returns:
            ``{"loss_se": scalar, "loss_lp": scalar}``, the second weighted, and absent without support samples or weight;
            their sum is the loss to minimise. Outliers do not count.
        """
        features, labels = outputs["features"], outputs["labels"]
        supports, support_labels = outputs["supports"], outputs["support_labels"]
        extended, extended_labels = features, labels
        if self.supports_in_contrast:
            extended, extended_labels = torch.cat([features, supports]), torch.cat([labels, support_labels])
        losses = {"loss_se": sample_extension_loss(extended, extended_labels, outputs["centroids"], self.temperature)}
        if self.lp_weight > 0 and len(supports):
            loss = label_preserving_loss(features, supports, labels, support_labels, self.lp_temperature)
            losses["loss_lp"] = self.lp_weight * loss
        return losses


@LOSS.register()
class CameraProxyLoss(nn.Module):
    """The weighted losses over camera proxies, to be named beside :class:`ISELoss`. The real samples alone take part:
    support samples lie between clusters and were seen by no camera.

    Source: Wang et al., "Camera-aware Proxies for Unsupervised Person Re-Identification", AAAI 2021.

    Args:
        temperature: of both, > 0.
        intra_weight, inter_weight: of the losses within and across cameras, >= 0; 0 leaves it out.
        num_negatives: proxies of other clusters that an image is compared with across cameras, the nearest, >= 1.
    """

    wants = ("CameraProxyMemory",)  # tells the head to keep it

    @configurable
    def __init__(
        self,
        *,
        temperature: float = 0.07,
        intra_weight: float = 1.0,
        inter_weight: float = 0.5,
        num_negatives: int = 50,
    ):
        super().__init__()
        self.temperature = temperature
        self.intra_weight = intra_weight
        self.inter_weight = inter_weight
        self.num_negatives = num_negatives

    @classmethod
    def from_config(cls, cfg):
        settings = cfg.ISE.CAMERAS.PROXY
        return {
            "temperature": settings.TEMPERATURE,
            "intra_weight": settings.INTRA_WEIGHT,
            "inter_weight": settings.INTER_WEIGHT,
            "num_negatives": settings.NEGATIVES,
        }

    def forward(self, outputs: dict) -> dict[str, Tensor]:
        """
        Args:
            outputs: what :meth:`ClusterMemoryHead.forward` returns in training with camera proxies.

        Returns:
            ``{"loss_intra": scalar, "loss_inter": scalar}``, weighted.

        Raises:
            UsageError: the head keeps no proxies.
        """
        if "proxies" not in outputs:
            raise UsageError("CameraProxyLoss needs a head with camera proxies; set MODEL.HEADS.NAME ClusterMemoryHead")
        labels, cameras = outputs["proxy_pairs"].unbind(1)
        logits, own = outputs["features"] @ outputs["proxies"].t() / self.temperature, outputs["own_proxies"]
        losses = {}
        if self.intra_weight > 0:
            losses["loss_intra"] = self.intra_weight * intra_camera_loss(logits, own, cameras)
        if self.inter_weight > 0:
            losses["loss_inter"] = self.inter_weight * inter_camera_loss(logits, own, labels, self.num_negatives)
        return losses
