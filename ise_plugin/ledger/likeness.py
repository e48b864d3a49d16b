"""How alike the people of a ledger are, and how unlike the halves of one: what questions are chosen by.

Everything is a mean of cosines over pairs of images, which the sum of a person's vectors gives without any pair: so the cost
grows with the images and with the people's nearest ones, not with pairs, and a correction costs only the people that it touches.
Each camera's mean is taken out of its images first, because people look alike to a network where cameras do.
"""

from typing import NamedTuple, Optional

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.sparse import csr_matrix

from ..clustering.calibration import nearest
from .decide import Gallery

# A camera of fewer images has no mean of its own, but that of all images.
_ENOUGH_OF_CAMERA = 20
# People beside each person that may be the same.
NEAR = 16
# Beyond so many images of a person its halves are told by some of them, and the others go where they are nearer.
_MOST_IN_CUT = 128
# Images that count for the mean of everybody where it is asked how alike the images of one person are.
_PRIOR_IMAGES = 5
_FEWEST_IN_CUT = 3
_BLOCK = 1 << 14  # rows at once: 16 MiB of 256 numbers
_LEAST = 1e-6
# (people, everybody) beyond which neighbours are looked for in cells (seconds on one core).
_MOST_COMPARISONS, _PROBES = 1 << 28, 32


class Cut(NamedTuple):
    """The images (places) of a person in two halves, the larger one first; how alike these are, as in :class:`Likeness`."""

    one: np.ndarray
    other: np.ndarray
    likeness: float


class Likeness:
    """People and undecided images as nodes, which ones are near one another, and how each person could be cut in two.

    The likeness of two nodes is the mean cosine over pairs of their images, over the geometric mean of the same within each: 1
    where they are as alike as the images of one person.

    Attributes:
        labels: (P,) int64, ascending: numbers of people; -1 - place of an undecided image.
        sizes: (P,) int64 images.
        edges: (E, 2) int64 labels of near nodes, the first one a person.
        alike: (E,) their likeness.
        cuts: number of a person -> :class:`Cut`.
    """

    def __init__(self) -> None:
        self.of_place = np.empty(0, np.int64)
        self._clear()

    def _clear(self) -> None:
        self.labels, self.sizes = np.empty(0, np.int64), np.empty(0, np.int64)
        self.edges, self.alike = np.empty((0, 2), np.int64), np.empty(0)
        self.cuts: dict[int, Cut] = {}
        self._sums: Optional[np.ndarray] = None
        self._usual: Optional[float] = None

    def follow(self, gallery: Gallery, cameras: np.ndarray, anew: bool) -> bool:
        """Takes the people of a ledger as they are now; what has not changed since is not computed again.

        Args:
            gallery: of all images.
            cameras: (N,) int64 numbers of cameras.
            anew: whether embeddings are others than before.

        Returns:
            whether anything changed.
        """
        of_place = np.where(gallery.people >= 0, gallery.people, -1 - np.arange(len(gallery.people)))
        if anew or len(of_place) != len(self.of_place):
            self._clear()
            self._means = _camera_means(gallery, cameras)
            touched = np.unique(of_place)
        else:
            changed = of_place != self.of_place
            if not changed.any():
                return False
            touched = np.unique(np.r_[of_place[changed], self.of_place[changed]])
        self._gallery, self._cameras, self.of_place = gallery, cameras, of_place
        self._count(touched)
        self._connect(touched)
        for person in touched[touched >= 0].tolist():
            self.cuts.pop(person, None)
        self._cut(touched[(touched >= 0) & np.isin(touched, self.labels)])
        return True

    def rows(self, places: np.ndarray) -> np.ndarray:
        """(n, D) unit rows at ascending places, the means of their cameras taken out."""
        found = self._gallery.rows(places) - self._means[self._cameras[places]]
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), _LEAST)

    def between(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """(n,) likeness of pairs of nodes, given by labels."""
        a, b = np.searchsorted(self.labels, one), np.searchsorted(self.labels, other)
        found = np.empty(len(a))
        for start in range(0, len(a), _BLOCK):
            block = slice(start, start + _BLOCK)
            found[block] = np.einsum("ij,ij->i", self._mean[a[block]], self._mean[b[block]])
        return found / np.sqrt(self._within[a] * self._within[b])

    def places(self, label: int) -> np.ndarray:
        """Of the images of a node, ascending."""
        return np.flatnonzero(self.of_place == label) if label >= 0 else np.array([-1 - label])

    def typical(self, places: np.ndarray, count: int) -> np.ndarray:
        """Of images, those that are most like all of them, the most typical one first."""
        rows = self.rows(places)
        return places[np.argsort(-(rows @ rows.sum(0)), kind="stable")[:count]]

    def halves(self, count: int, seed: int = 0) -> np.ndarray:
        """(n,) likeness of halves, drawn at random, of some people: what one person's likeness to itself is."""
        rng = np.random.default_rng(seed)
        people = self.labels[(self.labels >= 0) & (self.sizes >= 4)]
        found = []
        for person in rng.permutation(people)[:count]:
            rows = rng.permutation(self.rows(self.places(person)))
            middle = len(rows) // 2
            found.append(rows[:middle].mean(0) @ rows[middle:].mean(0) / self._within_of(person))
        return np.array(found)

    def _within_of(self, person: int) -> float:
        return float(self._within[np.searchsorted(self.labels, person)])

    def _count(self, touched: np.ndarray) -> None:
        """Sums of nodes; those that were not touched are taken over."""
        before, sums = self.labels, self._sums
        self.labels, node, self.sizes = np.unique(self.of_place, return_inverse=True, return_counts=True)
        node = node.reshape(-1)
        width = self._gallery.vectors[0].shape[1]
        self._sums = np.zeros((len(self.labels), width), np.float32)
        if sums is not None:
            kept = np.flatnonzero(~np.isin(self.labels, touched))
            self._sums[kept] = sums[np.searchsorted(before, self.labels[kept])]
        places = np.flatnonzero(np.isin(self.of_place, touched))
        for start in range(0, len(places), _BLOCK):
            block = places[start : start + _BLOCK]
            own, column = np.unique(node[block], return_inverse=True)
            shape = (len(own), len(block))
            members = csr_matrix((np.ones(len(block), np.float32), (column.reshape(-1), np.arange(len(block)))), shape)
            self._sums[own] += members @ self.rows(block)
        self._mean = self._sums / self.sizes[:, None]
        several = self.sizes > 1
        pairs = np.maximum(self.sizes * (self.sizes - 1), 1)
        own = (np.einsum("ij,ij->i", self._sums, self._sums) - self.sizes) / pairs
        if self._usual is None:  # as it was at first, so that what is not touched stays as it is
            self._usual = float(np.average(own[several], weights=self.sizes[several])) if several.any() else 1.0
        weight = np.where(several, self.sizes, 0)
        self._within = np.maximum((own * weight + self._usual * _PRIOR_IMAGES) / (weight + _PRIOR_IMAGES), _LEAST)

    def _connect(self, touched: np.ndarray) -> None:
        """Near nodes of the people that were touched; of others those that are there still."""
        kept = ~np.isin(self.edges, touched).any(1)
        self.edges, self.alike = self.edges[kept], self.alike[kept]
        people = touched[(touched >= 0) & np.isin(touched, self.labels)]
        if not len(people) or len(self.labels) < 2:
            return
        # a mean over its square root within it: then the product of two is their likeness
        scaled = self._mean / np.sqrt(self._within)[:, None]
        asked = np.searchsorted(self.labels, people)
        found = _nearest(scaled[asked], scaled, min(NEAR + 1, len(scaled)))
        pairs = np.stack([np.repeat(people, found.shape[1]), self.labels[found].reshape(-1)], 1)
        pairs = pairs[(pairs[:, 0] != pairs[:, 1]) & (found.reshape(-1) >= 0)]
        swapped = (pairs[:, 1] >= 0) & (pairs[:, 1] < pairs[:, 0])  # each pair of people once
        pairs[swapped] = pairs[swapped][:, ::-1]
        pairs = np.unique(pairs, axis=0)
        self.edges = np.concatenate([self.edges, pairs])
        self.alike = np.concatenate([self.alike, self.between(*pairs.T)])

    def _cut(self, people: np.ndarray) -> None:
        order = np.argsort(self.of_place, kind="stable")
        starts = np.searchsorted(self.of_place[order], [people, people + 1])
        for person, start, end in zip(people.tolist(), *starts.tolist()):
            if end - start < _FEWEST_IN_CUT:
                continue
            places = order[start:end]
            rows = self.rows(places)
            first = cut_in_two(rows)
            if first.sum() * 2 < len(first):
                first = ~first
            alike = float(rows[first].mean(0) @ rows[~first].mean(0)) / self._within_of(person)
            self.cuts[person] = Cut(places[first], places[~first], alike)


def cut_in_two(rows: np.ndarray) -> np.ndarray:
    """(n,) bool: unit rows (n, D), n >= 2, in two by average linkage, neither of them empty."""
    some = rows
    if len(rows) > _MOST_IN_CUT:
        some = rows[np.random.default_rng(0).choice(len(rows), _MOST_IN_CUT, replace=False)]
    distances = np.clip(1 - (some @ some.T)[np.triu_indices(len(some), 1)], 0, None)
    first = _last_joined(linkage(distances, "average"))
    if some is rows:
        return first
    found = rows @ some[first].mean(0) > rows @ some[~first].mean(0)
    if found.all() or not found.any():
        found[0] = not found[0]
    return found


def _last_joined(tree: np.ndarray) -> np.ndarray:
    """(n,) bool: which leaves are below the first of the two branches that scipy's tree (n - 1, 4) joins last."""
    count, found = len(tree) + 1, np.zeros(len(tree) + 1, bool)
    children, branches = tree[:, :2].astype(int).tolist(), [int(tree[-1, 0])]
    while branches:
        branch = branches.pop()
        if branch < count:
            found[branch] = True
        else:
            branches += children[branch - count]
    return found


def _camera_means(gallery: Gallery, cameras: np.ndarray) -> np.ndarray:
    """(C, D) mean of each camera's embeddings; of all images' where it has few."""
    count = int(cameras.max(initial=0)) + 1
    sums = np.zeros((count, gallery.vectors[0].shape[1]))
    start = 0
    for part in gallery.vectors:
        own = cameras[start : start + len(part)]
        sums += csr_matrix((np.ones(len(own)), (own, np.arange(len(own)))), (count, len(own))) @ part
        start += len(part)
    images = np.bincount(cameras, minlength=count)
    means = np.where((images >= _ENOUGH_OF_CAMERA)[:, None], sums / np.maximum(images, 1)[:, None], 0)
    means[images < _ENOUGH_OF_CAMERA] = sums.sum(0) / len(cameras)
    return means.astype(np.float32)


def _nearest(queries: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """(Q, k) places of the rows with the highest products; -1: none."""
    if len(queries) * len(rows) <= _MOST_COMPARISONS:
        return nearest(queries, rows, k)[1]
    from ..neighbors.indexes import build_ivf

    lengths = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _LEAST)
    # by direction, which changes the order a little
    index = build_ivf(np.ascontiguousarray(rows / lengths), num_probes=_PROBES)
    return index.search(np.ascontiguousarray(queries), k)[1]
