"""The k-reciprocal Jaccard distance as a sparse graph.

Zhong, Zheng, Cao, Li, "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017; in the form that
Cluster-Contrast (Dai et al., 2021) uses for pseudo labels. Two rows have a distance below one only if their weight
vectors share a column, so nothing of size N x N is ever made: each row's weights are a few hundred numbers, and only
the pairs within the asked distance are kept.
"""

from dataclasses import dataclass
from typing import Any, Callable, Union

import numpy as np
import torch
from scipy.sparse import csc_matrix, csr_matrix, hstack

from ..neighbors import Neighbors
from ..neighbors.checks import Features, neighbor_counts, unit_interval, unit_rows
from ..registry import DISTANCE, NEIGHBOR_SEARCH
from ..utils.parallel import blocks_of, for_each_block
from . import _kernels as kernels

# Rows per task: small enough to share the work evenly, large enough that a task's scratch arrays cost nothing.
_ROWS_PER_TASK = 1024
# The same where a task's scratch is a whole row of distances.
_WHOLE_ROWS_PER_TASK = 64
# Similarities computed at once on an accelerator.
_PAIRS_AT_ONCE = 1 << 16


@DISTANCE.register()
class Jaccard:
    """The k-reciprocal Jaccard distance, from the nearest neighbours of all rows.

    Args:
        k1: size of a neighbourhood, the row itself included, at least 1. Larger values join more.
        k2: neighbours whose weights are averaged (local query expansion), at least 1; 1 switches it off. A value
            above k1 means k1.
    """

    def __init__(self, k1: int = 30, k2: int = 6):
        self.k1, self.k2 = k1, k2

    @classmethod
    def from_config(cls, cfg: Any) -> dict:
        """k1 and k2 as ``ISE.PSEUDO_LABEL`` has them."""
        return {"k1": cfg.ISE.PSEUDO_LABEL.K1, "k2": cfg.ISE.PSEUDO_LABEL.K2}

    def __call__(self, features: Features, neighbors: Neighbors) -> "JaccardDistances":
        """Makes the neighbourhood weights, from which all distances follow.

        Args:
            features: (N, D) unit rows, numpy or torch, on any device.
            neighbors: similarities and indices, (N, k) with k >= k1, as a registered search gives them.

        Raises:
            ValueError: features that are no finite unit rows, k1 outside [1, N), k2 < 1, fewer than k1 neighbours. A single
            row is allowed with any k1.
        """
        rows = unit_rows(features)
        k1, k2 = neighbor_counts(len(rows), self.k1, self.k2)
        similarities, ranks = neighbors
        if ranks.shape[1] < k1:
            raise ValueError(f"neighbors must hold k1 = {k1} of every row, got {ranks.shape[1]}")
        half = min(int(np.around(k1 / 2)) + 1, k1)
        weights = expanded_neighborhoods(rows, similarities[:, :k1], ranks[:, :k1], half)
        weights.data[:] = 2 - 2 * weights.data  # squared Euclidean distance of unit rows
        return JaccardDistances(neighborhood_weights(weights, ranks[:, :k2]))


@dataclass
class JaccardDistances:
    """The distances of all pairs of N rows, kept as the weights of their neighbourhoods."""

    weights: csr_matrix  # (N, N) float32, the weights of every row's neighbourhood, columns ascending

    def within(self, max_distance: float) -> csr_matrix:
        """The graph of all pairs at most so far apart.

        Args:
            max_distance: in [0, 1]. Memory grows with the number of pairs kept; 1 keeps all N * N of them.

        Returns:
            csr_matrix (N, N), float32, symmetric, column indices sorted, with the zero diagonal stored. The values do not
            depend on the number of threads.

        Raises:
            ValueError: max_distance outside [0, 1].
        """
        count = self.weights.shape[0]
        if unit_interval(max_distance, "max_distance") == 1.0:
            columns = np.tile(np.arange(count, dtype=np.int32), count)
            return sparse_rows(np.full(count, count), columns, self.of_rows(np.arange(count)).ravel())
        arrays = *_arrays(self.weights), *_arrays(self.weights.tocsc())
        upper = _rows_of_blocks(count, kernels.near_pairs, *arrays, np.float32(max_distance))
        del arrays  # the matrix by columns is as large as the weights
        return _symmetric(upper)

    def of_rows(self, rows: np.ndarray) -> np.ndarray:
        """The distances of the rows ``rows`` (S,) to all rows: (S, N) float32 in [0, 1], equal to those of the graph."""
        distances = np.zeros((len(rows), self.weights.shape[0]), np.float32)
        add_distances(self.weights[rows], self.weights.tocsc(), 0, 1.0, distances)
        distances[np.arange(len(rows)), rows] = 0
        return distances


def jaccard_graph(
    features: Features, k1: int = 30, k2: int = 6, max_distance: float = 0.6, search: str = "exact", **options: Any
) -> csr_matrix:
    """Every pair of rows whose k-reciprocal Jaccard distance is at most ``max_distance``.

    Args:
        features: (N, D) unit rows, numpy or torch, float32, float16 or bfloat16, on any device.
        k1, k2: see :class:`Jaccard`; 1 <= k1 < N.
        max_distance: in [0, 1]. Memory grows with the number of pairs kept; 1 keeps all N * N of them.
        search: name of a registered neighbour search: ``"exact"``, ``"ivf"``, ``"hnsw"``.
        options: passed on to the neighbour search.

    Returns:
        as :meth:`JaccardDistances.within`.

    Raises:
        ValueError: features that are no finite unit rows, k1 outside [1, N), k2 < 1, max_distance outside [0, 1].
        A single row is allowed with any k1.
    """
    return _distances(features, k1, k2, search, options).within(max_distance)


def jaccard_distance(
    features: Features, k1: int = 30, k2: int = 6, search: str = "exact", **options: Any
) -> np.ndarray:
    """The k-reciprocal Jaccard distance of all pairs, for small N.

    The arguments and errors are those of :func:`jaccard_graph`.

    Returns:
        (N, N) float32, symmetric, in [0, 1], zero diagonal.
    """
    distances = _distances(features, k1, k2, search, options)
    return distances.of_rows(np.arange(distances.weights.shape[0]))


def _distances(features: Features, k1: int, k2: int, search: str, options: dict) -> JaccardDistances:
    rows = unit_rows(features)
    k1, k2 = neighbor_counts(len(rows), k1, k2)
    return Jaccard(k1, k2)(rows, NEIGHBOR_SEARCH.get(search)(rows, k1, **options))


def expanded_neighborhoods(rows: torch.Tensor, similarities: np.ndarray, ranks: np.ndarray, half: int) -> csr_matrix:
    """Every row's expanded k-reciprocal neighbourhood, with the similarities as values.

    Args:
        rows: (N, D) float32, whose inner products are the similarities.
        similarities, ranks: (N, k) neighbours, each row's own index first.
        half: neighbours that count for the sets which expand a neighbourhood, at most k.

    Returns:
        (N, N) float32, columns ascending.
    """
    similarities, ranks = np.ascontiguousarray(similarities, np.float32), np.ascontiguousarray(ranks, np.int32)
    mutual, half_mutual = reciprocal(ranks), reciprocal(ranks[:, :half])
    expanded = _rows_of_blocks(len(ranks), kernels.expanded_neighborhoods, ranks, similarities, mutual, half_mutual)
    if rows.device.type == "cpu":
        starts, columns, values = _arrays(expanded)
        _each_row_block(len(ranks), kernels.missing_similarities, starts, columns, rows.numpy(), values)
    else:
        _fill_on_device(rows, expanded)
    return expanded


def reciprocal(ranks: np.ndarray) -> np.ndarray:
    """(N, k) bool, whether a row is in the list of the row that its own list has there; not where that is -1, none."""
    ranks, marks = np.ascontiguousarray(ranks, np.int32), np.empty(ranks.shape, np.bool_)
    _each_row_block(len(ranks), kernels.mark_reciprocal, ranks, marks)
    return marks


def _fill_on_device(rows: torch.Tensor, expanded: csr_matrix) -> None:
    missing = np.flatnonzero(np.isnan(expanded.data))
    owners = np.searchsorted(expanded.indptr, missing, side="right") - 1
    for start, stop in blocks_of(len(missing), _PAIRS_AT_ONCE):
        entries = missing[start:stop]
        pairs = owners[start:stop], expanded.indices[entries]
        a, b = (rows[torch.from_numpy(index.astype(np.int64)).to(rows.device)] for index in pairs)
        expanded.data[entries] = (a * b).sum(dim=1).cpu().numpy()


def neighborhood_weights(distances: csr_matrix, averaged: np.ndarray) -> csr_matrix:
    """Softmax of minus the distances over every neighbourhood, averaged over the rows (N, k2) that each row names: itself
    first, -1 where there is none.

    Overwrites the values of ``distances``.
    """
    _each_row_block(len(averaged), kernels.softmax_rows, distances.indptr, distances.data)
    if averaged.shape[1] == 1:
        return distances
    there = averaged >= 0
    counts = there.sum(axis=1)
    ones, starts = np.ones(counts.sum(), np.float32), np.concatenate([[0], np.cumsum(counts)])
    sums = csr_matrix((ones, averaged[there], starts), shape=distances.shape) @ distances
    sums.data /= np.repeat(counts.astype(np.float32), np.diff(sums.indptr))
    sums.sort_indices()  # so that sums over shared columns run in one order
    return sums


def add_distances(some: csr_matrix, by_column: csc_matrix, offset: int, share: float, sums: np.ndarray) -> None:
    """Adds ``share`` times the distance between the i-th of some rows (S, N) of the weights and row offset + j of them to
    ``sums`` (S, M) float32; ``by_column`` are all weights."""
    arrays = *_arrays(some), *_arrays(by_column), offset, np.float32(share), sums
    _each_row_block(len(sums), kernels.add_distances, *arrays, rows_per_task=_WHOLE_ROWS_PER_TASK)


def _arrays(matrix: Union[csr_matrix, csc_matrix]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each row (or column) begins, and the indices and values of the entries, as the kernels take them."""
    return matrix.indptr, matrix.indices, matrix.data


def _each_row_block(num_rows: int, kernel: Callable, *arguments: Any, rows_per_task: int = 0) -> list:
    """Calls a kernel for all blocks of rows, in threads; what it returns for each."""
    work = lambda first, last: kernel(first, last, *arguments)
    return for_each_block(work, blocks_of(num_rows, rows_per_task or _ROWS_PER_TASK), kernel.__name__.replace("_", " "))


def _rows_of_blocks(num_rows: int, kernel: Callable, *arguments: Any) -> csr_matrix:
    """(N, N), from a kernel that returns the columns and values of a block and fills ``counts``."""
    counts = np.zeros(num_rows, dtype=np.int64)
    columns, values = zip(*_each_row_block(num_rows, kernel, counts, *arguments))
    return sparse_rows(counts, np.concatenate(columns), np.concatenate(values))


def _symmetric(upper: csr_matrix) -> csr_matrix:
    """The full matrix with its zero diagonal, from the triangle above it."""
    count = upper.shape[0]
    diagonal = csr_matrix((np.zeros(count, np.float32), np.arange(count), np.arange(count + 1)))
    beside = hstack([upper.T.tocsr(), diagonal, upper], format="csr")  # a sum would lose the zeros that are stored
    beside.indices %= count
    return sparse_rows(np.diff(beside.indptr), beside.indices, beside.data)


def sparse_rows(counts: np.ndarray, columns: np.ndarray, values: np.ndarray) -> csr_matrix:
    """(N, N) with so many entries in every row, columns ascending."""
    starts = np.concatenate([[0], np.cumsum(counts)])
    # scipy wants both index arrays of one type; 32 bits serve as long as the number of entries fits
    index_type = np.int32 if starts[-1] <= np.iinfo(np.int32).max else np.int64
    parts = values, columns.astype(index_type, copy=False), starts.astype(index_type)
    matrix = csr_matrix(parts, shape=(len(counts), len(counts)))
    matrix.has_sorted_indices = matrix.has_canonical_format = True
    return matrix
