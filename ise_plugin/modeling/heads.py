"""The head: embeddings, cluster memory and support samples."""

import logging
from typing import Optional, Union

import torch
import torch.nn.functional as F
from fastreid.config import configurable
from fastreid.layers import get_norm, pooling
from fastreid.layers.weight_init import weights_init_kaiming
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from torch import Tensor, nn

from ..errors import UsageError
from ..method import CameraProxyMemory, ClusterMemory, generate_support_samples
from ..registry import LOSS, registered
from ..utils.distributed import WholeBatch, gather_rows, gather_with_gradient

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
        num_neighbors: support samples per embedding; 0 makes none.
        momentum, update: of :class:`ise_plugin.method.ClusterMemory`.
        proxy_momentum: of :class:`ise_plugin.method.CameraProxyMemory`; None keeps no camera proxies.

    Attributes:
        memory: the :class:`ClusterMemory`, None until :meth:`set_centroids`. Not part of ``state_dict``: its size changes
            from epoch to epoch, and it is rebuilt from the embeddings.
        proxies: the :class:`CameraProxyMemory`, likewise from :meth:`set_proxies`.
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
        momentum: float = 0.2,
        update: str = "hard",
        proxy_momentum: Optional[float] = None,
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
        self.momentum = momentum
        self.update_rule = update
        self.proxy_momentum = proxy_momentum
        self.memory: Optional[ClusterMemory] = None
        self.proxies: Optional[CameraProxyMemory] = None
        self.degree = 0.0
        self._warned_about_neighbors = False

    @classmethod
    def from_config(cls, cfg):
        heads, ise = cfg.MODEL.HEADS, cfg.ISE
        known = [
            name for name in cfg.MODEL.LOSSES.NAME if name in LOSS or "." in name
        ]  # others are the model's to refuse
        losses = [registered(LOSS, name, "MODEL.LOSSES.NAME") for name in known]
        with_proxies = any("proxies" in getattr(loss, "wants", ()) for loss in losses)
        return {
            "feat_dim": cfg.MODEL.BACKBONE.FEAT_DIM,
            "embedding_dim": heads.EMBEDDING_DIM,
            "pool_type": heads.POOL_LAYER,
            "with_bnneck": heads.WITH_BNNECK,
            "norm_type": heads.NORM,
            "num_neighbors": ise.SUPPORT.NUM_NEIGHBORS if ise.SUPPORT.ENABLED else 0,
            "momentum": ise.MEMORY.MOMENTUM,
            "update": ise.MEMORY.UPDATE,
            "proxy_momentum": ise.CAMERAS.PROXY.MOMENTUM if with_proxies else None,
        }

    def set_centroids(self, centroids: Tensor) -> None:
        """Starts a new memory from centroids (M, D), one row for each pseudo label 0..M-1."""
        device = next(self.parameters(), centroids).device
        self.memory = ClusterMemory(centroids, self.momentum, self.update_rule, persistent=False).to(device)

    def set_proxies(self, proxies: Tensor, pairs: Tensor) -> None:
        """Starts new camera proxies (P, D), ``pairs`` (P, 2), int64, being the label and the camera of each."""
        device = next(self.parameters(), proxies).device
        self.proxies = CameraProxyMemory(proxies, pairs, self.proxy_momentum, persistent=False).to(device)

    def forward(
        self,
        features: Tensor,
        targets: Optional[Tensor] = None,
        whole: Optional[WholeBatch] = None,
        cameras: Optional[Tensor] = None,
    ) -> Union[Tensor, dict]:
        """
        Args:
            features: (B, C, H, W), the backbone's feature map.
            targets, whole, cameras: see :meth:`extend`; needed in training only.

        Returns:
            In evaluation the embeddings (B, D) before L2 normalisation, as fastreid's ``EmbeddingHead`` returns them.
            In training what the losses take, with B the global batch: ``features`` (B, D) with unit rows, ``labels``
            (B,), ``centroids`` (M, D) of before this step's update, ``supports`` (B*K, D) and ``support_labels``
            (B*K,), both empty without support samples. With camera proxies also ``proxies`` (P, D) of before the update,
            ``proxy_pairs`` (P, 2), their labels and cameras, and ``own_proxies`` (B,), -1 without one.

        Raises:
            UsageError: the feature map has other channels than the config says.
        """
        return self.extend(self.embed(features), targets, whole, cameras) if self.training else self._neck(features)

    def embed(self, features: Tensor) -> Tensor:
        """Unit embeddings (B, D), float32, of a feature map (B, C, H, W), in training as in evaluation."""
        return F.normalize(self._neck(features).float(), dim=1)

    def extend(
        self,
        embeddings: Tensor,
        targets: Tensor,
        whole: Optional[WholeBatch] = None,
        cameras: Optional[Tensor] = None,
    ) -> dict:
        """What the losses take, from this process's share of a batch; updates the memory.

        Args:
            embeddings: (b, D), float32, unit rows.
            targets: (b,), int64 pseudo labels, on any device.
            whole: the batch of all processes. Several processes without it ask one another, and wait for the device.
            cameras: (b,), int64, on the CPU, -1 where unknown; needed with camera proxies only.
        """
        if self.memory is None:
            raise RuntimeError("the cluster memory is empty: call set_centroids, or train with ISETrainer")
        known = gather_rows(targets) if whole is None else whole.targets  # on the CPU, as a loader gives them
        features = gather_with_gradient(embeddings, None if whole is None else whole.counts)
        labels, centroids = known.to(embeddings.device, non_blocking=True), self.memory.centroids
        supports, support_labels = features[:0], labels[:0]
        count = self._usable_neighbors(len(centroids))
        if count:
            supports, support_labels = generate_support_samples(features, labels, centroids, count, self.degree)
        self.memory.update(torch.cat([features, supports]), torch.cat([known, known.repeat_interleave(count)]))
        outputs = {"features": features, "labels": labels, "centroids": centroids}
        outputs = {**outputs, "supports": supports, "support_labels": support_labels}
        if self.proxy_momentum is None:
            return outputs
        return {**outputs, **self._with_proxies(features, known, cameras, whole)}

    def _with_proxies(
        self, features: Tensor, labels: Tensor, cameras: Optional[Tensor], whole: Optional[WholeBatch]
    ) -> dict:
        """What the losses take of camera proxies, from features and labels of the global batch; updates the proxies."""
        if self.proxies is None or cameras is None:
            raise RuntimeError("no camera proxies, or no cameras in the batch: call set_proxies, and give camids")
        cameras = gather_rows(cameras) if whole is None else whole.cameras
        proxies, numbers = self.proxies.centroids, self.proxies.numbers_of(labels, cameras)
        self.proxies.update(features, numbers)
        own = numbers.to(features.device, non_blocking=True)
        return {"proxies": proxies, "proxy_pairs": self.proxies.pairs, "own_proxies": own}

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
