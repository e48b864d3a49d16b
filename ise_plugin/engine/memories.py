"""What the head compares embeddings with, made anew at every labelling: cluster centroids, and the memories that losses want."""

import numpy as np
import torch
from torch import Tensor, nn

from ..data import TrainingImages
from ..errors import UsageError


class Memories:
    """The memories of a head, filled from a labelling or from a checkpoint.

    Args:
        head: has ``set_centroids`` and ``memory``, and may have ``memories``, as :class:`ise_plugin.modeling.ClusterMemoryHead`.
        images: the training images.
    """

    def __init__(self, head: nn.Module, images: TrainingImages):
        self._head = head
        self._images = images
        self._others = dict(getattr(head, "memories", {}))

    def fill(self, features: Tensor, labels: np.ndarray, centroids: Tensor) -> None:
        """From embeddings (N, D), labels (N,) int64, -1 for outliers, and centroids (M, D)."""
        self._head.set_centroids(centroids)
        for memory in self._others.values():
            memory.fill(features, torch.from_numpy(labels), self._images)

    def restore(self, labels: np.ndarray, state: dict) -> None:
        """From what :meth:`state_dict` gave, for these labels (N,).

        Raises:
            UsageError: a memory there is of other images, or is not there.
        """
        self._head.set_centroids(state["centroids"])
        # normalising unit rows once more has changed their last bits
        self._head.memory.centroids = state["centroids"].to(self._head.memory.centroids.device)
        for name, memory in self._others.items():
            if name not in state.get("memories", {}):
                raise UsageError(
                    f"the checkpoint has no {name}; resume with the MODEL.LOSSES.NAME that it was made with"
                )
            memory.restore(state["memories"][name], torch.from_numpy(labels), self._images)

    def rows(self) -> list[np.ndarray]:
        """What each memory holds, on the host."""
        others = (tensor for memory in self._others.values() for tensor in memory.kept().values())
        return [tensor.cpu().numpy() for tensor in (self._head.memory.centroids, *others)]

    def state_dict(self) -> dict:
        """For checkpoints; empty before the first labelling."""
        if self._head.memory is None:
            return {}
        state = {"centroids": self._head.memory.centroids}
        others = {name: memory.kept() for name, memory in self._others.items()}
        return {**state, "memories": others} if others else state
