"""Small pictures that a page can hold."""

import base64
import html
import io
import os
from functools import lru_cache
from typing import Optional

from PIL import Image, ImageOps

# Pixels, at twice the size they are shown in, so that they stay sharp on fine screens.
THUMBNAIL_SIZE = (72, 144)
_QUALITY = 72
# Pillow knows dozens of formats, some of which start other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
# A sheet shows the same images again and again.
_KEPT = 1024


@lru_cache(maxsize=_KEPT)
def thumbnail(path: str) -> Optional[str]:
    """An image file as a ``data:`` address of a small JPEG; None where it cannot be read."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            image.draft("RGB", THUMBNAIL_SIZE)
            small = ImageOps.exif_transpose(image).convert("RGB")
            small.thumbnail(THUMBNAIL_SIZE)
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=_QUALITY)
    except (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError):  # Pillow raises all of these
        return None
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def picture(path: str, mark: str, good: bool) -> dict:
    """What the page needs to show an image: its thumbnail, file name, mark, and which border it gets."""
    return {"src": thumbnail(path), "name": os.path.basename(path), "mark": mark, "good": bool(good)}


def escaped(value: object) -> str:
    """Any text as harmless markup. File names may hold what JSON and encodings do not: that becomes a question mark."""
    return html.escape(str(value).encode("utf-8", "replace").decode(), quote=True)
