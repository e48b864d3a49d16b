"""Pictures of the groups: a row for each, its most typical images first."""

import os
import re
from typing import Sequence

from ..data.thumbnails import Row, draw_rows, to_jpeg
from ..utils.files import write_atomically

IMAGES_PER_ROW = 12
ROWS_PER_PAGE = 12
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
    names = set()
    for kind, lines in (("page", _group_lines(folder, rows)), ("outliers", _outlier_lines(folder, rows))):
        for start in range(0, len(lines), ROWS_PER_PAGE):
            name = f"{kind}_{start // ROWS_PER_PAGE + 1:04d}.jpg"
            page = draw_rows(lines[start : start + ROWS_PER_PAGE])
            write_atomically(os.path.join(output_dir, name), to_jpeg(page))
            names.add(name)
    for name in os.listdir(output_dir):
        if _PAGE_NAME.fullmatch(name) and name not in names:
            os.remove(os.path.join(output_dir, name))
    return len(names)


def _group_lines(folder: str, rows: Sequence) -> list[Row]:
    groups: dict = {}
    for row in rows:
        if not row.outlier:
            groups.setdefault(row.cluster, []).append(row)
    lines = []
    for number, members in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        typical = sorted(members, key=lambda row: (-row.similarity, row.path))
        text = f"identity {number}\n{len(members)} images\nconfidence {members[0].confidence:.2f}"
        lines.append(Row([os.path.join(folder, typical[i].path) for i in _spaced(len(typical))], text))
    return lines


def _outlier_lines(folder: str, rows: Sequence) -> list[Row]:
    paths = [os.path.join(folder, row.path) for row in rows if row.outlier]
    chosen = paths[: IMAGES_PER_ROW * ROWS_PER_PAGE]
    return [
        Row(part, f"outliers\n{start + 1} to {start + len(part)}\nof {len(paths)}")
        for start in range(0, len(chosen), IMAGES_PER_ROW)
        for part in [chosen[start : start + IMAGES_PER_ROW]]
    ]


def _spaced(count: int) -> list[int]:
    if count <= IMAGES_PER_ROW:
        return list(range(count))
    return [round(i * (count - 1) / (IMAGES_PER_ROW - 1)) for i in range(IMAGES_PER_ROW)]
