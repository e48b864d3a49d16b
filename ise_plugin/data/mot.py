"""Crops of tracked people cut out of frames by MOT files, with the table of cameras, tracks and frames that Folder reads.

A sequence is laid out as in MOTChallenge (Leal-Taixé et al., arXiv:1504.01942): ``img1/000001.jpg`` and so on beside
rows of frame, track, left, top, width, height in pixels, confidence, and in ground truth class and visibility.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import json
import logging
import math
import os
import re
import shutil
from collections import Counter, defaultdict
from typing import NamedTuple, Optional, Sequence

from ..errors import UsageError
from ..utils.files import replaced_folder, shown, write_atomically
from ..utils.parallel import progress_bar
from .image_files import SUFFIXES
from .reading import MIN_SIDE, UnreadableImage, read_rgb

logger = logging.getLogger("fastreid.ise.mot")

TABLE_NAME = "sightings.csv"
_COLUMNS = ("path", "camera", "sequence", "track")
FRAMES, SOURCE = "img1", "source.json"
QUALITY = 95  # of the JPEG files: hardly worse than the frames
# Ground truth rows have this many columns; confidence 0 means that a row does not count, and people are of class 1.
_TRUTH_COLUMNS, _PERSON = 9, 1


class Box(NamedTuple):
    """A row: number of its line and of its frame, track or None, the corners in pixels, and its confidence, 1 by default."""

    line: int
    frame: int
    track: Optional[int]
    corners: tuple[int, int, int, int]
    score: float = 1.0


def cut_crops(folders: Sequence[str], output: str, rows: str = "gt/gt.txt", every: int = 1, camera: str = "") -> int:
    """Cuts the people of sequences out of their frames: ``OUTPUT/SEQUENCE/TRACK_FRAME.jpg``, and ``OUTPUT/sightings.csv``.

    The crops of a sequence are written whole or not at all. A sequence whose rows, frames and settings are those of a call
    before is not cut again. What cannot be used is named in the log, with a count and an example, and left out.

    Args:
        folders: of the sequences, each with ``img1``; the folder's name is the sequence's.
        output: folder for the crops. Its table lists all sequences in it, of calls before as well.
        rows: the MOT file within each folder, or a path with "{}" in place of the sequence's name.
        every: which frames: those whose number is a multiple.
        camera: regular expression searched in the name of a sequence, whose first group is the camera; empty: the name.

    Returns:
        The number of crops in the table.

    Raises:
        UsageError: a sequence has no frames, no rows, or no usable row; two have one name; ``camera`` does not fit one; the
            place of its crops holds something else, or cannot be written to.
    """
    if every < 1:
        raise UsageError(f"every frame whose number is a multiple of {every} would be none; give 1 or more")
    folders = [os.path.abspath(os.path.expanduser(folder)) for folder in folders]
    for name, times in Counter(map(os.path.basename, folders)).items():
        if times > 1:
            raise UsageError(f"{times} sequences are called {shown(name)}; rename one, or cut them into other folders")
    cameras = [camera_of(os.path.basename(folder), camera) for folder in folders]
    try:
        os.makedirs(output, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{shown(output)} cannot be made ({error.strerror}); name another folder") from error
    for folder, of_camera in zip(folders, cameras):
        _cut(folder, _path_of_rows(folder, rows), os.path.join(output, os.path.basename(folder)), every, of_camera)
    return write_table(output)


def camera_of(sequence: str, pattern: str) -> str:
    """The first group of a regular expression searched in a name; the name without one. UsageError where it does not fit."""
    try:
        found = re.search(pattern, sequence) if pattern else None
        if pattern and (found is None or not found[1]):
            raise UsageError(f"{pattern!r} does not fit the sequence {shown(sequence)}; correct it or leave it out")
    except (re.error, IndexError) as error:
        raise UsageError(f"{pattern!r} is no regular expression with a group ({error}); try 'cam(\\d+)'") from error
    return found[1] if found else sequence


def _path_of_rows(folder: str, rows: str) -> str:
    inside = os.path.join(folder, rows)
    return os.path.expanduser(rows.replace("{}", os.path.basename(folder))) if "{}" in rows else inside


def _cut(folder: str, rows: str, place: str, every: int, camera: str) -> None:
    """Writes the crops of a sequence to ``place``, unless they are there."""
    frames = find_frames(os.path.join(folder, FRAMES))
    try:
        with open(rows, "rb") as file:
            content = file.read()
    except OSError as error:
        raise UsageError(
            f"{shown(rows)} cannot be read ({error.strerror}); name the MOT file of the sequence"
        ) from error
    sizes = [(path, os.path.getsize(path)) for path in frames.values()]
    digest = hashlib.sha256(repr((content, sizes, every, camera)).encode("utf-8", "surrogateescape")).hexdigest()
    before = read_source(place)
    if before and before["digest"] == digest:
        return
    wanted: dict[int, list[Box]] = {}
    for box in read_boxes(content.decode("utf-8", "replace"), rows):
        if box.frame % every == 0:
            wanted.setdefault(box.frame, []).append(box)
    for left in glob.glob(f"{glob.escape(place)}.*.tmp"):  # by a call that was killed; it would be read with the crops
        shutil.rmtree(left)
    own = {SOURCE, *(row[0] for row in before["crops"])} if before else set()
    with replaced_folder(place, own) as temporary, progress_bar(len(wanted), os.path.basename(folder), "frames") as bar:
        crops: list = []
        flaws: dict[str, list] = defaultdict(list)
        for frame in sorted(wanted):
            crops += _cut_frame(frames.get(frame), wanted[frame], temporary, flaws)
            bar.update()
        for kind, left_out in flaws.items():
            logger.warning(f"{shown(rows)}: {len(left_out)} {kind}, {left_out[0]} for one; left out")
        if not crops:
            raise UsageError(f"{shown(rows)} gives no crop; check that it belongs to the frames in {shown(folder)}")
        with open(os.path.join(temporary, SOURCE), "w", encoding="utf-8") as source:
            json.dump({"digest": digest, "camera": camera, "told": "frame", "crops": crops}, source)


def find_frames(folder: str) -> dict[int, str]:
    """Number -> path of a sequence's frames; the number is what the file's name ends with."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    stems = [(os.path.splitext(name)[0], name) for name in names if os.path.splitext(name)[1].lower() in SUFFIXES]
    found = [(re.search(r"\d+$", stem), name) for stem, name in stems]
    frames = {int(number[0]): os.path.join(folder, name) for number, name in found if number}
    if not frames:
        raise UsageError(f"{shown(folder)} has no frames like 000001.jpg; name the folder above {FRAMES}")
    return frames


def read_boxes(text: str, name: str) -> list[Box]:
    """The rows of a MOT file that can be used; the log names the others. A track below 0 is unknown.

    Args:
        text: content of the file; ``name`` is what messages call it.
    """
    boxes, bad, passed_over = [], [], 0
    seen = set()
    for line, row in enumerate(text.splitlines(), 1):
        if not row.strip():
            continue
        try:
            values = [float(value) for value in row.strip().strip(",").split(",")]
            frame, number, left, top, width, height = values[:6]
            corners = _corners(left, top, width, height)
            score = values[6] if len(values) > 6 else 1.0
            box = Box(line, int(frame), int(number) if number >= 0 else None, corners, score)
        except (ValueError, OverflowError):
            bad.append(line)
            continue
        key = (box.frame, box.track)
        if len(values) == _TRUTH_COLUMNS and (values[6] == 0 or values[7] not in (_PERSON, -1)):
            passed_over += 1
        elif (frame, number) != (int(frame), int(number)) or (box.track is not None and key in seen):
            bad.append(line)
        else:
            seen.add(key)
            boxes.append(box)
    if bad:
        logger.warning(
            f"{shown(name)}: {len(bad)} rows are no frame, track and box, or a track once more in a frame, line {bad[0]} for "
            "one; left out"
        )
    if passed_over:
        logger.warning(
            f"{shown(name)}: {passed_over} rows are of no person, or not to be counted, by their columns; left out"
        )
    return boxes


def _corners(left: float, top: float, width: float, height: float) -> tuple[int, int, int, int]:
    if not (math.isfinite(left + top + width + height) and width > 0 and height > 0):
        raise ValueError("no box")
    return round(left), round(top), round(left + width), round(top + height)


def _cut_frame(path: Optional[str], boxes: Sequence[Box], folder: str, flaws: dict[str, list]) -> list[tuple]:
    """Writes the crops of one frame; (file name, track or None, frame) of each. Adds to what was left out, kind -> rows."""
    lines = [f"line {box.line}" for box in boxes]
    if path is None:
        flaws["rows are of frames that are not there"] += lines
        return []
    try:
        image = read_rgb(path)
    except UnreadableImage as error:
        flaws["rows are of frames that cannot be read"] += [f"{line} ({shown(path)}: {error})" for line in lines]
        return []
    crops = []
    for number, box in enumerate(boxes):
        left, top, right, bottom = box.corners
        corners = max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height)
        if min(corners[2] - corners[0], corners[3] - corners[1]) < MIN_SIDE:
            flaws[f"boxes are less than {MIN_SIDE} pixels within their frame"].append(lines[number])
            continue
        track = f"unknown{number:03d}" if box.track is None else f"{box.track:04d}"
        name = f"{track}_{box.frame:06d}.jpg"
        image.crop(corners).save(os.path.join(folder, name), quality=QUALITY)
        crops.append((name, box.track, box.frame))
    return crops


def read_source(place: str) -> Optional[dict]:
    """What an earlier call wrote beside the crops in ``place``, if anything is there; UsageError where it is no such folder."""
    if not os.path.lexists(place):
        return None
    try:
        with open(os.path.join(place, SOURCE), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{shown(place)} holds no crops that were cut from a sequence; name another folder") from error


def write_table(output: str) -> int:
    """Writes ``OUTPUT/sightings.csv`` of all sequences whose crops are below a folder; the number of crops.

    UsageError where some tell frames and others times, which do not compare.
    """
    sources = {}
    for sequence in sorted(os.listdir(output)):
        if os.path.isfile(os.path.join(output, sequence, SOURCE)):
            sources[sequence] = read_source(os.path.join(output, sequence))
    told = {source.get("told", "frame") for source in sources.values()}
    if len(told) > 1:
        raise UsageError(f"{shown(output)} holds crops with frames and crops with times; name another folder for these")
    text, count = io.StringIO(newline=""), 0
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_COLUMNS, *(told or ("frame",))])
    for sequence, source in sources.items():
        for name, track, moment in source["crops"]:
            writer.writerow([f"{sequence}/{name}", source["camera"], sequence, "" if track is None else track, moment])
        count += len(source["crops"])
    write_atomically(os.path.join(output, TABLE_NAME), text.getvalue().encode("utf-8", "surrogateescape"))
    return count
