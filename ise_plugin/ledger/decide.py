"""Known, new or undecided: what is made of images that come into a ledger."""

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from ..clustering import DBSCAN, OUTLIER, jaccard_graph
from ..clustering.calibration import NEIGHBORS, Calibration, Scored, nearest, score_people
from ..clustering.constraints import Constraints

KNOWN, NEW, UNDECIDED = "known", "new", "undecided"
_NOBODY = -1
NOBODY_APART = np.empty((0, 2), np.int64)
# Of the Jaccard distance that new people are grouped by, and of DBSCAN, as in the configs for folders.
_K1, _MIN_SAMPLES = 20, 4
# Neighbours of every image of a batch that tell what is usual where people are grouped.
CONTEXT = 20
# More likely than not.
_EVEN = 0.5


class Near(NamedTuple):
    """What a ledger holds that is near to each of Q images: cosines (Q, k), descending, and places (Q, k) in the gallery."""

    similarities: np.ndarray
    places: np.ndarray


class Gallery(NamedTuple):
    """What a ledger holds, as far as decisions need it.

    Attributes:
        vectors: parts (n, D) float32, one after another; not put together, for there may be millions of rows.
        people: (N,) int64 numbers, -1: nobody's yet.
        trust: (P,) of each person, in the order of the numbers that occur: the share of its images that are rightly its own, by
            the probabilities of their decisions.
    """

    vectors: list
    people: np.ndarray
    trust: np.ndarray

    def near(self, queries: np.ndarray) -> "Near":
        """The images that are most similar to each of some others (Q, D), float32, unit rows."""
        k = min(NEIGHBORS, len(self.people))
        found = Near(np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64))
        start = 0
        for part in self.vectors:
            similar, places = nearest(queries, part, min(k, len(part)))
            similar, places = np.c_[found.similarities, similar], np.c_[found.places, places + start]
            order = np.argsort(-similar, axis=1, kind="stable")[:, :k]
            found = Near(np.take_along_axis(similar, order, 1), np.take_along_axis(places, order, 1))
            start += len(part)
        return found

    def rows(self, places: np.ndarray) -> np.ndarray:
        """(n, D) of the vectors at ascending places."""
        parts, start = [], 0
        for part in self.vectors:
            own = places[(places >= start) & (places < start + len(part))] - start
            parts.append(part[own])
            start += len(part)
        return np.concatenate(parts)


class Decided(NamedTuple):
    """Of N images: verdict, person (of the ledger for known ones; for new ones a number of the group, from 0), the most likely
    person of an undecided one (-1: none), probability that the person named is the right one."""

    verdicts: np.ndarray
    people: np.ndarray
    candidates: np.ndarray
    probabilities: np.ndarray


def decide(
    vectors: np.ndarray,
    units: np.ndarray,
    near: Near,
    gallery: Gallery,
    calibration: Calibration,
    false_accept: float,
    apart: np.ndarray = NOBODY_APART,
) -> Decided:
    """Decides for the images of a batch.

    The images of a unit decide together, by their mean scores: *known* where the score of the best person is one that a share
    ``false_accept`` of people who are not known reaches. Then the images are grouped with their like, and a group of which some
    are not known decides together as well: of which most were recognised as one person, it is known; *new* where it is more
    likely nobody in the ledger, also those of it who look like somebody; else, as what has no like, those are *undecided*.

    Args:
        vectors: (N, D) float32 unit rows.
        units: (N,) int64, 0..U-1: the images of a track have one number.
        near: of the gallery, to them.
        apart: (P, 2) int64, pairs of units that are two people. Of two that are like one person, the more similar is.
    """
    person, score = best_people(near, units, gallery)
    probability = probabilities(person, score, gallery, calibration)
    known = (person >= 0) & (score >= calibration.threshold(false_accept, len(gallery.trust)))
    taken = _Taken(apart)
    for place in np.flatnonzero(known)[np.argsort(-score[known], kind="stable")].tolist():
        known[place] = taken.give(int(units[place]), int(person[place]))
    verdicts = np.where(known, KNOWN, UNDECIDED).astype(object)
    people = np.where(known, person, _NOBODY)
    number = 0
    groups = (
        np.full(len(known), OUTLIER) if known.all() else group(vectors, units, near, gallery, calibration.eps, apart)
    )
    for label in range(groups.max(initial=OUTLIER) + 1):
        members = np.flatnonzero(groups == label)
        recognised, left = members[known[members]], members[~known[members]]
        if not len(left):
            continue
        names, counts = np.unique(person[recognised], return_counts=True)
        if len(names) and counts.max() * 2 > len(members):
            name = int(names[counts.argmax()])
            left = left[[taken.give(unit, name) for unit in units[left].tolist()]]
            verdicts[left], people[left] = KNOWN, name
            probability[left] = probability[recognised].mean()
        elif probability[members].mean() < _EVEN:
            verdicts[members], people[members] = NEW, number
            probability[members] = 1 - probability[members].mean()
            number += 1
    candidates = np.where(verdicts == UNDECIDED, person, _NOBODY)
    return Decided(verdicts, people, candidates, probability)


class _Taken:
    """Whose people are given to units so far, never one to two that are apart."""

    def __init__(self, apart: np.ndarray):
        self._foes: dict = defaultdict(set)
        for one, other in apart.tolist():
            self._foes[one].add(other)
            self._foes[other].add(one)
        self._people: dict = {}

    def give(self, unit: int, person: int) -> bool:
        """Gives the unit the person, if it may be."""
        if any(self._people.get(foe) == person for foe in self._foes.get(unit, ())):
            return False
        self._people[unit] = person
        return True


def probabilities(person: np.ndarray, score: np.ndarray, gallery: Gallery, calibration: Calibration) -> np.ndarray:
    """(N,) that the best person (N,), -1: none, is the right one: that the image belongs to the group, by its score, times that
    the group is this person."""
    there = person >= 0
    found, calibration = np.zeros(len(person)), calibration.among(len(gallery.trust))
    trust = gallery.trust[np.searchsorted(np.unique(gallery.people[gallery.people >= 0]), person[there])]
    found[there] = calibration.probability(score[there], calibration.prior(score[there])) * trust
    return found


def best_people(near: Near, units: np.ndarray, gallery: Gallery) -> tuple[np.ndarray, np.ndarray]:
    """(N,) the best person for the unit of each image, -1 where the ledger has none, and the unit's score."""
    if not (gallery.people >= 0).any():
        return np.full(len(units), _NOBODY), np.full(len(units), -1.0)
    numbers, places = np.unique(gallery.people, return_inverse=True)
    places = places.reshape(-1) - int(numbers[0] < 0)  # nobody's images: -1
    numbers = numbers[numbers >= 0]
    sizes = np.bincount(places[places >= 0], minlength=len(numbers))
    scored = score_people(near.similarities, places[near.places], sizes)
    person, score = _of_units(scored, units, near.similarities[:, -1]).best(int(units.max()) + 1)
    named = np.where(person >= 0, numbers[person], _NOBODY)
    return named[units], score[units]


def _of_units(scored: Scored, units: np.ndarray, least: np.ndarray) -> Scored:
    """Mean scores of units: of an image that has a person not among its neighbours, as similar as the last of these."""
    if not len(scored.queries):
        return scored
    sizes, least_sums = np.bincount(units), np.bincount(units, least)
    keys = np.stack([units[scored.queries], scored.people], 1)
    keys, of = np.unique(keys, axis=0, return_inverse=True)
    of = of.reshape(-1)
    sums = np.bincount(of, scored.scores) + least_sums[keys[:, 0]] - np.bincount(of, least[scored.queries])
    return Scored(keys[:, 0], keys[:, 1], sums / sizes[keys[:, 0]])


def group(
    vectors: np.ndarray, units: np.ndarray, near: Near, gallery: Gallery, eps: float, apart: np.ndarray = NOBODY_APART
) -> np.ndarray:
    """(N,) int64 groups of a batch as the labelling would make them, -1 for images in none.

    The images of the ledger that are near take part in the distances, because what is near depends on what is usual, and none
    in the groups. The images of a unit stay together, and units that are apart get two groups.
    """
    rows = vectors
    if len(gallery.people):
        usual = np.unique(near.places[:, :CONTEXT])
        usual = usual[gallery.people[usual] >= 0]  # nobody's may be among the batch
        rows = np.concatenate([vectors, gallery.rows(usual)])
    if len(rows) < 2:
        return np.full(len(vectors), OUTLIER)
    clusterer = DBSCAN(eps, _MIN_SAMPLES)
    graph = jaccard_graph(rows, min(_K1, len(rows) - 1), max_distance=eps)[: len(vectors), : len(vectors)]
    graph = graph.tocsr()
    found = _whole_units(clusterer.fit_predict(graph), units)
    return Constraints(units, units, apart).repaired(found, graph) if len(apart) else found


def _whole_units(labels: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Each unit in the group of most of its images; one of enough images, all in none, is a group."""
    found, number = labels.copy(), int(labels.max(initial=OUTLIER)) + 1
    order = np.argsort(units, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(units[order])) + 1):
        if len(members) < 2:
            continue
        names, counts = np.unique(labels[members][labels[members] != OUTLIER], return_counts=True)
        if len(names):
            found[members] = names[counts.argmax()]
        elif len(members) >= _MIN_SAMPLES:
            found[members] = number
            number += 1
    return found
