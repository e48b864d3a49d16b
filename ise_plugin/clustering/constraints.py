"""What tracks say of who is who, held to by any clusterer.

The images of one track are one person (must-link), and two tracks that one camera sees at the same moment are two
(cannot-link). Both act on the graph before the clusterer sees it, and on its labels after it, so that a clusterer need not
know of them. A tracker errs too: tracks whose own images disagree are found and cut first. docs/method.md has the equations.
"""

import heapq
import logging
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional, Sequence

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from ..neighbors.checks import Features, unit_interval, unit_rows
from ..utils.logs import some_of
from .labels import numbered
from .quality import OUTLIER

logger = logging.getLogger("fastreid.ise.clustering")

# Images of a track that share one row of the graph. Every pair within such a block is stored, so long tracks have several.
_MOST_IN_BLOCK = 32
# Artificially switched tracks that a threshold is made from, at most: its error is then known to about 1 %.
_MOST_JOINED = 1000
# Overlapping pairs of tracks from which they alone serve as examples of two people; else tracks that follow one another do.
_ENOUGH_OVERLAPS = 100
# Similarity that stands for none: a sparse sum would lose a zero.
_NONE = 1e-9
_NAMED_IN_MESSAGES = 5


class Cut(NamedTuple):
    """A track that was cut between two images because those before and after are not alike."""

    track: int
    time: float  # of the first image after the cut
    similarity: float  # mean cosine of the images before to those after


@dataclass(frozen=True)
class Constraints:
    """Must-links and cannot-links of N images.

    Attributes:
        units: (N,) int64, 0..U-1; the images of a unit are one person. An image without a track is a unit of its own.
        blocks: (N,) int64, 0..B-1; units in pieces of at most 32 images.
        apart: (P, 2) int64, pairs of units that are two people, the lower number first, ascending.
        weight: of the constraints in the graph, in [0, 1]; with 1 they are hard, and labels are made to hold them.
        cuts: the tracks that were cut.
        given_up: (L, 2) int64, pairs of images that another source links and that gave way, the least alike first.
    """

    units: np.ndarray
    blocks: np.ndarray
    apart: np.ndarray
    weight: float = 1.0
    cuts: tuple = ()
    given_up: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))

    @property
    def hard(self) -> bool:
        """Whether they hold without exception."""
        return self.weight == 1

    def linked(self, graph: csr_matrix, reach: float) -> csr_matrix:
        """The graph that a clusterer shall see: images of a block share one row, pairs of two people are far apart.

        Args:
            graph: (N, N) symmetric distances in [0, 1], every pair at distance <= ``reach`` and the diagonal stored.
            reach: in [0, 1].

        Returns:
            the same kind of graph. What it does not store counts as distance 1.
        """
        similar = _similarities(graph)
        shared = _block_similarities(similar, self.blocks)[self.blocks][:, self.blocks]
        if self.weight < 1:
            shared = self.weight * shared + (1 - self.weight) * similar
        shared = shared.tocoo()
        parted = np.isin(_keys(self.units[shared.row], self.units[shared.col], self.units), self._apart_keys())
        distances = np.clip(1 - shared.data * np.where(parted, 1 - self.weight, 1), 0, 1).astype(np.float32)
        kept = (distances <= np.float32(reach)) & (shared.row != shared.col)
        own = np.arange(len(self.units))
        places = np.r_[shared.row[kept], own], np.r_[shared.col[kept], own]
        linked = csr_matrix((np.r_[distances[kept], np.zeros(len(own), np.float32)], places), shape=graph.shape)
        linked.sort_indices()
        return linked

    def joined(self, graph: csr_matrix, max_distance: float) -> np.ndarray:
        """Units put together to people by average linkage, never two that are apart: each unit decides as a whole.

        The distance of two units is one less the similarity of each image to the most similar one of the other unit, in the mean
        of all images.

        Args:
            graph: (N, N) symmetric distances in [0, 1], the diagonal stored; what is not stored counts as 1.
            max_distance: of two parts that are joined, in [0, 1].

        Returns:
            (N,) int64 labels, 0..M-1 in the order of their first images; every image has one.
        """
        count, sizes = int(self.units.max()) + 1, np.bincount(self.units)
        means = _block_similarities(_similarities(graph), self.units).tocoo()
        weights = means.data * sizes[means.row] * sizes[means.col]
        sums = csr_matrix((weights, (means.row, means.col)), (count, count))
        parts = _parts(np.arange(count), sums, sizes, _neighbors_of(self.apart), 1 - max_distance)
        found = np.empty(count, np.int64)
        found[np.concatenate(parts)] = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        return numbered(found[self.units])

    def repaired(self, labels: np.ndarray, graph: csr_matrix) -> np.ndarray:
        """Labels (N,) int64 that hold every constraint, from those that a clusterer found on the graph of :meth:`linked`.

        A unit goes where most of its clustered images are. A cluster with units that are two people is put together anew:
        the two most similar parts first (mean over pairs of images), never two that may not be together. What is left alone
        of it, a single image, becomes an outlier. Clusters are numbered in the order of their first images.
        """
        similar = _similarities(graph)
        sums, found = _sums(similar, self.units), _majority(labels, similar, self.units)
        sizes = np.bincount(self.units)
        parts, mixed = found.copy(), np.unique(found[self.apart[self._together(found)][:, 0]])
        foes = _neighbors_of(self.apart)
        for cluster in mixed:
            for part in _parts(np.flatnonzero(found == cluster), sums, sizes, foes):
                alone = sizes[part].sum() == 1
                parts[part] = OUTLIER if alone else len(found) + part[0]  # beyond the numbers of all clusters
        return numbered(parts[self.units])

    def violated(self, labels: np.ndarray) -> int:
        """How many pairs of units that are two people share a cluster, of labels (N,)."""
        pairs = np.unique(np.stack([self.units, labels], 1)[labels != OUTLIER], axis=0)
        clusters = defaultdict(set)
        for unit, label in pairs.tolist():
            clusters[unit].add(label)
        return sum(not clusters[a].isdisjoint(clusters[b]) for a, b in self.apart.tolist())

    def _together(self, found: np.ndarray) -> np.ndarray:
        one, other = found[self.apart].T
        return (one == other) & (one != OUTLIER)

    def _apart_keys(self) -> np.ndarray:
        a, b = self.apart.T
        return np.r_[_keys(a, b, self.units), _keys(b, a, self.units)]


def fit_constrained(
    clusterer: Any, graph: csr_matrix, constraints: Optional[Constraints], reach: float, **known: Any
) -> np.ndarray:
    """Labels (N,) int64 of any clusterer (:data:`ise_plugin.registry.CLUSTERER`), with the constraints where there are any.

    ``known`` is what the clusterer may want by its attribute ``wants``, such as ``features``; the units of the constraints are
    added to it.
    """
    if constraints is not None:
        graph, known = constraints.linked(graph, reach), {**known, "units": constraints.units}
    wanted = {name: known[name] for name in getattr(clusterer, "wants", ()) if name in known}
    labels = np.asarray(clusterer.fit_predict(graph, **wanted), np.int64)
    return constraints.repaired(labels, graph) if constraints is not None and constraints.hard else labels


def track_constraints(
    features: Features,
    cameras: np.ndarray,
    tracks: np.ndarray,
    times: np.ndarray,
    links: Sequence[tuple[int, int]] = (),
    *,
    said: Sequence[Sequence[tuple[int, int]]] = ((), ()),
    names: Sequence[str] = (),
    weight: float = 1.0,
    max_gap: float = 2.0,
    max_cut_error: float = 0.25,
) -> Optional[Constraints]:
    """Must-links within tracks and cannot-links between tracks that one camera sees at the same moment.

    What was cut and what gave way is logged.

    Args:
        features: (N, D) unit rows, numpy or torch, on any device.
        cameras: (N,) integers, -1: unknown; such tracks overlap with none.
        tracks: (N,) integers, -1: in no track. One number in two cameras is two tracks.
        times: (N,) floats, comparable within a camera, nan: unknown; such images neither overlap nor show a switch. Fine
            enough to be equal for two images of one moment and no others.
        links: pairs of images that another source says are one person; one that contradicts an overlap gives way, of several
            that contradict it together the least alike.
        said: pairs of images that a person says are one, and pairs that are two. What tracks tell gives way to them, and of
            themselves the second to the first.
        names: of the tracks, for messages.
        weight: see :class:`Constraints`.
        max_gap: a track is seen between two of its images this far apart at most. Unit: its camera's usual step, the median
            time between two images of a track.
        max_cut_error: share of tracks that a wrong decision is tolerated for, in [0, 1]; where the embeddings tell tracks
            from artificially switched ones less well, none is cut. 0 never cuts.

    Returns:
        None where there is nothing to hold to: no two images of one track, no overlap, no link.

    Raises:
        ValueError: arrays of other lengths than the features, weight or max_cut_error outside [0, 1].
    """
    rows = unit_rows(features).cpu().numpy()
    cameras, tracks, times = np.asarray(cameras), np.asarray(tracks), np.asarray(times, np.float64)
    if not len(rows) == len(cameras) == len(tracks) == len(times):
        raise ValueError(f"cameras, tracks and times must have {len(rows)} entries, one for each image")
    weight, max_cut_error = unit_interval(weight, "weight"), unit_interval(max_cut_error, "max_cut_error")
    times = np.where(tracks < 0, np.nan, times)  # an image without a track may be of any
    units = _units_of(cameras, tracks)
    overlaps = _overlaps(units, cameras, times, max_gap)
    cuts: tuple = ()
    if max_cut_error:
        pieces, cuts, error = _cut(rows, units, cameras, tracks, times, overlaps, max_cut_error)
        if cuts:
            units, overlaps = pieces, _overlaps(pieces, cameras, times, max_gap)
            _say_cuts(cuts, len(np.unique(tracks[tracks >= 0])), error, names)
    units, overlaps = _as_said(units, overlaps, *(np.reshape(pairs, (-1, 2)).astype(np.int64) for pairs in said))
    units, overlaps, given_up = _with_links(rows, units, overlaps, np.reshape(links, (-1, 2)).astype(np.int64))
    if len(given_up):
        _say_given_up(given_up, tracks, names)
    if units.max(initial=-1) + 1 == len(units) and not len(overlaps):
        return None
    return Constraints(units, _blocks_of(units, times), overlaps, weight, cuts, given_up)


# -- units and overlaps


def _units_of(cameras: np.ndarray, tracks: np.ndarray) -> np.ndarray:
    """(N,) 0..U-1: a number for each track of each camera, and one for every image without a track."""
    alone = np.where(tracks < 0, np.arange(len(tracks)), -1)
    return np.unique(np.stack([tracks, cameras * (tracks >= 0), alone], 1), axis=0, return_inverse=True)[1].reshape(-1)


def _overlaps(units: np.ndarray, cameras: np.ndarray, times: np.ndarray, max_gap: float) -> np.ndarray:
    """(P, 2), pairs of units, the lower first, that one camera sees at one moment."""
    pairs: set = set()
    seen = (cameras >= 0) & ~np.isnan(times)
    for camera in np.unique(cameras[seen]):
        rows = np.flatnonzero(seen & (cameras == camera))
        rows = rows[np.lexsort((times[rows], units[rows]))]
        same, steps = np.diff(units[rows]) == 0, np.diff(times[rows])
        usual = np.median(steps[same & (steps > 0)]) if (same & (steps > 0)).any() else 0.0
        breaks = ~(same & (steps <= max_gap * usual))
        starts, ends = rows[np.r_[True, breaks]], rows[np.r_[breaks, True]]
        _sweep(times[starts], times[ends], units[starts], pairs)
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


def _sweep(starts: np.ndarray, ends: np.ndarray, owners: np.ndarray, pairs: set) -> None:
    """Adds the owners of all closed intervals that share a moment."""
    seen: list = []  # (end, owner) of those that may still be there
    for i in np.argsort(starts, kind="stable"):
        while seen and seen[0][0] < starts[i]:
            heapq.heappop(seen)
        owner = int(owners[i])
        pairs.update((min(owner, other), max(owner, other)) for _, other in seen if other != owner)
        heapq.heappush(seen, (float(ends[i]), owner))


def _as_said(
    units: np.ndarray, apart: np.ndarray, links: np.ndarray, parted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Units joined by pairs of images that are one person, and pairs apart with those that are two. Where units and links would
    join what is said to be two people, the images that something is said of leave their units, whose rest stays together."""
    if not len(links) and not len(parted):
        return units, apart
    count, said = len(units), np.unique(np.r_[links, parted])
    own, through_units = _components(count, links), _components(count, links, units)
    torn = (own[parted[:, 0]] != own[parted[:, 1]]) & (through_units[parted[:, 0]] == through_units[parted[:, 1]])
    leaving = said[np.isin(through_units[said], through_units[parted[torn, 0]])]
    homes = units.copy()
    homes[leaving] = units.max() + 1 + leaving
    joined = _components(count, links, homes)
    # a pair apart by tracks holds for what stayed of its units
    now, rest = np.full(units.max() + 1, -1), np.setdiff1d(np.arange(count), leaving)
    now[units[rest]] = joined[rest]
    pairs = np.r_[now[apart][(now[apart] >= 0).all(1)], joined[parted]]
    if lost := int((own[parted[:, 0]] == own[parted[:, 1]]).sum()):
        logger.warning(f"{lost} pairs of images said to be two people are one by others that are said; these hold")
    return joined, np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)


def _components(count: int, links: np.ndarray, units: Optional[np.ndarray] = None) -> np.ndarray:
    """(count,) int64, one number for images that links (L, 2) and common units connect."""
    rows, columns = links.T
    if units is not None:
        first = np.unique(units, return_index=True, return_inverse=True)
        rows, columns = np.r_[rows, np.arange(count)], np.r_[columns, first[1][first[2].reshape(-1)]]
    graph = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _with_links(
    rows: np.ndarray, units: np.ndarray, apart: np.ndarray, links: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Units joined by links, the most alike first, their pairs apart, and the links that contradict these."""
    if not len(links):
        return units, apart, links
    alike = (rows[links[:, 0]].astype(np.float64) * rows[links[:, 1]]).sum(1)
    home, foes, given_up = np.arange(units.max() + 1), _neighbors_of(apart), []
    for i in np.argsort(-alike, kind="stable"):
        a, b = sorted(home[units[links[i]]].tolist())
        if b in foes[a]:
            given_up.append(links[i])
        elif a != b:
            home[home == b] = a
            for foe in foes.pop(b, set()):
                foes[foe] = foes[foe] - {b} | {a}
                foes[a].add(foe)
    kept, units = np.unique(home[units], return_inverse=True)
    apart = np.searchsorted(kept, np.array([(a, b) for a in foes for b in foes[a] if a < b], np.int64).reshape(-1, 2))
    return units.reshape(-1), np.unique(apart, axis=0), np.array(given_up[::-1], np.int64).reshape(-1, 2)


def _blocks_of(units: np.ndarray, times: np.ndarray) -> np.ndarray:
    order = np.lexsort((times, units))
    places = np.empty(len(units), np.int64)
    places[order] = _places(units[order]) // _MOST_IN_BLOCK
    return np.unique(np.stack([units, places], 1), axis=0, return_inverse=True)[1].reshape(-1)


def _places(grouped: np.ndarray) -> np.ndarray:
    """The place of every entry within its group, of ascending numbers."""
    return np.arange(len(grouped)) - np.searchsorted(grouped, grouped)


# -- switched tracks


class _Split(NamedTuple):
    similarity: float
    place: int


def _cut(
    rows: np.ndarray,
    units: np.ndarray,
    cameras: np.ndarray,
    tracks: np.ndarray,
    times: np.ndarray,
    overlaps: np.ndarray,
    max_error: float,
) -> tuple[np.ndarray, tuple, float]:
    """Units of which those that look like two people are cut in two, as often as needed; the cuts; the share of errors."""
    order = np.lexsort((times, units))
    order = order[~np.isnan(times[order])]
    parts = np.split(order, np.flatnonzero(np.diff(units[order])) + 1)
    own = {int(units[part[0]]): part for part in parts if len(part)}
    splits = [_weakest_split(rows[part], times[part]) for part in own.values()]
    whole = [split.similarity for split in splits if split]
    if not whole:
        return units, (), 0.0
    joined = [_joined(rows, own[a], own[b]) for a, b in _examples(own, cameras, times, overlaps)]
    threshold, error = _threshold(whole, joined)
    if error > max_error:
        logger.info(f"tracks: {error:.0%} of them agree within no better than two tracks put together; none is cut")
        return units, (), error
    units, cuts, waiting = units.copy(), [], list(own.values())[::-1]
    while waiting:
        part = waiting.pop()
        split = _weakest_split(rows[part], times[part])
        if split and split.similarity <= threshold:
            before, after = part[: split.place], part[split.place :]
            units[after] = units.max() + 1
            cuts.append(Cut(int(tracks[part[0]]), float(times[after[0]]), split.similarity))
            waiting += [after, before]
    return units, tuple(cuts), error


def _weakest_split(rows: np.ndarray, moments: np.ndarray) -> Optional[_Split]:
    """Where rows (n, D) in the order of their moments agree least: the mean cosine of those before to those after."""
    places = np.flatnonzero(np.diff(moments) > 0) + 1
    if not len(places):
        return None
    sums = np.cumsum(rows, axis=0, dtype=np.float64)
    before = sums[places - 1]
    means = (before * (sums[-1] - before)).sum(1) / (places * (len(rows) - places))
    best = int(means.argmin())
    return _Split(float(means[best]), int(places[best]))


def _joined(rows: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    """The weakest split of two tracks put one after the other, as a tracker's switch would."""
    images = np.r_[one, other]
    split = _weakest_split(rows[images], np.arange(len(images)))
    assert split is not None  # two images or more
    return split.similarity


def _examples(own: dict, cameras: np.ndarray, times: np.ndarray, overlaps: np.ndarray) -> list:
    """Pairs of tracks of two people: those that overlap, or, where these are few, each and the next to begin after it."""
    pairs = [(a, b) for a, b in overlaps.tolist() if a in own and b in own]
    if len(pairs) < _ENOUGH_OVERLAPS:
        begun: dict = defaultdict(list)  # camera -> (first time, unit), ascending
        for unit, part in sorted(own.items(), key=lambda item: times[item[1][0]]):
            begun[cameras[part[0]]].append((times[part[0]], unit))
        for camera, each in begun.items():
            starts = [start for start, _ in each]
            following = [(unit, np.searchsorted(starts, times[own[unit][-1]], side="right")) for _, unit in each]
            pairs += [(unit, each[place][1]) for unit, place in following if place < len(each) and camera >= 0]
    return [pairs[i] for i in np.linspace(0, len(pairs) - 1, min(_MOST_JOINED, len(pairs))).astype(int)]


def _threshold(whole: Sequence[float], joined: Sequence[float]) -> tuple[float, float]:
    """The similarity at which as large a share of tracks is cut as of joined ones is not, and the larger of the two shares."""
    if not len(joined):  # nothing to compare with
        return -1.0, 1.0
    lower = np.unique(np.r_[whole, joined, -1.0])
    cut, missed = _share_up_to(whole, lower), 1 - _share_up_to(joined, lower)
    best = np.flatnonzero(np.abs(cut - missed) == np.abs(cut - missed).min())
    upper = np.r_[lower[1:], 1.0]  # all thresholds from one value to the next decide alike
    return float((lower[best[0]] + upper[best[-1]]) / 2), float(max(cut[best[0]], missed[best[0]]))


def _share_up_to(values: Sequence[float], bounds: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.sort(values), bounds, side="right") / len(values)


def _say_cuts(cuts: tuple, count: int, error: float, names: Sequence[str]) -> None:
    said = [f"{_name(cut.track, names)} before time {cut.time:.12g}" for cut in cuts]
    tracks = len({cut.track for cut in cuts})
    logger.info(
        f"{tracks} of {count} tracks look like two people, one after the other, and are cut (these embeddings err in up to "
        f"{error:.0%} of the tracks): {some_of(said, _NAMED_IN_MESSAGES)}"
    )


def _say_given_up(links: np.ndarray, tracks: np.ndarray, names: Sequence[str]) -> None:
    said = [f"images {a} and {b} ({_name(tracks[a], names)}, {_name(tracks[b], names)})" for a, b in links.tolist()]
    logger.warning(
        f"{len(links)} links between images contradict tracks that one camera sees at the same moment, and give way: "
        f"{some_of(said, _NAMED_IN_MESSAGES)}"
    )


def _name(track: int, names: Sequence[str]) -> str:
    return "no track" if track < 0 else f"track {names[track] if len(names) else track}"


# -- graph


def _similarities(graph: csr_matrix) -> csr_matrix:
    """1 - d, above zero."""
    return csr_matrix((np.maximum(1 - graph.data.astype(np.float64), _NONE), graph.indices, graph.indptr), graph.shape)


def _block_similarities(similar: csr_matrix, blocks: np.ndarray) -> csr_matrix:
    """(B, B), of two blocks: each image's similarity to the most similar image of the other, in the mean of all.

    A pair that ``similar`` does not store has none. Of a block with itself: to the most similar other image of it.
    """
    count = int(blocks.max()) + 1
    pairs = similar.tocoo()
    others = (pairs.row != pairs.col) | (np.bincount(blocks) == 1)[blocks[pairs.row]]
    rows, values = pairs.row[others].astype(np.int64), pairs.data[others]
    keys = rows * count + blocks[pairs.col[others]]
    order = np.argsort(keys, kind="stable")
    keys, starts = np.unique(keys[order], return_index=True)
    nearest = np.maximum.reduceat(values[order], starts) if len(starts) else values
    rows, columns = keys // count, keys % count
    shares = nearest / np.bincount(blocks)[blocks[rows]]
    directed = csr_matrix((shares, (blocks[rows], columns)), shape=(count, count))
    return (directed + directed.T) / 2


def _sums(similar: csr_matrix, units: np.ndarray) -> csr_matrix:
    """(U, U), similarities of all pairs of images summed."""
    pairs, count = similar.tocoo(), int(units.max()) + 1
    some = pairs.data > _NONE
    return csr_matrix((pairs.data[some], (units[pairs.row[some]], units[pairs.col[some]])), shape=(count, count))


def _keys(a: np.ndarray, b: np.ndarray, units: np.ndarray) -> np.ndarray:
    return a.astype(np.int64) * (int(units.max()) + 1) + b


# -- labels


def _majority(labels: np.ndarray, similar: csr_matrix, units: np.ndarray) -> np.ndarray:
    """(U,) int64, where most of a unit's clustered images are; of equal ones where the unit is more similar to the images."""
    count = int(labels.max(initial=OUTLIER)) + 1
    found = np.full(int(units.max()) + 1, OUTLIER, np.int64)
    clustered = labels != OUTLIER
    if not count:
        return found
    keys, votes = np.unique(units[clustered] * count + labels[clustered], return_counts=True)
    pairs = similar.tocoo()
    into = labels[pairs.col] != OUTLIER
    near = units[pairs.row[into]] * count + labels[pairs.col[into]]
    places = np.minimum(np.searchsorted(keys, near), len(keys) - 1)
    hits = keys[places] == near
    ties = np.bincount(places[hits], pairs.data[into][hits], minlength=len(keys))
    order = np.lexsort((ties, votes, keys // count))  # the last of a unit is its choice
    found[keys[order] // count] = keys[order] % count
    return found


def _neighbors_of(pairs: np.ndarray) -> defaultdict:
    """number -> the set of those it has a pair with."""
    found: defaultdict = defaultdict(set)
    for a, b in pairs.tolist():
        found[a].add(b)
        found[b].add(a)
    return found


def _parts(members: np.ndarray, sums: csr_matrix, sizes: np.ndarray, foes: dict, least_similarity: float = 0.0) -> list:
    """Units put together by average linkage, never two that may not be together, nor parts less alike than that: lists of their
    numbers, ascending.

    Lazy: a pair in the queue counts only while both of its parts still are what they were.
    """
    places = {int(unit): place for place, unit in enumerate(members)}
    own = sums[members][:, members]
    rows = zip(np.split(own.indices, own.indptr[1:-1]), np.split(own.data, own.indptr[1:-1]))
    near = [dict(zip(indices.tolist(), values.tolist())) for indices, values in rows]
    apart = [{places[foe] for foe in foes.get(unit, ()) if foe in places} for unit in places]
    parts, images = [[unit] for unit in places], sizes[members].tolist()
    mean = lambda a, b: -near[a][b] / (images[a] * images[b])
    queue = [(mean(a, b), a, b) for a in range(len(parts)) for b in near[a] if a < b and b not in apart[a]]
    heapq.heapify(queue)
    while queue:
        similarity, a, b = heapq.heappop(queue)
        if not (parts[a] and parts[b]) or b in apart[a]:
            continue
        if -similarity < least_similarity:
            break
        new = len(parts)
        parts.append(sorted(parts[a] + parts[b]))
        images.append(images[a] + images[b])
        apart.append(apart[a] | apart[b])
        near.append({})
        for other in (near[a].keys() | near[b].keys()) - {a, b}:
            if parts[other]:
                near[new][other] = near[other][new] = near[a].get(other, 0.0) + near[b].get(other, 0.0)
        for foe in apart[new]:
            apart[foe].add(new)
        parts[a] = parts[b] = []
        for other in near[new]:
            if other not in apart[new]:
                heapq.heappush(queue, (mean(new, other), new, other))
    return [np.array(part) for part in parts if part]
