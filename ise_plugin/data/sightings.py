"""Which camera saw an image, in which track, and when: told by paths and tables, and as arrays of a run's images."""

from __future__ import annotations

import csv
import logging
import math
import os
import re
from collections import defaultdict
from typing import Callable, Iterable, NamedTuple, Optional, Sequence

import numpy as np

from ..errors import UsageError
from ..utils.files import shown

logger = logging.getLogger("fastreid.ise.sightings")

UNKNOWN = "unknown"
# The number of a camera or track that nothing tells.
UNKNOWN_NUMBER = -1
# Frames, or seconds, between the recordings (sequences) of a camera, which are laid one after another: more than anything that
# looks for images of nearly the same time looks across.
_BETWEEN_SEQUENCES = 1e6
_EXAMPLES = 3


class Sighting(NamedTuple):
    """What is known of an image beside its pixels; None: unknown.

    Attributes:
        camera: its name.
        track: the tracker's name of the track; one of two cameras or sequences is two tracks.
        sequence: name of the recording. Times of two sequences do not compare.
        time: in frames or seconds, finite; compared within one camera and sequence only.
        order: place in the table that tells the time.
    """

    camera: Optional[str] = None
    track: Optional[str] = None
    sequence: Optional[str] = None
    time: Optional[float] = None
    order: Optional[int] = None


# What a group of the regular expression or a column of the table may be called -> what it tells.
_TELLS = {"camera": "camera", "track": "track", "sequence": "sequence", "frame": "time", "time": "time"}
Told = dict  # field of a sighting -> text
# What file names tell beside the camera, which fastreid's readers give. Of others nothing is documented (MSMT17) or given.
_MARKET = r"_c\d+s(?P<sequence>\d+)_(?P<frame>\d+)_"
_STOCK = {
    "Market1501": _MARKET,
    **dict.fromkeys(("SyntheticPersons", "SyntheticPersonsTiny", "SyntheticPersonsMarket"), _MARKET),
    "DukeMTMC": r"_c\d+_f(?P<frame>\d+)",
    "VeRi": r"_c\d+_(?P<frame>\d+)_",
}
# fastreid's readers of data whose cameras are not told: they give one number to all images, or to each its own.
_WITHOUT_CAMERAS = {"VehicleID", "SmallVehicleID", "MediumVehicleID", "LargeVehicleID"}
_WITHOUT_CAMERAS |= {"cuhkSYSU", "CAVIARa", "PeS3D", "Thermalworld"}


class Rule:
    """One source of sightings.

    Args:
        key: what the user set, for messages.
        tell: (path relative to the folder, folders to pass over) -> what is told, or nothing.
        rows: path -> place, of a table.
        repeated: paths that the table has once more.
    """

    def __init__(
        self,
        key: str,
        tell: Callable[[str, int], Optional[Told]],
        rows: Optional[dict[str, int]] = None,
        repeated: Sequence[str] = (),
    ):
        self.key, self.tell, self.rows, self.repeated = key, tell, rows, repeated

    @classmethod
    def by_regex(cls, key: str, text: str) -> Rule:
        """Searched in the path. Groups: "camera", else the first one where it has none of these names, "track", "sequence",
        "frame" or "time"."""
        try:
            pattern = re.compile(text)
        except re.error as error:
            raise UsageError(f"{key} {text!r} is no regular expression ({error})") from error
        if not pattern.groups:
            raise UsageError(f"{key} {text!r} has no group; put the camera in parentheses, like c(\\d+)_")
        groups = {name: number for name, number in pattern.groupindex.items() if name in _TELLS}
        if "camera" not in groups and 1 not in groups.values():
            groups["camera"] = 1
        fields = _fields(key, groups)

        def tell(name: str, _depth: int) -> Optional[Told]:
            match = pattern.search(name)
            return match and {field: match[groups[group]] for field, group in fields.items() if match[groups[group]]}

        return cls(key, tell)

    @classmethod
    def by_table(cls, key: str, path: str) -> Rule:
        """A CSV file with the column path (relative to the folder), and any of camera, track, sequence, frame or time."""
        key, told, rows, repeated = f"{key} {shown(path)}", {}, {}, []
        try:
            with open(os.path.expanduser(path), newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
                table = csv.DictReader(file)
                fields = _fields(key, [name for name in table.fieldnames or () if name in _TELLS])
                if "path" not in (table.fieldnames or ()) or not fields:
                    raise UsageError(
                        f"{key}: its first line must name the columns path and camera, track, frame or time"
                    )
                for place, row in enumerate(row for row in table if row["path"]):
                    repeated += [row["path"]] * (row["path"] in rows)
                    rows[row["path"]] = place
                    told[row["path"]] = {field: row[column] for field, column in fields.items() if row[column]}
        except (OSError, csv.Error) as error:
            raise UsageError(f"{key} cannot be read ({getattr(error, 'strerror', None) or error}); check it") from error
        return cls(key, lambda name, _depth: told.get(name), rows, repeated)

    @classmethod
    def by_folders(cls, key: str) -> Rule:
        """The first sub-folder names the camera."""
        return cls(key, lambda name, depth: {"camera": name.split("/")[depth]} if name.count("/") > depth else None)

    def say_doubts(self, names: Sequence[str], folders: Sequence[str]) -> None:
        """Warns where a pattern gives one camera for all names, which is then probably none; of a table's rows for a path that
        it has already, or for no file: neither among the names nor in one of the folders."""
        if self.rows is None:
            cameras = {(self.tell(name, 0) or {}).get("camera") for name in names} - {None}
            if len(cameras) == 1 and len(names) > 1:
                camera = shown(cameras.pop())
                logger.warning(
                    f"{self.key} gives one camera, {camera}, for all paths, {_examples(names)}; is it right?"
                )
            return
        rows = sorted(set(self.rows) - set(names))
        lost = [row for row in rows if not any(os.path.exists(os.path.join(folder, row)) for folder in folders)]
        _warn(lost, "rows are for no file", "they are passed over", f"{self.key}: ")
        _warn(self.repeated, "rows are for a path once more", "the last row of a path counts", f"{self.key}: ")


def _fields(key: str, names: Iterable[str]) -> dict[str, str]:
    """Field of a sighting -> the group or column that tells it."""
    fields: dict[str, str] = {}
    for name in names:
        if fields.setdefault(_TELLS[name], name) != name:
            raise UsageError(f"{key} tells frame and time; leave one out")
    return fields


def find_sightings(rules: Sequence[Rule], names: Sequence[str], depth: int = 0) -> list[Sighting]:
    """What the rules together tell of every path. Where two contradict one another nothing is known; the log says so.

    Args:
        names: N paths relative to their folder.
        depth: folders at their start that name no camera.

    Raises:
        UsageError: a rule fits no path.
    """
    known: list[Told] = [{} for _ in names]
    for rule in rules:
        told = [rule.tell(name, depth) for name in names]
        if names and not any(told):
            raise UsageError(
                f"{rule.key} fits none of {len(names)} paths, {_examples(names)}; correct it or leave it out"
            )
        for row, found in zip(known, told):
            for field, text in (found or {}).items():
                row.setdefault(field, {})[rule.key] = text
    contradicted, no_numbers = [], []
    sightings = []
    for name, row in zip(names, known):
        values = {field: set(texts.values()) for field, texts in row.items()}
        if "time" in values:
            values["time"] = {_number(text) for text in values["time"]}
            no_numbers += [f"{shown(name)}: {text!r}" for text in row["time"].values() if _number(text) is None][:1]
        contradicted += [
            f"{shown(name)}: {field} " + ", ".join(f"{text!r} by {key}" for key, text in row[field].items())
            for field in values
            if len(values[field]) > 1
        ][:1]
        places = [rule.rows[name] for rule in rules if rule.rows and name in rule.rows]
        one = {field: next(iter(found)) for field, found in values.items() if len(found) == 1}
        sightings.append(Sighting(**one, order=places[0] if places else None))
    _warn(
        contradicted, "images are told of differently by two rules", "what these contradict one another in is unknown"
    )
    _warn(no_numbers, "times are no numbers", "they are unknown")
    for field in ("camera", "track", "time"):
        missing = [name for name, row in zip(names, known) if field not in row]
        if len(missing) < len(names):
            _warn(missing, f"of {len(names)} paths have no {field} by the rules", "it is unknown")
    return sightings


def sighting_reader(data) -> Callable[[str], Sighting]:
    """How to ask a data set of fastreid's about a path: by its own ``sighting``, or by what is known of its file names."""
    name = type(data).__name__
    if hasattr(data, "sighting"):
        return data.sighting
    if name in _WITHOUT_CAMERAS:
        return lambda path: Sighting(camera=UNKNOWN)
    if name in _STOCK:
        rule = Rule.by_regex(name, _STOCK[name])
        return lambda path: _of_text(rule.tell(os.path.basename(path), 0) or {})
    return lambda path: Sighting()


def _of_text(told: Told) -> Sighting:
    return Sighting(**{**told, "time": _number(told.get("time"))})


def arrays_of(paths: Sequence[str], sightings: Sequence[Sighting]) -> dict:
    """The sightings as arrays, without what cannot be: the log names what was left out.

    A track by two cameras becomes one for each, a track in two sequences one for each. Where time runs backwards within a
    track, by the table's rows and by the names of the files in their natural order, its times are unknown. The sequences of a
    camera are laid one after another, far apart.

    Args:
        paths: N.
        sightings: N; names of cameras and tracks are unique over all data sets.

    Returns:
        ``cameras`` and ``tracks`` (N,) int64, -1: unknown; ``camera_names``, ``track_names`` in the order of their numbers;
        ``times`` (N,) float64, nan: unknown.
    """
    cameras, camera_names = _numbered([s.camera for s in sightings])
    tracks, track_names = _numbered(_tracks_by_one_camera(sightings))
    times = _times(sightings)
    backwards = [tracks_that_run_backwards(tracks, times, order) for order in _orders(paths, sightings, tracks)]
    bad = sorted(set.intersection(*map(set, backwards))) if backwards else []
    _warn([track_names[t] for t in bad], "tracks have times that run backwards", "their times are unknown")
    times[np.isin(tracks, bad)] = np.nan
    found = {"cameras": cameras, "camera_names": camera_names}
    return found | {"tracks": tracks, "track_names": track_names, "times": times}


def _tracks_by_one_camera(sightings: Sequence[Sighting]) -> list[Optional[str]]:
    names = [s.track if s.sequence is None else s.track and f"{s.track} of {s.sequence}" for s in sightings]
    seen = defaultdict(set)
    for name, sighting in zip(names, sightings):
        if name is not None and sighting.camera is not None:
            seen[name].add(sighting.camera)
    several = {name: sorted(cameras) for name, cameras in seen.items() if len(cameras) > 1}
    said = [f"{name}: {', '.join(several[name])}" for name in sorted(several)]
    _warn(said, "tracks are by two cameras or more", "each is taken as one track for every camera")
    by_one = []
    for name, sighting in zip(names, sightings):
        if name in several:  # of an unknown camera: any of them
            name = None if sighting.camera is None else f"{name} by {sighting.camera}"
        by_one.append(name)
    return by_one


def _numbered(names: Sequence[Optional[str]]) -> tuple[np.ndarray, tuple]:
    known = tuple(sorted({name for name in names if name is not None}))
    numbers = {name: number for number, name in enumerate(known)}
    return np.array([UNKNOWN_NUMBER if name is None else numbers[name] for name in names], np.int64), known


def _times(sightings: Sequence[Sighting]) -> np.ndarray:
    times = np.array([math.nan if s.time is None else s.time for s in sightings], np.float64)
    recordings = [(s.camera or "", s.sequence or "") for s in sightings]
    latest: dict[tuple, float] = {}
    for recording, time in zip(recordings, times.tolist()):
        if not math.isnan(time):
            latest[recording] = max(latest.get(recording, time), time)
    free: dict[str, float] = defaultdict(float)  # camera -> where its next recording starts
    starts = {}
    for camera, sequence in sorted(latest, key=lambda recording: (recording[0], _natural(recording[1]))):
        starts[camera, sequence] = free[camera]
        free[camera] += latest[camera, sequence] + _BETWEEN_SEQUENCES
    return times + np.array([starts.get(recording, 0.0) for recording in recordings])


def _orders(paths: Sequence[str], sightings: Sequence[Sighting], tracks: np.ndarray) -> list[np.ndarray]:
    """In which the images of tracks may have been seen, apart from their times: (N,) ranks."""
    rows = np.flatnonzero(tracks != UNKNOWN_NUMBER)
    natural = np.zeros(len(paths), np.int64)
    natural[sorted(rows.tolist(), key=lambda i: _natural(paths[i]))] = np.arange(len(rows))
    places = [s.order for s in sightings]
    told = [natural] if len(rows) else []
    return told + ([np.array([p or 0 for p in places])] if told and any(p is not None for p in places) else [])


def tracks_that_run_backwards(tracks: np.ndarray, times: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The tracks, sorted, with an image before another one in ``order`` and after it in time.

    Args:
        tracks: (N,) int64, -1: unknown.
        times: (N,) float64, nan: unknown.
        order: (N,) ranks.
    """
    rows = np.flatnonzero((tracks != UNKNOWN_NUMBER) & ~np.isnan(times))
    rows = rows[np.lexsort((order[rows], tracks[rows]))]
    backwards = (np.diff(tracks[rows]) == 0) & (np.diff(times[rows]) < 0)
    return np.unique(tracks[rows][1:][backwards])


def _number(text: Optional[str]) -> Optional[float]:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _natural(text: str) -> list:
    """A key that sorts numbers in a text as numbers."""
    parts: list = re.split(r"(\d+)", text)
    parts[1::2] = map(int, parts[1::2])
    return parts


def _examples(names: Sequence[str]) -> str:
    some = dict.fromkeys(names[i * (len(names) - 1) // (_EXAMPLES - 1)] for i in range(_EXAMPLES))
    return "such as " + ", ".join(map(shown, some))


def _warn(found: Sequence[str], what: str, then: str, whose: str = "") -> None:
    if found:
        logger.warning(f"{whose}{len(found)} {what}, {shown(found[0])} for one; {then}")
