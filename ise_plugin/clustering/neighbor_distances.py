"""Cosine and Euclidean distance of the nearest neighbours, as sparse graphs."""

from dataclasses import dataclass
from typing import Any, Callable

import numpy as np
import torch
from scipy.sparse import csr_matrix

from ..neighbors import Neighbors
from ..neighbors.checks import Features, unit_interval, unit_rows
from ..registry import DISTANCE
from .jaccard import sparse_rows


@dataclass
class NeighborDistances:
    """Distances of N unit rows, as a function of their cosines; the graph holds pairs of neighbours alone."""

    rows: torch.Tensor  # (N, D) float32, on any device
    graph: csr_matrix  # (N, N) float32, symmetric, columns ascending, the zero diagonal stored
    of_cosines: Callable

    def within(self, max_distance: float) -> csr_matrix:
        """The pairs of neighbours at most so far apart, as :meth:`.jaccard.JaccardDistances.within` gives pairs.

        Args:
            max_distance: in [0, 1].

        Raises:
            ValueError: max_distance outside [0, 1].
        """
        kept = self.graph.data <= np.float32(unit_interval(max_distance, "max_distance"))
        counts = np.diff(np.r_[0, np.cumsum(kept)][self.graph.indptr])
        return sparse_rows(counts, self.graph.indices[kept], self.graph.data[kept])

    def of_rows(self, rows: np.ndarray) -> np.ndarray:
        """The distances of the rows ``rows`` (S,) to all rows, neighbours or not: (S, N) float32 in [0, 1]; those of the graph
        up to rounding."""
        chosen = torch.as_tensor(rows, device=self.rows.device)
        distances = self.of_cosines((self.rows[chosen] @ self.rows.T).cpu().numpy())
        distances[np.arange(len(rows)), rows] = 0
        return distances


def _cosine_distance(cosines: np.ndarray) -> np.ndarray:
    return np.clip(1 - cosines, 0, 1)


def _half_euclidean_distance(cosines: np.ndarray) -> np.ndarray:
    return np.sqrt(np.clip((1 - cosines) / 2, 0, 1))


class _OfNeighbors:
    """A pair is in the graph where either row is among the k nearest of the other (``ISE.PSEUDO_LABEL.K1`` of them)."""

    of_cosines: Callable  # float32 -> float32 in [0, 1], falling

    @classmethod
    def from_config(cls, cfg: Any) -> dict:
        """Nothing: the search knows k."""
        return {}

    def __call__(self, features: Features, neighbors: Neighbors) -> NeighborDistances:
        """
        Args:
            features: (N, D) unit rows, numpy or torch, on any device.
            neighbors: similarities and indices, (N, k), -1 where there is none, as a registered search gives them.

        Raises:
            ValueError: features that are no finite unit rows, neighbours of another number of rows.
        """
        rows, (similarities, indices) = unit_rows(features), neighbors
        if len(indices) != len(rows):
            raise ValueError(f"neighbors must be those of {len(rows)} rows, got {len(indices)}")
        return NeighborDistances(rows, _either_way(self.of_cosines(similarities), indices), self.of_cosines)


@DISTANCE.register()
class Cosine(_OfNeighbors):
    """1 - cosine of the nearest neighbours, 1 for all that is at right angles or beyond."""

    of_cosines = staticmethod(_cosine_distance)


@DISTANCE.register()
class Euclidean(_OfNeighbors):
    """Half the Euclidean distance of the nearest neighbours: unit rows are at most 2 apart, and distances lie in [0, 1]."""

    of_cosines = staticmethod(_half_euclidean_distance)


def _either_way(distances: np.ndarray, indices: np.ndarray) -> csr_matrix:
    """(N, N) symmetric, from the distances (N, k) to neighbours; the smaller where both rows have one, a zero diagonal."""
    count, own = len(indices), np.arange(len(indices))
    others = (indices >= 0) & (indices != own[:, None])
    rows, columns, values = np.nonzero(others)[0], indices[others], distances[others]
    keys = np.r_[rows * count + columns, columns * count + rows, own * count + own]
    order = np.argsort(keys, kind="stable")
    keys, starts = np.unique(keys[order], return_index=True)
    nearest = np.minimum.reduceat(np.r_[values, values, np.zeros(count, np.float32)][order], starts)
    return sparse_rows(
        np.bincount(keys // count, minlength=count), keys % count, nearest.astype(np.float32, copy=False)
    )
