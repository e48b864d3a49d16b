"""Compiled loops of the k-reciprocal Jaccard distance; ``jaccard.py`` says what they compute.

Every kernel writes only to the rows ``first..last`` it is given. Sparse matrices are three arrays (starts, columns,
values), columns ascending within a row, so that sums run in the same order for (i, j) and (j, i) and on any number of
threads.
"""

import numpy as np
from numba import njit

from ..neighbors._bfloat16 import dot


@njit(nogil=True, cache=True)
def mark_reciprocal(first, last, ranks, depth, marks):
    """marks[i, p] = whether i is among the first ``depth`` neighbours of its own p-th, for p < depth."""
    for i in range(first, last):
        for p in range(depth):
            neighbor = ranks[i, p]
            found = False
            for q in range(depth):
                found |= ranks[neighbor, q] == i
            marks[i, p] = found


@njit(nogil=True, cache=True)
def count_expanded(first, last, ranks, mutual, half_mutual, half, counts):
    """Number of entries of every expanded neighbour set R*(i)."""
    stamps = np.full(ranks.shape[0], -1, dtype=np.int32)
    found = np.empty(ranks.shape[1] * (half + 1), dtype=np.int32)
    inner = np.full(ranks.shape[0], -1, dtype=np.int32)
    for i in range(first, last):
        counts[i] = _expand(i, ranks, mutual, half_mutual, half, stamps, inner, found)


@njit(nogil=True, cache=True)
def fill_expanded(first, last, ranks, mutual, half_mutual, half, starts, columns):
    """The expanded neighbour sets themselves, ascending."""
    stamps = np.full(ranks.shape[0], -1, dtype=np.int32)
    found = np.empty(ranks.shape[1] * (half + 1), dtype=np.int32)
    inner = np.full(ranks.shape[0], -1, dtype=np.int32)
    for i in range(first, last):
        count = _expand(i, ranks, mutual, half_mutual, half, stamps, inner, found)
        columns[starts[i] : starts[i] + count] = np.sort(found[:count])


@njit(nogil=True, cache=True)
def _expand(i, ranks, mutual, half_mutual, half, stamps, inner, found):
    """R(i) and every half-size set that lies in it by more than two thirds. Stamped with i means present."""
    count = 0
    for p in range(ranks.shape[1]):
        if mutual[i, p]:
            inner[ranks[i, p]] = i
            stamps[ranks[i, p]] = i
            found[count] = ranks[i, p]
            count += 1
    for p in range(count):
        candidate = found[p]
        size = 0
        shared = 0
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
def known_similarities(first, last, starts, columns, ranks, similarities, values):
    """Similarity of every entry that the search has returned, from either side; NaN for the others."""
    for i in range(first, last):
        for entry in range(starts[i], starts[i + 1]):
            j = columns[entry]
            values[entry] = np.nan
            for p in range(ranks.shape[1]):
                if ranks[i, p] == j:
                    values[entry] = similarities[i, p]
                elif ranks[j, p] == i:
                    values[entry] = similarities[j, p]


@njit(nogil=True, cache=True)
def missing_similarities(first, last, starts, columns, features, values):
    """Compute what ``known_similarities`` left NaN."""
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
def count_mean_of_neighbors(first, last, ranks, k2, starts, columns, counts):
    """Entries of every row of the local query expansion."""
    stamps = np.full(ranks.shape[0], -1, dtype=np.int32)
    for i in range(first, last):
        count = 0
        for p in range(k2):
            r = ranks[i, p]
            for entry in range(starts[r], starts[r + 1]):
                if stamps[columns[entry]] != i:
                    stamps[columns[entry]] = i
                    count += 1
        counts[i] = count


@njit(nogil=True, cache=True)
def fill_mean_of_neighbors(first, last, ranks, k2, starts, columns, values, out_starts, out_columns, out_values):
    """Local query expansion: each row becomes the mean of the rows of its first k2 neighbours."""
    sums = np.zeros(ranks.shape[0], dtype=np.float32)
    stamps = np.full(ranks.shape[0], -1, dtype=np.int32)
    for i in range(first, last):
        begin, end = out_starts[i], out_starts[i]
        for p in range(k2):
            r = ranks[i, p]
            for entry in range(starts[r], starts[r + 1]):
                c = columns[entry]
                if stamps[c] != i:
                    stamps[c] = i
                    sums[c] = 0.0
                    out_columns[end] = c
                    end += 1
                sums[c] += values[entry]
        out_columns[begin:end] = np.sort(out_columns[begin:end])
        for entry in range(begin, end):
            out_values[entry] = sums[out_columns[entry]] / np.float32(k2)


@njit(nogil=True, cache=True)
def transpose(num_rows, starts, columns, values, out_starts, out_rows, out_values, places):
    """The same matrix by columns, rows ascending; places[entry] = where that entry of the rows went."""
    out_starts[:] = 0
    for entry in range(columns.size):
        out_starts[columns[entry] + 1] += 1
    for c in range(out_starts.size - 1):
        out_starts[c + 1] += out_starts[c]
    cursor = out_starts[:-1].copy()
    for i in range(num_rows):
        for entry in range(starts[i], starts[i + 1]):
            place = cursor[columns[entry]]
            cursor[columns[entry]] = place + 1
            out_rows[place] = i
            out_values[place] = values[entry]
            places[entry] = place


@njit(nogil=True, cache=True)
def shared_mass_to_distance(mass):
    """d = 1 - m / (2 - m), clipped below at zero."""
    return max(np.float32(0.0), np.float32(1.0) - mass / (np.float32(2.0) - mass))


@njit(nogil=True, cache=True)
def near_pairs(
    first,
    last,
    starts,
    columns,
    values,
    by_column_starts,
    by_column_rows,
    by_column_values,
    places,
    max_distance,
    counts,
):
    """Pairs i < j at distance <= max_distance, for the rows ``first..last``.

    Returns columns and distances of all kept pairs, row after row, columns ascending; ``counts`` tells how many belong
    to each row. A pair counts as near only if the shared mass m(i, j) = sum over shared columns of the smaller weight
    reaches 2 (1 - d) / (2 - d). So row i may leave out columns that together weigh less than that: it leaves out its
    most crowded ones, which hold most of the work and little of the news, and sums m in full only for the rows that
    can still reach the bound.
    """
    needed = _needed_mass(max_distance)
    mass = np.zeros(counts.size, dtype=np.float32)
    touched = np.empty(counts.size, dtype=np.int32)
    kept_columns = np.empty(16 * (last - first) + 16, dtype=np.int32)
    kept_distances = np.empty(kept_columns.size, dtype=np.float32)
    kept = 0
    for i in range(first, last):
        order, left_out = _columns_to_walk(i, starts, columns, values, by_column_starts, places, needed)
        num_touched = 0
        for entry in order:
            weight = values[entry]
            for place in range(places[entry] + 1, by_column_starts[columns[entry] + 1]):
                j = by_column_rows[place]
                if mass[j] == 0.0:
                    touched[num_touched] = j
                    num_touched += 1
                mass[j] += min(weight, by_column_values[place])
        begin = kept
        for t in range(num_touched):
            j = touched[t]
            possible = mass[j] + left_out >= needed
            mass[j] = 0.0
            if possible:
                distance = shared_mass_to_distance(_shared_mass(i, j, starts, columns, values))
                if distance <= max_distance:
                    if kept == kept_columns.size:
                        kept_columns = _doubled(kept_columns)
                        kept_distances = _doubled(kept_distances)
                    kept_columns[kept] = j
                    kept_distances[kept] = distance
                    kept += 1
        order = np.argsort(kept_columns[begin:kept])
        kept_columns[begin:kept] = kept_columns[begin:kept][order]
        kept_distances[begin:kept] = kept_distances[begin:kept][order]
        counts[i] = kept - begin
    return kept_columns[:kept].copy(), kept_distances[:kept].copy()


# Rounding may move a sum of weights by far less than this.
_ROUNDING_SLACK = 1e-4
# Part of the needed mass that may be left out. The rest is what a pair has to show before its sum is made in full:
# leaving out more saves walking, and lets more pairs through.
_LEFT_OUT_SHARE = 0.75


@njit(nogil=True, cache=True)
def _needed_mass(max_distance):
    """The shared mass of a pair at that distance, d = 1 - m / (2 - m) solved for m, less the rounding slack."""
    return np.float32(2.0 * (1.0 - max_distance) / (2.0 - max_distance) - _ROUNDING_SLACK)


@njit(nogil=True, cache=True)
def _columns_to_walk(i, starts, columns, values, by_column_starts, places, needed):
    """Entries of row i without its most crowded columns, and how much those weigh together."""
    begin, end = starts[i], starts[i + 1]
    crowd = np.empty(end - begin, dtype=np.int64)
    for entry in range(begin, end):
        crowd[entry - begin] = by_column_starts[columns[entry] + 1] - places[entry]
    order = np.argsort(crowd)
    left_out = np.float32(0.0)
    walked = order.size
    while walked > 0:
        weight = values[begin + order[walked - 1]]
        if left_out + weight > needed * np.float32(_LEFT_OUT_SHARE):
            break
        left_out += weight
        walked -= 1
    return begin + order[:walked], left_out


@njit(nogil=True, cache=True)
def _shared_mass(i, j, starts, columns, values):
    """m(i, j): the two rows merged, columns ascending, so that (i, j) and (j, i) round alike."""
    mass = np.float32(0.0)
    a, b = starts[i], starts[j]
    while a < starts[i + 1] and b < starts[j + 1]:
        if columns[a] == columns[b]:
            mass += min(values[a], values[b])
            a += 1
            b += 1
        elif columns[a] < columns[b]:
            a += 1
        else:
            b += 1
    return mass


@njit(nogil=True, cache=True)
def _doubled(array):
    larger = np.empty(2 * array.size, dtype=array.dtype)
    larger[: array.size] = array
    return larger


@njit(nogil=True, cache=True)
def count_mirrored(first, last, columns, lengths):
    """Add the mirror images of a piece's pairs to the row lengths."""
    for position in range(columns.size):
        lengths[columns[position]] += 1


@njit(nogil=True, cache=True)
def mirror_piece(first, last, counts, columns, distances, cursor, out_columns, out_distances):
    """Write one piece of the upper triangle, its diagonal and its mirror image into the full matrix.

    Pieces come in row order, so that every row receives first its lower part, then its diagonal, then its upper part.
    """
    position = 0
    for i in range(first, last):
        place = cursor[i]
        out_columns[place] = i
        out_distances[place] = 0.0
        place += 1
        for _ in range(counts[i]):
            j = columns[position]
            out_columns[place] = j
            out_distances[place] = distances[position]
            place += 1
            mirror = cursor[j]
            out_columns[mirror] = i
            out_distances[mirror] = distances[position]
            cursor[j] = mirror + 1
            position += 1
        cursor[i] = place


@njit(nogil=True, cache=True)
def mix_distances(
    first,
    last,
    starts,
    columns,
    values,
    by_column_starts,
    by_column_rows,
    by_column_values,
    num_queries,
    jaccard_share,
    others,
):
    """others[i, j] <- jaccard_share * d(i, num_queries + j) + others[i, j], for the queries ``first..last``."""
    mass = np.zeros(others.shape[1], dtype=np.float32)
    for i in range(first, last):
        mass[:] = 0.0
        for entry in range(starts[i], starts[i + 1]):
            weight = values[entry]
            begin, end = by_column_starts[columns[entry]], by_column_starts[columns[entry] + 1]
            begin += np.searchsorted(by_column_rows[begin:end], num_queries)
            for place in range(begin, end):
                mass[by_column_rows[place] - num_queries] += min(weight, by_column_values[place])
        for j in range(mass.size):
            others[i, j] += jaccard_share * shared_mass_to_distance(mass[j])
