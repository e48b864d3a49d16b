"""What losses compare embeddings with beside the cluster centroids: made anew at every labelling, moved by every batch."""

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..method import cluster_centroids, moved_in_turn, number_proxies
from ..registry import MEMORY
from ..utils.distributed import WholeBatch
from ..utils.logs import log_once


class Memory(nn.Module):
    """A memory that :class:`ise_plugin.modeling.ClusterMemoryHead` keeps for the losses that want it by its name.

    A subclass is registered in ``ise_plugin.registry.MEMORY`` and has plain constructor arguments with ``from_config(cfg)``
    beside it. What it holds are buffers with ``persistent=False``: checkpoints of a run have them beside the model, whose
    own state is the same from labelling to labelling. What does not change in training may be kept otherwise.
    """

    def fill(self, features: Tensor, labels: Tensor, images: Any) -> None:
        """Starts anew at a labelling.

        Args:
            features: (N, D), float32, unit rows, the embeddings of all training images, on the model's device.
            labels: (N,), int64, on the CPU, pseudo labels 0..M-1, -1 for outliers.
            images: :class:`ise_plugin.data.TrainingImages`, with cameras, tracks and times where they are known.
        """
        raise NotImplementedError

    def forward(self, features: Tensor, batch: WholeBatch) -> dict:
        """What the losses find in the head's output of this memory, as it is before this batch; then it moves.

        Nothing is changed in place, because autograd may still need it: new tensors replace the buffers. Nothing waits for
        the device: ``batch`` is on the host.

        Args:
            features: (B, D), float32, unit rows, the embeddings of the global batch.
            batch: their labels and their positions in the list of training images, (B,) both.
        """
        raise NotImplementedError

    def kept(self) -> dict[str, Tensor]:
        """What checkpoints hold of it, by default its buffers."""
        return dict(self.named_buffers())

    def restore(self, state: dict[str, Tensor], labels: Tensor, images: Any) -> None:
        """Takes what :meth:`kept` gave, in place of :meth:`fill`, for the same labels and images.

        Raises:
            UsageError: it is of other ones.
        """
        for name, value in state.items():
            setattr(self, name, value.to(self.get_buffer(name).device))


def of_images(batch: WholeBatch) -> Tensor:
    """The positions (B,) of a batch in the list of training images; RuntimeError where the loader has not told them."""
    if batch.indices is None:
        raise RuntimeError(
            "this memory needs the batch's indices, (B,) int64 positions of its images in the training list"
        )
    return batch.indices


@MEMORY.register()
class InstanceMemory(Memory):
    """A unit row for each training image, outliers included: its embedding at the labelling, moved by the batches it is in.

    ``v_i <- normalize(m v_i + (1 - m) f_i)``, Ge et al., "Self-paced Contrastive Learning with Hybrid Memory", NeurIPS 2020,
    momentum update of instance features. Losses get ``instances`` (N, D) and ``indices`` (B,), the rows of the batch.

    Args:
        momentum: m, share of the old row kept at an update, in [0, 1).
    """

    instances: Tensor

    def __init__(self, momentum: float = 0.2):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("instances", torch.empty(0, 0), persistent=False)

    @classmethod
    def from_config(cls, cfg: Any) -> dict:
        """``ISE.MEMORY.INSTANCE_MOMENTUM``."""
        return {"momentum": cfg.ISE.MEMORY.INSTANCE_MOMENTUM}

    def fill(self, features: Tensor, labels: Tensor, images: Any) -> None:
        """See :meth:`Memory.fill`."""
        self.instances = features.detach().clone()

    def forward(self, features: Tensor, batch: WholeBatch) -> dict:
        """See :meth:`Memory.forward`."""
        indices, before = of_images(batch), self.instances
        self.instances = moved_in_turn(before, features, indices, self.momentum)
        return {"instances": before, "indices": indices.to(features.device, non_blocking=True)}

    def restore(self, state: dict[str, Tensor], labels: Tensor, images: Any) -> None:
        """See :meth:`Memory.restore`."""
        if len(state["instances"]) != len(labels):
            raise UsageError(
                f"the checkpoint's instance memory is of {len(state['instances'])} images and there are {len(labels)}; resume "
                "with the data set that it was made with"
            )
        super().restore(state, labels, images)


@MEMORY.register()
class CameraProxyMemory(Memory):
    """A proxy for each camera of each cluster; every member of the batch moves its own, one after the other.

    Wang et al., "Camera-aware Proxies for Unsupervised Person Re-Identification", AAAI 2021. Losses get ``proxies`` (P, D),
    unit rows, ``proxy_pairs`` (P, 2), their labels and cameras, and ``own_proxies`` (B,), the proxies of the batch, -1 without
    one. P may be 0.

    Args:
        momentum: share of the old proxy kept at an update, in [0, 1).
    """

    proxies: Tensor
    pairs: Tensor

    def __init__(self, momentum: float = 0.2):
        super().__init__()
        self.momentum = momentum
        self._own = torch.empty(0, dtype=torch.int64)  # (N,), each image's proxy; stays on the host
        self.register_buffer("proxies", torch.empty(0, 0), persistent=False)
        self.register_buffer("pairs", torch.empty(0, 2, dtype=torch.int64), persistent=False)

    @classmethod
    def from_config(cls, cfg: Any) -> dict:
        """``ISE.CAMERAS.PROXY.MOMENTUM``."""
        return {"momentum": cfg.ISE.CAMERAS.PROXY.MOMENTUM}

    def fill(self, features: Tensor, labels: Tensor, images: Any) -> None:
        """The mean of the images of each pair of cluster and camera, see :meth:`Memory.fill`."""
        pairs, self._own = number_proxies(labels, torch.from_numpy(images.cameras))
        if not len(pairs):
            log_once("CameraProxyLoss: no clustered image has a known camera, so it is 0")
        self.proxies = cluster_centroids(features, self._own.to(features.device)) if len(pairs) else features[:0]
        self.pairs = pairs.to(features.device)

    def forward(self, features: Tensor, batch: WholeBatch) -> dict:
        """See :meth:`Memory.forward`."""
        own, before = self._own[of_images(batch)], self.proxies
        self.proxies = moved_in_turn(before, features, own, self.momentum)
        own = own.to(features.device, non_blocking=True)
        return {"proxies": before, "proxy_pairs": self.pairs, "own_proxies": own}

    def restore(self, state: dict[str, Tensor], labels: Tensor, images: Any) -> None:
        """See :meth:`Memory.restore`."""
        pairs, self._own = number_proxies(labels, torch.from_numpy(images.cameras))
        if not torch.equal(pairs, state["pairs"].cpu()):
            raise UsageError(
                "the checkpoint's camera proxies are not those of these images and cameras; resume with the data set that it "
                "was made with"
            )
        super().restore(state, labels, images)
