"""The head: embeddings, cluster memory and support samples."""

import logging
from typing import Mapping, Optional, Union

import numpy as np
import torch
import torch.nn.functional as F
from fastreid.config import configurable
from fastreid.layers import get_norm, pooling
from fastreid.layers.weight_init import weights_init_kaiming
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from torch import Tensor, nn

from ..errors import UsageError
from ..method import ClusterMemory, generate_support_samples
from ..registry import LOSS, MEMORY, build, registered
from ..utils.distributed import WholeBatch, gather_rows, gather_with_gradient
from .memories import Memory

logger = logging.getLogger("fastreid.ise.head")


@REID_HEADS_REGISTRY.register()
class ClusterMemoryHead(nn.Module):
    """Pooling, batch-norm neck, L2 normalisation, and in training the cluster memory with its support samples.

    Parameter names follow fastreid's ``EmbeddingHead`` (``bottleneck.*``), so that its checkpoints load here and those
    of this head load there.

    Args:
        feat_dim: channels of the backbone's feature map.
        embedding_dim: channels after a 1 x 1 convolution before the neck; 0 leaves the convolution out.
        pool_type: name of a layer in ``fastreid.layers.pooling``, such as GlobalAvgPool or GeneralizedMeanPooling.
        with_bnneck: whether the neck has a batch norm (its bias is frozen, as in fastreid).
        norm_type: fastreid's name of that norm.
        num_neighbors: support samples per embedding of a cluster; 0 makes none.
        supports_in_contrast: whether these move the cluster memory as the embeddings do.
        momentum, update: of :class:`ise_plugin.method.ClusterMemory`.
        memories: those that losses want beside it, by their names.

    Attributes:
        memory: the :class:`ClusterMemory`, None until :meth:`set_centroids`. Not part of ``state_dict``: its size changes
            from epoch to epoch, and it is rebuilt from the embeddings. So are ``memories``.
        degree: degree of extension of the next step; the trainer sets it before every step.
    """

    @configurable
    def __init__(
        self,
        *,
        feat_dim: int,
        embedding_dim: int = 0,
        pool_type: str = "GlobalAvgPool",
        with_bnneck: bool = True,
        norm_type: str = "BN",
        num_neighbors: int = 1,
        supports_in_contrast: bool = True,
        momentum: float = 0.2,
        update: str = "hard",
        memories: Mapping[str, Memory] = {},
    ):
        super().__init__()
        if pool_type not in pooling.__all__:
            raise UsageError(f"MODEL.HEADS.POOL_LAYER must be one of {', '.join(pooling.__all__)}, not {pool_type!r}")
        self.feat_dim = feat_dim
        self.pool_layer = getattr(pooling, pool_type)()
        neck = [nn.Conv2d(feat_dim, embedding_dim, 1, 1, bias=False)] if embedding_dim > 0 else []
        if with_bnneck:
            neck.append(get_norm(norm_type, embedding_dim or feat_dim, bias_freeze=True))
        self.bottleneck = nn.Sequential(*neck)
        self.bottleneck.apply(weights_init_kaiming)

        self.num_neighbors = num_neighbors
        self.supports_in_contrast = supports_in_contrast
        self.momentum = momentum
        self.update_rule = update
        self.memory: Optional[ClusterMemory] = None
        # a module's name has no dot, that of somebody's own class may have some
        self.memories = nn.ModuleDict({name.replace(".", "/"): memory for name, memory in memories.items()})
        self.degree = 0.0
        self._warned_about_neighbors = False

    @classmethod
    def from_config(cls, cfg):
        heads, ise = cfg.MODEL.HEADS, cfg.ISE
        # names that are not registered are the model's to refuse
        named = [name for name in cfg.MODEL.LOSSES.NAME if name in LOSS or "." in name]
        losses = [registered(LOSS, name, "MODEL.LOSSES.NAME") for name in named]
        wanted = {memory: name for name, loss in zip(named, losses) for memory in getattr(loss, "wants", ())}
        with_supports = any(getattr(loss, "with_supports", False) for loss in losses)
        return {
            "feat_dim": cfg.MODEL.BACKBONE.FEAT_DIM,
            "embedding_dim": heads.EMBEDDING_DIM,
            "pool_type": heads.POOL_LAYER,
            "with_bnneck": heads.WITH_BNNECK,
            "norm_type": heads.NORM,
            "num_neighbors": ise.SUPPORT.NUM_NEIGHBORS if ise.SUPPORT.ENABLED and with_supports else 0,
            "supports_in_contrast": ise.SUPPORT.IN_CONTRAST,
            "momentum": ise.MEMORY.MOMENTUM,
            "update": ise.MEMORY.UPDATE,
            "memories": {memory: build(MEMORY, memory, f"{name}.wants", cfg) for memory, name in wanted.items()},
        }

    def set_centroids(self, centroids: Tensor) -> None:
        """Starts a new memory from centroids (M, D), one row for each pseudo label 0..M-1."""
        device = next(self.parameters(), centroids).device
        self.memory = ClusterMemory(centroids, self.momentum, self.update_rule, persistent=False).to(device)

    def forward(
        self, features: Tensor, targets: Optional[Tensor] = None, whole: Optional[WholeBatch] = None
    ) -> Union[Tensor, dict]:
        """
        Args:
            features: (B, C, H, W), the backbone's feature map.
            targets, whole: see :meth:`extend`; needed in training only.

        Returns:
            In evaluation the embeddings (B, D) before L2 normalisation, as fastreid's ``EmbeddingHead`` returns them.
            In training what the losses take, with B the global batch, of which C images are in a cluster: ``features`` (B, D)
            with unit rows, ``labels`` (B,), -1 for outliers, ``centroids`` (M, D) of before this step's update, ``supports``
            (C*K, D) and ``support_labels`` (C*K,), both empty without support samples; and what the memories give.

        Raises:
            UsageError: the feature map has other channels than the config says.
        """
        return self.extend(self.embed(features), targets, whole) if self.training else self._neck(features)

    def embed(self, features: Tensor) -> Tensor:
        """Unit embeddings (B, D), float32, of a feature map (B, C, H, W), in training as in evaluation."""
        return F.normalize(self._neck(features).float(), dim=1)

    def extend(self, embeddings: Tensor, targets: Tensor, whole: Optional[WholeBatch] = None) -> dict:
        """What the losses take, from this process's share of a batch; updates the memories.

        Args:
            embeddings: (b, D), float32, unit rows.
            targets: (b,), int64 pseudo labels, -1 for outliers. Where they are on the CPU, as a loader gives them, nothing
                waits for the device.
            whole: the batch of all processes. Several processes without it ask one another, and wait for the device.
        """
        if self.memory is None:
            raise RuntimeError("the cluster memory is empty: call set_centroids, or train with ISETrainer")
        whole = whole or WholeBatch(gather_rows(targets), None)
        features = gather_with_gradient(embeddings, whole.counts)
        labels = whole.targets.to(embeddings.device, non_blocking=True)
        outputs = {"features": features, "labels": labels, "centroids": self.memory.centroids}
        outputs.update(self._supported(features, labels, whole.targets))
        for memory in self.memories.values():
            outputs.update(memory(features, whole))
        return outputs

    def _supported(self, features: Tensor, labels: Tensor, known: Tensor) -> dict:
        """The support samples; updates the cluster memory. Outliers have no part in either.

        Args:
            known: the labels, where the loader has them.
        """
        rows = np.flatnonzero(known.cpu().numpy() >= 0)  # on the host, so that their number is known without waiting
        if len(rows) < len(known):
            place = torch.from_numpy(rows)
            known, place = known.cpu()[place], place.to(features.device, non_blocking=True)
            features, labels = features[place], labels[place]
        centroids, supports, support_labels = self.memory.centroids, features[:0], labels[:0]
        count = self._usable_neighbors(len(centroids))
        if count:
            supports, support_labels = generate_support_samples(features, labels, centroids, count, self.degree)
        moving = count if self.supports_in_contrast else 0
        movers = torch.cat([features, supports[: moving * len(features)]])
        self.memory.update(movers, torch.cat([known, known.repeat_interleave(moving)]))
        return {"supports": supports, "support_labels": support_labels}

    def _neck(self, features: Tensor) -> Tensor:
        if features.shape[1] != self.feat_dim:
            given = f"but this backbone gives {features.shape[1]}; set it to that"
            raise UsageError(f"MODEL.BACKBONE.FEAT_DIM is {self.feat_dim}, {given}")
        return self.bottleneck(self.pool_layer(features))[..., 0, 0]

    def _usable_neighbors(self, clusters: int) -> int:
        usable = min(self.num_neighbors, clusters - 1)
        if usable < self.num_neighbors and not self._warned_about_neighbors:
            self._warned_about_neighbors = True
            less = f"{clusters} clusters have {usable} neighbour(s) each; using these"
            logger.warning(f"ISE.SUPPORT.NUM_NEIGHBORS is {self.num_neighbors}, but {less}")
        return usable
