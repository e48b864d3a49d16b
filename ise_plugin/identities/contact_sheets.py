"""Pictures of the groups: a row for each, its most typical images first."""

import io
import os
import re
from typing import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..data.reading import UnreadableImage, read_rgb
from ..utils.files import write_atomically

# Pixels.
TILE = (64, 128)
_GAP = 4
_LABEL_WIDTH = 132
_FONT_SIZE = 15
IMAGES_PER_ROW = 12
ROWS_PER_PAGE = 12
_BACKGROUND, _TEXT, _EMPTY = (255, 255, 255), (40, 40, 40), (225, 225, 225)
_QUALITY = 88
_PAGE_NAME = re.compile(r"(page|outliers)_\d{4,}\.jpg")


def write_contact_sheets(output_dir: str, folder: str, rows: Sequence) -> int:
    """Writes page_0001.jpg, ... with a row for each group, the largest first, and outliers_0001.jpg.

    A row has up to 12 images from the most to the least similar to the centroid, evenly spaced where there are more.
    Pages of an earlier run that are not needed any more are removed. Outliers fill one page at most.

    Args:
        output_dir: made when it is not there.
        folder: that the paths are relative to.
        rows: :class:`ise_plugin.identities.groups.Identity`.

    Returns:
        Number of pages.

    Raises:
        OSError: the folder cannot be written to.
    """
    os.makedirs(output_dir, exist_ok=True)
    font = ImageFont.load_default(_FONT_SIZE)
    names = set()
    for kind, lines in (("page", _group_lines(rows)), ("outliers", _outlier_lines(rows))):
        for start in range(0, len(lines), ROWS_PER_PAGE):
            name = f"{kind}_{start // ROWS_PER_PAGE + 1:04d}.jpg"
            page = draw_rows(folder, lines[start : start + ROWS_PER_PAGE], font)
            write_atomically(os.path.join(output_dir, name), to_jpeg(page))
            names.add(name)
    for name in os.listdir(output_dir):
        if _PAGE_NAME.fullmatch(name) and name not in names:
            os.remove(os.path.join(output_dir, name))
    return len(names)


def _group_lines(rows: Sequence) -> list[tuple]:
    """(text, paths) of every group."""
    groups = {}
    for row in rows:
        if not row.outlier:
            groups.setdefault(row.cluster, []).append(row)
    lines = []
    for number, members in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        typical = sorted(members, key=lambda row: (-row.similarity, row.path))
        text = f"identity {number}\n{len(members)} images\nconfidence {members[0].confidence:.2f}"
        lines.append((text, [typical[i].path for i in _spaced(len(typical))]))
    return lines


def _outlier_lines(rows: Sequence) -> list[tuple]:
    paths = [row.path for row in rows if row.outlier]
    chosen = paths[: IMAGES_PER_ROW * ROWS_PER_PAGE]
    return [
        (f"outliers\n{start + 1} to {min(start + IMAGES_PER_ROW, len(chosen))}\nof {len(paths)}", part)
        for start in range(0, len(chosen), IMAGES_PER_ROW)
        for part in [chosen[start : start + IMAGES_PER_ROW]]
    ]


def _spaced(count: int) -> list[int]:
    if count <= IMAGES_PER_ROW:
        return list(range(count))
    return [round(i * (count - 1) / (IMAGES_PER_ROW - 1)) for i in range(IMAGES_PER_ROW)]


def draw_rows(folder: str, lines: Sequence[tuple], font) -> Image.Image:
    """A page: each line a text of some short lines, and the images of its paths."""
    columns = max(len(paths) for _, paths in lines)
    size = (_LABEL_WIDTH + columns * (TILE[0] + _GAP) + _GAP, len(lines) * (TILE[1] + _GAP) + _GAP)
    page = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(page)
    for number, (text, paths) in enumerate(lines):
        top = _GAP + number * (TILE[1] + _GAP)
        draw.multiline_text((_GAP, top), text, fill=_TEXT, font=font)
        for column, path in enumerate(paths):
            page.paste(tile(os.path.join(folder, path)), (_LABEL_WIDTH + column * (TILE[0] + _GAP), top))
    return page


def tile(path: str) -> Image.Image:
    """An image fitted into a tile; a crossed-out one where the file cannot be read any more."""
    try:
        return ImageOps.pad(read_rgb(path), TILE, color=_EMPTY)
    except UnreadableImage:
        empty = Image.new("RGB", TILE, _EMPTY)
        ImageDraw.Draw(empty).line((0, 0, *TILE), fill=_TEXT)
        return empty


def to_jpeg(image: Image.Image) -> bytes:
    """The bytes of a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
