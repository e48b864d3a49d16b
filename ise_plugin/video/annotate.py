"""Recordings with people's numbers drawn on them."""

import csv
import logging
import os
from collections import defaultdict
from fractions import Fraction
from typing import Any, NamedTuple, Optional, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.thumbnails import to_jpeg
from ..errors import UsageError
from ..utils.files import shown, write_atomically, written_whole
from ..utils.parallel import progress_bar
from .recordings import Recording
from .results import MOT_FILES, recordings_in

logger = logging.getLogger("fastreid.ise.video")

FOLDER = "annotated"
# Colours that people have by their numbers: told apart by eye, and light enough for dark text (Tableau's lighter ten).
_COLORS = ("#a0cbe8", "#ffbe7d", "#8cd17d", "#f1ce63", "#86bcb6", "#ff9d9a", "#d4a6c8", "#fabfd2", "#d7b5a6", "#bab0ac")
# Of the frame's height: thickness of lines, height of text.
_LINE, _TEXT = 1 / 160, 1 / 22
_LEAST_LINE, _LEAST_TEXT = 2, 10
# Times of a written video, and the nominal rate that players show.
_TIME_BASE, _RATE = Fraction(1, 1000), 25
# libx264's quality: hardly to be told from the original.
_QUALITY = "20"


class Drawn(NamedTuple):
    """A person's box: left, top, width, height in pixels, and the text to show."""

    person: int
    box: tuple[float, float, float, float]
    text: str


def annotate(
    output: str, sources: Sequence[str] = (), names: Optional[dict[int, str]] = None, number: Optional[int] = None
) -> list[str]:
    """Draws recordings of an output folder into ``OUTPUT/annotated/NAME.mp4``.

    Args:
        sources: those to draw, where they are now; by default all, where they were.
        names: person -> name, shown beside the number.
        number: of a single frame, which is drawn as a picture, ``NAME_NUMBER.jpg``, in the video's place.

    Returns:
        The files.

    Raises:
        UsageError: a recording is not in the folder, or is not where it was and no other place is named.
    """
    known = recordings_in(output)
    given = {Recording(source).name: source for source in sources}
    for name in set(given) - set(known):
        raise UsageError(f"{shown(name)} is not in {shown(output)}; it has {', '.join(map(shown, known))}")
    places = given or {name: about["source"] for name, about in known.items() if about.get("source")}
    for name in set(known) - set(places) if not given else ():
        logger.warning(f"{shown(name)} was an address, which is seen once; not drawn")
    written = []
    for name, source in places.items():
        if not os.path.exists(os.path.expanduser(source)):
            raise UsageError(f"{shown(source)} is gone; name where {shown(name)} is now: ise-video annotate … FILE")
        path = os.path.join(output, FOLDER, f"{name}.mp4" if number is None else f"{name}_{number}.jpg")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        boxes = read_people(os.path.join(output, MOT_FILES, f"{name}.txt"), names or {})
        if number is None:
            _write(path, Recording(source), boxes)
        else:
            write_atomically(path, to_jpeg(_picture(Recording(source), number, boxes)))
        written.append(path)
    return written


def read_people(path: str, names: dict[int, str]) -> dict[int, list[Drawn]]:
    """Frame -> who is in it, of a file that :func:`.results.write_results` wrote."""
    found: dict[int, list[Drawn]] = defaultdict(list)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for frame, person, left, top, width, height, *_ in csv.reader(file):
                text = f"{person} {names.get(int(person), '')}".strip()
                box = float(left), float(top), float(width), float(height)
                found[int(frame)].append(Drawn(int(person), box, text))
    except OSError as error:
        raise UsageError(f"{shown(path)} cannot be read ({error.strerror}); write it with: ise-video export") from error
    return found


def draw(image: np.ndarray, people: Sequence[Drawn]) -> Image.Image:
    """A frame (H, W, 3), uint8, RGB, with boxes and numbers."""
    picture = Image.fromarray(image)
    canvas, height = ImageDraw.Draw(picture), image.shape[0]
    size = max(_LEAST_TEXT, height * _TEXT)
    font = ImageFont.load_default(size)
    for person, (left, top, wide, tall), text in people:
        color = _COLORS[person % len(_COLORS)]
        canvas.rectangle(
            (left, top, left + wide, top + tall), outline=color, width=max(_LEAST_LINE, round(height * _LINE))
        )
        corner = left, max(0.0, top - size - 2)
        canvas.rectangle(canvas.textbbox(corner, text, font), fill=color)
        canvas.text(corner, text, fill="black", font=font)
    return picture


def _picture(recording: Recording, number: int, people: dict[int, list[Drawn]]) -> Image.Image:
    for frame in recording.frames():
        if frame.number == number:
            return draw(frame.image, people.get(number, ()))
    raise UsageError(f"{shown(recording.source)} has no frame {number}; name another")


def _write(path: str, recording: Recording, people: dict[int, list[Drawn]]) -> None:
    import av

    try:
        total = recording.count() or 0
    except UsageError:
        total = 0
    with written_whole(path) as temporary, av.open(temporary, "w", format="mp4") as container:
        with progress_bar(total, f"drawing {recording.name}", "frames") as bar:
            stream: Any = None
            for frame in recording.frames():
                height, width = (size // 2 * 2 for size in frame.image.shape[:2])  # the codec takes even sizes alone
                stream = stream or _stream(container, width, height)
                picture = np.asarray(draw(frame.image, people.get(frame.number, ())))[: stream.height, : stream.width]
                drawn = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                drawn.pts, drawn.time_base = round(frame.time / _TIME_BASE), _TIME_BASE
                container.mux(stream.encode(drawn))
                bar.update()
            container.mux(stream.encode(None))


def _stream(container: Any, width: int, height: int) -> Any:
    stream = container.add_stream("libx264", rate=_RATE, options={"crf": _QUALITY})
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.time_base = stream.codec_context.time_base = _TIME_BASE
    return stream
