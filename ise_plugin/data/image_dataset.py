"""Reads, transforms and returns images in batches, by index or with a pseudo label and a seed."""

import math
import random
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, field
from typing import Callable, Iterator, Optional, Sequence, Union

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import UsageError
from ..utils.files import shown
from .augmentation import BatchAugmentation, split_transform
from .image_cache import ImageCache
from .image_files import StandIns
from .reading import UnreadableImage, read_rgb
from .views import Views
from .workers import WorkerFiles


@dataclass(eq=False)
class ImageDataset(Dataset):
    """Images as :class:`ise_plugin.modeling.ISE` takes them.

    Args:
        paths: N file names.
        transform: PIL image -> tensor (3, H, W); fastreid's ``build_transforms`` makes it.
        targets: N identities, for evaluation; without them the target of an image is -1 or what its key says.
        cameras: N cameras, -1: unknown; without them 0.
        cache: keeps what ``transform`` starts with, its resized images, of all ``files``.
        stand_ins: gives the image that stands in for one that is lost during the run; without it the run ends.
        views: generated pictures that take the places of images, of which all keys then need a seed; target, camera, index and
            path stay the image's.
        on_device: draws what the device shall do in place of the rest of ``transform``.

    A key is an index, or ``(index, label, seed)`` as a :class:`BatchSampler` gives it: then the label is the
    target, and the seed makes the random transform the same in any worker.

    A batch (``__getitems__``, which torch's DataLoader prefers) is a dictionary: ``images`` (B, 3, H, W), uint8 in
    channels-last layout, or float32 where the transform ends in steps of its own; ``targets``, ``camids`` and ``indices``
    (positions in ``paths``), (B,), int64; ``img_paths``, a list; and where the transform erases or the device augments
    ``erased`` (B, 4), ``flipped`` (B,) and ``offsets`` (B, 2), see :class:`BatchAugmentation`.

    Raises:
        UsageError: an image cannot be read.
    """

    paths: Sequence[str]
    transform: InitVar[Callable]
    targets: Optional[Sequence[int]] = None
    cameras: Optional[Sequence[int]] = None
    cache: Optional[ImageCache] = None
    on_device: Optional[BatchAugmentation] = None
    stand_ins: Optional[StandIns] = None
    views: Optional[Views] = None
    worker_files: Optional[WorkerFiles] = field(default=None, init=False)

    def __post_init__(self, transform: Callable) -> None:
        self.steps = split_transform(transform)
        self.targets = np.full(len(self), -1) if self.targets is None else self.targets
        self.cameras = np.zeros(len(self), np.int64) if self.cameras is None else self.cameras

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def files(self) -> tuple:
        """The images and, after them, their views."""
        return (*self.paths, *(self.views.paths if self.views else ()))

    @property
    def image_bytes(self) -> int:
        """Of one image in a batch; 0 where the picture decides its size."""
        numbers = 3 * math.prod(self.steps.size or (0,))
        return numbers * (torch.float32.itemsize if self.steps.finish is not None else torch.uint8.itemsize)

    def __getitem__(self, key: Union[int, tuple]) -> dict:
        return {name: values[0] for name, values in self.__getitems__([key]).items()}

    def __getitems__(self, keys: Sequence) -> dict:
        keys = [key if isinstance(key, tuple) else (key, None, None) for key in keys]
        batch = self._images(keys)
        batch["targets"] = torch.tensor([int(self.targets[i]) if label is None else label for i, label, _ in keys])
        batch["camids"] = torch.tensor([int(self.cameras[i]) for i, _, _ in keys])
        batch["indices"] = torch.tensor([i for i, _, _ in keys])
        batch["img_paths"] = [self.paths[i] for i, _, _ in keys]
        return batch

    def _images(self, keys: list) -> dict[str, Tensor]:
        pictures = self._pictures(keys)
        if self.on_device is not None:
            plan = self.on_device.draw(np.array([seed for _, _, seed in keys]))
            pixels = np.stack(list(pictures))
            return {"images": _channels_first(pixels), **{name: torch.from_numpy(v) for name, v in plan.items()}}
        drawn = []
        for (_, _, seed), pixels in zip(keys, pictures):
            with _seeded(seed):
                drawn.append(self.steps.draw(pixels))
        images, rectangles = zip(*drawn)
        if isinstance(images[0], Tensor):
            return {"images": torch.stack(images)}
        batch = {"images": _channels_first(np.stack(images))}
        if self.steps.erasing is not None:
            batch["erased"] = torch.tensor(rectangles)
        return batch

    def _pictures(self, keys: list) -> Iterator[np.ndarray]:
        """The resized images, or views of some of them, (H, W, 3), uint8, one after the other."""
        indices, _, seeds = zip(*keys)
        if self.views is None:
            return map(self._pixels, indices)
        places = self.views.draw(np.array(indices), np.array(seeds)).tolist()
        return map(self._view_or_pixels, indices, places)

    def _view_or_pixels(self, index: int, view: int) -> np.ndarray:
        pixels = self.views.read(view, lambda view: self._read(len(self) + view))
        return self._pixels(index) if pixels is None else pixels

    def _pixels(self, index: int) -> np.ndarray:
        """The resized image, (H, W, 3), uint8."""
        if self.stand_ins is not None:
            return self.stand_ins.read(index, self._read)
        try:
            return self._read(index)
        except (UnreadableImage, OSError) as error:
            path, reason = shown(self.paths[index]), " ".join(str(error).split())
            raise UsageError(f"image {path} cannot be read ({reason}); repair or remove it") from error

    def _read(self, index: int) -> np.ndarray:
        """An image, or from N on a view."""
        path = self.paths[index] if index < len(self) else self.views.paths[index - len(self)]
        if self.worker_files is not None:
            self.worker_files.note(path)
        pixels = self.cache.read(index, path) if self.cache else None
        if pixels is None:
            pixels = self.steps.open(read_rgb(path))
            if self.cache:
                self.cache.write(index, path, pixels)
        return pixels


def _channels_first(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


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
