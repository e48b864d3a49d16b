"""Reads, transforms and returns single images, by index or with a pseudo label and a seed."""

import random
from contextlib import contextmanager
from typing import Callable, Optional, Sequence, Union

import numpy as np
import torch
from fastreid.data.data_utils import read_image
from torch.utils.data import Dataset

from ..errors import UsageError


class ImageDataset(Dataset):
    """Images as fastreid's models take them.

    Args:
        paths: N file names.
        transform: PIL image -> tensor (3, H, W); fastreid's ``build_transforms`` makes it.
        targets: N identities, for evaluation; without them the target of an image is -1 or what its key says.
        cameras: N cameras.

    Indexing takes an index, or ``(index, label, seed)`` as :class:`CrossCameraBatchSampler` gives it: then the label is the
    target, and the seed makes the random transform the same in any worker.
    """

    def __init__(
        self,
        paths: Sequence[str],
        transform: Callable,
        targets: Optional[Sequence[int]] = None,
        cameras: Optional[Sequence[int]] = None,
    ):
        self.paths = paths
        self.transform = transform
        self.targets = targets
        self.cameras = cameras

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: Union[int, tuple]) -> dict:
        index, label, seed = key if isinstance(key, tuple) else (key, None, None)
        if label is None:
            label = -1 if self.targets is None else int(self.targets[index])
        with _seeded(seed):
            image = self._read(self.paths[index])
        return {
            "images": image,
            "targets": label,
            "camids": 0 if self.cameras is None else int(self.cameras[index]),
            "img_paths": self.paths[index],
        }

    def _read(self, path: str) -> torch.Tensor:
        try:
            return self.transform(read_image(path, format="RGB"))
        except (OSError, ValueError, SyntaxError) as error:  # Pillow raises all three for broken files
            reason = " ".join(str(error).split())
            raise UsageError(f"image {path} cannot be read ({reason}); repair or remove it") from error


@contextmanager
def _seeded(seed: Optional[int]):
    """Random numbers from ``seed`` inside, the generators as they were outside."""
    if seed is None:
        yield
        return
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the accelerator as well
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
