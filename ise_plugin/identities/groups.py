"""Groups of images as files: identities.csv, identities.json, contact sheets, a summary."""

import csv
import io
import json
import os
import re
from typing import Iterator, Mapping, NamedTuple, Optional, Sequence

import numpy as np
from tabulate import tabulate

from ..clustering import OUTLIER, CentroidSimilarities
from ..data.thumbnails import Row, draw_rows, to_jpeg
from ..errors import UsageError
from ..utils.files import UnwritableFile, shown, write_atomically

CSV_NAME, SUMMARY_NAME, SHEETS_NAME = "identities.csv", "identities.json", "identities"
# What spreadsheets take for the start of a formula (OWASP, "CSV injection"). The mark itself is among them, so that
# taking one mark away always gives the text back.
_MARK = "'"
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", _MARK)
_DECIMALS = 4
# Of the contact sheets.
IMAGES_PER_ROW = ROWS_PER_PAGE = 12
_PAGE_NAME = re.compile(r"(page|outliers)_\d{4,}\.jpg")


class Identity(NamedTuple):
    """One image; a row of identities.csv.

    Attributes:
        path: of the image, relative to its folder.
        cluster: its group, -1 for an outlier.
        outlier: whether it is in no group.
        similarity: cosine similarity to its group's centroid; None for an outlier.
        nearest_cluster: of the other groups the one with the most similar centroid; None where there is no other.
        nearest_similarity: to that centroid.
        camera: its name, empty where none is known.
        confidence: of its group, in [0, 1]: the estimated share of its images that show the same person
            (:mod:`ise_plugin.clustering.purity`); None for an outlier.
        same_file_as: path of the first image whose file has the same bytes; empty where it is the first, or the only one.
    """

    path: str
    cluster: int
    outlier: bool
    similarity: Optional[float]
    nearest_cluster: Optional[int]
    nearest_similarity: Optional[float]
    camera: str
    confidence: Optional[float]
    same_file_as: str = ""


COLUMNS = Identity._fields
_TEXTS = ("path", "camera", "same_file_as")


def identities_of(
    paths: Sequence[str],
    cameras: Sequence[str],
    labels: np.ndarray,
    similarities: CentroidSimilarities,
    purities: np.ndarray,
    copies: Mapping[str, str] = {},
    min_confidence: float = 0.0,
) -> list[Identity]:
    """The rows of identities.csv for N images, sorted by path.

    Args:
        paths, cameras: N, as in :class:`Identity`.
        labels: (N,), int64, 0..M-1 and -1 for outliers.
        similarities: of the N images to the centroids.
        purities: (M,), estimated, in [0, 1]: the confidence of each group.
        copies: path -> ``same_file_as``.
        min_confidence: in [0, 1]; see :func:`keep_safe`.
    """
    rows = []
    for path, camera, label, own, other, nearest in zip(paths, cameras, labels.tolist(), *similarities):
        outlier, has_other = label == OUTLIER, nearest != OUTLIER
        rows.append(
            Identity(
                path=path,
                cluster=label,
                outlier=outlier,
                similarity=None if outlier else _rounded(own),
                nearest_cluster=int(nearest) if has_other else None,
                nearest_similarity=_rounded(other) if has_other else None,
                camera=camera,
                confidence=None if outlier else _rounded(purities[label]),
                same_file_as=copies.get(path, ""),
            )
        )
    return keep_safe(sorted(rows, key=lambda row: row.path), min_confidence)


def keep_safe(rows: Sequence[Identity], min_confidence: float) -> list[Identity]:
    """The rows with the images of less confident groups as outliers. The numbers of the other groups stay."""
    return [
        row
        if row.outlier or row.confidence >= min_confidence
        else row._replace(cluster=OUTLIER, outlier=True, similarity=None, confidence=None)
        for row in rows
    ]


def _rounded(value: float) -> float:
    return round(float(value), _DECIMALS)


def to_csv(rows: Sequence[Identity]) -> bytes:
    """The rows as CSV (RFC 4180), UTF-8; a text that a spreadsheet would run as a formula gets an apostrophe in front."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    for row in rows:
        texts = {name: harmless(getattr(row, name)) for name in _TEXTS}
        writer.writerow(row._replace(outlier=int(row.outlier), **texts))
    return buffer.getvalue().encode("utf-8", "surrogateescape")


def read_csv(path: str) -> list[Identity]:
    """The rows of a file that :func:`to_csv` made; a missing or another file raises a UsageError."""
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            columns, *lines = list(csv.reader(file)) or [[]]
        if tuple(columns) != COLUMNS:
            raise ValueError("its columns are others")
        return [_parsed(line) for line in lines]
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{shown(path)} cannot be read ({reason}); name identities.csv of a finished run") from error


def _parsed(line: Sequence[str]) -> Identity:
    path, cluster, outlier, similarity, nearest, nearest_similarity, camera, confidence, same_file_as = line
    number = lambda text: float(text) if text else None
    row = Identity(
        path.removeprefix(_MARK),
        int(cluster),
        bool(int(outlier)),
        number(similarity),
        int(nearest) if nearest else None,
        number(nearest_similarity),
        camera.removeprefix(_MARK),
        number(confidence),
        same_file_as.removeprefix(_MARK),
    )
    if not row.outlier and None in (row.similarity, row.confidence):
        raise ValueError(f"{row.path} is in a group, but without similarity or confidence")
    return row


def harmless(text: str) -> str:
    """A text that spreadsheets do not take for a formula; :func:`read_csv` takes the mark away."""
    return _MARK + text if text.startswith(_FORMULA_STARTS) else text


def summary_of(rows: Sequence[Identity]) -> dict:
    """Counts and the spread of sizes and confidences of the groups."""

    def spread(values: list) -> dict:
        return {"least": min(values), "median": _rounded(np.median(values)), "most": max(values)}

    groups = _grouped(rows)
    summary = {"images": len(rows), "identities": len(groups), "outliers": sum(row.outlier for row in rows)}
    if groups:
        summary["images_per_identity"] = spread([len(members) for members in groups])
        summary["confidence"] = spread([members[0].confidence for members in groups])
        summary["estimated_purity"] = _rounded(np.mean([row.confidence for members in groups for row in members]))
        summary["seen_by_several_cameras"] = sum(len({row.camera for row in members} - {""}) > 1 for members in groups)
    copies: dict = {}
    for row in rows:
        if row.same_file_as:
            copies.setdefault(row.same_file_as, []).append(row.path)
    return summary | ({"identical_files": copies} if copies else {})


def _grouped(rows: Sequence[Identity]) -> list[list[Identity]]:
    """The rows of each group, in the order of their numbers."""
    groups: dict = {}
    for row in rows:
        if not row.outlier:
            groups.setdefault(row.cluster, []).append(row)
    return [groups[number] for number in sorted(groups)]


def table_of(summary: dict) -> str:
    """A summary as text, without verdict; of identical files how many there are."""
    rows = []
    for name, value in summary.items():
        if name == "verdict":
            continue
        if name == "identical_files":
            name, value = "copies of other files", sum(map(len, value.values()))
        text = ", ".join(f"{k} {v:g}" for k, v in value.items()) if isinstance(value, dict) else value
        rows.append([name.replace("_", " "), text])
    return tabulate(rows, tablefmt="pipe", headers=["", ""], disable_numparse=True)


def write_identities(output_dir: str, folder: str, rows: Sequence[Identity], more: Optional[dict] = None) -> dict:
    """Writes contact sheets, summary and CSV, in this order, each file whole or not at all.

    Args:
        output_dir: made when it is not there; a UsageError says that it cannot be written to.
        folder: that the paths are relative to.
        rows: of :func:`identities_of`.
        more: further entries of the summary, which is returned.
    """
    summary = summary_of(rows) | (more or {})
    text = json.dumps({"folder": folder, **summary}, indent=2) + "\n"
    try:
        write_contact_sheets(os.path.join(output_dir, SHEETS_NAME), folder, rows)
    except UnwritableFile:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"{shown(output_dir)} cannot be written to ({reason}); choose another folder") from error
    write_atomically(os.path.join(output_dir, SUMMARY_NAME), text.encode())
    write_atomically(os.path.join(output_dir, CSV_NAME), to_csv(rows))
    return summary


def write_contact_sheets(output_dir: str, folder: str, rows: Sequence[Identity]) -> int:
    """Writes page_0001.jpg, ... with a row for each group, the safest first, and outliers_0001.jpg.

    A row has up to 12 images from the most to the least similar to the centroid, evenly spaced where there are more.
    Pages of an earlier run that are not needed any more are removed. Outliers fill one page at most. Arguments as for
    :func:`write_identities`.

    Returns:
        Number of pages.
    """
    os.makedirs(output_dir, exist_ok=True)
    names = set()
    for kind, drawn in (("page", _group_rows(folder, rows)), ("outliers", _outlier_rows(folder, rows))):
        for number, page in enumerate(_parts(drawn, ROWS_PER_PAGE), 1):
            name = f"{kind}_{number:04d}.jpg"
            write_atomically(os.path.join(output_dir, name), to_jpeg(draw_rows(page)))
            names.add(name)
    for name in os.listdir(output_dir):
        if _PAGE_NAME.fullmatch(name) and name not in names:
            os.remove(os.path.join(output_dir, name))
    return len(names)


def _parts(items: list, size: int) -> Iterator[list]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _group_rows(folder: str, rows: Sequence[Identity]) -> list[Row]:
    drawn = []
    # stable: of groups equal in both the lower number first
    for members in sorted(_grouped(rows), key=lambda members: (-members[0].confidence, -len(members))):
        typical = sorted(members, key=lambda row: (-row.similarity, row.path))
        places = np.linspace(0, len(typical) - 1, min(IMAGES_PER_ROW, len(typical))).round().astype(int)
        text = f"identity {members[0].cluster}\n{len(members)} images\nconfidence {members[0].confidence:.2f}"
        drawn.append(Row([os.path.join(folder, typical[i].path) for i in places], text))
    return drawn


def _outlier_rows(folder: str, rows: Sequence[Identity]) -> list[Row]:
    paths = [os.path.join(folder, row.path) for row in rows if row.outlier]
    return [
        Row(part, f"outliers\n{i * IMAGES_PER_ROW + 1} to {i * IMAGES_PER_ROW + len(part)}\nof {len(paths)}")
        for i, part in enumerate(_parts(paths[: IMAGES_PER_ROW * ROWS_PER_PAGE], IMAGES_PER_ROW))
    ]
