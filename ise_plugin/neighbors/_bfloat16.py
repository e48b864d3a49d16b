"""Candidates by a bfloat16 matrix product, scored again in float32, and a proof per row that none was missed.

Hardware with bfloat16 dot products multiplies matrices several times faster than in float32. The product of the
rounded rows ranks all columns roughly; the best of them are scored again in float32, best first, until what is left
cannot matter any more. With x' the rounded row, e = |x - x'| and c the computed bfloat16 score,

    |x . y  -  c|  <=  e_x |y| + |x'| e_y  +  accumulation of the float32 sums  +  half the spacing of bfloat16 at c

by Cauchy-Schwarz, with the rounding residuals e as they really are (about 0.0017 for unit rows, whatever D). Once a
score plus that bound is below the k-th best float32 similarity, neither this column nor any with a lower score is
among the k best. A row whose candidates run out before that is reported, and the caller searches it in float32.
"""

from dataclasses import dataclass
from typing import Optional

import numpy as np
import torch
from numba import njit

from ..utils.distributed import shard
from ..utils.parallel import blocks_of, for_each_block
from ._all_pairs import gathered, search_all_pairs

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


@dataclass
class RoundedRows:
    """Rows rounded to bfloat16 and what is needed to bound the error of their products."""

    rows: torch.Tensor  # (N, D) bfloat16
    slopes: np.ndarray  # (N,) bound of |x . y - c| over all y, but for the rounding of c itself


def round_rows(rows: torch.Tensor) -> RoundedRows:
    """Round (N, D) float32 rows and bound the error of every row's products."""
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
    return RoundedRows(rounded, (lost * full.max() + kept * lost.max() + accumulation).astype(np.float32))


def candidates_needed(rounded: RoundedRows, keep: int) -> Optional[int]:
    """How many candidates per row will let nearly every row's proof succeed, from a sample of rows.

    Returns:
        None if that is so many that a search in float32 is the better choice.
    """
    num_rows = len(rounded.rows)
    sample = np.linspace(0, num_rows - 1, min(num_rows, _SAMPLE_ROWS)).astype(np.int64)
    scores = torch.nn.functional.linear(rounded.rows[sample], rounded.rows).float()
    scores[torch.arange(len(sample)), sample] = -np.inf
    worst = scores.topk(keep, dim=1).values[:, -1:]
    slopes = torch.from_numpy(rounded.slopes[sample])[:, None]
    # The k-th best true similarity is about the k-th best score: one bound below it, plus the rounding of the score.
    within = (scores + worst.abs() * 2.0**-8 >= worst - slopes).sum(dim=1)
    needed = int(np.quantile(within.numpy(), _SAMPLE_QUANTILE)) + _SPARE_CANDIDATES
    if needed > keep * _LARGEST_RATIO:
        return None
    return min(max(needed, keep + _SPARE_CANDIDATES), num_rows - 1)


def search_with_candidates(
    rows: torch.Tensor,
    rounded: RoundedRows,
    keep: int,
    candidates: int,
    show_progress: Optional[bool] = None,
    shared: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best ``keep`` other rows of every row; ``shared``: all processes call this together, and each does a part.

    Returns:
        similarities (N, keep) float32, indices (N, keep) int32, best first, ties by index; and proven (N,) bool: rows
        where it is False have to be searched otherwise.
    """
    buffers = search_all_pairs(rounded.rows.view(torch.int16).numpy(), candidates, _multiply, show_progress, shared)
    scores, columns = buffers.sorted()
    mine = shard(len(rows)) if shared else range(len(rows))
    similarities = np.empty((len(rows), keep), dtype=np.float32)
    indices = np.empty((len(rows), keep), dtype=np.int32)
    proven = np.empty(len(rows), dtype=np.bool_)
    features = rows.numpy()

    def work(first: int, last: int) -> None:
        first, last = first + mine.start, last + mine.start
        _score_again(
            first, last, features, scores, columns, buffers.filled, rounded.slopes, similarities, indices, proven
        )

    for_each_block(work, blocks_of(len(mine), _ROWS_PER_TASK), "scoring candidates in float32", show_progress)
    return gathered(similarities, shared), gathered(indices, shared), gathered(proven, shared)


def _multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Bits of bfloat16 in, bits of bfloat16 out."""
    a, b = (torch.from_numpy(bits).view(torch.bfloat16) for bits in (a, b))
    return torch.nn.functional.linear(a, b).view(torch.int16).numpy()


@njit(nogil=True, cache=True)
def _rounding_of_score(score):
    """Half the distance between bfloat16 numbers (8 significant bits) of that size."""
    power_of_two = np.int32(np.float32(score).view(np.int32) & np.int32(0x7F800000)).view(np.float32)
    return power_of_two * np.float32(2.0**-8)


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def dot(a, b):
    """Inner product, as four running sums over the quarters: the compiler makes vectors of them, of one sum it does not.

    The order of summation is fixed, so the result depends on nothing but the two rows.
    """
    quarter = a.size // 4
    first, second, third, fourth = np.float32(0.0), np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for d in range(quarter):
        first += a[d] * b[d]
        second += a[quarter + d] * b[quarter + d]
        third += a[2 * quarter + d] * b[2 * quarter + d]
        fourth += a[3 * quarter + d] * b[3 * quarter + d]
    for d in range(4 * quarter, a.size):
        first += a[d] * b[d]
    return (first + second) + (third + fourth)


@njit(nogil=True, cache=True)
def _score_again(first, last, features, scores, columns, filled, slopes, similarities, indices, proven):
    keep = similarities.shape[1]
    for row in range(first, last):
        proven[row] = filled[row] == features.shape[0] - 1
        count = 0
        for position in range(filled[row]):
            score = scores[row, position]
            highest = score + slopes[row] + _rounding_of_score(score)
            if count == keep and highest < similarities[row, keep - 1]:
                proven[row] = True
                break
            column = columns[row, position]
            similarity = dot(features[row], features[column])
            count = _insert(similarity, column, similarities[row], indices[row], count)
        if not proven[row]:
            # All were scored; those that never became candidates score no better than the last one.
            score = scores[row, filled[row] - 1]
            proven[row] = score + slopes[row] + _rounding_of_score(score) < similarities[row, keep - 1]


@njit(nogil=True, cache=True)
def _insert(similarity, column, similarities, indices, count):
    """Insert into a list of at most its size that is sorted best first, ties by index; gives its new length."""
    if count == similarities.size:
        worst = count - 1
        if similarity < similarities[worst] or (similarity == similarities[worst] and column > indices[worst]):
            return count
        count -= 1
    place = count
    while place > 0 and (
        similarities[place - 1] < similarity or (similarities[place - 1] == similarity and indices[place - 1] > column)
    ):
        similarities[place] = similarities[place - 1]
        indices[place] = indices[place - 1]
        place -= 1
    similarities[place] = similarity
    indices[place] = column
    return count + 1
