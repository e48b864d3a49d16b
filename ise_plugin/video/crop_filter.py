"""Which boxes of a track become crops: large and sharp enough, whole, not behind others, and unlike the one before."""

from typing import NamedTuple, Optional

import numpy as np
from PIL import Image

from .boxes import NO_TRACK, Found

# (width, height) at which sharpness is measured, so that it does not follow the size of a crop; and a change of looks.
_SHARPNESS_SIZE, _THUMBNAIL_SIZE = (32, 64), (8, 16)
# Pixels from the frame's edge within which a box counts as cut off.
_EDGE = 2
# Seconds after which the state of a track that is not seen any more is forgotten: memory does not grow with the recording.
_FORGET_AFTER = 60.0


class CropRules(NamedTuple):
    """What a crop must be.

    Attributes:
        min_height: pixels of the box.
        min_sharpness: energy of the Laplacian as a share of the variance, of the crop at 32 x 64; 0 for a flat picture, some 0.3
            for a sharp one. What is below is blurred by motion or focus.
        max_overlap: share of the box that one other box may cover, in [0, 1].
        border: whether boxes may touch the frame's edge, where people are cut off.
        min_gap: seconds between two crops of a track. It doubles after every ``burst`` crops, so a person who stays for hours
            gives more, but not endlessly more.
        burst: crops of a track until the gap doubles.
        min_change: mean difference of grey values of two crops of a track that follow one another, in [0, 255], at 8 x 16 pixels.
    """

    min_height: int = 48
    min_sharpness: float = 0.01
    max_overlap: float = 0.4
    border: bool = False
    min_gap: float = 0.5
    burst: int = 32
    min_change: float = 3.0


class _Seen:
    """What is remembered of a track: time and small picture of its last crop, how many there are."""

    def __init__(self) -> None:
        self.last, self.crop, self.count = -np.inf, -np.inf, 0
        self.thumbnail: Optional[np.ndarray] = None


class CropFilter:
    """Chooses crops, frame after frame."""

    def __init__(self, rules: CropRules, flaws: dict[str, int]):
        self._rules, self._flaws = rules, flaws
        self._tracks: dict[int, _Seen] = {}

    def choose(self, image: np.ndarray, found: Found, time: float) -> list[tuple[int, Image.Image]]:
        """(place among the boxes, crop) of those that are taken; what is not is counted by its reason.

        Args:
            image: (H, W, 3) uint8.
            found: boxes within the image, with tracks.
            time: of the frame in seconds.
        """
        chosen = []
        for place in np.flatnonzero(found.tracks != NO_TRACK).tolist():
            seen = self._tracks.setdefault(int(found.tracks[place]), _Seen())
            seen.last = time
            gap = self._rules.min_gap * 2 ** (seen.count // self._rules.burst)
            if time - seen.crop < gap - 1e-6:
                continue
            left, top, right, bottom = (round(float(value)) for value in found.corners[place])
            crop = Image.fromarray(image[top : max(bottom, top + 1), left : max(right, left + 1)])
            reason, thumbnail = self._flaw(image.shape, found, place), _grey(crop, _THUMBNAIL_SIZE)
            if reason is None and sharpness(crop) < self._rules.min_sharpness:
                reason = "blurred"
            if reason is None and seen.thumbnail is not None:
                reason = "like the crop before" if _change(thumbnail, seen.thumbnail) < self._rules.min_change else None
            if reason is not None:
                self._flaws[f"crops {reason}"] += 1
                continue
            seen.crop, seen.thumbnail, seen.count = time, thumbnail, seen.count + 1
            chosen.append((place, crop))
        self._forget(time)
        return chosen

    def _flaw(self, shape: tuple, found: Found, place: int) -> Optional[str]:
        left, top, right, bottom = found.corners[place]
        if bottom - top < self._rules.min_height:
            return "too small"
        height, width = shape[:2]
        if not self._rules.border and min(left, top, width - right, height - bottom) < _EDGE:
            return "cut off by the frame"
        if covered(found.corners, place) > self._rules.max_overlap:
            return "behind or before somebody else"
        return None

    def _forget(self, time: float) -> None:
        for track in [track for track, seen in self._tracks.items() if time - seen.last > _FORGET_AFTER]:
            del self._tracks[track]


def covered(corners: np.ndarray, place: int) -> float:
    """The largest share of a box, of (n, 4), that one of the others covers, in [0, 1]."""
    own, others = corners[place], np.delete(corners, place, axis=0)
    sides = np.minimum(own[2:], others[:, 2:]) - np.maximum(own[:2], others[:, :2])
    area = float(np.prod(own[2:] - own[:2]))
    return float(np.prod(np.maximum(sides, 0), axis=1).max(initial=0.0)) / max(area, 1e-9)


def sharpness(crop: Image.Image) -> float:
    """Energy of the Laplacian as a share of the variance of grey values, whatever size and contrast; 0 for a flat picture."""
    grey = _grey(crop, _SHARPNESS_SIZE)
    laplacian = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return float(laplacian.var() / (20 * grey.var())) if grey.var() > 0 else 0.0  # 20: of noise, whose share is 1


def _grey(crop: Image.Image, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(crop.convert("L").resize(size, Image.Resampling.BILINEAR), np.float32)


def _change(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())
