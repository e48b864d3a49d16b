"""Exact search where the rows are, on an accelerator: float32 products, the best of them scored again in float64.

The sums of a matrix product are rounded differently in different places, which would decide near ties at random. So each
row keeps a few candidates more than it needs, and these get float64 inner products rounded to float32: one number for
(a, b) and (b, a), whatever the block, the device and the number of processes. Any float32 sum of D products x_i y_i has

    |x . y  -  c|  <=  D u |x| |y|        (u = 2 ** -24; Higham, Accuracy and Stability of Numerical Algorithms, 3.1)

so once the last candidate's score c plus that bound is below the k-th best similarity, no column is missing. The rows
where it is not (crowded embeddings, many equal similarities) are compared with all others in float64. Nothing of the size
of all rows leaves the device, and nothing of size N x N is ever made.
"""

from typing import Optional

import numpy as np
import torch
from torch import Tensor

from ..utils.distributed import gather_rows, shard
from ..utils.parallel import blocks_of
from ..utils.precision import without_tf32

# Scores held at once, in elements (512 MiB of float32).
_SCORES_AT_ONCE = 1 << 27
# Elements of candidates scored again at once (128 MiB as they are gathered, twice that in float64).
_CANDIDATES_AT_ONCE = 1 << 25
# Whole rows that are sorted need room for values, indices and as much again.
_SORTED_AT_ONCE = _SCORES_AT_ONCE // 8
_SPARE_CANDIDATES = 8
# In units of D: 1.01 covers rows that are up to 1.001 long, and the second scoring's last rounding.
_ROUNDING = 1.01 * 2.0**-24


def search_on_device(
    rows: Tensor, keep: int, shared: bool = False, groups: Optional[np.ndarray] = None
) -> tuple[np.ndarray, np.ndarray]:
    """The ``keep`` most similar other rows of every row.

    Args:
        rows: (N, D), float32, unit rows, on any device.
        keep: in [1, N - 1].
        shared: all processes call this together, and each searches its share of the rows.
        groups: (N,), int64; a row is given none of its own group. None: each row is a group.

    Returns:
        similarities (N, keep) float32 and indices (N, keep) int32, best first, ties by index; -inf and -1 where there are
        fewer.
    """
    numbers = torch.arange(len(rows)) if groups is None else torch.from_numpy(groups)
    group_of = numbers.to(rows.device)
    mine = shard(len(rows)) if shared else range(len(rows))
    candidates = min(keep + _SPARE_CANDIDATES, len(rows) - 1)
    similarities = rows.new_empty(len(mine), keep)
    indices = torch.empty(len(mine), keep, dtype=torch.int32, device=rows.device)
    proven = torch.empty(len(mine), dtype=torch.bool, device=rows.device)
    # neither TF32 nor mixed precision: the bound is float32's
    with without_tf32(torch.backends.cuda.matmul), torch.autocast(rows.device.type, enabled=False):
        for start, stop in blocks_of(len(mine), max(1, _SCORES_AT_ONCE // len(rows))):
            found = _search_block(rows, group_of, mine.start + start, mine.start + stop, keep, candidates)
            similarities[start:stop], indices[start:stop], proven[start:stop] = found
        unproven = torch.nonzero(~proven)[:, 0]
        for start, stop in blocks_of(len(unproven), max(1, _SORTED_AT_ONCE // len(rows))):
            some = unproven[start:stop]
            similarities[some], indices[some] = _sort_all(rows, group_of, some + mine.start, keep)
    if shared:
        similarities, indices = gather_rows(similarities), gather_rows(indices)
    indices[similarities.isneginf()] = -1
    return similarities.cpu().numpy(), indices.cpu().numpy()


def _search_block(
    rows: Tensor, groups: Tensor, first: int, last: int, keep: int, candidates: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Similarities, indices, and whether they are proven to be all, of the rows first..last."""
    scores = rows[first:last] @ rows.T
    own = groups[first:last, None]
    scores.masked_fill_(own == groups, -torch.inf)
    scores, columns = scores.topk(candidates, dim=1)
    similarities, columns = _score_again(rows, rows[first:last], columns)
    similarities, indices = _best(similarities.masked_fill_(own == groups[columns], -torch.inf), columns, keep)
    # without float64 the second scoring is such a sum as well
    bound = _ROUNDING * (rows.shape[1] + 1) * (1 if _wide(rows) == torch.float64 else 2)
    proven = scores[:, -1] + bound < similarities[:, -1]
    return similarities, indices, proven | scores[:, -1].isneginf() | (candidates == len(rows) - 1)


def _score_again(rows: Tensor, queries: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Similarities of the queries (n, D) to their columns (n, c), and the columns, ascending."""
    columns = columns.sort(dim=1).values
    size = max(1, _CANDIDATES_AT_ONCE // (columns.shape[1] * rows.shape[1]))
    wide = _wide(rows)
    parts = [
        torch.bmm(rows[c].to(wide), q.to(wide).unsqueeze(2)).squeeze(2).float()
        for q, c in zip(queries.split(size), columns.split(size))
    ]
    return torch.cat(parts), columns


def _sort_all(rows: Tensor, groups: Tensor, some: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Similarities and indices of the rows ``some`` (n,), by comparing each with all rows in float64."""
    queries = rows[some].to(_wide(rows))
    size = max(1, _CANDIDATES_AT_ONCE // rows.shape[1])
    scores = torch.cat([(queries @ part.to(queries.dtype).T).float() for part in rows.split(size)], dim=1)
    scores.masked_fill_(groups[some, None] == groups, -torch.inf)
    return _best(scores, torch.arange(len(rows), device=rows.device).expand_as(scores), keep)


def _best(similarities: Tensor, columns: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The ``keep`` best, ties by index; columns ascending."""
    similarities, order = similarities.sort(dim=1, descending=True, stable=True)
    return similarities[:, :keep], columns.gather(1, order[:, :keep]).int()


def _wide(rows: Tensor) -> torch.dtype:
    return torch.float32 if rows.device.type == "mps" else torch.float64  # Apple's GPU has no float64
