"""One recording's crops, with camera, track and time, and all its tracked boxes; written whole or not at all."""

import csv
import glob
import hashlib
import json
import logging
import os
import shutil
from typing import Any, Callable, Iterator, NamedTuple, Optional, Sequence

import numpy as np

from ..data.mot import QUALITY, SOURCE, read_source
from ..data.reading import MIN_SIDE
from ..errors import UsageError
from ..utils.files import digest_of, replaced_folder, shown
from .boxes import NO_TRACK, Boxes, Found, flaw_counter, inside, read_boxes_of
from .crop_filter import CropFilter, CropRules
from .detectors import build_detector
from .recordings import Recording
from .tracking import Tracker

logger = logging.getLogger("fastreid.ise.video")

BOXES = "boxes.csv"
BOX_COLUMNS = ("frame", "time", "track", "left", "top", "width", "height", "score")
# Frames after which progress is told: not for each, which costs a lock.
_TELL_EVERY = 25


class CutSettings(NamedTuple):
    """How recordings are cut; all of it decides whether an earlier call's crops still hold.

    Attributes:
        boxes: files for :func:`.boxes.read_boxes_of`; None: a detector finds people.
        first_frame: 0, 1 or None, for the same.
        detector: what :func:`.detectors.build_detector` takes; None: OpenCV's people detector.
        every, fps, seconds: see :meth:`.recordings.Recording.frames`.
        frame_rate: of folders of pictures, in frames a second.
        rules: what a crop must be.
    """

    boxes: Optional[str] = None
    first_frame: Optional[int] = None
    detector: Any = None
    every: int = 1
    fps: Optional[float] = None
    seconds: Optional[float] = None
    frame_rate: Optional[float] = None
    rules: CropRules = CropRules()


def cut_recording(
    recording: Recording,
    place: str,
    camera: str,
    settings: CutSettings,
    tell: Callable[[int], None] = lambda frames: None,
) -> bool:
    """Writes ``TRACK_FRAME.jpg`` of the chosen boxes, ``boxes.csv`` with all tracked ones, and ``source.json`` to a folder.

    Memory does not grow with the recording's length but for the boxes of a file.

    Args:
        place: the folder, named as the recording.
        camera: whose crops these are.
        tell: told how many frames were read since the last time.

    Returns:
        Whether it was cut now; False: the folder has what these arguments give already.

    Raises:
        UsageError: the recording or its boxes cannot be read, nobody is in it, or the folder holds something else.
    """
    digest = _digest(recording, camera, settings)
    before = read_source(place)
    if before is not None and digest is not None and before["digest"] == digest:
        return False
    for left in glob.glob(f"{glob.escape(place)}.*.tmp"):  # by a call that was killed
        shutil.rmtree(left)
    boxes = read_boxes_of(recording, settings.boxes, settings.first_frame) if settings.boxes else None
    flaws = flaw_counter()
    own = {SOURCE, BOXES, *(row[0] for row in before["crops"])} if before else set()
    with replaced_folder(place, own) as temporary:
        with open(os.path.join(temporary, BOXES), "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(BOX_COLUMNS)
            crops, frames = _cut(recording, boxes, settings, temporary, writer, flaws, tell)
        if not crops:
            said = "; ".join(f"{count} {kind}" for kind, count in flaws.items() if count) or "no box was found"
            raise UsageError(f"{shown(recording.source)} gives no crop of a person ({said}); check boxes and size")
        about = {"digest": digest, "camera": camera, "told": "time", "crops": crops, "source": _kept_source(recording)}
        with open(os.path.join(temporary, SOURCE), "w", encoding="utf-8") as file:
            json.dump({**about, "frames": frames, "skipped": recording.skipped, "left_out": flaws}, file)
    said = ", ".join(f"{count} {kind}" for kind, count in flaws.items() if count)
    logger.info(f"{shown(recording.name)}: {len(crops)} crops of {frames} frames; left out: {said or 'nothing'}")
    if outside := flaws["boxes outside the frame"]:
        logger.warning(f"{shown(recording.name)}: {outside} boxes lie outside their frame; left out")
    return True


def _cut(
    recording: Recording,
    boxes: Optional[Boxes],
    settings: CutSettings,
    folder: str,
    writer: Any,
    flaws: dict,
    tell: Callable[[int], None],
) -> tuple[list, int]:
    """Names, tracks and times of the crops, and the number of frames."""
    chosen, count, told = CropFilter(settings.rules, flaws), 0, 0
    crops: list = []
    for frame, found in _tracked(recording, boxes, settings, flaws):
        for row in np.flatnonzero(found.tracks != NO_TRACK).tolist():
            left, top, right, bottom = (round(float(value), 1) for value in found.corners[row])
            size = round(right - left, 1), round(bottom - top, 1)
            score = round(float(found.scores[row]), 3)
            writer.writerow([frame.number, round(frame.time, 4), int(found.tracks[row]), left, top, *size, score])
        for row, crop in chosen.choose(frame.image, found, frame.time):
            name = f"{int(found.tracks[row]):04d}_{frame.number:06d}.jpg"
            crop.save(os.path.join(folder, name), quality=QUALITY)
            crops.append((name, int(found.tracks[row]), round(frame.time, 4)))
        count += 1
        if count - told >= _TELL_EVERY:
            tell(count - told)
            told = count
    tell(count - told)
    return crops, count


def _tracked(
    recording: Recording, boxes: Optional[Boxes], settings: CutSettings, flaws: dict
) -> Iterator[tuple[Any, Found]]:
    """Frames with their boxes and tracks."""
    detect = build_detector(settings.detector) if boxes is None else None
    tracker = None if boxes is not None and boxes.tracked else Tracker()
    seen = 0
    for frame in recording.frames(settings.every, settings.fps, settings.seconds):
        size = frame.image.shape[:2]
        if boxes is None:
            assert detect is not None
            corners, scores = detect(frame.image)
            found = Found(
                np.asarray(corners, np.float32).reshape(-1, 4),
                np.clip(np.asarray(scores, np.float32), 0, 1),
                np.full(len(scores), NO_TRACK, np.int64),
            )
        else:
            found = boxes.of(frame.number, size)
            seen += len(found.scores)
        found = inside(found, size, MIN_SIDE, flaws)
        yield frame, found if tracker is None else tracker.update(found, frame.time)
    if boxes is not None and settings.every == 1 and settings.fps is None and settings.seconds is None:
        flaws["boxes of frames that are not there"] += len(boxes.frames) - seen


def _digest(recording: Recording, camera: str, settings: CutSettings) -> Optional[str]:
    """Of all that the crops follow from; None for what cannot be seen twice."""
    stamp = recording.stamp()
    if stamp is None or callable(settings.detector):
        return None
    files = [settings.boxes.replace("{}", recording.name)] if settings.boxes else []
    files += [str(settings.detector)] if settings.detector else []
    stamps = [
        digest_of(path) if os.path.isfile(path) else folder_stamp(path) for path in map(os.path.expanduser, files)
    ]
    known = settings._replace(boxes=None, detector=str(settings.detector))
    return hashlib.sha256(repr((stamp, camera, known, stamps)).encode("utf-8", "surrogateescape")).hexdigest()


def folder_stamp(path: str) -> Sequence:
    """Names, sizes and times of a folder's files; empty where there is none."""
    if not os.path.isdir(path):
        return ()
    return sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in os.scandir(path))


def _kept_source(recording: Recording) -> Optional[str]:
    """Where the pictures are, for drawing on them; an address is seen once, and may hold a password."""
    return None if recording.live else os.path.abspath(os.path.expanduser(recording.source))
