"""What the head compares embeddings with, made anew at every labelling: cluster centroids and, if asked for, camera proxies."""

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..method import cluster_centroids, number_proxies
from ..utils.logs import log_once


class Memories:
    """The memories of a head, filled from a labelling or from a checkpoint.

    Args:
        head: has ``set_centroids`` and ``memory``; with ``proxy_momentum``, ``set_proxies`` and ``proxies`` as well, as
            :class:`ise_plugin.modeling.ClusterMemoryHead`.
        cameras: (N,), int64, of all images, -1: unknown.
    """

    def __init__(self, head: nn.Module, cameras: np.ndarray):
        self._head = head
        self._cameras = torch.from_numpy(cameras)
        self._with_proxies = getattr(head, "proxy_momentum", None) is not None

    def fill(self, features: Tensor, labels: np.ndarray, centroids: Tensor) -> None:
        """From embeddings (N, D), labels (N,) int64, -1 for outliers, and centroids (M, D)."""
        self._head.set_centroids(centroids)
        if not self._with_proxies:
            return
        pairs, numbers = self._number_proxies(labels)
        if not len(pairs):
            log_once("CameraProxyLoss: no clustered image has a known camera, so it is 0")
        proxies = cluster_centroids(features, numbers.to(features.device)) if len(pairs) else features[:0]
        self._head.set_proxies(proxies, pairs)

    def restore(self, labels: np.ndarray, state: dict) -> None:
        """From what :meth:`state_dict` gave, for these labels (N,).

        Raises:
            UsageError: the proxies there are of other images or cameras, or there are none.
        """
        self._head.set_centroids(state["centroids"])
        if self._with_proxies:
            pairs = self._number_proxies(labels)[0]
            if "proxies" not in state or not torch.equal(pairs, state["proxy_pairs"]):
                raise UsageError(
                    "the checkpoint's camera proxies are not those of these images and cameras; resume with the "
                    "MODEL.LOSSES.NAME and the data set that it was made with"
                )
            self._head.set_proxies(state["proxies"], pairs)
        for name, memory in self._named().items():
            # normalising unit rows once more has changed their last bits
            memory.centroids = state[name].to(memory.centroids.device)

    def rows(self) -> list[np.ndarray]:
        """The rows (M, D) of each memory, on the host."""
        return [memory.centroids.cpu().numpy() for memory in self._named().values()]

    def state_dict(self) -> dict:
        """For checkpoints; empty before the first labelling."""
        named = self._named()
        state = {name: memory.centroids for name, memory in named.items()}
        return {**state, "proxy_pairs": named["proxies"].pairs} if "proxies" in named else state

    def _named(self) -> dict:
        named = {"centroids": self._head.memory, "proxies": getattr(self._head, "proxies", None)}
        return {name: memory for name, memory in named.items() if memory is not None}

    def _number_proxies(self, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        return number_proxies(torch.from_numpy(labels), self._cameras)
