"""What neighbours are searched by: the embeddings, and what can be seen without having learned people."""

from typing import Iterable, Iterator, Optional

import torch
from torch import Tensor, nn

from ..modeling.appearance import AppearanceDescriptor, fused
from ..modeling.scenes import find_scenes, surroundings, without_scenes
from ..utils.distributed import computed_once, gather_rows


class SearchVectors:
    """Vectors to search neighbours by, made of embeddings as ``ISE.APPEARANCE`` says; the embeddings themselves by default.

    The cosine of two of them is (1 - w) x that of the embeddings + w x that of the appearance, where w goes linearly from
    ``WEIGHT`` to ``FINAL_WEIGHT`` over the first ``EPOCHS`` epochs. With ``SCENES`` the mean of each scene is taken out of both.
    Appearance and scenes are those that the network of the first epoch sees; they are part of checkpoints.
    """

    def __init__(self, cfg):
        self._settings = cfg.ISE.APPEARANCE
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
            appearance = without_scenes(appearance, scenes.to(appearance.device))
        return {"appearance": appearance.half().cpu(), "scenes": scenes}

    def of(self, features: Tensor, epoch: int) -> Tensor:
        """(N, D + A), float32, unit rows, of embeddings (N, D); the embeddings themselves where nothing else is used."""
        settings = self._settings
        progress = min(1.0, epoch / max(1, settings.EPOCHS - 1))
        weight = settings.WEIGHT + progress * (settings.FINAL_WEIGHT - settings.WEIGHT)
        if settings.SCENES:
            features = without_scenes(features, self._seen["scenes"].to(features.device))
        if weight == 0:
            return features
        appearance = self._seen["appearance"].to(features)
        return torch.cat([(1 - weight) ** 0.5 * features, weight**0.5 * appearance], dim=1)

    def state_dict(self) -> dict:
        """What was seen; empty before and without."""
        return self._seen or {}

    def load_state_dict(self, state: dict) -> None:
        """Takes what :meth:`state_dict` gave."""
        self._seen = state or None
