"""The k-reciprocal Jaccard distance as a sparse graph.

Zhong, Zheng, Cao, Li, "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017; in the form that
Cluster-Contrast (Dai et al., 2021) uses for pseudo labels. Two rows have a distance below one only if their weight
vectors share a column, so nothing of size N x N is ever made: each row's weights are a few hundred numbers, and only
the pairs within the asked distance are kept.
"""

from typing import NamedTuple, Optional

import numpy as np
import torch
from scipy.sparse import csr_matrix

from ..neighbors._checks import Features, neighbor_counts, unit_interval, unit_rows
from ..neighbors.exact_search import Neighbors
from ..registry import DISTANCE, NEIGHBOR_SEARCH
from ..utils.parallel import blocks_of, for_each_block
from . import _jaccard_kernels as kernels

# Rows per task: small enough to share the work evenly, large enough that a task's scratch arrays cost nothing.
_ROWS_PER_TASK = 1024


class SparseRows(NamedTuple):
    """Sparse rows: ``columns`` and ``values`` of row i lie at ``starts[i]:starts[i + 1]``, columns ascending."""

    starts: np.ndarray  # (N + 1,) int64
    columns: np.ndarray  # (nnz,) int32
    values: np.ndarray  # (nnz,) float32


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
    def from_config(cls, cfg) -> dict:
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
        ranks = np.ascontiguousarray(ranks[:, :k1], dtype=np.int32)
        similarities = np.ascontiguousarray(similarities[:, :k1], dtype=np.float32)
        weights = expanded_neighborhoods(rows, similarities, ranks, min(int(np.around(k1 / 2)) + 1, k1))
        weights.values[:] = 2 - 2 * weights.values  # squared Euclidean distance of unit rows
        return JaccardDistances(neighborhood_weights(weights, ranks, k2))


class JaccardDistances:
    """The distances of all pairs of N rows, kept as the weights of their neighbourhoods: N x N numbers are never made.

    Args:
        weights: (N, N), the weights of every row's neighbourhood.
    """

    def __init__(self, weights: SparseRows):
        self.weights = weights

    def within(self, max_distance: float, show_progress: Optional[bool] = None) -> csr_matrix:
        """The graph of all pairs at most so far apart.

        Args:
            max_distance: in [0, 1]. Memory grows with the number of pairs kept; 1 keeps all N * N of them.
            show_progress: True or False overrules the look at the terminal.

        Returns:
            csr_matrix (N, N), float32, symmetric, column indices sorted, with the zero diagonal stored. The values do not
            depend on the number of threads.

        Raises:
            ValueError: max_distance outside [0, 1].
        """
        if unit_interval(max_distance, "max_distance") == 1.0:
            return _all_pairs(self.weights, show_progress)
        return _symmetric(*_near_pairs(self.weights, max_distance, show_progress))

    def of_rows(self, rows: np.ndarray) -> np.ndarray:
        """The distances of some rows ``rows`` (S,) to all rows: (S, N) float32 in [0, 1], equal to those of the graph."""
        starts, columns, values = self.weights
        some = _allocate(np.diff(starts)[rows])
        entries = np.concatenate([np.arange(starts[row], starts[row + 1]) for row in rows])
        some.columns[:], some.values[:] = columns[entries], values[entries]
        distances = np.zeros((len(rows), len(starts) - 1), np.float32)
        by_column, _ = transposed(self.weights)
        each_row_block(len(rows), kernels.mix_distances, *some, *by_column, 0, np.float32(1), distances)
        distances[np.arange(len(rows)), rows] = 0
        return distances


def jaccard_graph(
    features: Features,
    k1: int = 30,
    k2: int = 6,
    max_distance: float = 0.6,
    search: str = "exact",
    show_progress: Optional[bool] = None,
    neighbors: Optional[Neighbors] = None,
    **search_options,
) -> csr_matrix:
    """Every pair of rows whose k-reciprocal Jaccard distance is at most ``max_distance``.

    Args:
        features: (N, D) unit rows, numpy or torch, float32, float16 or bfloat16, on any device.
        k1: size of a neighbourhood, the row itself included, 1 <= k1 < N. Larger values join more.
        k2: neighbours whose weights are averaged (local query expansion), at least 1; 1 switches it off. A value
            above k1 means k1.
        max_distance: in [0, 1]. Memory grows with the number of pairs kept; 1 keeps all N * N of them.
        search: name of a registered neighbour search: ``"exact"``, ``"ivf"``, ``"hnsw"``.
        show_progress: True or False overrules the look at the terminal.
        neighbors: what a search for k1 neighbours of these rows gave before; nothing is searched then.
        search_options: passed on to the neighbour search.

    Returns:
        csr_matrix (N, N), float32, symmetric, column indices sorted, with the zero diagonal stored. The values do not
        depend on the number of threads.

    Raises:
        ValueError: features that are no finite unit rows, k1 outside [1, N), k2 < 1, max_distance outside [0, 1].
        A single row is allowed with any k1.
    """
    rows = unit_rows(features)
    k1, k2 = neighbor_counts(len(rows), k1, k2)
    max_distance = unit_interval(max_distance, "max_distance")
    if neighbors is None:
        neighbors = NEIGHBOR_SEARCH.get(search)(rows, k1, show_progress=show_progress, **search_options)
    return Jaccard(k1, k2)(rows, neighbors).within(max_distance, show_progress)


def jaccard_distance(
    features: Features, k1: int = 30, k2: int = 6, search: str = "exact", **search_options
) -> np.ndarray:
    """The k-reciprocal Jaccard distance of all pairs, for small N.

    The arguments are those of :func:`jaccard_graph`.

    Returns:
        (N, N) float32, symmetric, in [0, 1], zero diagonal.

    Raises:
        ValueError: as :func:`jaccard_graph`.
    """
    return jaccard_graph(features, k1, k2, 1.0, search, **search_options).toarray()


def expanded_neighborhoods(rows: torch.Tensor, similarities: np.ndarray, ranks: np.ndarray, half: int) -> SparseRows:
    """Every row's expanded k-reciprocal neighbourhood, with the similarities as values.

    Args:
        rows: (N, D) float32, whose inner products are the similarities.
        similarities, ranks: (N, k) neighbours, each row's own index first.
        half: neighbours that count for the sets which expand a neighbourhood, at most k.
    """
    num_rows, k = ranks.shape
    mutual = np.empty((num_rows, k), dtype=np.bool_)
    half_mutual = np.empty((num_rows, half), dtype=np.bool_)
    each_row_block(num_rows, kernels.mark_reciprocal, ranks, k, mutual)
    each_row_block(num_rows, kernels.mark_reciprocal, ranks, half, half_mutual)
    counts = np.empty(num_rows, dtype=np.int64)
    each_row_block(num_rows, kernels.count_expanded, ranks, mutual, half_mutual, half, counts)
    expanded = _allocate(counts)
    each_row_block(num_rows, kernels.fill_expanded, ranks, mutual, half_mutual, half, expanded.starts, expanded.columns)
    each_row_block(
        num_rows, kernels.known_similarities, expanded.starts, expanded.columns, ranks, similarities, expanded.values
    )
    _fill_missing_similarities(rows, expanded)
    return expanded


def neighborhood_weights(distances: SparseRows, ranks: np.ndarray, k2: int) -> SparseRows:
    """Softmax of minus the distances over every neighbourhood, averaged over each row's first k2 neighbours.

    Overwrites ``distances.values``.
    """
    num_rows = len(ranks)
    each_row_block(num_rows, kernels.softmax_rows, distances.starts, distances.values)
    if k2 == 1:
        return distances
    counts = np.empty(num_rows, dtype=np.int64)
    each_row_block(num_rows, kernels.count_mean_of_neighbors, ranks, k2, distances.starts, distances.columns, counts)
    mean = _allocate(counts)
    each_row_block(
        num_rows,
        kernels.fill_mean_of_neighbors,
        ranks,
        k2,
        *distances,
        *mean,
    )
    return mean


def transposed(weights: SparseRows) -> tuple[SparseRows, np.ndarray]:
    """The matrix by columns, and for every entry where it went."""
    num_rows = len(weights.starts) - 1
    by_column = _allocate(np.zeros(num_rows, dtype=np.int64), size=len(weights.columns))
    places = np.empty(len(weights.columns), dtype=np.int64)
    kernels.transpose(num_rows, *weights, *by_column, places)
    return by_column, places


def _near_pairs(weights: SparseRows, max_distance: float, show_progress: Optional[bool]) -> tuple:
    """The pairs i < j at distance <= max_distance < 1: blocks of rows, pairs per row, columns and distances per block."""
    num_rows = len(weights.starts) - 1
    by_column, places = transposed(weights)
    counts = np.zeros(num_rows, dtype=np.int64)

    def work(first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        return kernels.near_pairs(first, last, *weights, *by_column, places, np.float32(max_distance), counts)

    blocks = blocks_of(num_rows, _ROWS_PER_TASK)
    return blocks, counts, for_each_block(work, blocks, "Jaccard distances", show_progress)


def _symmetric(blocks: list, counts: np.ndarray, pieces: list) -> csr_matrix:
    """Upper triangle in pieces -> full matrix with its diagonal; pieces are freed as they are used."""
    lengths = counts + 1
    for (first, last), (columns, _) in zip(blocks, pieces):
        kernels.count_mirrored(first, last, columns, lengths)
    full = _allocate(lengths)
    cursor = full.starts[:-1].copy()
    for number, (first, last) in enumerate(blocks):
        columns, distances = pieces[number]
        pieces[number] = None
        kernels.mirror_piece(first, last, counts, columns, distances, cursor, full.columns, full.values)
    return _csr(full)


def _all_pairs(weights: SparseRows, show_progress: Optional[bool]) -> csr_matrix:
    """Every pair stored, those that share nothing at distance one."""
    near = _symmetric(*_near_pairs(weights, np.nextafter(np.float32(1.0), np.float32(0.0)), show_progress))
    num_rows = near.shape[0]
    dense = np.ones((num_rows, num_rows), dtype=np.float32)
    dense[np.repeat(np.arange(num_rows), np.diff(near.indptr)), near.indices] = near.data
    starts = np.arange(num_rows + 1, dtype=np.int64) * num_rows
    return _csr(SparseRows(starts, np.tile(np.arange(num_rows, dtype=np.int32), num_rows), dense.ravel()))


def _csr(rows: SparseRows) -> csr_matrix:
    # scipy wants both index arrays of one type; 32 bits serve as long as the number of entries fits.
    index_type = np.int32 if len(rows.columns) <= np.iinfo(np.int32).max else np.int64
    num_rows = len(rows.starts) - 1
    graph = csr_matrix((num_rows, num_rows), dtype=np.float32)
    graph.data, graph.indices, graph.indptr = (
        rows.values,
        rows.columns.astype(index_type, copy=False),
        rows.starts.astype(index_type),
    )
    graph.has_sorted_indices = True
    graph.has_canonical_format = True
    return graph


def _fill_missing_similarities(rows: torch.Tensor, weights: SparseRows) -> None:
    num_rows = len(weights.starts) - 1
    if rows.device.type == "cpu":
        each_row_block(
            num_rows, kernels.missing_similarities, weights.starts, weights.columns, rows.numpy(), weights.values
        )
        return
    missing = np.flatnonzero(np.isnan(weights.values))
    owners = np.searchsorted(weights.starts, missing, side="right") - 1
    for start in range(0, len(missing), 1 << 16):
        part = slice(start, start + (1 << 16))
        a = rows[torch.from_numpy(owners[part]).to(rows.device)]
        b = rows[torch.from_numpy(weights.columns[missing[part]].astype(np.int64)).to(rows.device)]
        weights.values[missing[part]] = (a * b).sum(dim=1).cpu().numpy()


def _allocate(counts: np.ndarray, size: Optional[int] = None) -> SparseRows:
    starts = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=starts[1:])
    size = int(starts[-1]) if size is None else size
    return SparseRows(starts, np.empty(size, dtype=np.int32), np.empty(size, dtype=np.float32))


def each_row_block(num_rows: int, kernel, *arguments) -> None:
    for_each_block(
        lambda first, last: kernel(first, last, *arguments),
        blocks_of(num_rows, _ROWS_PER_TASK),
        kernel.__name__,
        show_progress=False,
    )
