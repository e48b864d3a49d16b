"""The meta-architecture: any fastreid backbone, a head, and the losses named in the config."""

from contextlib import contextmanager, nullcontext
from typing import Iterator, Optional, Sequence

import torch
from fastreid.config import configurable
from fastreid.modeling.backbones import build_backbone
from fastreid.modeling.heads import build_heads
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from fastreid.modeling.meta_arch.baseline import Baseline
from torch import Tensor, nn

from ..registry import LOSS, build
from ..utils.distributed import WholeBatch, gather_rows
from ..utils.memory import Halving
from .normalization import Layout, NormalizationGroups, group_normalization
from .preprocessing import prepare_images


@META_ARCH_REGISTRY.register()
class ISE(Baseline):
    """fastreid's Baseline with losses looked up by name, trained on pseudo labels.

    In evaluation it returns what Baseline returns, embeddings (B, D), so every fastreid tool works with it.

    Args:
        backbone: module, images (B, 3, H, W) -> feature map (B, C, h, w).
        heads: module like :class:`ise_plugin.modeling.ClusterMemoryHead`.
        losses: modules that turn the head's output into a dictionary of scalars.
        pixel_mean, pixel_std: three numbers each, in 0..255 units.
        erase_value: colour of erased rectangles, likewise.
        bn_group_size: images that share batch-norm statistics in training; 0: those that a process computes at once.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        heads: nn.Module,
        losses: list,
        pixel_mean: list,
        pixel_std: list,
        erase_value: Sequence[float] = (0.0, 0.0, 0.0),
        bn_group_size: int = 0,
    ):
        super().__init__(backbone=backbone, heads=heads, pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.loss_modules = nn.ModuleList(losses)
        self.register_buffer("erase_value", torch.tensor(erase_value).view(1, -1, 1, 1), persistent=False)
        self.normalization = NormalizationGroups(bn_group_size) if bn_group_size else None
        if self.normalization:
            group_normalization(self, self.normalization)
        self._halving = Halving()
        self._compiled_for: dict = {}  # (training, with gradient) -> the images that the backbone is compiled for

    @classmethod
    def from_config(cls, cfg):
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "heads": build_heads(_with_width_of(backbone, cfg)),
            "losses": [build(LOSS, name, "MODEL.LOSSES.NAME", cfg) for name in cfg.MODEL.LOSSES.NAME],
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "erase_value": cfg.INPUT.REA.VALUE,
            "bn_group_size": cfg.ISE.BN_GROUP_SIZE,
        }

    def forward(self, batched_inputs):
        """
        Args:
            batched_inputs: dictionary with ``images`` (B, 3, H, W), values 0..255, any dtype, and in training ``targets`` (B,),
                int64 pseudo labels; in evaluation the images alone will do. With ``gradients`` (B, D) in place of
                the targets, see below. Several processes add ``whole``, the :class:`WholeBatch` that this is a share of;
                a piece of a batch its ``layout``. Memories of images need ``indices`` (B,), int64, on the CPU.

        Returns:
            In training a dictionary of scalar losses, in evaluation embeddings (B, D) before L2 normalisation. Training without
            gradients, as precise batch norm does it, moves statistics and no memory, and gives no losses.
            Too many images for the memory are embedded in pieces.
            With ``gradients`` the scalar whose gradient is that of a loss with these gradients at the unit embeddings: the
            backward half of a step whose losses were computed before (:class:`ise_plugin.engine.step.TrainingStep`).
        """
        if not self.training:
            return self._halving(self._infer, _as_batch(batched_inputs)["images"])
        with self._feature_map(batched_inputs) as feature_map:
            if "gradients" in batched_inputs:
                return (self.heads.embed(feature_map) * batched_inputs["gradients"]).sum()
            if not torch.is_grad_enabled():
                self.heads.embed(feature_map)
                return {}
            return self._losses(self.heads(feature_map, batched_inputs["targets"], **self._known(batched_inputs)))

    def _infer(self, images: Tensor) -> Tensor:
        with self._feature_map({"images": images}) as feature_map:
            return self.heads(feature_map)

    def embed(self, batched_inputs) -> Tensor:
        """Unit embeddings (B, D), float32, in training or evaluation mode."""
        with self._feature_map(batched_inputs) as feature_map:
            return self.heads.embed(feature_map)

    def compute_losses(self, features: Tensor, batched_inputs: dict) -> dict[str, Tensor]:
        """The losses of this process's share of a batch, whose embeddings (b, D) are there already, and the memories' update."""
        return self._losses(self.heads.extend(features, batched_inputs["targets"], **self._known(batched_inputs)))

    def _known(self, batched_inputs: dict) -> dict:
        """For heads; one without memories of its own is told of the labels alone where there is one process."""
        whole = batched_inputs.get("whole")
        if whole is None and "indices" in batched_inputs and getattr(self.heads, "memories", None):
            targets, indices = (gather_rows(batched_inputs[name]) for name in ("targets", "indices"))
            whole = WholeBatch(targets, None, indices)
        return {} if whole is None else {"whole": whole}

    def _losses(self, outputs: dict) -> dict[str, Tensor]:
        return {name: value for module in self.loss_modules for name, value in module(outputs).items()}

    @contextmanager
    def _feature_map(self, batched_inputs) -> Iterator[Tensor]:
        """The backbone's output, and inside no mixed precision: pooling, neck, memory and losses are computed in float32."""
        images = self.preprocess_image(batched_inputs)
        layout = self.layout_of(batched_inputs, len(images)) if self.training else None
        with self.normalization.using(layout) if layout else nullcontext():
            feature_map = self._run_backbone(images)
            with torch.autocast(self.device.type, enabled=False):
                yield feature_map.float()

    def _run_backbone(self, images: Tensor) -> Tensor:
        """Compiled or not. Each kind of pass is compiled for its first batch, a whole one; a batch of another size, mostly the
        rest of a set, runs as it is: a graph takes longer than it saves there, and after eight torch compiles no more."""
        if self.backbone._compiled_call_impl is None:
            return self.backbone(images)
        first = self._compiled_for.setdefault((self.training, torch.is_grad_enabled()), images.shape)
        return self.backbone(images) if images.shape == first else self.backbone.forward(images)

    def layout_of(self, batch: dict, images: int) -> Optional[Layout]:
        """How the images of a batch fall into normalisation groups; None where each batch is one."""
        if self.normalization is None:
            return None
        whole = batch.get("whole")
        return batch.get("layout") or self.normalization.layout_of(images, whole.counts if whole else None)

    def preprocess_image(self, batched_inputs) -> Tensor:
        """Images on the model's device, normalised. Unlike Baseline's this leaves the caller's tensor as it is."""
        return prepare_images(_as_batch(batched_inputs), self.pixel_mean, self.pixel_std, self.erase_value)


def _as_batch(batched_inputs) -> dict:
    return batched_inputs if isinstance(batched_inputs, dict) else {"images": batched_inputs}


def _with_width_of(backbone: nn.Module, cfg):
    """The configuration with ``MODEL.BACKBONE.FEAT_DIM`` as the backbone itself says it, where it does."""
    width = getattr(backbone, "feature_dim", cfg.MODEL.BACKBONE.FEAT_DIM)
    if width == cfg.MODEL.BACKBONE.FEAT_DIM:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.FEAT_DIM = width
    return cfg
