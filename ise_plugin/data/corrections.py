"""Pairs of images that a person says are one person, or two, as a table."""

import csv
import io
import logging
import os
from typing import Sequence

import numpy as np

from ..errors import UsageError
from ..utils.files import shown, write_atomically

logger = logging.getLogger("fastreid.ise.data")

COLUMNS = ("one", "other", "same")
Pairs = tuple[np.ndarray, np.ndarray]


def read_corrections(path: str, paths: Sequence[str], key: str) -> Pairs:
    """The pairs as places in a list of images. Pairs of others are left out; the log says how many.

    Args:
        path: CSV file with the columns one, other (paths of images) and same (1: one person, 0: two).
        paths: N images.
        key: what the user set, for messages.

    Returns:
        (L, 2) int64, pairs that are one person, and (P, 2), pairs that are two.

    Raises:
        UsageError: the file cannot be read, or is another.
    """
    place = {os.path.realpath(name): i for i, name in enumerate(paths)}
    try:
        with open(os.path.expanduser(path), newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = [(row["one"], row["other"], {"1": True, "0": False}[row["same"]]) for row in csv.DictReader(file)]
        found = [(place.get(os.path.realpath(a)), place.get(os.path.realpath(b)), same) for a, b, same in rows]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or f"{error} is no column, or no 0 or 1"
        raise UsageError(
            f"{key} {shown(path)} cannot be read ({reason}); it needs the columns {', '.join(COLUMNS)}"
        ) from error
    kept = [pair for pair in found if None not in pair]
    if len(kept) < len(found):
        logger.warning(f"{key}: {len(found) - len(kept)} of {len(found)} pairs are of images that are not there")
    pairs = lambda wanted: np.array([(a, b) for a, b, same in kept if same == wanted], np.int64).reshape(-1, 2)
    return pairs(True), pairs(False)


def write_corrections(path: str, links: Sequence[tuple[str, str]], apart: Sequence[tuple[str, str]]) -> None:
    """Writes pairs of paths that are one person, and pairs that are two, for :func:`read_corrections`."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    writer.writerows((*pair, int(same)) for same, pairs in ((True, links), (False, apart)) for pair in pairs)
    write_atomically(path, buffer.getvalue().encode("utf-8", "surrogateescape"))
