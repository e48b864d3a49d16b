"""Groups against a list of images whose identities are known."""

import csv
from typing import Mapping, Sequence

import numpy as np

from ..clustering import OUTLIER
from ..clustering.quality import identity_quality, outliers_alone
from ..errors import UsageError
from ..utils.files import shown
from .groups import Identity

_COLUMNS = ("path", "identity")
# Of clustering/quality.py, what says it in few numbers.
_MEASURES = ("purity", "ari", "bcubed_f", "mixed_clusters", "split_identities")


def read_truth(path: str) -> dict[str, str]:
    """path of an image -> identity, of a CSV file with these columns; a missing or another file raises a UsageError."""
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
        truth = {row["path"]: row["identity"] for row in rows}
        if not truth or None in truth.values():
            raise ValueError("a line without identity" if truth else "no line")
    except (OSError, ValueError, KeyError, csv.Error) as error:
        reason = f"no column {error}" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
        wanted = f"--score needs a CSV file with the columns {' and '.join(_COLUMNS)}"
        raise UsageError(f"{shown(path)} cannot be read ({reason}); {wanted}") from error
    return truth


def score_of(rows: Sequence[Identity], truth: Mapping[str, str]) -> dict:
    """How the groups of the images that the list names fit it.

    Measures are those of :mod:`ise_plugin.clustering.quality`, over listed images in a group; ``ari_outliers_alone`` counts
    each outlier as a group. ``estimated_purity`` is the mean confidence over the same images.

    Raises:
        UsageError: the list names no image of these rows, or none in a group.
    """
    listed = [row for row in rows if row.path in truth]
    labels = np.array([row.cluster for row in listed], np.int64)
    identities = np.array([truth[row.path] for row in listed])
    measured = identity_quality(labels, identities)
    if not measured:
        what = (
            "is in a group"
            if listed
            else f"is in identities.csv, {shown(rows[0].path)} for one is"
            if rows
            else "is there"
        )
        raise UsageError(f"no image of the list {what}; name paths as identities.csv does")
    found = {"listed": len(truth), "not_in_identities_csv": len(truth) - len(listed)}
    found |= {"people": len(set(identities.tolist())), "groups": len(set(labels.tolist()) - {OUTLIER})}
    found["outliers"] = int((labels == OUTLIER).sum())
    found["estimated_purity"] = float(np.mean([row.confidence for row in listed if not row.outlier]))
    found |= {name: measured[name] for name in _MEASURES}
    found["ari_outliers_alone"] = identity_quality(outliers_alone(labels), identities)["ari"]
    return {name: round(value, 4) for name, value in found.items()}
