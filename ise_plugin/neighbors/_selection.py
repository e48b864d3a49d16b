"""Keep the best-scoring columns of every row while score blocks stream by.

A row keeps a buffer of twice as many candidates as it needs. A new score enters only if it beats the row's threshold,
the worst score kept at the last clean-up, so after the first blocks almost every score is refused by one vectorised
comparison. Blocks must arrive so that each row sees its columns in ascending order; then refusing equal scores is
exactly "the lower index wins a tie".

Score blocks are float32, or int16 holding the bits of bfloat16 (numba knows no bfloat16). Bits of non-negative
floats order like integers, which the gate uses.
"""

import numpy as np
from numba import njit, types
from numba.extending import overload

# Scores tested at once before anything is looked at singly. The number of columns of a block is a multiple of it, so
# that the compiler sees a loop of fixed length and makes vector comparisons of it (ten times faster than without).
CHUNK = 64
_LOWEST_BITS = -32768


def _score(stored):
    """Read a stored score as float32: float32 as it is, int16 as the upper half of a float32."""
    raise NotImplementedError("compiled code only")


@overload(_score, inline="always")
def _score_overload(stored):
    if stored == types.int16:
        return lambda stored: np.int32(np.int32(stored) << np.int32(16)).view(np.float32)
    return lambda stored: stored


def _gate(threshold, block):
    """The smallest stored value that may beat ``threshold``: a coarse test that never refuses wrongly."""
    raise NotImplementedError("compiled code only")


@overload(_gate, inline="always")
def _gate_overload(threshold, block):
    if block.dtype == types.int16:

        def bits(threshold, block):
            # Negative floats order backwards as integers, so a negative threshold lets everything through.
            if threshold < 0.0:
                return np.int16(_LOWEST_BITS)
            return np.int16(np.float32(threshold).view(np.int32) >> np.int32(16))

        return bits
    return lambda threshold, block: threshold


@njit(nogil=True, cache=True)
def _kth_largest(values, k):
    """Quickselect: the k-th largest (k >= 1) of ``values``, which is reordered."""
    low, high, target = 0, values.size - 1, k - 1
    while low < high:
        pivot = values[(low + high) // 2]
        left, right = low, high
        while left <= right:
            while values[left] > pivot:
                left += 1
            while values[right] < pivot:
                right -= 1
            if left <= right:
                values[left], values[right] = values[right], values[left]
                left += 1
                right -= 1
        if target <= right:
            high = right
        elif target >= left:
            low = left
        else:
            break
    return values[target]


@njit(nogil=True, cache=True)
def _clean_up(scores, columns, filled, keep, scratch):
    """Cut one buffer down to its best ``keep``, order of arrival kept; gives the worst score that stayed."""
    scratch[:filled] = scores[:filled]
    worst = _kth_largest(scratch[:filled], keep)
    ties_left = keep
    for position in range(filled):
        if scores[position] > worst:
            ties_left -= 1
    stayed = 0
    for position in range(filled):
        if scores[position] > worst or (scores[position] == worst and ties_left > 0):
            if scores[position] == worst:
                ties_left -= 1
            scores[stayed] = scores[position]
            columns[stayed] = columns[position]
            stayed += 1
    return worst


@njit(nogil=True, cache=True)
def _offer(score, column, row, keep, scores, columns, filled, thresholds, scratch):
    """Put one candidate into a row's buffer if it beats the row's threshold."""
    if score > thresholds[row]:
        position = filled[row]
        scores[row, position] = score
        columns[row, position] = column
        filled[row] = position + 1
        if position + 1 == scores.shape[1]:
            thresholds[row] = _clean_up(scores[row], columns[row], position + 1, keep, scratch)
            filled[row] = keep


@njit(nogil=True, cache=True)
def offer_rows(
    block, own, row_start, column_start, first, last, num_columns, keep, scores, columns, filled, thresholds
):
    """Offer the block's columns to its rows ``first..last``, to each all but the column ``own`` says is itself."""
    scratch = np.empty(scores.shape[1], dtype=np.float32)
    for i in range(first, last):
        row = row_start + i
        gate = _gate(thresholds[row], block)
        for chunk in range(0, num_columns, CHUNK):
            part = block[i, chunk : chunk + CHUNK]
            hits = np.int32(0)
            for j in range(CHUNK):
                hits += np.int32(part[j] >= gate)
            if hits == 0:
                continue
            for j in range(min(CHUNK, num_columns - chunk)):
                column = column_start + chunk + j
                if part[j] >= gate and column != own[row]:
                    _offer(_score(part[j]), column, row, keep, scores, columns, filled, thresholds, scratch)
                    gate = _gate(thresholds[row], block)


@njit(nogil=True, cache=True)
def offer_columns(block, row_start, column_start, first, last, num_rows, keep, scores, columns, filled, thresholds):
    """Offer the block's rows to its columns ``first..last``: the same block read as its own transpose.

    ``first`` is a multiple of ``CHUNK``.
    """
    scratch = np.empty(scores.shape[1], dtype=np.float32)
    gates = np.zeros(last - first + CHUNK, dtype=block.dtype)
    for j in range(first, last):
        gates[j - first] = _gate(thresholds[column_start + j], block)
    for i in range(num_rows):
        for chunk in range(first, last, CHUNK):
            part, part_gates = block[i, chunk : chunk + CHUNK], gates[chunk - first : chunk - first + CHUNK]
            hits = np.int32(0)
            for j in range(CHUNK):
                hits += np.int32(part[j] >= part_gates[j])
            if hits == 0:
                continue
            for j in range(min(CHUNK, last - chunk)):
                if part[j] >= part_gates[j]:
                    row = column_start + chunk + j
                    _offer(_score(part[j]), row_start + i, row, keep, scores, columns, filled, thresholds, scratch)
                    part_gates[j] = _gate(thresholds[row], block)


@njit(nogil=True, cache=True)
def sort_buffers(first, last, keep, scores, columns, filled):
    """Bring the best ``keep`` of rows ``first..last`` to the front of their buffers, best first, ties by index.

    Gives every row's number of candidates in ``filled``.
    """
    scratch = np.empty(scores.shape[1], dtype=np.float32)
    for row in range(first, last):
        if filled[row] > keep:
            _clean_up(scores[row], columns[row], filled[row], keep, scratch)
            filled[row] = keep
        count = filled[row]
        order = np.argsort(-scores[row, :count], kind="mergesort")
        scores[row, :count] = scores[row, :count][order]
        columns[row, :count] = columns[row, :count][order]
