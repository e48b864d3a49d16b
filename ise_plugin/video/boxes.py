"""Where people are in the frames of a recording, from the files of detectors and trackers: MOT, COCO, YOLO."""

import json
import logging
import os
import re
from collections import defaultdict
from typing import NamedTuple, Optional, Sequence, Union

import numpy as np

from ..data.mot import read_boxes
from ..errors import UsageError
from ..utils.files import shown
from .recordings import Recording

logger = logging.getLogger("fastreid.ise.video")

NO_TRACK = -1
# The class of people in YOLO's files, which hold numbers alone, and its name in COCO's.
_YOLO_PERSON, _COCO_PERSON = 0, "person"
_TRAILING_NUMBER = re.compile(r"(\d+)$")


class Found(NamedTuple):
    """People in one frame: corners (n, 4) float32, left, top, right, bottom in pixels, scores (n,) float32 in [0, 1], and tracks
    (n,) int64, -1: unknown."""

    corners: np.ndarray
    scores: np.ndarray
    tracks: np.ndarray


class Boxes:
    """Boxes of a recording, by the numbers of its frames.

    Args:
        rows: N x (frame, left, top, right, bottom, score, track).
        relative: whether corners are shares of the frame's width and height.

    Attributes:
        frames: (N,) int64, ascending.
        tracked: whether a track is known of any; then boxes without one count for nothing.
    """

    def __init__(self, rows: Union[Sequence[tuple], np.ndarray], relative: bool = False):
        table = np.array(rows, np.float64).reshape(-1, 7)
        table = table[np.argsort(table[:, 0], kind="stable")]
        self.frames = table[:, 0].astype(np.int64)
        self._corners, self._scores = table[:, 1:5].astype(np.float32), table[:, 5].astype(np.float32)
        self._tracks, self._relative = table[:, 6].astype(np.int64), relative
        self.tracked = bool((self._tracks != NO_TRACK).any())
        inside = (
            np.isfinite(self._scores).all() and self._scores.min(initial=1) >= 0 and self._scores.max(initial=0) <= 1
        )
        if (
            not inside or not self._scores.any()
        ):  # no probabilities: files without scores have -1, detectors of their own more
            self._scores = np.ones_like(self._scores)

    def of(self, number: int, size: tuple[int, int]) -> Found:
        """Those of a frame of that (height, width)."""
        rows = slice(*np.searchsorted(self.frames, [number, number + 1]))
        corners = self._corners[rows]
        if self._relative:
            corners = corners * np.array([size[1], size[0]] * 2, np.float32)
        return Found(corners, self._scores[rows], self._tracks[rows])


def read_boxes_of(recording: Recording, path: str, first_frame: Optional[int] = None) -> Boxes:
    """The boxes of a recording from a file.

    Args:
        path: a MOT file; a COCO file (.json), with images and annotations or a list of results; or a folder of YOLO's files, one
            for each frame. "{}" stands for the recording's name.
        first_frame: what the file calls the first frame, 0 or 1; None: to be seen from the file.

    Raises:
        UsageError: the file cannot be read, has no box of a person, or does not tell which frame is the first.
    """
    path = os.path.expanduser(path.replace("{}", recording.name))
    try:
        if os.path.isdir(path):
            rows, relative = _yolo(path, recording.name), True
        elif path.lower().endswith(".json"):
            rows, relative = _coco(path, recording.name), False
        else:
            rows, relative = _mot(path), False
    except OSError as error:
        raise UsageError(
            f"{shown(path)} cannot be read ({error.strerror}); name the boxes of {recording.name}"
        ) from error
    if not rows:
        raise UsageError(f"{shown(path)} has no box of a person; check that it belongs to {shown(recording.source)}")
    table = np.array(rows, np.float64)
    table[:, 0] = _numbered(table[:, 0].astype(np.int64), recording, first_frame, path)
    return Boxes(table, relative)


def _mot(path: str) -> list[tuple]:
    with open(path, encoding="utf-8", errors="replace") as file:
        boxes = read_boxes(file.read(), path)
    return [(box.frame, *box.corners, box.score, NO_TRACK if box.track is None else box.track) for box in boxes]


def _coco(path: str, name: str) -> list[tuple]:
    with open(path, encoding="utf-8") as file:
        try:
            content = json.load(file)
            results = content if isinstance(content, list) else content["annotations"]
            images = {} if isinstance(content, list) else {image["id"]: image for image in content["images"]}
            kinds = (
                {}
                if isinstance(content, list)
                else {kind["id"]: kind["name"] for kind in content.get("categories", ())}
            )
            people = {number for number, text in kinds.items() if text.lower() == _COCO_PERSON}
            own = _of_recording({number: image["file_name"] for number, image in images.items()}, name)
            rows = []
            for result in results:
                number = result["image_id"]
                if images and number not in own or people and result.get("category_id") not in people:
                    continue
                left, top, width, height = map(float, result["bbox"])
                frame = _frame_of_image(images[number]) if images else int(number)
                track = result.get("track_id", result.get("instance_id", NO_TRACK))
                rows.append((frame, left, top, left + width, top + height, float(result.get("score", 1.0)), int(track)))
        except (ValueError, KeyError, TypeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise UsageError(
                f"{shown(path)} is no COCO file ({reason}); it needs images and annotations, or a list of results with "
                "image_id and bbox"
            ) from error
    return rows


def _of_recording(names: dict, recording: str) -> set:
    """Keys of the names that hold the recording's as a folder or at their start; all where none does."""
    own = {key for key, name in names.items() if recording in name.split("/")[:-1] or name.startswith(f"{recording}_")}
    return own or set(names)


def _frame_of_image(image: dict) -> int:
    for key in ("frame_id", "frame_index", "frame"):
        if key in image:
            return int(image[key])
    found = _TRAILING_NUMBER.search(os.path.splitext(image["file_name"])[0])
    if not found:
        raise ValueError(f"the name {image['file_name']} ends with no number")
    return int(found[1])


def _yolo(folder: str, recording: str) -> list[tuple]:
    stems = {name: os.path.splitext(name)[0] for name in os.listdir(folder) if name.endswith(".txt")}
    rows, bad = [], []
    for name in sorted(_of_recording(stems, recording)):
        number = _TRAILING_NUMBER.search(stems[name])
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
            lines = [line.split() for line in file if line.strip()]
        for line in lines:
            try:
                kind, x, y, width, height, *more = map(float, line)
                if number is None or not 0 < width <= 1 or not 0 < height <= 1:
                    raise ValueError
            except ValueError:
                bad.append(name)
                continue
            score, track = more[0] if more else 1.0, int(more[1]) if len(more) > 1 else NO_TRACK
            if kind == _YOLO_PERSON:
                corners = x - width / 2, y - height / 2, x + width / 2, y + height / 2
                rows.append((int(number[1]), *corners, score, track))
    if bad:
        logger.warning(
            f"{shown(folder)}: {len(bad)} rows are no class and box in shares of the frame, or of no numbered frame, "
            f"{shown(bad[0])} for one; left out"
        )
    return rows


def _numbered(frames: np.ndarray, recording: Recording, first: Optional[int], path: str) -> np.ndarray:
    """Numbers of frames as the recording has them, from those of a file that may begin with 0 or 1."""
    names = recording.numbers()
    if first is None and names is not None and np.isin(frames, names).all():
        return frames  # the names of the pictures are these
    count, low, high = recording.count(), int(frames.min()), int(frames.max())
    if first is None and low == 0:
        first = 0
    elif first is None and high == count:
        first = 1
    if first is None:
        raise UsageError(
            f"{shown(path)} has frames {low} to {high}, {shown(recording.name)} has {count or 'an unknown count'}; the first may "
            "be called 0 or 1; say which: --first-frame 0 or --first-frame 1"
        )
    places = frames - first
    if names is None:
        return places + 1
    known = (places >= 0) & (places < len(names))
    return np.where(known, np.array(names)[np.clip(places, 0, len(names) - 1)], -1)


def inside(found: Found, size: tuple[int, int], least: int, flaws: dict[str, int]) -> Found:
    """The boxes clipped to a frame of (height, width); those with less than ``least`` pixels in it are counted and left out."""
    height, width = size
    limits = np.array([width, height, width, height], np.float32)
    corners = np.clip(np.nan_to_num(found.corners, nan=0.0), 0, limits)
    kept = (corners[:, 2:] - corners[:, :2]).min(1, initial=np.inf) >= least
    flaws["boxes outside the frame"] += int((~kept).sum())
    flaws["boxes partly outside, clipped"] += int((kept & (corners != found.corners).any(1)).sum())
    return Found(corners[kept], found.scores[kept], found.tracks[kept])


def flaw_counter() -> dict[str, int]:
    """What was left out -> how often."""
    return defaultdict(int)
