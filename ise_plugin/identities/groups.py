"""Groups of images as files: identities.csv, identities.json, contact sheets, a summary."""

import csv
import io
import json
import os
from typing import NamedTuple, Optional, Sequence

import numpy as np
from tabulate import tabulate

from ..clustering import OUTLIER, CentroidSimilarities
from ..errors import UsageError
from ..utils.files import UnwritableFile, shown, write_atomically
from .contact_sheets import write_contact_sheets

CSV_NAME, SUMMARY_NAME, SHEETS_NAME = "identities.csv", "identities.json", "identities"
# What spreadsheets take for the start of a formula (OWASP, "CSV injection"). The mark itself is among them, so that
# taking one mark away always gives the text back.
_MARK = "'"
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", _MARK)
_DECIMALS = 4


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
        confidence: of its group, in [0, 1]: the mean simplified silhouette of its images; None for an outlier.
    """

    path: str
    cluster: int
    outlier: bool
    similarity: Optional[float]
    nearest_cluster: Optional[int]
    nearest_similarity: Optional[float]
    camera: str
    confidence: Optional[float]


COLUMNS = Identity._fields


def identities_of(
    paths: Sequence[str],
    cameras: Sequence[str],
    labels: np.ndarray,
    similarities: CentroidSimilarities,
    min_confidence: float = 0.0,
) -> list[Identity]:
    """The rows of identities.csv, sorted by path.

    Args:
        paths: N, relative to their folder.
        cameras: N names.
        labels: (N,), int64, 0..M-1 and -1 for outliers.
        similarities: of the N images to the centroids.
        min_confidence: in [0, 1]; see :func:`keep_safe`.
    """
    confidence = confidence_of(labels, similarities.silhouette)
    rows = []
    for i in sorted(range(len(paths)), key=lambda i: paths[i]):
        outlier = bool(labels[i] == OUTLIER)
        has_other = similarities.nearest[i] != OUTLIER
        rows.append(
            Identity(
                path=paths[i],
                cluster=int(labels[i]),
                outlier=outlier,
                similarity=None if outlier else _rounded(similarities.own[i]),
                nearest_cluster=int(similarities.nearest[i]) if has_other else None,
                nearest_similarity=_rounded(similarities.other[i]) if has_other else None,
                camera=cameras[i],
                confidence=None if outlier else _rounded(confidence[labels[i]]),
            )
        )
    return keep_safe(rows, min_confidence)


def confidence_of(labels: np.ndarray, silhouette: np.ndarray) -> np.ndarray:
    """The mean silhouette (N,) of each of M groups, what is negative as 0: (M,) float64 in [0, 1]."""
    clustered = labels != OUTLIER
    sums = np.bincount(labels[clustered], silhouette[clustered])
    return np.clip(sums / np.maximum(np.bincount(labels[clustered]), 1), 0, 1)


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
        values = row._replace(path=_harmless(row.path), camera=_harmless(row.camera), outlier=int(row.outlier))
        writer.writerow(["" if value is None else value for value in values])
    return buffer.getvalue().encode("utf-8", "surrogateescape")


def read_csv(path: str) -> list[Identity]:
    """The rows of a file that :func:`to_csv` made.

    Raises:
        UsageError: the file is missing or is no such file.
    """
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            lines = list(csv.reader(file))
        if not lines or tuple(lines[0]) != COLUMNS:
            raise ValueError("its columns are others")
        return [_parsed(line) for line in lines[1:]]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"{shown(path)} cannot be read ({reason}); name the identities.csv of a finished run"
        ) from error


def _parsed(line: Sequence[str]) -> Identity:
    path, cluster, outlier, similarity, nearest, nearest_similarity, camera, confidence = line
    number = lambda text: float(text) if text else None
    if not int(outlier) and not (similarity and confidence):
        raise ValueError(f"{_original(path)} is in a group, but without similarity or confidence")
    return Identity(
        path=_original(path),
        cluster=int(cluster),
        outlier=bool(int(outlier)),
        similarity=number(similarity),
        nearest_cluster=int(nearest) if nearest else None,
        nearest_similarity=number(nearest_similarity),
        camera=_original(camera),
        confidence=number(confidence),
    )


def _harmless(text: str) -> str:
    return _MARK + text if text.startswith(_FORMULA_STARTS) else text


def _original(text: str) -> str:
    return text.removeprefix(_MARK)


def summary_of(rows: Sequence[Identity]) -> dict:
    """Counts and the spread of sizes and confidences of the groups."""
    sizes, confidences, cameras = {}, {}, {}
    for row in rows:
        if not row.outlier:
            sizes[row.cluster] = sizes.get(row.cluster, 0) + 1
            confidences[row.cluster] = row.confidence
            cameras.setdefault(row.cluster, set()).add(row.camera)
    counts, outliers = list(sizes.values()), sum(row.outlier for row in rows)
    summary = {"images": len(rows), "identities": len(sizes), "outliers": outliers}
    if counts:
        values = list(confidences.values())
        summary |= {
            "images_per_identity": {"least": min(counts), "median": float(np.median(counts)), "most": max(counts)},
            "confidence": {"least": min(values), "median": _rounded(np.median(values)), "most": max(values)},
            "seen_by_several_cameras": sum(len(seen) > 1 for seen in cameras.values()),
        }
    return summary


def table_of(summary: dict) -> str:
    """A summary as text."""
    rows = []
    for name, value in summary.items():
        text = ", ".join(f"{k} {v:g}" for k, v in value.items()) if isinstance(value, dict) else value
        rows.append([name.replace("_", " "), text])
    return tabulate(rows, tablefmt="pipe", headers=["", ""], disable_numparse=True)


def write_identities(output_dir: str, folder: str, rows: Sequence[Identity], more: Optional[dict] = None) -> dict:
    """Writes contact sheets, summary and CSV, in this order, each file whole or not at all.

    Args:
        output_dir: where to; made when it is not there.
        folder: that the paths are relative to.
        rows: of :func:`identities_of`.
        more: further entries of the summary.

    Returns:
        The summary, as in identities.json.

    Raises:
        UsageError: the folder cannot be written to.
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
