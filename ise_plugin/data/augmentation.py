"""fastreid's transforms taken apart: what can be kept between epochs, what is drawn anew, what the device can do.

fastreid makes float32 images one by one on the CPU. Here images stay uint8 until they are on the device. Erased rectangles,
whose colour need not be a whole number, travel beside them as coordinates, and with ``DATALOADER.AUGMENT_ON_DEVICE`` so do
flips and crops; :mod:`ise_plugin.modeling.preprocessing` carries them out.
"""

import logging
import math
from dataclasses import dataclass
from typing import Callable, Optional

import numpy as np
import torch
from fastreid.data.transforms import ToTensor, build_transforms
from PIL import Image
from torchvision import transforms as T  # after fastreid, with which torchvision becomes importable (compat)

logger = logging.getLogger("fastreid.ise.augmentation")

# torchvision's RandomErasing tries this often to find a rectangle that fits into the image
_TORCHVISION_ATTEMPTS = 10
# constants of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), a generator whose n-th number can be had directly
_GOLDEN_GAMMA, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_NO_RECTANGLE = (0, 0, 0, 0)


class UniformErasing(T.RandomErasing):
    """Random erasing as in the released program of ISE: rectangles of an area uniform in 0.02 to 0.4 of the image and of an
    aspect ratio uniform in 0.3 to 3.33, where torchvision's are up to 0.33 and logarithmically uniform; 100 tries.

    Args:
        p: probability.
        value: colour.
    """

    attempts = 100

    def __init__(self, p: float, value):
        super().__init__(p, scale=(0.02, 0.4), ratio=(0.3, 1 / 0.3), value=value)

    @staticmethod
    def get_params(img, scale, ratio, value=None):
        """torchvision's (top, left, height, width, content), the whole image where no attempt fits into it."""
        height, width = img.shape[-2:]
        for _ in range(UniformErasing.attempts):
            share, aspect = (torch.empty(1).uniform_(*bounds).item() for bounds in (scale, ratio))
            h, w = (round(math.sqrt(height * width * share * a)) for a in (aspect, 1 / aspect))
            if h < height and w < width:
                top, left = (torch.randint(room + 1, (1,)).item() for room in (height - h, width - w))
                return top, left, h, w, torch.tensor(value)[:, None, None]
        return 0, 0, height, width, img


def training_transform(cfg) -> T.Compose:
    """fastreid's ``build_transforms`` for training, with the rectangles of ``ISE.ERASING``."""
    whole = build_transforms(cfg, is_train=True)
    if cfg.ISE.ERASING == "released":
        steps = whole.transforms
        whole.transforms = [UniformErasing(s.p, s.value) if type(s) is T.RandomErasing else s for s in steps]
    return whole


@dataclass(frozen=True)
class ImageSteps:
    """The steps from a file's picture to what a loader returns.

    Attributes:
        resize: PIL image -> PIL image, the same every time, so that its result can be kept; None where fastreid's first step is
            another.
        change: the steps after it that work on PIL images.
        erasing: the ``RandomErasing`` that follows; its rectangle is drawn here and filled on the device. None: no such step.
        finish: for transforms that go on in another way, all steps from PIL image to tensor, in place of ``erasing``.
    """

    resize: Optional[Callable]
    change: tuple
    erasing: Optional[T.RandomErasing] = None
    finish: Optional[Callable] = None

    @property
    def size(self) -> Optional[tuple]:
        """(height, width) after ``resize``; None where it depends on the picture."""
        size = getattr(self.resize, "size", None)
        return tuple(size) if isinstance(size, (list, tuple)) and len(size) == 2 else None

    def open(self, picture: Image.Image) -> np.ndarray:
        """The resized picture, (H, W, 3), uint8."""
        return np.asarray(picture if self.resize is None else self.resize(picture))

    def draw(self, pixels: np.ndarray) -> tuple:
        """One random version of what :meth:`open` gave: the image and the rectangle to erase.

        Returns:
            The image as an array (H, W, 3), uint8, or as ``finish`` makes it; and (top, left, height, width) in pixels.
        """
        if self.change or self.finish is not None:
            picture = Image.fromarray(pixels)
            for step in self.change:
                picture = step(picture)
            if self.finish is not None:
                return self.finish(picture), _NO_RECTANGLE
            pixels = np.asarray(picture)
        return pixels, self._rectangle(pixels)

    def _rectangle(self, pixels: np.ndarray) -> tuple:
        erasing = self.erasing
        if erasing is None or torch.rand(1) >= erasing.p:  # the draws of RandomErasing.forward, in its order
            return _NO_RECTANGLE
        height, width = pixels.shape[:2]
        shape = torch.empty(1, height, width)
        *rectangle, _ = erasing.get_params(shape, erasing.scale, erasing.ratio, [0.0])
        return _NO_RECTANGLE if rectangle[2:] == [height, width] else tuple(rectangle)  # the whole: no attempt fitted


def split_transform(transform: Callable) -> ImageSteps:
    """Takes a transform of fastreid's ``build_transforms`` apart; one it does not know stays whole."""
    steps = list(getattr(transform, "transforms", [transform]))
    resize = steps.pop(0) if steps and isinstance(steps[0], T.Resize) else None
    at = next((i for i, step in enumerate(steps) if isinstance(step, ToTensor)), None)
    after = [] if at is None else steps[at + 1 :]
    if at is None or any(not isinstance(step, T.RandomErasing) for step in after) or len(after) > 1:
        return ImageSteps(resize, (), finish=T.Compose(steps))
    return ImageSteps(resize, tuple(steps[:at]), after[0] if after else None)


@dataclass(frozen=True)
class BatchAugmentation:
    """Flip, padding with random crop, and random erasing of a whole batch, as numbers for the device.

    In distribution what ``RandomHorizontalFlip``, ``Pad`` with ``RandomCrop`` and ``RandomErasing`` draw image by image.

    Attributes:
        size: (height, width) of images before and after, in pixels.
        flip: probability.
        padding: black pixels on every side before the crop.
        erasing: a ``RandomErasing``, or None.
    """

    size: tuple
    flip: float = 0.0
    padding: int = 0
    erasing: Optional[T.RandomErasing] = None

    def draw(self, seeds: np.ndarray) -> dict[str, np.ndarray]:
        """
        Args:
            seeds: (B,), int, >= 0; what is drawn for an image depends on its seed alone.

        Returns:
            ``flipped`` (B,) bool; ``offsets`` (B, 2) int64, (top, left) of the crop in the image, negative in the padding;
            ``erased`` (B, 4) int64, (top, left, height, width) after flip and crop, all 0 where nothing is erased.
        """
        tries = getattr(self.erasing, "attempts", _TORCHVISION_ATTEMPTS)
        flip, top, left, erase, *attempts = uniform_numbers(seeds, 4 + 4 * tries).T
        choices = 2 * self.padding + 1
        offsets = np.stack([top, left], 1) * choices
        return {
            "flipped": flip < self.flip,
            "offsets": offsets.astype(np.int64) - self.padding,
            "erased": self._rectangles(erase, np.stack(attempts).reshape(tries, 4, -1)),
        }

    def _rectangles(self, erase: np.ndarray, attempts: np.ndarray) -> np.ndarray:
        if self.erasing is None:
            return np.zeros((len(erase), 4), np.int64)
        height, width = self.size
        area = height * width * _between(self.erasing.scale, attempts[:, 0])
        if isinstance(self.erasing, UniformErasing):
            aspect = _between(self.erasing.ratio, attempts[:, 1])
        else:
            aspect = np.exp(_between(np.log(self.erasing.ratio), attempts[:, 1]))
        h, w = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
        fits = (h < height) & (w < width)
        top, left = np.floor(attempts[:, 2] * (height - h + 1)), np.floor(attempts[:, 3] * (width - w + 1))
        found = np.stack([top, left, h, w], 2).astype(np.int64)  # (attempts, B, 4)
        wanted = (erase < self.erasing.p) & fits.any(0)
        return np.where(wanted[:, None], found[fits.argmax(0), np.arange(len(erase))], 0)


def _between(bounds, shares: np.ndarray) -> np.ndarray:
    return bounds[0] + (bounds[1] - bounds[0]) * shares


def batch_augmentation(cfg, steps: ImageSteps) -> Optional[BatchAugmentation]:
    """The device's version of a training transform; None, with the reason in the log, where it has none."""
    padding, flip = cfg.INPUT.PADDING, cfg.INPUT.FLIP
    known = (T.Pad, T.RandomCrop, T.RandomHorizontalFlip)
    unknown = [type(step).__name__ for step in steps.change if not isinstance(step, known)]
    if padding.ENABLED and padding.MODE != "constant":
        unknown.append(f"INPUT.PADDING.MODE {padding.MODE}")
    if not unknown and (steps.size is None or steps.finish is not None):
        unknown.append("a step of the transform")
    if unknown:
        logger.warning(
            f"DATALOADER.AUGMENT_ON_DEVICE: no such version of {', '.join(unknown)}; the loader augments instead"
        )
        return None
    flipped, padded = flip.PROB if flip.ENABLED else 0.0, padding.SIZE if padding.ENABLED else 0
    return BatchAugmentation(steps.size, flipped, padded, steps.erasing)


def uniform_numbers(seeds: np.ndarray, count: int) -> np.ndarray:
    """(B, count) numbers in [0, 1), float64, row i a function of seed i alone (SplitMix64)."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2 ** 64
        state = _mix(np.asarray(seeds).astype(np.uint64) + np.uint64(_GOLDEN_GAMMA))
        steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN_GAMMA)
        bits = _mix(state[:, None] + steps)
    return (bits >> np.uint64(11)) * 2.0**-53


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_2)
    return z ^ (z >> np.uint64(31))
