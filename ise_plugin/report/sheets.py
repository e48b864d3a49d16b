"""Which clusters to look at: the purest, the most mixed, the most split identities; without identities, tight and loose ones."""

from typing import Callable, Optional, Sequence

import numpy as np

from ..clustering import OUTLIER
from .pictures import picture

ROWS = 3
IMAGES_PER_ROW = 10
RIGHT, WRONG = "✓", "✗"
# Smaller clusters are pure or tight by chance.
_SMALLEST_CLUSTER = 4
_PIECES = "ABCDEFGHIJ"


def sheets_of(
    paths: Sequence[str], labels: np.ndarray, identities: Optional[np.ndarray], similarities: np.ndarray
) -> list:
    """The sheets of one labelling.

    Args:
        paths: N image files.
        labels: (N,), cluster numbers, -1 for outliers.
        identities: (N,), any, or None where they are not known.
        similarities: (N - outliers,), of every clustered image with its centroid, in the images' order.

    Returns:
        Dictionaries with ``title``, ``caption`` and ``rows``; each row has ``title`` and ``images``
        (:func:`ise_plugin.report.pictures.picture`). Empty where there are no clusters.
    """
    if not (labels != OUTLIER).any():
        return []
    if identities is None:
        return _by_similarity(paths, labels, similarities)
    clusters = [_Cluster(number, np.flatnonzero(labels == number), identities) for number in _numbers(labels)]
    large = [c for c in clusters if len(c.members) >= _SMALLEST_CLUSTER] or clusters
    purest = sorted(large, key=lambda c: (c.minority / len(c.members), -len(c.members)))
    mixed = sorted((c for c in clusters if c.minority), key=lambda c: -c.minority)
    return [
        _sheet("Purest clusters", "the largest of the clusters with the fewest strangers", purest, paths),
        _sheet("Most mixed clusters", f"{RIGHT} most frequent identity of the cluster, {WRONG} others", mixed, paths),
        _split_sheet(paths, labels, identities),
    ]


class _Cluster:
    """A cluster and who is in it."""

    def __init__(self, number: int, members: np.ndarray, identities: np.ndarray):
        self.number, self.members = number, members
        names, counts = np.unique(identities[members], return_counts=True)
        self.people = len(names)
        self.belongs = identities[members] == names[counts.argmax()]
        self.minority = int((~self.belongs).sum())

    def row(self, paths: Sequence[str]) -> dict:
        strangers = self.members[~self.belongs][: IMAGES_PER_ROW // 2]
        own = self.members[self.belongs][: IMAGES_PER_ROW - len(strangers)]
        people = "1 identity" if self.people == 1 else f"{self.people} identities"
        return {
            "title": f"cluster {self.number}: {len(self.members)} images, {people}",
            "images": [picture(paths[i], RIGHT, True) for i in own]
            + [picture(paths[i], WRONG, False) for i in strangers],
        }


def _sheet(title: str, caption: str, clusters: list, paths: Sequence[str]) -> dict:
    return {"title": title, "caption": caption, "rows": [cluster.row(paths) for cluster in clusters[:ROWS]]}


def _split_sheet(paths: Sequence[str], labels: np.ndarray, identities: np.ndarray) -> dict:
    clustered = labels != OUTLIER
    names, of = np.unique(identities[clustered], return_inverse=True)
    pairs = np.unique(np.stack([of, labels[clustered]]), axis=1)
    pieces = np.bincount(pairs[0])
    worst = [p for p in np.argsort(-pieces, kind="stable")[:ROWS] if pieces[p] > 1]
    rows = [_split_row(paths, np.flatnonzero(identities == names[p]), labels) for p in worst]
    caption = "one identity each; the same letter is the same cluster, – an outlier"
    return {"title": "Most split identities", "caption": caption, "rows": rows}


def _split_row(paths: Sequence[str], members: np.ndarray, labels: np.ndarray) -> dict:
    numbers, counts = np.unique(labels[members][labels[members] != OUTLIER], return_counts=True)
    numbers = numbers[np.argsort(-counts, kind="stable")]
    share = max(1, IMAGES_PER_ROW // len(numbers))
    images = []
    for letter, number in zip(_PIECES, numbers):
        images += [picture(paths[i], letter, letter == _PIECES[0]) for i in members[labels[members] == number][:share]]
    outliers = members[labels[members] == OUTLIER]
    images += [picture(paths[i], "–", False) for i in outliers[: IMAGES_PER_ROW - len(images)]]
    title = f"{len(members)} images in {len(numbers)} clusters" + (
        f", {len(outliers)} outliers" if len(outliers) else ""
    )
    return {"title": title, "images": images}


def _by_similarity(paths: Sequence[str], labels: np.ndarray, similarities: np.ndarray) -> list:
    mean, members = {}, {}
    clustered = np.flatnonzero(labels != OUTLIER)
    for number in _numbers(labels):
        inside = labels[clustered] == number
        members[number], mean[number] = clustered[inside], float(similarities[inside].mean())
    numbers = [n for n in members if len(members[n]) >= _SMALLEST_CLUSTER] or list(members)

    def sheet(title: str, key: Callable) -> dict:
        rows = [
            {
                "title": f"cluster {n}: {len(members[n])} images, similarity to the centroid {mean[n]:.2f}",
                "images": [picture(paths[i], "", True) for i in members[n][:IMAGES_PER_ROW]],
            }
            for n in sorted(numbers, key=key)[:ROWS]
        ]
        return {"title": title, "caption": "by mean similarity to the centroid; identities are not known", "rows": rows}

    return [sheet("Tightest clusters", lambda n: -mean[n]), sheet("Loosest clusters", lambda n: mean[n])]


def _numbers(labels: np.ndarray) -> list:
    return [int(n) for n in np.unique(labels) if n != OUTLIER]
