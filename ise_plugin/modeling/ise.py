"""The meta-architecture: any fastreid backbone, a head, and the losses named in the config."""

import torch
from fastreid.config import configurable
from fastreid.modeling.backbones import build_backbone
from fastreid.modeling.heads import build_heads
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from fastreid.modeling.meta_arch.baseline import Baseline
from torch import Tensor, nn

from ..registry import LOSS, registered


@META_ARCH_REGISTRY.register()
class ISE(Baseline):
    """fastreid's Baseline with losses looked up by name, trained on pseudo labels.

    In evaluation it returns what Baseline returns, embeddings (B, D), so every fastreid tool works with it.

    Args:
        backbone: module, images (B, 3, H, W) -> feature map (B, C, h, w).
        heads: module like :class:`ise_plugin.modeling.ClusterMemoryHead`.
        losses: modules that turn the head's output into a dictionary of scalars.
        pixel_mean, pixel_std: three numbers each, in 0..255 units.
    """

    @configurable
    def __init__(self, *, backbone: nn.Module, heads: nn.Module, losses: list, pixel_mean: list, pixel_std: list):
        super().__init__(backbone=backbone, heads=heads, pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.loss_modules = nn.ModuleList(losses)

    @classmethod
    def from_config(cls, cfg):
        return {
            "backbone": build_backbone(cfg),
            "heads": build_heads(cfg),
            "losses": [registered(LOSS, name, "MODEL.LOSSES.NAME")(cfg) for name in cfg.MODEL.LOSSES.NAME],
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def forward(self, batched_inputs):
        """
        Args:
            batched_inputs: dictionary with ``images`` (B, 3, H, W), values 0..255, any dtype, and in training ``targets`` (B,),
                int64 pseudo labels; in evaluation the images alone will do.

        Returns:
            In training a dictionary of scalar losses, in evaluation embeddings (B, D) before L2 normalisation.
        """
        feature_map = self.backbone(self.preprocess_image(batched_inputs))
        with torch.autocast(self.device.type, enabled=False):  # pooling, neck, memory and losses in float32
            return self._finish(feature_map.float(), batched_inputs)

    def _finish(self, feature_map: Tensor, batched_inputs):
        if not self.training:
            return self.heads(feature_map)
        # precise batch norm marks its batches with negative labels; it wants the statistics, not the losses
        targets = batched_inputs["targets"].to(self.device, non_blocking=True).clamp(min=0)
        outputs = self.heads(feature_map, targets)
        return {name: value for module in self.loss_modules for name, value in module(outputs).items()}

    def preprocess_image(self, batched_inputs) -> Tensor:
        """Images on the model's device, normalised. Unlike Baseline's this leaves the caller's tensor as it is."""
        images = batched_inputs["images"] if isinstance(batched_inputs, dict) else batched_inputs
        # channels-last is the layout that convolutions are fastest in, on the CPU as on recent GPUs
        images = images.to(self.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        return (images - self.pixel_mean) / self.pixel_std
