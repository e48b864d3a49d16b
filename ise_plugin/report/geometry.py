"""Where the embeddings lie: the distances around eps, and the picture of the paper, real samples, centroids and support samples
of a few identities in two dimensions."""

import importlib.util
from typing import Optional, Sequence

import numpy as np
import torch
from sklearn.manifold import TSNE

from ..clustering import OUTLIER
from ..engine.labelling import Labelling
from ..errors import UsageError
from ..method import cluster_centroids, generate_support_samples

# Rows whose distances to all images are counted; each has a few hundred below one.
_SAMPLE = 200
_BINS = 40
# As many groups as there are colours that can be told apart, and few enough points to see each.
GROUPS = 8
IMAGES_PER_GROUP = 12
# Groups with fewer images show nothing.
_SMALLEST_GROUP = 4
# Kept of the embeddings: what t-SNE looks at is in the first few dozen directions.
_DIRECTIONS = 50
_DECIMALS = 4
# t-SNE: neighbours that a point feels (van der Maaten and Hinton, JMLR 2008: 5 to 50), and when to stop.
_PERPLEXITY = 20.0
_ITERATIONS = 400
# Below this t-SNE has nothing to arrange.
_FEWEST_POINTS = 8
REAL, CENTROID, SUPPORT = "real", "centroid", "support"
# How to arrange the points, and the package for it.
METHODS = {"tsne": "sklearn", "opentsne": "openTSNE", "umap": "umap"}


def distance_histogram(labelling: Labelling, identities: Optional[np.ndarray]) -> dict:
    """Distances of a sample of N >= 2 images to all others, those below one: the rest have no neighbour in common.

    The identities are (N,), of any type; None where they are not known.

    Returns:
        ``edges`` (B + 1 numbers), ``eps``, and counts of B bins: ``same`` and ``different`` identity, or ``all``.
    """
    count = len(labelling.labels)
    rows = np.sort(np.random.default_rng(0).choice(count, min(_SAMPLE, count), replace=False))
    distances = labelling.distances.of_rows(rows)
    counted = distances < 1
    counted[np.arange(len(rows)), rows] = False
    edges = np.linspace(0, 1, _BINS + 1)
    parts = {"all": counted}
    if identities is not None:
        same = identities[rows, None] == identities[None]
        parts = {"same": counted & same, "different": counted & ~same}
    counts = {name: np.histogram(distances[where], edges)[0].tolist() for name, where in parts.items()}
    eps = None if labelling.eps is None else float(labelling.eps)
    return {"edges": np.round(edges, _DECIMALS).tolist(), "eps": eps, **counts}


def choose_images(
    labelling: Labelling, identities: Optional[np.ndarray], wanted: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """The images that the map shows: those of wanted groups, or of the groups that lie closest together.

    Args:
        labelling: of N images.
        identities: (N,), the groups; None makes the clusters the groups.
        wanted: names of groups; empty picks the group with the densest neighbourhood and its nearest ones, by the groups'
            mean embeddings: there are the errors.

    Returns:
        Indices of the images, ascending within a group, group after group; and for each of them the place of its group in
        this order, from 0. Empty where there is no group large enough.

    Raises:
        UsageError: a wanted group is not there.
    """
    groups = labelling.labels if identities is None else identities
    names, of, counts = np.unique(groups, return_inverse=True, return_counts=True)
    texts = names.astype(str).tolist()
    if unknown := [name for name in map(str, wanted) if name not in texts]:
        raise UsageError(f"ISE.REPORT.MAP_IDENTITIES: there is no {unknown[0]!r}; known is, say, {texts[0]!r}")
    chosen = [texts.index(str(name)) for name in wanted][:GROUPS]
    if not wanted:
        usable = np.flatnonzero((counts >= _SMALLEST_GROUP) & (names.astype(str) != str(OUTLIER)))
        if identities is None:
            means = labelling.centroids[torch.from_numpy(names[usable])]
        else:
            means = cluster_centroids(labelling.features, torch.from_numpy(of).to(labelling.features.device))[usable]
        chosen = usable[_crowd(means.cpu())]
    images = []
    for group in chosen:
        members = np.flatnonzero(of == group)
        spread = np.linspace(0, len(members) - 1, min(IMAGES_PER_GROUP, len(members)))
        images.append(members[spread.round().astype(int)])
    group_of = np.repeat(np.arange(len(images)), [len(members) for members in images])
    return np.concatenate([np.empty(0, np.int64), *images]), group_of


def _crowd(means: torch.Tensor) -> np.ndarray:
    """The places of the mean with the densest neighbourhood, and of its nearest ones."""
    if not len(means):
        return np.empty(0, np.int64)
    nearest, order = (means @ means.T).topk(min(GROUPS, len(means)), dim=1)
    return order[nearest[:, -1].argmax()].numpy()


def map_of(labelling: Labelling, images: np.ndarray, group_of: np.ndarray, neighbors: int, degree: float) -> dict:
    """The points of the map, without their places.

    Args:
        labelling: of N images.
        images, group_of: (P,), int, as :func:`choose_images` gives them.
        neighbors: support samples per image; 0 makes none.
        degree: of extension.

    Returns:
        ``vectors`` (list of lists), and for each of them ``kind``, ``group``, ``outlier``; ``degree``.
    """
    labels, centroids = labelling.labels[images], labelling.centroids.cpu()
    real = labelling.features[torch.from_numpy(images).to(labelling.features.device)].cpu()
    vectors, kinds, groups = [real], [REAL] * len(images), group_of.tolist()
    clustered = np.flatnonzero(labels != OUTLIER)
    if len(clustered):
        own = labels[clustered]
        numbers = np.unique(own)
        vectors.append(centroids[torch.from_numpy(numbers)])
        kinds += [CENTROID] * len(numbers)
        groups += [int(np.bincount(group_of[clustered][own == n]).argmax()) for n in numbers]
        if count := min(neighbors, len(centroids) - 1):
            members = real[torch.from_numpy(clustered)]
            supports, _ = generate_support_samples(members, torch.from_numpy(own), centroids, count, degree)
            vectors.append(supports)
            kinds += [SUPPORT] * len(supports)
            groups += np.repeat(group_of[clustered], count).tolist()
    return {
        "vectors": np.round(_main_directions(torch.cat(vectors).double().numpy()), _DECIMALS).tolist(),
        "kind": kinds,
        "group": groups,
        "outlier": (labels == OUTLIER).tolist() + [False] * (len(kinds) - len(labels)),
        "degree": degree,
    }


def _main_directions(points: np.ndarray) -> np.ndarray:
    """Principal components, (P, at most _DIRECTIONS); the sign of each such that its largest entry is positive."""
    centred = points - points.mean(axis=0)
    left, scale, _ = np.linalg.svd(centred @ centred.T, hermitian=True)
    left = left[:, :_DIRECTIONS] * np.sqrt(scale[:_DIRECTIONS])
    largest = np.abs(left).argmax(axis=0)
    return left * np.where(left[largest, np.arange(left.shape[1])] < 0, -1, 1)


def arrange(vectors: list, method: str = "tsne") -> np.ndarray:
    """Places (P, 2), float64, in the plane for P >= 1 rows, by one of :data:`METHODS`. The same for the same rows.

    Raises:
        UsageError: the package is not installed, or there is no such method.
    """
    points = np.asarray(vectors, dtype=np.float64)
    if method not in METHODS:
        raise UsageError(f"ISE.REPORT.MAP_METHOD must be one of {', '.join(METHODS)}, not {method!r}")
    if len(points) < _FEWEST_POINTS:
        return np.pad(points[:, :2], ((0, 0), (0, max(0, 2 - points.shape[1]))))
    if importlib.util.find_spec(METHODS[method]) is None:
        raise UsageError(f"ISE.REPORT.MAP_METHOD {method} needs the package {METHODS[method]}: pip install -e .[map]")
    perplexity = min(_PERPLEXITY, (len(points) - 1) / 3)
    if method == "opentsne":
        from openTSNE import TSNE as OpenTSNE

        return np.asarray(OpenTSNE(perplexity=perplexity, n_iter=_ITERATIONS, random_state=0).fit(points))
    if method == "umap":
        from umap import UMAP

        return UMAP(n_neighbors=int(perplexity), random_state=0, n_jobs=1).fit_transform(points)
    return TSNE(perplexity=perplexity, max_iter=_ITERATIONS, init="pca", random_state=0).fit_transform(points)


def placed(points: dict, method: str = "tsne") -> Optional[dict]:
    """The map with places instead of vectors; None where it has no points."""
    if not points.get("vectors"):
        return None
    found = {key: value for key, value in points.items() if key != "vectors"}
    return {**found, "places": np.round(arrange(points["vectors"], method), _DECIMALS).tolist()}
