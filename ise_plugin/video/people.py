"""Who is who: crops of all cameras into people, held to what the tracks say."""

import csv
import logging
import math
import os
from collections import defaultdict
from typing import Any, Iterator, NamedTuple, Optional, Sequence

import numpy as np
import torch

from ..clustering import OUTLIER, jaccard_graph
from ..clustering.constraints import Constraints, track_constraints
from ..clustering.labels import numbered
from ..clustering.purity import REACH, estimate_purities
from ..data.sightings import Sighting, arrays_of
from ..modeling.scenes import without_scenes
from ..neighbors.camera_search import tells_cameras_apart
from .crops import BOXES

logger = logging.getLogger("fastreid.ise.video")

# Neighbours of the Jaccard distance, jaccard_graph's own defaults. Of N crops the root of N at most, the usual number of
# neighbours: where all are everybody's neighbours, all are alike.
_K1, _K2 = 30, 6
# Crops of a track that is somebody though it is like nobody: as many as DBSCAN makes a group of in the configs for folders.
_MIN_CROPS = 4
# The graph holds every pair that shares a neighbour: a mean is of near and far ones.
_ALL = 1.0


class TrackedBox(NamedTuple):
    """A row of boxes.csv: frame, time in seconds, track, corners (left, top, width, height) in pixels, score."""

    frame: int
    time: float
    track: int
    box: tuple[float, float, float, float]
    score: float


def tracked_boxes(place: str) -> Iterator[TrackedBox]:
    """Rows of a recording's folder, in the order of its frames."""
    with open(os.path.join(place, BOXES), newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        next(rows)
        for frame, time, track, left, top, width, height, score in rows:
            box = float(left), float(top), float(width), float(height)
            yield TrackedBox(int(frame), float(time), int(track), box, float(score))


class Nearest:
    """Of the crops of a recording, the one that tells most of a tracked box: the nearest in time of its track.

    Args:
        tracks, times, values: of N crops; what is known of each.
    """

    def __init__(self, tracks: Sequence[int], times: Sequence[float], values: Sequence):
        rows = defaultdict(list)
        for row in zip(tracks, times, range(len(values))):
            rows[row[0]].append(row[1:])
        self._values = values
        self._rows = {track: [np.array(part) for part in zip(*sorted(own))] for track, own in rows.items()}

    def of(self, track: int, time: float) -> Any:
        """The value, None where the track has no crop."""
        if track not in self._rows:
            return None
        times, places = self._rows[track]
        after = int(np.searchsorted(times, time))
        near = [i for i in (after - 1, after) if 0 <= i < len(times)]
        return self._values[places[min(near, key=lambda i: abs(times[i] - time))]]


class Grouped(NamedTuple):
    """People of N crops: labels (N,) int64, -1: nothing tells; probabilities (N,) that the group is the right one."""

    labels: np.ndarray
    likely: np.ndarray


def group_crops(vectors: np.ndarray, sightings: Sequence[Sighting], paths: Sequence[str], crops: str) -> Grouped:
    """Groups crops into people: the images of a track are one, and tracks in one frame of one camera are two, without exception.

    Tracks are joined by average linkage on the Jaccard distance, of vectors without what the crops of a camera have in common.

    Args:
        vectors: (N, D) float32, unit rows.
        sightings: of each: camera, track, sequence (the recording's name), time.
        paths: of each.
        crops: the folder with the recordings' folders.
    """
    known = arrays_of(paths, sightings)
    evidence = track_constraints(vectors, known["cameras"], known["tracks"], known["times"], names=known["track_names"])
    units = np.arange(len(vectors)) if evidence is None else evidence.units
    blocks = units if evidence is None else evidence.blocks
    constraints = Constraints(units, blocks, seen_together(units, sightings, crops))
    if tells_cameras_apart(known["cameras"]):
        vectors = without_scenes(torch.from_numpy(vectors), torch.from_numpy(known["cameras"])).numpy()
    k1 = min(_K1, math.isqrt(len(vectors)))
    graph = jaccard_graph(vectors, k1, min(_K2, k1), max_distance=_ALL)
    labels = _without_few(constraints.joined(graph, REACH), units)
    near = graph.copy()
    near.data[near.data > REACH] = _ALL  # similarity 0, as purity takes pairs further apart
    purities = np.r_[estimate_purities(labels, near), np.nan]
    return Grouped(labels, purities[labels])


def seen_together(units: np.ndarray, sightings: Sequence[Sighting], crops: str) -> np.ndarray:
    """(P, 2) int64, pairs of units of crops, the lower first, that have boxes in one frame of one recording."""
    pairs: set = set()
    names = np.array([sighting.sequence for sighting in sightings])
    for name in np.unique(names):
        rows = np.flatnonzero(names == name).tolist()
        tracks = [int(sightings[i].track or -1) for i in rows]
        nearest = Nearest(tracks, [sightings[i].time or 0.0 for i in rows], units[rows].tolist())
        for present in _frames(os.path.join(crops, str(name)), nearest):
            pairs.update((a, b) for a in present for b in present if a < b)
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


def _frames(place: str, nearest: Nearest) -> Iterator[set]:
    """Units that each frame shows."""
    frame: Optional[int] = None
    present: set = set()
    for row in tracked_boxes(place):
        if row.frame != frame:
            yield present
            frame, present = row.frame, set()
        unit = nearest.of(row.track, row.time)
        if unit is not None:
            present.add(unit)
    yield present


def _without_few(labels: np.ndarray, units: np.ndarray) -> np.ndarray:
    """A track that is like nobody is somebody only if it has enough crops to be a group."""
    joined = np.bincount(np.unique(np.stack([labels, units]), axis=1)[0]) > 1
    return numbered(np.where(joined[labels] | (np.bincount(labels)[labels] >= _MIN_CROPS), labels, OUTLIER))
