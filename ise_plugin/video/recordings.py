"""Frames of a recording, one after another in little memory: of a video file, of an address, or of a folder of pictures."""

import hashlib
import heapq
import logging
import os
import re
import time
from typing import Any, Callable, Iterator, NamedTuple, Optional
from urllib.parse import urlsplit

import numpy as np

from ..data.mot import FRAMES, find_frames
from ..data.reading import UnreadableImage, read_rgb
from ..errors import UsageError
from ..utils.files import shown

logger = logging.getLogger("fastreid.ise.video")

_ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# Frames a second of a folder of pictures where neither the user nor a seqinfo.ini (MOTChallenge) says it.
FRAME_RATE = 25.0
# Seconds to wait for an address to answer, and for its next frame.
_PATIENCE = 20.0
# Broken places one after another in a container after which nothing more of it can be read.
_MOST_BROKEN = 100
# Rounding of times that shall not make a frame late.
_TINY = 1e-6


class Frame(NamedTuple):
    """A frame.

    Attributes:
        number: from 1 in a video; in a folder, what the file's name ends with.
        time: in seconds since the recording began.
        image: (H, W, 3) uint8, RGB, upright.
    """

    number: int
    time: float
    image: np.ndarray


class Recording:
    """A recording that can be read.

    Args:
        source: path of a video file, a folder of pictures (or a sequence with ``img1``), or an address such as ``rtsp://…``.
        frame_rate: frames a second of a folder; None: as its seqinfo.ini says, else 25.

    Attributes:
        source: as given.
        name: of files made from it: the file's name without its ending, the folder's, the address without what is secret.
        camera: the name, unless the user says otherwise.
        live: whether it is an address, which is seen once.
        skipped: frames of the last :meth:`frames` that could not be decoded.
    """

    def __init__(self, source: str, frame_rate: Optional[float] = None):
        self.source, self.skipped = source, 0
        self.live = bool(_ADDRESS.match(source))
        self._folder = "" if self.live else _folder_of_frames(source)
        plain = os.path.abspath(os.path.expanduser(source))
        self.camera = self.name = (
            os.path.basename(plain) if self._folder else os.path.splitext(os.path.basename(plain))[0]
        )
        if self.live:
            self.camera = _without_secrets(source)
            self.name = f"{self.camera}_{time.strftime('%Y%m%dT%H%M%S')}"
        self._frame_rate = _rate_of(plain) if self._folder and frame_rate is None else frame_rate or FRAME_RATE

    def count(self) -> Optional[int]:
        """How many frames there are; None for an address. A file is read, but not decoded."""
        if self.live:
            return None
        if self._folder:
            return len(find_frames(self._folder))
        with _opened(self.source) as (container, stream):
            if stream.frames:
                return int(stream.frames)
            return sum(packet.size > 0 and not packet.is_discard for packet in container.demux(stream))

    def stamp(self) -> Optional[str]:
        """What changes with the pictures: names, sizes and times of files; None for an address."""
        if self.live:
            return None
        path = self._folder or os.path.expanduser(self.source)
        try:
            files = list(os.scandir(path)) if self._folder else [path]
            told = [(os.path.basename(file), os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files]
        except OSError as error:
            raise UsageError(f"{shown(self.source)} cannot be read ({error.strerror}); check the path") from error
        return hashlib.sha256(repr(sorted(told)).encode("utf-8", "surrogateescape")).hexdigest()

    def numbers(self) -> Optional[list[int]]:
        """Numbers of the frames of a folder; None where frames are counted."""
        return sorted(find_frames(self._folder)) if self._folder else None

    def frames(self, every: int = 1, fps: Optional[float] = None, seconds: Optional[float] = None) -> Iterator[Frame]:
        """The frames in their order. What cannot be decoded is skipped, counted, and said once at the end.

        Args:
            every: gives those whose number is a multiple.
            fps: gives so many a second at most, by their times.
            seconds: stops there.

        Raises:
            UsageError: no frame at all can be decoded, and why.
        """
        if every < 1 or fps is not None and fps <= 0:
            raise UsageError(f"--every must be 1 or more and --fps above 0, not {every} and {fps}")
        self.skipped, due, found = 0, -_TINY, False
        for number, moment, image in self._pictures() if self._folder else self._decoded():
            found = True
            if seconds is not None and moment > seconds:
                break
            if number % every or moment < due - _TINY:
                continue
            if fps is not None:
                due = (np.floor(moment * fps + _TINY) + 1) / fps
            if (picture := image()) is not None:
                yield Frame(number, moment, picture)
        if self.skipped:
            logger.warning(
                f"{shown(self.name)}: {self.skipped} frames cannot be decoded; skipped, the others keep their numbers"
            )
        if not found:
            raise UsageError(f"{shown(self.source)} has no frame that can be decoded; {_REPAIR}")

    def _pictures(self) -> Iterator[tuple[int, float, Callable]]:
        files = find_frames(self._folder)
        first = min(files)

        def read(path: str) -> Optional[np.ndarray]:
            try:
                return np.asarray(read_rgb(path))
            except UnreadableImage:
                self.skipped += 1
                return None

        for number in sorted(files):
            yield number, (number - first) / self._frame_rate, lambda: read(files[number])  # noqa: B023 (used at once)

    def _decoded(self) -> Iterator[tuple[int, float, Callable]]:
        """The number of a frame is its place among the packets by their times: a broken one leaves the others their numbers."""
        with _opened(self.source) as (container, stream):
            number, begin = 0, None if stream.start_time is None else float(stream.start_time * stream.time_base)
            waiting: list = []
            for packet in _packets(container, stream):
                if packet is not None and packet.pts is not None and not packet.is_discard:
                    heapq.heappush(waiting, packet.pts)
                for frame in _frames_of(packet):
                    passed = 0
                    while waiting and frame.pts is not None and waiting[0] <= frame.pts:
                        heapq.heappop(waiting)
                        passed += 1
                    number += max(passed, 1)
                    self.skipped += max(passed, 1) - 1
                    begin = frame.time if begin is None else begin
                    moment = number / self._frame_rate if frame.time is None or begin is None else frame.time - begin
                    yield number, max(0.0, float(moment)), lambda: _upright(frame)  # noqa: B023 (used at once)
            self.skipped += len(waiting)


INSTALL = "pip install av opencv-python-headless 'supervision>=0.31' && pip install --no-deps trackers"
_REPAIR = "convert it with: ffmpeg -i FILE -c:v libx264 NEW.mp4"


def _folder_of_frames(source: str) -> str:
    """The folder with the pictures, empty where the source is none."""
    path = os.path.expanduser(source)
    inside = os.path.join(path, FRAMES)
    return inside if os.path.isdir(inside) else path if os.path.isdir(path) else ""


def _rate_of(folder: str) -> float:
    try:
        with open(os.path.join(folder, "seqinfo.ini"), encoding="utf-8", errors="replace") as file:
            found = re.search(r"^frameRate\s*=\s*([0-9.]+)", file.read(), re.MULTILINE)
        return float(found[1]) if found else FRAME_RATE
    except (OSError, ValueError):
        return FRAME_RATE


def _without_secrets(address: str) -> str:
    """Host, port and path of an address as a name for files."""
    parts = urlsplit(address)
    text = f"{parts.hostname or ''}_{parts.port or ''}{parts.path}"
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text).strip("_") or "address"


class _opened:
    """A container and its first video stream."""

    def __init__(self, source: str):
        self._source = source

    def __enter__(self) -> tuple[Any, Any]:
        try:
            import av
        except ImportError as error:
            raise UsageError(f"videos need PyAV; install it with: {INSTALL}") from error

        live = bool(_ADDRESS.match(self._source))
        path = self._source if live else os.path.expanduser(self._source)
        said = _without_secrets(path) if live else shown(self._source)
        options = {"rtsp_transport": "tcp"} if live and path.lower().startswith("rtsp") else {}
        try:
            self._container = av.open(path, options=options, timeout=_PATIENCE if live else None)
        except av.error.FFmpegError as error:
            cure = "check the address and that the camera answers" if live else f"check the path, or {_REPAIR}"
            raise UsageError(f"{said} cannot be opened ({error.strerror}); {cure}") from error
        if not self._container.streams.video:
            kinds = _kinds(self._container)
            self._container.close()
            raise UsageError(f"{said} has no video, only {kinds}; name the file with the pictures")
        stream = self._container.streams.video[0]
        if stream.codec_context is None:
            self._container.close()
            raise UsageError(f"{said} is of a codec that PyAV cannot decode; {_REPAIR}")
        stream.thread_type = "AUTO"
        return self._container, stream

    def __exit__(self, *_: object) -> None:
        self._container.close()


def _kinds(container: Any) -> str:
    return ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """Packets of a stream; the last one is empty and empties the decoder. A broken place is passed over."""
    import av

    for _ in range(_MOST_BROKEN):
        try:
            yield from container.demux(stream)
            return
        except av.error.FFmpegError:  # goes on behind the broken place
            continue


def _frames_of(packet: Any) -> list:
    import av

    try:
        return [frame for frame in packet.decode() if not frame.is_corrupt]
    except av.error.FFmpegError:
        return []


def _upright(frame: Any) -> np.ndarray:
    image = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90))) if frame.rotation else image
