"""The picture of the paper: real samples, centroids and support samples of a few identities, in two dimensions."""

import importlib.util
from typing import Optional, Sequence

import numpy as np
import torch
from sklearn.manifold import TSNE

from ..clustering import OUTLIER
from ..errors import UsageError
from ..method import cluster_centroids, generate_support_samples

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
METHODS = {"tsne": "sklearn", "opentsne": "openTSNE", "umap": "umap"}


def choose_images(
    features: torch.Tensor, groups: np.ndarray, wanted: Sequence[str] = ()
) -> tuple[np.ndarray, list[str]]:
    """The images that the map shows: those of wanted groups, or of the groups that lie closest together.

    Args:
        features: (N, D), float32, unit rows.
        groups: (N,), identities, or cluster numbers where they are not known (-1: none).
        wanted: names of groups; empty picks the group with the densest neighbourhood and its nearest ones, by the groups'
            mean embeddings: there are the errors.

    Returns:
        Indices of the images, ascending within a group, group after group; and the names of the groups.

    Raises:
        UsageError: a wanted group is not there.
    """
    names, of, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if wanted:
        unknown = [name for name in wanted if str(name) not in set(map(str, names))]
        if unknown:
            raise UsageError(f"ISE.REPORT.MAP_IDENTITIES: there is no {unknown[0]!r}; known is, say, {str(names[0])!r}")
        chosen = [int(np.flatnonzero(names.astype(str) == str(name))[0]) for name in wanted][:GROUPS]
    else:
        chosen = _crowd(features, names, of, counts)
    images = [_spread(np.flatnonzero(of == group)) for group in chosen]
    return np.concatenate(images or [np.empty(0, np.int64)]), [str(names[group]) for group in chosen]


def _crowd(features: torch.Tensor, names: np.ndarray, of: np.ndarray, counts: np.ndarray) -> list[int]:
    usable = np.flatnonzero((counts >= _SMALLEST_GROUP) & (names.astype(str) != str(OUTLIER)))
    if not len(usable):
        return []
    sums = torch.zeros(len(names), features.shape[1]).index_add_(0, torch.from_numpy(of), features)
    means = torch.nn.functional.normalize(sums[torch.from_numpy(usable)], dim=1)
    nearest, order = (means @ means.T).topk(min(GROUPS, len(usable)), dim=1)
    return usable[order[nearest[:, -1].argmax()].numpy()].tolist()


def _spread(members: np.ndarray) -> np.ndarray:
    """At most IMAGES_PER_GROUP of them, at even distances."""
    places = np.linspace(0, len(members) - 1, min(IMAGES_PER_GROUP, len(members)))
    return members[np.round(places).astype(int)]


def map_of(
    features: torch.Tensor, labels: np.ndarray, images: np.ndarray, group_of: np.ndarray, neighbors: int, degree: float
) -> dict:
    """The points of the map, without their places.

    Args:
        features: (N, D), float32, unit rows.
        labels: (N,), cluster numbers 0..M-1, -1 for outliers.
        images: (P,), the images shown.
        group_of: (P,), int, the group 0..GROUPS-1 of each.
        neighbors: support samples per image; 0 makes none.
        degree: of extension.

    Returns:
        ``vectors`` (list of lists), and for each of them ``kind``, ``group``, ``outlier``; ``degree``.
    """
    shown = torch.from_numpy(images)
    vectors, kinds, groups = [features[shown]], [REAL] * len(images), list(map(int, group_of))
    outlier = (labels[images] == OUTLIER).tolist()
    clustered = np.flatnonzero(labels[images] != OUTLIER)
    if len(clustered):
        centroids = cluster_centroids(features, torch.from_numpy(labels))
        own = labels[images[clustered]]
        numbers = np.unique(own)
        vectors.append(centroids[torch.from_numpy(numbers)])
        kinds += [CENTROID] * len(numbers)
        groups += [int(np.bincount(group_of[clustered][own == n]).argmax()) for n in numbers]
        count = min(neighbors, len(centroids) - 1)
        if count:
            real = features[shown[torch.from_numpy(clustered)]]
            supports, _ = generate_support_samples(real, torch.from_numpy(own), centroids, count, degree)
            vectors.append(supports)
            kinds += [SUPPORT] * len(supports)
            groups += np.repeat(group_of[clustered], count).tolist()
    outlier += [False] * (len(kinds) - len(outlier))
    points = _main_directions(torch.cat(vectors).double().numpy())
    return {
        "vectors": np.round(points, _DECIMALS).tolist(),
        "kind": kinds,
        "group": groups,
        "outlier": outlier,
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
    """Places in the plane for the map's points. Bounded in time: few points and steps.

    Args:
        vectors: P rows, P >= 1.
        method: ``"tsne"`` (scikit-learn), or ``"opentsne"`` / ``"umap"`` where those packages are installed.

    Returns:
        (P, 2), float64. The same for the same vectors.

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
