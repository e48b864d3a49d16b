"""Candidates by a bfloat16 matrix product, scored again in float32, and a proof per row that none was missed.

Hardware with bfloat16 dot products multiplies matrices several times faster than in float32. The product of the
rounded rows ranks all columns roughly; the best of them are scored again in float32, best first, until what is left
cannot matter any more. With x' the rounded row, e = |x - x'| and c the computed bfloat16 score,

    |x . y  -  c|  <=  e_x |y| + |x'| e_y  +  accumulation of the float32 sums  +  half the spacing of bfloat16 at c

by Cauchy-Schwarz, with the rounding residuals e as they really are (about 0.0017 for unit rows, whatever D). Once a
score plus that bound is below the k-th best float32 similarity, neither this column nor any with a lower score is
among the k best. A row whose candidates run out before that is reported, and the caller searches it in float32.
"""

from typing import Optional

import numpy as np
import torch

from ..utils.distributed import shard
from ..utils.parallel import blocks_of, for_each_block
from . import kernels
from .all_pairs import gathered, search_all_pairs

_UNIT_ROUNDOFF = 2.0**-24
# The residuals are themselves computed in float32.
_RESIDUAL_SAFETY = 1.001
_SAMPLE_ROWS = 256
# Candidates per row cover this part of the sampled rows; a few more make up for the sample's own luck.
_SAMPLE_QUANTILE = 0.98
_SPARE_CANDIDATES = 8
# Beyond this many candidates for each neighbour the second scoring costs more than the fast product saves.
_LARGEST_RATIO = 8
_ROWS_PER_TASK = 256


def round_rows(rows: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
    """Round (N, D) float32 rows to bfloat16 and bound the error of every row's products.

    Returns:
        (N, D) bfloat16; slopes (N,) float32, bounds of |x . y - c| over all y, but for the rounding of c itself.
    """
    rounded = torch.empty_like(rows, dtype=torch.bfloat16)
    lengths = torch.empty(3, len(rows))
    for start, stop in blocks_of(len(rows), _ROWS_PER_TASK):
        block = rows[start:stop]
        rounded[start:stop] = block
        back = rounded[start:stop].float()
        for out, value in zip(lengths, (block, back, block - back)):
            out[start:stop] = torch.linalg.vector_norm(value, dim=1)
    full, kept, lost = lengths.numpy() * _RESIDUAL_SAFETY
    # Bounds of sums of D products hold in any order of summation. Twice the usual one for the low-precision product,
    # whose hardware rounds inside a pair of products too; once for the second scoring.
    accumulation = 3 * rows.shape[1] * _UNIT_ROUNDOFF * full * full.max()
    return rounded, (lost * full.max() + kept * lost.max() + accumulation).astype(np.float32)


def candidates_needed(
    rounded: torch.Tensor, slopes: np.ndarray, keep: int, groups: Optional[np.ndarray] = None
) -> Optional[int]:
    """How many candidates per row will let nearly every row's proof succeed, from a sample of rows.

    Returns:
        None if that is so many that a search in float32 is the better choice.
    """
    num_rows = len(rounded)
    sample = np.linspace(0, num_rows - 1, min(num_rows, _SAMPLE_ROWS)).astype(np.int64)
    scores = torch.nn.functional.linear(rounded[sample], rounded).float()
    groups = np.arange(num_rows) if groups is None else groups
    scores[torch.from_numpy(groups[sample][:, None] == groups)] = -np.inf
    worst = scores.topk(keep, dim=1).values[:, -1:]
    # The k-th best true similarity is about the k-th best score: one bound below it, plus the rounding of the score.
    within = (scores + worst.abs() * 2.0**-8 >= worst - torch.from_numpy(slopes[sample])[:, None]).sum(dim=1)
    needed = int(np.quantile(within.numpy(), _SAMPLE_QUANTILE)) + _SPARE_CANDIDATES
    if needed > keep * _LARGEST_RATIO:
        return None
    return min(max(needed, keep + _SPARE_CANDIDATES), num_rows - 1)


def search_with_candidates(
    rows: torch.Tensor,
    rounded: torch.Tensor,
    slopes: np.ndarray,
    keep: int,
    candidates: int,
    shared: bool = False,
    groups: Optional[np.ndarray] = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best ``keep`` other rows of every row; ``shared``: all processes call this together, and each does a part.

    Returns:
        similarities (N, keep) float32, indices (N, keep) int32, best first, ties by index; and proven (N,) bool: rows
        where it is False have to be searched otherwise.
    """
    buffers = search_all_pairs(rounded.view(torch.int16).numpy(), candidates, _multiply, shared, groups)
    scores, columns = buffers.sorted()
    mine = shard(len(rows)) if shared else range(len(rows))
    shape = len(rows), keep
    found = np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int32), np.empty(len(rows), np.bool_)
    arrays = rows.numpy(), scores, columns, buffers.filled, slopes, *found
    work = lambda first, last: kernels.score_again(first + mine.start, last + mine.start, *arrays)
    for_each_block(work, blocks_of(len(mine), _ROWS_PER_TASK), "scoring candidates in float32")
    similarities, indices, proven = (gathered(part, shared) for part in found)
    return similarities, indices, proven


def _multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Bits of bfloat16 in, bits of bfloat16 out."""
    rows, columns = (torch.from_numpy(bits).view(torch.bfloat16) for bits in (a, b))
    return torch.nn.functional.linear(rows, columns).view(torch.int16).numpy()
