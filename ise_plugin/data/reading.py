"""Any picture file -> one upright RGB image, or one line that says why not."""

import io
import os
import stat
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Optional, Sequence

import numpy as np
from PIL import Image, ImageOps

from ..utils.files import shown

# Pillow raises all of these for broken files; a decompression bomb has an exception of its own.
_BUILT_IN_ERRORS = (OSError, ValueError, SyntaxError, EOFError, TypeError, LookupError, OverflowError, MemoryError)
_DECODING_ERRORS = (*_BUILT_IN_ERRORS, struct.error, zlib.error, Image.DecompressionBombError)
# Formats that are let in. Pillow knows dozens, some of which start other programs (EPS) or fetch more files.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
# Pixels in the shorter side below which a picture shows nobody.
MIN_SIDE = 4
# Bytes of a file for every pixel that an image may have: more than any format takes, so that a film under a picture's name
# is refused before it fills the memory.
_BYTES_PER_PIXEL = 8
# ImageNet's mean colour, which pretrained networks see as nothing: what shows through transparent pixels.
_BEHIND = (124, 116, 104)
# 16-bit grey values per 8-bit one: 65535 / 255
_GREY_STEP = 257
# Files handed to the threads at a time: enough to keep them busy, few enough for the memory.
_FILES_AT_ONCE = 256


class UnreadableImage(Exception):
    """A file that gives no image; the message is a reason of a few words, without the path."""


class ReadFile(NamedTuple):
    """A file: what was made of its image, or None and the reason, which it shows as text."""

    path: str
    value: Any = None
    reason: Optional[str] = None

    def __str__(self) -> str:
        return f"{shown(self.path)} ({self.reason})"


def read_rgb(path: str) -> Image.Image:
    """The first frame of a picture, upright, as 8-bit RGB.

    EXIF rotation is applied, transparency laid over ImageNet's mean colour, 16-bit grey scaled to 8 bits; palettes, grey
    and CMYK are converted. Pictures of more than ``PIL.Image.MAX_IMAGE_PIXELS`` are refused by their header, before they
    are decoded.

    Raises:
        UnreadableImage: the file is missing, no JPEG, PNG, WebP, BMP or TIFF, damaged, too large, or less than 4 pixels wide or
            high.
    """
    return decode_rgb(_content(path))


def decode_rgb(content: bytes) -> Image.Image:
    """:func:`read_rgb` of the bytes of a file."""
    if not content:
        raise UnreadableImage("the file is empty")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return upright_rgb(image)
    except _DECODING_ERRORS as error:
        raise UnreadableImage(_reason(error)) from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """What :func:`read_rgb` makes of an opened picture, left as it is; UnreadableImage for the same reasons."""
    width, height = image.size
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise UnreadableImage(f"{width} x {height} pixels are more than {Image.MAX_IMAGE_PIXELS}")
    if min(width, height) < MIN_SIDE:
        raise UnreadableImage(f"{width} x {height} pixels are too few to show anything")
    try:
        return _as_rgb(ImageOps.exif_transpose(image))
    except _DECODING_ERRORS as error:
        raise UnreadableImage(_reason(error)) from error


def _content(path: str) -> bytes:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
            raise UnreadableImage("not a regular file")
        if Image.MAX_IMAGE_PIXELS is not None and status.st_size > _BYTES_PER_PIXEL * Image.MAX_IMAGE_PIXELS:
            raise UnreadableImage(f"{status.st_size} bytes are more than a picture has")
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise UnreadableImage(getattr(error, "strerror", None) or str(error)) from error


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow's own conversion cuts 16-bit values off at 255
        return Image.fromarray((np.asarray(image).clip(0, 65535) // _GREY_STEP).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        front = image.convert("RGBA")
        back = Image.new("RGBA", front.size, (*_BEHIND, 255))
        return Image.alpha_composite(back, front).convert("RGB")
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "no JPEG, PNG, WebP, BMP or TIFF file, or damaged at its start"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {Image.MAX_IMAGE_PIXELS} pixels"
    return " ".join(str(error).split()) or type(error).__name__


def read_many(paths: Sequence[str], use: Callable[[bytes], object], threads: int) -> Iterator[ReadFile]:
    """``use`` of the bytes of every file, in the order of the paths, on several threads.

    Args:
        paths: N files.
        use: takes the content of a file; :class:`UnreadableImage` in it is caught.
        threads: at least 1. Pillow lets go of Python's lock while it decodes.
    """

    def read(path: str) -> ReadFile:
        try:
            return ReadFile(path, use(_content(path)))
        except UnreadableImage as error:
            return ReadFile(path, None, str(error))

    with ThreadPoolExecutor(threads) as pool:
        before: Iterable[ReadFile] = ()
        for start in range(0, len(paths), _FILES_AT_ONCE):
            ahead = pool.map(read, paths[start : start + _FILES_AT_ONCE])
            yield from before  # while the threads work on the next ones
            before = ahead
        yield from before
