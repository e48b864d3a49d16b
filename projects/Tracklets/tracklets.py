"""Learning from tracks and times: cycle consistency of two frames of a clip, and tracklets as classes within their camera."""

from __future__ import annotations

import math
import os
import re
from typing import Iterator, Optional

import numpy as np
import torch
from fastreid.config import configurable
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.market1501 import Market1501
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from ise_plugin.clustering.labels import numbered
from ise_plugin.config import own_settings
from ise_plugin.data import BatchSampler
from ise_plugin.data.datasets.synthetic_persons import SyntheticPersons
from ise_plugin.data.sightings import Sighting
from ise_plugin.errors import UsageError
from ise_plugin.registry import CLUSTERER, LOSS, SAMPLER

# Keys below ISE.OWN.TRACKLETS with their defaults; README.md explains them.
DEFAULTS = {"EPSILON": 0.5, "DELTA": 0.5, "MARGIN": 0.5, "MAX_GAP": 25.0, "SEPARATION": 0.0, "UNMATCHED": 0.0}


# -- CycAs


def adaptive_factor(count: int, epsilon: float = 0.5, delta: float = 0.5) -> float:
    """What similarities with ``count`` candidates are multiplied by before the softmax, the inverse of its temperature.

    With ``log((delta * (count - 1) + 1) / (1 - delta)) / epsilon`` a candidate whose similarity is ``epsilon`` above that of all
    others has a probability ``delta`` above theirs, however many they are. Source: Wang et al., CycAs, ECCV 2020, section 3.3.

    Args:
        count: >= 1.
        epsilon: > 0.
        delta: greater than 0 and less than 1.
    """
    return math.log((delta * (count - 1) + 1) / (1 - delta)) / epsilon


def cycle_matrix(first: Tensor, second: Tensor, epsilon: float = 0.5, delta: float = 0.5) -> Tensor:
    """Where the persons of the first frame end that go to the second and back, by soft association. CycAs, section 3.2.

    Args:
        first: (n, D), unit rows, n >= 1.
        second: (m, D), likewise.
        epsilon, delta: of :func:`adaptive_factor`.

    Returns:
        (n, n), rows that sum to 1; the identity where everybody is found again.
    """
    similarity = first @ second.t()
    there = (adaptive_factor(len(second), epsilon, delta) * similarity).softmax(1)
    back = (adaptive_factor(len(first), epsilon, delta) * similarity.t()).softmax(1)
    return there @ back


def symmetric_cycle_loss(cycle: Tensor) -> Tensor:
    """How far a cycle matrix (n, n) is from the identity: the mean over its rows of the l1 norm. For frames with the same
    persons. CycAs, section 3.2."""
    return (cycle - torch.eye(len(cycle), device=cycle.device)).abs().sum(1).mean()


def asymmetric_cycle_loss(cycle: Tensor, margin: float = 0.5) -> Tensor:
    """Whoever leaves comes back to himself more than to anybody else, and he more than anybody else, by a margin.

    The mean over the rows of ``max(0, largest other entry of the row - diagonal + margin)`` plus the same over columns. Those who
    are in one frame only can satisfy it too, which the identity does not allow. CycAs, section 3.4.

    Args:
        cycle: (n, n), of :func:`cycle_matrix`; 0 where n is 1.
        margin: >= 0.
    """
    own = cycle.diagonal()
    others = cycle.masked_fill(torch.eye(len(cycle), dtype=torch.bool, device=cycle.device), -torch.inf)
    return sum((others.amax(dim) - own + margin).clamp(min=0).mean() for dim in (1, 0))


@LOSS.register()
class CycleAssociationLoss(nn.Module):
    """The loss of CycAs, which needs no label: the batch comes in pairs of frames, as :class:`FramePairBatchSampler` draws them.

    Args:
        pair_size: images of a pair, the first half of which are one frame, the others the second.
        epsilon, delta, margin: of the functions above.
    """

    @configurable
    def __init__(self, *, pair_size: int, epsilon: float = 0.5, delta: float = 0.5, margin: float = 0.5):
        super().__init__()
        if not (pair_size % 2 == 0 and epsilon > 0 and 0 < delta < 1 and margin >= 0):
            raise UsageError(
                "CycleAssociationLoss needs an even DATALOADER.NUM_INSTANCE, ISE.OWN.TRACKLETS.EPSILON greater than 0, DELTA "
                f"between 0 and 1, MARGIN at least 0, not {pair_size}, {epsilon}, {delta}, {margin}"
            )
        self.pair_size, self.epsilon, self.delta, self.margin = pair_size, epsilon, delta, margin

    @classmethod
    def from_config(cls, cfg):
        own = own_settings(cfg, "TRACKLETS", **DEFAULTS)
        numbers = {name.lower(): own[name] for name in ("EPSILON", "DELTA", "MARGIN")}
        return {"pair_size": cfg.DATALOADER.NUM_INSTANCE, **numbers}

    def forward(self, outputs: dict) -> dict[str, Tensor]:
        """``{"loss_cycle": scalar}``, the mean over pairs, each gone round from both of its frames."""
        losses = []
        for pair in outputs["features"].split(self.pair_size):
            for one, two in (frames := pair.chunk(2)), frames[::-1]:
                losses.append(asymmetric_cycle_loss(cycle_matrix(one, two, self.epsilon, self.delta), self.margin))
        return {"loss_cycle": torch.stack(losses).mean()}


class FramePairs:
    """Draws pairs of frames of a clip from what camera and time tell of images.

    The images that a camera took at one time are a moment. A frame is made of moments until it is full, and the other one of
    moments at most ``max_gap`` later. With video of crowds these are true frames; where moments show one person each, several
    that are far apart in time stand in for a crowd.

    Args:
        cameras: (N,), int64, -1: unknown; such images are not drawn.
        times: (N,), float64, nan: unknown; likewise.
        size: images of a frame, >= 1.
        max_gap: longest time between the two frames, > 0.
        separation: moments of one frame are at least so far apart, as long as there are such: a person is not to be in it twice.
        unmatched: share of the second frame that is of other moments, so that nobody of the first is in it, in [0, 1).

    Raises:
        UsageError: no camera has enough moments that another one follows in time.
    """

    def __init__(
        self,
        cameras: np.ndarray,
        times: np.ndarray,
        size: int,
        max_gap: float,
        separation: float = 0.0,
        unmatched: float = 0.0,
    ):
        self._size, self._separation, self._strangers = size, separation, round(unmatched * size)
        self._clips = [
            clip
            for camera in np.unique(cameras[(cameras >= 0) & ~np.isnan(times)])
            if len(clip := _Clip(np.flatnonzero(cameras == camera), times, max_gap)) >= size + self._strangers
        ]
        if not self._clips:
            raise UsageError(
                f"no camera has {size + self._strangers} moments that another one follows within ISE.OWN.TRACKLETS.MAX_GAP "
                f"{max_gap}; lower DATALOADER.NUM_INSTANCE, allow longer gaps, or set ISE.EVIDENCE times where times are known"
            )

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """The images (2 * size,), int64, of two frames of one camera, those of the first frame first."""
        sizes = np.array([len(clip) for clip in self._clips])
        clip = self._clips[rng.choice(len(sizes), p=sizes / sizes.sum())]
        first: list = []
        second: list = []
        order = iter(clip.spread(self._separation, rng))
        while min(len(first), len(second)) < self._size:
            now, later = clip.pair(next(order), rng)
            first += now
            second += later
        strangers = [clip.pair(next(order), rng)[1][0] for _ in range(self._strangers)]
        return np.array(first[: self._size] + second[: self._size - self._strangers] + strangers)


class _Clip:
    """The moments of one camera that another moment follows."""

    def __init__(self, rows: np.ndarray, times: np.ndarray, max_gap: float):
        rows = rows[~np.isnan(times[rows])]
        self._times, moment = np.unique(times[rows], return_inverse=True)
        self._images = [rows[moment == number].tolist() for number in range(len(self._times))]
        self._last = np.searchsorted(self._times, self._times + max_gap, side="right") - 1  # that may follow each
        (self._starts,) = np.nonzero(self._last > np.arange(len(self._times)))

    def __len__(self) -> int:
        return len(self._starts)

    def spread(self, separation: float, rng: np.random.Generator) -> list:
        """The moments in random order, those first that are not too near to one before them."""
        far: list = []
        near: list = []
        for moment in rng.permutation(self._starts):
            apart = np.abs(self._times[far] - self._times[moment]) if far else np.inf
            (far if np.all(apart >= separation) else near).append(moment)
        return far + near

    def pair(self, moment: int, rng: np.random.Generator) -> tuple[list, list]:
        """The images of a moment, and those of one that follows."""
        return self._images[moment], self._images[rng.integers(moment + 1, self._last[moment] + 1)]


@SAMPLER.register()
class FramePairBatchSampler(BatchSampler):
    """Batches of pairs of frames, drawn by :class:`FramePairs` without a look at the labels.

    Args:
        labels, seed, num_batches: of ``BatchSampler``.
        cameras, times: of :class:`FramePairs`.
        pair_size: images of a pair of frames.
        batch_size: images of a batch, a multiple of ``pair_size``.
        options: of :class:`FramePairs`.
    """

    wants = ("cameras", "times")
    drawn = "moments"

    def __init__(
        self,
        labels: np.ndarray,
        cameras: np.ndarray,
        times: np.ndarray,
        pair_size: int,
        batch_size: int,
        num_batches: int,
        seed: int,
        **options: float,
    ):
        super().__init__(labels, num_batches, seed)
        self._pairs = FramePairs(cameras, times, pair_size // 2, **options)
        self.unit, self.images_per_batch = pair_size, batch_size

    @classmethod
    def from_config(cls, cfg) -> dict:
        own = own_settings(cfg, "TRACKLETS", **DEFAULTS)
        return {
            "pair_size": cfg.DATALOADER.NUM_INSTANCE,
            "batch_size": cfg.SOLVER.IMS_PER_BATCH,
            "num_batches": cfg.ISE.ITERS_PER_EPOCH,
            **{name.lower(): own[name] for name in ("MAX_GAP", "SEPARATION", "UNMATCHED")},
        }

    def batches(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """See ``BatchSampler.batches``."""
        while True:
            yield np.concatenate([self._pairs.draw(rng) for _ in range(self.images_per_batch // self.unit)])


# -- tracklets as classes


@CLUSTERER.register()
class TrackletClusters:
    """Every track is a class of its own, which is known without a look at the pictures. For ``CameraProxyLoss`` within cameras.

    Source: the tracklet labels of Li et al., TAUDL, ECCV 2018, and UTAL, TPAMI 2020, and of Wu et al., TSSL, AAAI 2020.
    """

    wants = ("units",)
    max_distance = 0.0  # nothing of the graph is looked at

    def __init__(self, cfg):
        pass

    def fit_predict(self, graph: csr_matrix, units: Optional[np.ndarray] = None) -> np.ndarray:
        """
        Args:
            graph: (N, N).
            units: (N,), int64, the number of each image's track; an image without a track has a number of its own.

        Returns:
            (N,) int64, 0..M-1: the tracks in the order of their first images.

        Raises:
            UsageError: no tracks are known.
        """
        if units is None:
            raise UsageError(
                "TrackletClusters needs tracks; name a data set that tells them, and set ISE.EVIDENCE tracks and "
                "ISE.TRACKS.MODE hard"
            )
        return numbered(units)


# -- data sets that tell tracks and times

_NAME = re.compile(r"(-?\d+_c\d)s(\d+)_(\d+)_")  # of a file: who and camera, sequence, frame


@DATASET_REGISTRY.register()
class SyntheticWalks(SyntheticPersons):
    """The drawn persons with each walk past a camera as a track, as a tracker without errors would give it."""

    def sighting(self, path: str) -> Sighting:
        """Track, sequence and time that the file's name tells."""
        walk, sequence, frame = _NAME.match(os.path.basename(path)).groups()
        return Sighting(track=walk, sequence=sequence, time=float(frame))


@DATASET_REGISTRY.register()
class Market1501Frames(Market1501):
    """Market-1501 with camera, sequence and frame of its images. Its tracks are not told: each image is one of its own."""

    def sighting(self, path: str) -> Sighting:
        """Sequence and time that the file's name tells."""
        name = os.path.basename(path)
        _, sequence, frame = _NAME.match(name).groups()
        return Sighting(track=name, sequence=sequence, time=float(frame))
