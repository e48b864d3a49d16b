"""Retrieval measured as person re-identification does: CMC, average precision, inverse negative penalty.

The protocol is Market-1501's (Zheng et al., ICCV 2015), in fastreid's reading (``fastreid.evaluation.rank``): gallery images
of the query's identity by the query's own camera are left out, a query without any other image of its identity does not
count. fastreid sorts all indices and walks every row in Python; here rows of distances are sorted as they are, and only the
places of the matches are looked up, so that the cost is that of the sorting.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..utils.parallel import blocks_of, for_each_block

# Rows that one thread sorts at a time.
_ROWS_PER_TASK = 16


class Ranking(NamedTuple):
    """How well queries find their matches.

    Attributes:
        cmc: (R,), float32: share of the queries that count with a match among the first 1..R.
        average_precision, inverse_penalty: (Q,), float64, in [0, 1]; NaN for a query that does not count.
    """

    cmc: np.ndarray
    average_precision: np.ndarray
    inverse_penalty: np.ndarray


class RankingMeter:
    """Takes distances block by block, so that no matrix of all pairs is needed.

    Args:
        identities, cameras: (G,), int64, of the gallery.
        max_rank: R; no more than G are used.
    """

    def __init__(self, identities: np.ndarray, cameras: np.ndarray, max_rank: int = 50):
        self._identities, self._cameras = (torch.as_tensor(np.asarray(a)) for a in (identities, cameras))
        self._first_matches = np.zeros(min(max_rank, len(identities)), np.int64)
        self._precisions: list[np.ndarray] = []
        self._penalties: list[np.ndarray] = []

    def add(self, distances: Tensor, identities: np.ndarray, cameras: np.ndarray) -> None:
        """
        Args:
            distances: (Q, G), float32, on any device; what is nearest has the smallest.
            identities, cameras: (Q,), int64, of these queries.
        """
        device, (rows, columns) = distances.device, distances.shape
        gallery = self._identities.to(device), self._cameras.to(device)
        query = (torch.as_tensor(np.asarray(a)).to(device)[:, None] for a in (identities, cameras))
        same, same_camera = (theirs == ours for theirs, ours in zip(gallery, query))
        places = _places(distances)
        matches, left_out = (_sorted_places(places, which) for which in (same & ~same_camera, same & same_camera))
        row, place = matches // columns, matches % columns
        place = place - (np.searchsorted(left_out, matches) - np.searchsorted(left_out, row * columns))
        counts = np.bincount(row, minlength=rows)
        valid = counts > 0
        precisions, penalties = (np.full(rows, np.nan) for _ in range(2))
        self._precisions.append(precisions)
        self._penalties.append(penalties)
        if not valid.any():
            return
        counts = counts[valid]
        starts = np.cumsum(counts) - counts
        hits = np.arange(len(place)) - np.repeat(starts, counts) + 1  # matches up to and with this one
        precisions[valid] = np.add.reduceat(hits / (place + 1.0), starts) / counts
        penalties[valid] = counts / (place[starts + counts - 1] + 1.0)
        first = place[starts]
        np.add.at(self._first_matches, first[first < len(self._first_matches)], 1)

    def result(self) -> Ranking:
        """
        Raises:
            ValueError: no query has a match.
        """
        precisions, penalties = (np.concatenate([*parts, []]) for parts in (self._precisions, self._penalties))
        count = np.isfinite(precisions).sum()
        if not count:
            raise ValueError("no query has an image of its identity by another camera in the gallery")
        cmc = self._first_matches.cumsum().astype(np.float32) / np.float32(count)
        return Ranking(cmc, precisions, penalties)


def _places(distances: Tensor) -> Tensor:
    """(Q, G), int64: where each gallery image comes in its query's order, from 0."""
    order = torch.argsort(distances, dim=1, stable=True) if distances.is_cuda else _numpy_order(distances)
    ascending = torch.arange(distances.shape[1], device=distances.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, ascending)


def _numpy_order(distances: Tensor) -> Tensor:
    """argsort as fastreid has it: what numpy makes of equal distances, on all threads."""
    values, order = distances.cpu().numpy(), np.empty(distances.shape, np.int64)

    def sort(first: int, last: int) -> None:
        order[first:last] = np.argsort(values[first:last], axis=1)

    for_each_block(sort, blocks_of(len(values), _ROWS_PER_TASK), "ranking", show_progress=False)
    return torch.from_numpy(order).to(distances.device)


def _sorted_places(places: Tensor, which: Tensor) -> np.ndarray:
    """row * G + place of the entries of a mask (Q, G), ascending."""
    rows, columns = which.nonzero(as_tuple=True)
    return torch.sort(rows * places.shape[1] + places[rows, columns]).values.cpu().numpy()
