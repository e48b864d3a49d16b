"""Compiled loops of the neighbour searches: candidates kept while score blocks stream by, scoring again, copies of rows.

A row keeps a buffer of twice as many candidates as it needs. A new score enters only if it beats the row's threshold,
the worst score kept at the last clean-up, so after the first blocks almost every score is refused by one vectorised
comparison. Blocks must arrive so that each row sees its columns in ascending order; then refusing equal scores is
exactly "the lower index wins a tie".

Every kernel works on the rows ``first..last`` and writes to nothing else. Their arrays, for n rows asked for among N:

    block                 (b, b)         float32, products of rows and columns; or int16, the bits of bfloat16, which numba does
                                         not know: those of non-negative floats order like integers, which the gate uses
    scores, columns       (n, 2 * keep)  float32, int32: buffers of candidates
    filled, thresholds    (n,)           int32, float32: candidates in each buffer, the score that a new one has to beat
    own, groups           (n,), (N,)     int64, the group of each row and column; a column of the row's own group is no candidate.
                                         Where every row may have all others, each is a group of its own
    features              (N, D)         float32
    similarities, indices (N, k)         float32, int32: the outcome, best first, ties by index
    slopes, proven        (N,)           float32, bool: bound of a score's error; whether no neighbour can be missing
    group, members        (N,)           int64: 0..U-1, equal rows form a group; rows by group
    starts                (U + 1,)       int64, where the members of a group begin
"""

import numpy as np
from numba import njit, types
from numba.extending import overload

# Scores tested at once before anything is looked at singly. The number of columns of a block is a multiple of it, so
# that the compiler sees a loop of fixed length and makes vector comparisons of it (ten times faster than without).
CHUNK = 64


def _score(stored):
    """Read a stored score as float32: float32 as it is, int16 as the upper half of a float32. Compiled code only."""


@overload(_score, inline="always")
def _score_overload(stored):
    if stored == types.int16:
        return lambda stored: np.int32(np.int32(stored) << np.int32(16)).view(np.float32)
    return lambda stored: stored


def _gate(threshold, block):
    """The smallest stored value that may beat ``threshold``: a coarse test, never wrongly refusing. Compiled only."""


@overload(_gate, inline="always")
def _gate_overload(threshold, block):
    if block.dtype == types.int16:

        def bits(threshold, block):
            # Negative floats order backwards as integers, so a negative threshold lets everything through.
            if threshold < 0.0:
                return np.int16(-32768)
            return np.int16(np.float32(threshold).view(np.int32) >> np.int32(16))

        return bits
    return lambda threshold, block: threshold


@njit(nogil=True, cache=True)
def _clean_up(scores, columns, filled, keep):
    """Cut one buffer down to its best ``keep``, order of arrival kept; gives the worst score that stayed."""
    worst = np.partition(scores[:filled], filled - keep)[filled - keep]
    ties_left = keep - np.sum(scores[:filled] > worst)
    stayed = 0
    for position in range(filled):
        if scores[position] > worst or (scores[position] == worst and ties_left > 0):
            ties_left -= scores[position] == worst
            scores[stayed], columns[stayed] = scores[position], columns[position]
            stayed += 1
    return worst


@njit(nogil=True, cache=True)
def _offer(score, column, row, keep, scores, columns, filled, thresholds):
    """Put one candidate into a row's buffer if it beats the row's threshold."""
    if score > thresholds[row]:
        position = filled[row]
        scores[row, position], columns[row, position] = score, column
        filled[row] = position + 1
        if position + 1 == scores.shape[1]:
            thresholds[row] = _clean_up(scores[row], columns[row], position + 1, keep)
            filled[row] = keep


@njit(nogil=True, cache=True)
def offer_rows(
    block, own, groups, row_start, column_start, first, last, num_columns, keep, scores, columns, filled, thresholds
):
    """Offer the block's columns to its rows ``first..last``."""
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
                if part[j] >= gate and groups[column] != own[row]:
                    _offer(_score(part[j]), column, row, keep, scores, columns, filled, thresholds)
                    gate = _gate(thresholds[row], block)


@njit(nogil=True, cache=True)
def offer_columns(
    block, own, groups, row_start, column_start, first, last, num_rows, keep, scores, columns, filled, thresholds
):
    """Offer the block's rows to its columns ``first..last``: the same block read as its own transpose.

    ``first`` is a multiple of ``CHUNK``.
    """
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
                row = column_start + chunk + j
                if part[j] >= part_gates[j] and groups[row_start + i] != own[row]:
                    _offer(_score(part[j]), row_start + i, row, keep, scores, columns, filled, thresholds)
                    part_gates[j] = _gate(thresholds[row], block)


@njit(nogil=True, cache=True)
def sort_buffers(first, last, keep, scores, columns, filled):
    """Bring every row's best ``keep`` to the front, best first, ties by index; ``filled`` says how many there are. After them
    come -inf and -1."""
    for row in range(first, last):
        if filled[row] > keep:
            _clean_up(scores[row], columns[row], filled[row], keep)
            filled[row] = keep
        count = filled[row]
        order = np.argsort(-scores[row, :count], kind="mergesort")
        scores[row, :count] = scores[row, :count][order]
        columns[row, :count] = columns[row, :count][order]
        scores[row, count:keep], columns[row, count:keep] = -np.inf, -1


@njit(nogil=True, cache=True)
def rounding_of_score(score):
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
def score_again(first, last, features, scores, columns, filled, slopes, similarities, indices, proven):
    keep = similarities.shape[1]
    for row in range(first, last):
        # all that may be neighbours were scored: candidates would have held one more, or there are no others
        proven[row] = filled[row] < scores.shape[1] or filled[row] == features.shape[0] - 1
        count = 0
        for position in range(filled[row]):
            score = scores[row, position]
            highest = score + slopes[row] + rounding_of_score(score)
            if count == keep and highest < similarities[row, keep - 1]:
                proven[row] = True
                break
            column = columns[row, position]
            similarity = dot(features[row], features[column])
            count = _insert(similarity, column, similarities[row], indices[row], count)
        if not proven[row]:
            # All were scored; those that never became candidates score no better than the last one.
            score = scores[row, filled[row] - 1]
            proven[row] = score + slopes[row] + rounding_of_score(score) < similarities[row, keep - 1]


@njit(nogil=True, cache=True)
def _insert(similarity, column, similarities, indices, count):
    """Insert into a list of at most its size that is sorted best first, ties by index; gives its new length."""
    size, place = similarities.size, count
    while place > 0 and (similarity, -column) > (similarities[place - 1], -indices[place - 1]):
        if place < size:
            similarities[place], indices[place] = similarities[place - 1], indices[place - 1]
        place -= 1
    if place < size:
        similarities[place], indices[place] = similarity, column
    return min(count + 1, size)


@njit(nogil=True, cache=True)
def spread(first, last, group, starts, members, own, similarities, groups, found, indices):
    keep = found.shape[1]
    for row in range(first, last):
        count = 0
        for position in range(-1, groups.shape[1]):
            here = group[row] if position < 0 else groups[group[row], position]
            similarity = own[here] if position < 0 else similarities[group[row], position]
            for place in range(starts[here], starts[here + 1]):
                if members[place] != row and count < keep:
                    indices[row, count] = members[place]
                    found[row, count] = similarity
                    count += 1
