"""Who is who: crops of all cameras into people, held to what the tracks say."""

import csv
import logging
import os
from collections import defaultdict
from typing import Any, Iterator, NamedTuple, Optional, Sequence

import numpy as np

from ..clustering import DBSCAN, OUTLIER, jaccard_graph
from ..clustering.constraints import Constraints, fit_constrained, track_constraints
from ..clustering.purity import REACH, estimate_purities
from ..data.sightings import Sighting, arrays_of
from .crops import BOXES

logger = logging.getLogger("fastreid.ise.video")

# Of the Jaccard distance and of DBSCAN, as in the configs for folders.
_K1, _K2, _MIN_SAMPLES = 20, 4, 4


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
    """People of N crops: labels (N,) int64, -1: nothing tells; probabilities (N,) that the group is the right one; eps."""

    labels: np.ndarray
    likely: np.ndarray
    eps: Optional[float]


def group_crops(
    vectors: np.ndarray,
    sightings: Sequence[Sighting],
    paths: Sequence[str],
    crops: str,
    labels: Optional[np.ndarray] = None,
) -> Grouped:
    """Groups crops into people: the images of a track are one, and tracks in one frame of one camera are two, without exception.

    Args:
        vectors: (N, D) float32, unit rows.
        sightings: of each: camera, track, sequence (the recording's name), time.
        paths: of each.
        crops: the folder with the recordings' folders.
        labels: (N,) that a training has found, -1: outlier; None: found here, by DBSCAN on the Jaccard distance.
    """
    known = arrays_of(paths, sightings)
    evidence = track_constraints(vectors, known["cameras"], known["tracks"], known["times"], names=known["track_names"])
    units = np.arange(len(vectors)) if evidence is None else evidence.units
    blocks = units if evidence is None else evidence.blocks
    constraints = Constraints(units, blocks, seen_together(units, sightings, crops))
    clusterer = DBSCAN("auto", _MIN_SAMPLES)
    graph = jaccard_graph(vectors, min(_K1, len(vectors) - 1), _K2, max_distance=REACH)
    if labels is None:
        labels = fit_constrained(clusterer, graph, constraints, REACH)
        logger.info(f"eps {clusterer.eps_:.2f}, because {clusterer.reason_}")
    else:
        labels = constraints.repaired(labels, constraints.linked(graph, REACH))
    labels = _with_lone_tracks(labels, units)
    purities = np.r_[estimate_purities(labels, graph), np.nan]
    return Grouped(labels, purities[labels], getattr(clusterer, "eps_", None))


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


def _with_lone_tracks(labels: np.ndarray, units: np.ndarray) -> np.ndarray:
    """A track that is like nobody is somebody, if it has enough crops to be a group."""
    labels = labels.copy()
    alone = labels == OUTLIER
    counts = np.bincount(units[alone], minlength=int(units.max(initial=0)) + 1)
    for unit in np.flatnonzero(counts >= _MIN_SAMPLES):
        labels[alone & (units == unit)] = labels.max(initial=OUTLIER) + 1
    return labels
