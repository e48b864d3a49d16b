"""Images to look at: clusters of a labelling and queries of an evaluation, the best and the worst. Whatever JSON can hold, for
the page."""

import os
from itertools import islice
from typing import Optional, Sequence

import numpy as np

from ..clustering import OUTLIER
from ..data.thumbnails import thumbnail
from ..engine.evaluation import Retrieval

IMAGES_PER_ROW = 10
RIGHT, WRONG = "✓", "✗"
_ROWS = 3
# Smaller clusters are pure or tight by chance.
_SMALLEST_CLUSTER = 4
_PIECES = "ABCDEFGHIJ"
# Queries that are shown, as quantiles of their average precision.
_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)


def picture(path: str, mark: str, good: bool) -> dict:
    """What the page needs to show an image: its thumbnail, file name, mark, and which border it gets."""
    return {"src": thumbnail(path), "name": os.path.basename(path), "mark": mark, "good": bool(good)}


def sheets_of(paths: Sequence[str], labels: np.ndarray, identities: Optional[np.ndarray], purities: np.ndarray) -> list:
    """The sheets of one labelling: the purest and the most mixed clusters and the most split identities; where
    identities are not known (None), the safest and the least safe clusters.

    Of N paths, labels (-1 for outliers) and identities, and the estimated purities of M clusters.

    Returns:
        Dictionaries with ``title``, ``caption`` and ``rows``; each row has ``title`` and ``images`` (:func:`picture`). Empty
        where there are no clusters.
    """
    clusters = {int(n): np.flatnonzero(labels == n) for n in np.unique(labels) if n != OUTLIER}
    if not clusters:
        return []
    if identities is None:
        return _by_purity(paths, clusters, purities)
    members = [_Cluster(number, inside, identities) for number, inside in clusters.items()]
    large = [c for c in members if len(c.members) >= _SMALLEST_CLUSTER] or members
    purest = sorted(large, key=lambda c: (c.minority / len(c.members), -len(c.members)))
    mixed = sorted((c for c in members if c.minority), key=lambda c: -c.minority)
    sheets = [
        {"title": title, "caption": caption, "rows": [cluster.row(paths) for cluster in found[:_ROWS]]}
        for title, caption, found in (
            ("Purest clusters", "the largest of the clusters with the fewest strangers", purest),
            ("Most mixed clusters", f"{RIGHT} most frequent identity of the cluster, {WRONG} others", mixed),
        )
    ]
    return [*sheets, _split_sheet(paths, labels, identities)]


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


def _split_sheet(paths: Sequence[str], labels: np.ndarray, identities: np.ndarray) -> dict:
    clustered = labels != OUTLIER
    names, of = np.unique(identities[clustered], return_inverse=True)
    pairs = np.unique(np.stack([of, labels[clustered]]), axis=1)
    pieces = np.bincount(pairs[0])
    worst = [p for p in np.argsort(-pieces, kind="stable")[:_ROWS] if pieces[p] > 1]
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
    rest = f", {len(outliers)} outliers" if len(outliers) else ""
    return {"title": f"{len(members)} images in {len(numbers)} clusters{rest}", "images": images}


def _by_purity(paths: Sequence[str], clusters: dict, purities: np.ndarray) -> list:
    numbers = [n for n in clusters if len(clusters[n]) >= _SMALLEST_CLUSTER] or list(clusters)
    caption, sheets = "by estimated purity; identities are not known", []
    for title, safest in (("Safest clusters", True), ("Least safe clusters", False)):
        rows = [
            {
                "title": f"cluster {n}: {len(clusters[n])} images, estimated purity {purities[n]:.2f}",
                "images": [picture(paths[i], "", True) for i in clusters[n][:IMAGES_PER_ROW]],
            }
            for n in sorted(numbers, key=purities.__getitem__, reverse=safest)[:_ROWS]
        ]
        sheets.append({"title": title, "caption": caption, "rows": rows})
    return sheets


def ranking(retrieval: Retrieval, query: int) -> tuple[np.ndarray, np.ndarray]:
    """Gallery images of one query, nearest first, those of its identity by its camera left out; and which are matches."""
    count = len(retrieval.average_precisions)
    identities, cameras = retrieval.identities[count:], retrieval.cameras[count:]
    order = np.argsort(retrieval.distances_of(slice(query, query + 1))[0].numpy(), kind="stable")
    match = identities[order] == retrieval.identities[query]
    kept = ~(match & (cameras[order] == retrieval.cameras[query]))
    return order[kept], match[kept]


def retrieval_rows(retrieval: Retrieval) -> list:
    """Ranked queries, chosen over the whole range from the worst to the best; those without a match are left out.

    Returns:
        Dictionaries with ``title``, ``query`` and ``images`` (:func:`picture`), the worst first.
    """
    precisions = retrieval.average_precisions
    ranked = np.argsort(precisions, kind="stable")[: np.isfinite(precisions).sum()]
    places = np.unique(np.round(np.array(_QUANTILES) * (len(ranked) - 1)).astype(int)) if len(ranked) else ()
    gallery, rows = retrieval.paths[len(precisions) :], []
    for query in (int(ranked[place]) for place in places):
        first = islice(zip(*ranking(retrieval, query)), IMAGES_PER_ROW)
        images = [picture(gallery[i], RIGHT if right else WRONG, right) for i, right in first]
        asked = picture(retrieval.paths[query], "query", True)
        rows.append({"title": f"average precision {precisions[query]:.0%}", "query": asked, "images": images})
    return rows
