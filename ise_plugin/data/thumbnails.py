"""Small pictures: an image as a tile, rows of tiles as a page, and the bytes that a file or a web page holds."""

import base64
import io
from functools import lru_cache
from typing import NamedTuple, Optional, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..utils.parallel import num_threads
from .reading import UnreadableImage, decode_rgb, read_many, read_rgb

# (width, height) in pixels. Thumbnails are shown at half their size, so that they stay sharp on fine screens.
TILE = (64, 128)
THUMBNAIL_SIZE = (72, 144)
# Pixels.
_GAP, _TEXT_WIDTH, _CAPTION_HEIGHT, _FRAME_WIDTH, _FONT_SIZE = 4, 132, 18, 3, 15
_BACKGROUND, _TEXT, _EMPTY, _FRAME = (255, 255, 255), (40, 40, 40), (225, 225, 225), (200, 60, 40)
_JPEG_QUALITY, _THUMBNAIL_QUALITY = 88, 72
# Width and height of the pictures that colours are compared in, and which columns are edge and middle.
_SMALL, _EDGE, _MIDDLE = (8, 16), [0, 7], slice(2, 6)
# The sheets of a report show the same images again and again.
_KEPT = 1024


class Row(NamedTuple):
    """A row of :func:`draw_rows`.

    Attributes:
        paths: image files, from left to right.
        text: some short lines to the left of them.
        captions: a word below each of them.
        framed: whether the first one gets a frame.
    """

    paths: Sequence[str]
    text: str = ""
    captions: Sequence[str] = ()
    framed: bool = False


def tile(path: str, size: tuple = TILE) -> Image.Image:
    """An image fitted into (width, height) pixels; a crossed-out tile where the file cannot be read."""
    try:
        return ImageOps.pad(read_rgb(path), size, color=_EMPTY)
    except UnreadableImage:
        empty = Image.new("RGB", size, _EMPTY)
        ImageDraw.Draw(empty).line((0, 0, *size), fill=_TEXT)
        return empty


def draw_rows(rows: Sequence[Row]) -> Image.Image:
    """A page of rows of tiles, as wide as its longest row; room for texts and captions only where there are some."""
    left = _TEXT_WIDTH if any(row.text for row in rows) else _GAP
    width, height = TILE[0] + _GAP, TILE[1] + _GAP + (_CAPTION_HEIGHT if any(row.captions for row in rows) else 0)
    columns = max(len(row.paths) for row in rows)
    page = Image.new("RGB", (left + columns * width + _GAP, len(rows) * height + _GAP), _BACKGROUND)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(_FONT_SIZE)
    for number, row in enumerate(rows):
        top = _GAP + number * height
        draw.multiline_text((_GAP, top), row.text, fill=_TEXT, font=font)
        for column, path in enumerate(row.paths):
            page.paste(tile(path), (left + column * width, top))
        for column, caption in enumerate(row.captions):
            draw.text((left + column * width, top + TILE[1]), caption, fill=_TEXT, font=font)
        if row.framed:
            box = (left - _FRAME_WIDTH, top - _FRAME_WIDTH, left + TILE[0] + 2, top + TILE[1] + 2)
            draw.rectangle(box, outline=_FRAME, width=_FRAME_WIDTH)
    return page


def to_jpeg(image: Image.Image, quality: int = _JPEG_QUALITY) -> bytes:
    """The bytes of a JPEG file; quality from 1 to 95."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@lru_cache(maxsize=_KEPT)
def thumbnail(path: str) -> Optional[str]:
    """An image file as a ``data:`` address of a small JPEG; None where it cannot be read."""
    try:
        small = read_rgb(path)
    except UnreadableImage:
        return None
    small.thumbnail(THUMBNAIL_SIZE)
    return "data:image/jpeg;base64," + base64.b64encode(to_jpeg(small, _THUMBNAIL_QUALITY)).decode()


class SmallPictures(NamedTuple):
    """The colours of images, 8 x 16 of each.

    Attributes:
        places: (n,), int64, which of the paths could be read.
        edges: (n, 16, 2, 3), float64, RGB, 0..255: the outermost columns.
        middles: (n, 16, 4, 3): those where a person is.
        tall: (n,), bool, whether the image is taller than wide.
    """

    places: np.ndarray
    edges: np.ndarray
    middles: np.ndarray
    tall: np.ndarray


def small_pictures(paths: Sequence[str]) -> SmallPictures:
    """What can be read of the files, a thousand in about half a second."""
    found = [(place, one.value) for place, one in enumerate(read_many(paths, _small, num_threads())) if one.value]
    colors = np.array([picture for _, (picture, _) in found], np.float64).reshape(len(found), _SMALL[1], _SMALL[0], 3)
    places, tall = np.array([place for place, _ in found], np.int64), np.array([tall for _, (_, tall) in found], bool)
    return SmallPictures(places, colors[:, :, _EDGE], colors[:, :, _MIDDLE], tall)


def _small(content: bytes) -> tuple[np.ndarray, bool]:
    image = decode_rgb(content)
    return np.asarray(image.resize(_SMALL, Image.Resampling.BOX)), image.height > image.width
