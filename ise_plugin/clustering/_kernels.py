"""Compiled loops of the k-reciprocal Jaccard distance and of DBSCAN; ``jaccard.py`` and ``clusterers.py`` say what they compute.

Every kernel works on the rows ``first..last`` and writes to nothing else. Rows with a number of entries that is not known
before come back as the block's columns and values, and ``counts`` tells how many belong to each row. Columns ascend within a
row, so that sums run in the same order for (i, j) and (j, i) and on any number of threads. Their arrays:

    ranks, similarities   (N, k)    int32, float32: the nearest rows of every row, itself first, and their cosines
    mutual, half_mutual   (N, k)    bool, whether the row is among the k (the first ``half``) of its own p-th
    starts                (N + 1,)  int32 (int64 beyond 2 ** 31 entries), where the entries of each sparse row begin
    columns, values       (nnz,)    of the type of ``starts``, float32: the entries of sparse rows
    by_column_...                   the same matrix by columns, rows ascending
    counts                (N,)      int64, entries of every row
"""

import numpy as np
from numba import njit

from ..neighbors.kernels import dot


@njit(nogil=True, cache=True)
def mark_reciprocal(first, last, ranks, marks):
    """marks[i, p] = whether i is among the neighbours of its own p-th; -1 is none."""
    for i in range(first, last):
        for p in range(ranks.shape[1]):
            marks[i, p] = False
            if ranks[i, p] >= 0:
                for q in range(ranks.shape[1]):
                    marks[i, p] |= ranks[ranks[i, p], q] == i


@njit(nogil=True, cache=True)
def expanded_neighborhoods(first, last, counts, ranks, similarities, mutual, half_mutual):
    """The expanded neighbour sets R*(i), with the similarities that the search has returned, from either side, or NaN."""
    half = half_mutual.shape[1]
    stamps = np.full(ranks.shape[0], -1, dtype=np.int32)
    inner = np.full(ranks.shape[0], -1, dtype=np.int32)
    found = np.empty(ranks.shape[1] * (half + 1), dtype=np.int32)
    columns, values = _room_for(first, last)
    end = 0
    for i in range(first, last):
        counts[i] = _expand(i, ranks, mutual, half_mutual, stamps, inner, found)
        columns, values = _with_room(columns, values, end + counts[i])
        for j in np.sort(found[: counts[i]]):
            columns[end], values[end] = j, _known_similarity(i, j, ranks, similarities)
            end += 1
    return columns[:end].copy(), values[:end].copy()


@njit(nogil=True, cache=True)
def _expand(i, ranks, mutual, half_mutual, stamps, inner, found):
    """R(i) and every half-size set that lies in it by more than two thirds. Stamped with i means present."""
    half = half_mutual.shape[1]
    count = 0
    for p in range(ranks.shape[1]):
        if mutual[i, p]:
            inner[ranks[i, p]] = i
            stamps[ranks[i, p]] = i
            found[count] = ranks[i, p]
            count += 1
    for p in range(count):
        candidate = found[p]
        size, shared = 0, 0
        for q in range(half):
            if half_mutual[candidate, q]:
                size += 1
                shared += inner[ranks[candidate, q]] == i
        if 3 * shared <= 2 * size:
            continue
        for q in range(half):
            neighbor = ranks[candidate, q]
            if half_mutual[candidate, q] and stamps[neighbor] != i:
                stamps[neighbor] = i
                found[count] = neighbor
                count += 1
    return count


@njit(nogil=True, cache=True)
def _known_similarity(i, j, ranks, similarities):
    value = np.float32(np.nan)
    for p in range(ranks.shape[1]):
        if ranks[i, p] == j:
            value = similarities[i, p]
        elif ranks[j, p] == i:
            value = similarities[j, p]
    return value


@njit(nogil=True, cache=True)
def missing_similarities(first, last, starts, columns, features, values):
    """Compute the similarities that are NaN; ``features`` (N, D) float32."""
    for i in range(first, last):
        for entry in range(starts[i], starts[i + 1]):
            if np.isnan(values[entry]):
                values[entry] = dot(features[i], features[columns[entry]])


@njit(nogil=True, cache=True)
def softmax_rows(first, last, starts, values):
    """Replace distances by the softmax of minus the distance within every row."""
    for i in range(first, last):
        total = np.float32(0.0)
        for entry in range(starts[i], starts[i + 1]):
            values[entry] = np.exp(-values[entry])
            total += values[entry]
        for entry in range(starts[i], starts[i + 1]):
            values[entry] /= total


@njit(nogil=True, cache=True)
def _room_for(first, last):
    """Arrays for the entries of a block."""
    size = 16 * (last - first) + 16
    return np.empty(size, dtype=np.int32), np.empty(size, dtype=np.float32)


@njit(nogil=True, cache=True)
def _with_room(columns, values, size):
    """The same arrays, or longer copies where they hold less than ``size``."""
    if size <= columns.size:
        return columns, values
    longer, longer_values = np.empty(2 * size, dtype=columns.dtype), np.empty(2 * size, dtype=values.dtype)
    longer[: columns.size], longer_values[: values.size] = columns, values
    return longer, longer_values


@njit(nogil=True, cache=True)
def _distance(mass):
    """d = 1 - m / (2 - m) of the shared mass m, clipped below at zero."""
    return max(np.float32(0.0), np.float32(1.0) - mass / (np.float32(2.0) - mass))


@njit(nogil=True, cache=True)
def near_pairs(
    first, last, counts, starts, columns, values, by_column_starts, by_column_rows, by_column_values, max_distance
):
    """Pairs i < j at distance <= max_distance.

    A pair counts as near only if the shared mass m(i, j) = sum over shared columns of the smaller weight reaches
    2 (1 - d) / (2 - d), which solves d = 1 - m / (2 - m). So row i may leave out columns that together weigh less than that:
    its most crowded ones, which hold most of the work and little of the news. m is summed in full only for the rows that can
    still reach the bound.
    """
    needed = np.float32(2.0 * (1.0 - max_distance) / (2.0 - max_distance) - _ROUNDING_SLACK)
    mass = np.zeros(counts.size, dtype=np.float32)
    touched = np.empty(counts.size, dtype=np.int32)
    near, distances = _room_for(first, last)
    end = 0
    for i in range(first, last):
        order, places, left_out = _columns_to_walk(i, starts, columns, values, by_column_starts, by_column_rows, needed)
        num_touched = 0
        for position in order:
            entry = starts[i] + position
            weight = values[entry]
            for place in range(places[position], by_column_starts[columns[entry] + 1]):
                j = by_column_rows[place]
                if mass[j] == 0.0:
                    touched[num_touched] = j
                    num_touched += 1
                mass[j] += min(weight, by_column_values[place])
        begin = end
        near, distances = _with_room(near, distances, end + num_touched)
        for j in touched[:num_touched]:
            possible = mass[j] + left_out >= needed
            mass[j] = 0.0
            if possible:
                distance = _distance(_shared_mass(i, j, starts, columns, values))
                if distance <= max_distance:
                    near[end], distances[end] = j, distance
                    end += 1
        order = np.argsort(near[begin:end])
        near[begin:end], distances[begin:end] = near[begin:end][order], distances[begin:end][order]
        counts[i] = end - begin
    return near[:end].copy(), distances[:end].copy()


# Rounding may move a sum of weights by far less than this.
_ROUNDING_SLACK = 1e-4
# Part of the needed mass that may be left out. The rest is what a pair has to show before its sum is made in full:
# leaving out more saves walking, and lets more pairs through.
_LEFT_OUT_SHARE = 0.75


@njit(nogil=True, cache=True)
def _columns_to_walk(i, starts, columns, values, by_column_starts, by_column_rows, needed):
    """Positions of row i's entries without its most crowded columns; for every entry where the rows after i begin in its
    column; and how much the columns left out weigh together."""
    begin, end = starts[i], starts[i + 1]
    places = np.empty(end - begin, dtype=np.int64)
    crowd = np.empty(end - begin, dtype=np.int64)
    for position in range(end - begin):
        column = columns[begin + position]
        start, stop = by_column_starts[column], by_column_starts[column + 1]
        places[position] = start + np.searchsorted(by_column_rows[start:stop], i, side="right")
        crowd[position] = stop - places[position]
    order = np.argsort(crowd)
    most_crowded_first = np.cumsum(values[begin:end][order[::-1]])
    left = np.searchsorted(most_crowded_first, needed * np.float32(_LEFT_OUT_SHARE), side="right")
    left_out = most_crowded_first[left - 1] if left > 0 else np.float32(0.0)
    return order[: order.size - left], places, left_out


@njit(nogil=True, cache=True)
def _shared_mass(i, j, starts, columns, values):
    """m(i, j): the two rows merged, columns ascending, so that (i, j) and (j, i) round alike."""
    mass = np.float32(0.0)
    a, b = starts[i], starts[j]
    while a < starts[i + 1] and b < starts[j + 1]:
        left, right = columns[a], columns[b]
        if left == right:
            mass += min(values[a], values[b])
        a += left <= right
        b += right <= left
    return mass


@njit(nogil=True, cache=True)
def add_distances(
    first, last, starts, columns, values, by_column_starts, by_column_rows, by_column_values, offset, share, sums
):
    """sums[i, j] += share * d(i, offset + j); ``sums`` (S, M) float32."""
    mass = np.zeros(sums.shape[1], dtype=np.float32)
    for i in range(first, last):
        mass[:] = 0.0
        for entry in range(starts[i], starts[i + 1]):
            weight = values[entry]
            begin, end = by_column_starts[columns[entry]], by_column_starts[columns[entry] + 1]
            begin += np.searchsorted(by_column_rows[begin:end], offset)
            for place in range(begin, end):
                mass[by_column_rows[place] - offset] += min(weight, by_column_values[place])
        for j in range(mass.size):
            sums[i, j] += share * _distance(mass[j])


@njit(nogil=True, cache=True)
def grow_clusters(starts, columns, near, min_samples):
    """Scan the rows; from each core point without a label, spread a new label through core points. ``near`` (nnz,) bool."""
    num_rows = starts.size - 1
    core = np.zeros(num_rows, dtype=np.bool_)
    for i in range(num_rows):
        core[i] = near[starts[i] : starts[i + 1]].sum() >= min_samples
    labels = np.full(num_rows, -1, dtype=np.int64)
    waiting = np.empty(num_rows, dtype=np.int64)
    label = 0
    for seed in range(num_rows):
        if labels[seed] >= 0 or not core[seed]:
            continue
        labels[seed] = label
        waiting[0], num_waiting = seed, 1
        while num_waiting > 0:
            num_waiting -= 1
            i = waiting[num_waiting]
            for entry in range(starts[i], starts[i + 1]):
                j = columns[entry]
                if near[entry] and labels[j] < 0:
                    labels[j] = label
                    # A border point takes the label but does not pass it on.
                    if core[j]:
                        waiting[num_waiting] = j
                        num_waiting += 1
        label += 1
    return labels
