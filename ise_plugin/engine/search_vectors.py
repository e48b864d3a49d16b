"""What neighbours are searched by: the embeddings, and what can be seen without having learned people."""

from typing import Iterable, Iterator, Optional

import numpy as np
import torch
from torch import Tensor, nn

from ..modeling.appearance import AppearanceDescriptor, fused
from ..modeling.scenes import find_scenes, surroundings, without_scenes
from ..neighbors.camera_search import tells_cameras_apart
from ..utils.distributed import computed_once, gather_rows


class SearchVectors:
    """Vectors to search neighbours by, made of embeddings as ``ISE.APPEARANCE`` says; the embeddings themselves by default.

    The cosine of two of them is (1 - w) x that of the embeddings + w x that of the appearance, where w goes linearly from
    ``WEIGHT`` to ``FINAL_WEIGHT`` over the first ``EPOCHS`` epochs. With ``SCENES`` the mean of each scene is taken out of both;
    with ``ISE.CAMERAS.CENTER`` that of each camera, and scenes are left to the images of unknown cameras.
    Appearance and scenes are those that the network of the first epoch sees; they are part of checkpoints.

    Args:
        cameras: (N,), int64, of all images, -1 = unknown; None where no camera is known.
    """

    def __init__(self, cfg, cameras: Optional[np.ndarray] = None):
        self._settings = cfg.ISE.APPEARANCE
        self._cameras = None
        if cfg.ISE.CAMERAS.CENTER and cameras is not None and tells_cameras_apart(cameras):
            self._cameras = torch.from_numpy(np.asarray(cameras))
        self._seed = max(0, cfg.SEED)
        self._seen: Optional[dict] = None

    @property
    def used(self) -> bool:
        """Whether anything but the embeddings is."""
        return bool(self._settings.SCENES or self._settings.WEIGHT or self._settings.FINAL_WEIGHT)

    @property
    def complete(self) -> bool:
        """Whether nothing has to be seen by :meth:`watched` any more."""
        return not self.used or self._seen is not None

    def watched(self, model: nn.Module, loader: Iterable[dict]) -> Iterator[dict]:
        """The loader's batches, seen as well while their consumer runs the model on them; all processes together.

        Args:
            model: as it is before training.
            loader: batches with ``images`` (B, 3, H, W), RGB, 0..255: this process's share of all images.
        """
        parts = []
        with AppearanceDescriptor(model) as describe:
            for batch in loader:
                yield batch
                with torch.autocast(model.device.type, enabled=False):
                    images = batch["images"].to(model.device).float()
                    parts.append([surroundings(images), *describe(images)])
        around, *blocks = [gather_rows(torch.cat(block)) for block in zip(*parts)]
        self._seen = computed_once(lambda: self._summary(around, blocks))

    def _summary(self, around: Tensor, blocks: list[Tensor]) -> dict:
        """``appearance`` (N, A), float16, unit rows, and ``scenes`` (N,), int64, on the CPU, which checkpoints are read on."""
        appearance, scenes = fused(blocks), torch.zeros(len(around), dtype=torch.int64)
        if self._settings.SCENES:
            scenes = torch.from_numpy(find_scenes(around, self._settings.SCENES, self._seed))
        if (places := self._places(scenes)) is not None:
            appearance = without_scenes(appearance, places.to(appearance.device))
        return {"appearance": appearance.half().cpu(), "scenes": scenes}

    def of(self, features: Tensor, epoch: int) -> Tensor:
        """(N, D + A), float32, unit rows, of embeddings (N, D); the embeddings themselves where nothing else is used."""
        settings = self._settings
        progress = min(1.0, epoch / max(1, settings.EPOCHS - 1))
        weight = settings.WEIGHT + progress * (settings.FINAL_WEIGHT - settings.WEIGHT)
        if (places := self._places(self._seen["scenes"] if self._seen else None)) is not None:
            features = without_scenes(features, places.to(features.device))
        if weight == 0:
            return features
        appearance = self._seen["appearance"].to(features)
        return torch.cat([(1 - weight) ** 0.5 * features, weight**0.5 * appearance], dim=1)

    def _places(self, scenes: Optional[Tensor]) -> Optional[Tensor]:
        """(N,), int64, whose mean is taken out: the camera where it is known, else the scene, -1 for none; None for nothing."""
        scenes = scenes if self._settings.SCENES else None
        if self._cameras is None:
            return scenes
        others = torch.full_like(self._cameras, -1) if scenes is None else self._cameras.max() + 1 + scenes
        return torch.where(self._cameras >= 0, self._cameras, others)

    def state_dict(self) -> dict:
        """What was seen; empty before and without."""
        return self._seen or {}

    def load_state_dict(self, state: dict) -> None:
        """Takes what :meth:`state_dict` gave."""
        self._seen = state or None
