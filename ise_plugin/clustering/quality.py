"""What can be said about a clustering, with and without true identities.

With true identities (for study only; training never sees them) the functions compare two labellings of the same images.
Without, they look at sizes, at the labelling before, and at the embeddings. Where scikit-learn has a measure, it is
scikit-learn's. A measure that is not defined (no clusters, one cluster) is NaN; the two functions that gather
measures, :func:`identity_quality` and :func:`structure_quality`, leave it out.

Outliers (label -1) belong to no cluster. ``outliers`` says what becomes of them in a comparison: ``"ignore"`` leaves them
out, as training does (read the result together with the share of outliers); ``"singletons"`` makes each a cluster of its
own, so that an image which joins or leaves a cluster counts as a change.
"""

import math
from typing import NamedTuple, Optional

import numpy as np
import torch
from sklearn import metrics

from ..neighbors._checks import Features, unit_rows
from ..utils.parallel import blocks_of
from .clusterers import OUTLIER
from .jaccard import expanded_neighborhoods, neighborhood_weights, transposed

_OUTLIER_RULES = ("ignore", "singletons")
# Rows of the silhouette's sample: its cost grows with the square, its error is a hundredth already.
SILHOUETTE_SAMPLE = 1000
# Rows compared with all centroids at once.
_ROWS_PER_BLOCK = 4096


class SubClusterError(NamedTuple):
    """``share`` of identities that lie in several clusters, in [0, 1]; mean number of ``pieces`` of those, >= 2 or NaN."""

    share: float
    pieces: float


class MixedClusterError(NamedTuple):
    """``share`` of clusters with several identities; share of images in the ``minority`` of their cluster; in [0, 1]."""

    share: float
    minority: float


class VMeasure(NamedTuple):
    """In [0, 1]. ``homogeneity``: clusters hold one identity; ``completeness``: identities lie in one cluster."""

    homogeneity: float
    completeness: float
    v_measure: float


class BCubed(NamedTuple):
    """In [0, 1], means over images. ``f`` is the harmonic mean of the other two."""

    precision: float
    recall: float
    f: float


def adjusted_rand_index(labels: np.ndarray, identities: np.ndarray, outliers: str = "ignore") -> float:
    """Agreement over pairs of images, corrected for chance: 1 for equal partitions, about 0 for independent ones.

    Source: Hubert and Arabie, "Comparing partitions", Journal of Classification 1985; scikit-learn.

    Args:
        labels: (N,), integer cluster numbers, -1 for outliers.
        identities: (N,), the other labelling: integers or text.
        outliers: ``"ignore"`` or ``"singletons"``, see the module.

    Raises:
        ValueError: the two differ in shape, or an unknown rule for outliers.
    """
    labels, identities = _comparable(labels, identities, outliers)
    return float(metrics.adjusted_rand_score(identities, labels)) if len(labels) else math.nan


def normalized_mutual_information(labels: np.ndarray, identities: np.ndarray, outliers: str = "ignore") -> float:
    """Mutual information over the arithmetic mean of both entropies, in [0, 1]. Equals the V-measure.

    Source: Strehl and Ghosh, JMLR 2002 (who take the geometric mean); scikit-learn. Arguments as for
    :func:`adjusted_rand_index`.
    """
    labels, identities = _comparable(labels, identities, outliers)
    return float(metrics.normalized_mutual_info_score(identities, labels)) if len(labels) else math.nan


def v_measure(labels: np.ndarray, identities: np.ndarray, outliers: str = "ignore") -> VMeasure:
    """Homogeneity, completeness and their harmonic mean.

    Source: Rosenberg and Hirschberg, EMNLP 2007; scikit-learn. Arguments as for :func:`adjusted_rand_index`.
    """
    labels, identities = _comparable(labels, identities, outliers)
    if not len(labels):
        return VMeasure(math.nan, math.nan, math.nan)
    return VMeasure(*map(float, metrics.homogeneity_completeness_v_measure(identities, labels)))


def purity(labels: np.ndarray, identities: np.ndarray, outliers: str = "ignore") -> float:
    """Share of images that belong to the most frequent identity of their cluster, in (0, 1].

    Source: Manning, Raghavan, Schuetze, "Introduction to Information Retrieval", section 16.3. It says nothing of split
    identities: one cluster per image is pure. Arguments as for :func:`adjusted_rand_index`.
    """
    counts = _counts(labels, identities, outliers)
    return float(counts.largest().sum() / counts.images.sum()) if counts else math.nan


def b_cubed(labels: np.ndarray, identities: np.ndarray, outliers: str = "ignore") -> BCubed:
    """Of an image's cluster, the share that has its identity (precision); of its identity, the share in its cluster
    (recall); the image itself counts. Both are means over images.

    Source: Bagga and Baldwin, "Entity-based cross-document coreferencing using the vector space model", COLING-ACL 1998.
    Arguments as for :func:`adjusted_rand_index`.
    """
    counts = _counts(labels, identities, outliers)
    if not counts:
        return BCubed(math.nan, math.nan, math.nan)
    in_cluster = np.bincount(counts.cluster, counts.images)[counts.cluster]
    of_identity = np.bincount(counts.identity, counts.images)[counts.identity]
    precision = float(np.average(counts.images / in_cluster, weights=counts.images))
    recall = float(np.average(counts.images / of_identity, weights=counts.images))
    return BCubed(precision, recall, 2 * precision * recall / (precision + recall))


def sub_cluster_error(labels: np.ndarray, identities: np.ndarray) -> SubClusterError:
    """How many identities are split over several clusters, and into how many. Outliers are no cluster and no piece.

    Source: Zhang et al., CVPR 2022, section 1 and figure 1, which name the error; counted here among the identities that
    have an image in a cluster. Arguments as for :func:`adjusted_rand_index`.
    """
    counts = _counts(labels, identities, "ignore")
    if not counts:
        return SubClusterError(math.nan, math.nan)
    pieces = np.bincount(counts.identity)
    split = pieces > 1
    return SubClusterError(float(split.mean()), float(pieces[split].mean()) if split.any() else math.nan)


def mixed_cluster_error(labels: np.ndarray, identities: np.ndarray) -> MixedClusterError:
    """How many clusters hold several identities, and how many images are there in the minority (1 - purity).

    Source: Zhang et al., CVPR 2022, section 1 and figure 1, which name the error. Arguments as for
    :func:`adjusted_rand_index`.
    """
    counts = _counts(labels, identities, "ignore")
    if not counts:
        return MixedClusterError(math.nan, math.nan)
    mixed = np.bincount(counts.cluster) > 1
    return MixedClusterError(float(mixed.mean()), 1 - float(counts.largest().sum() / counts.images.sum()))


def cluster_sizes(labels: np.ndarray) -> np.ndarray:
    """(M,) int64, the number of images of every cluster that has any, in the order of the cluster numbers."""
    return np.unique(labels[labels != OUTLIER], return_counts=True)[1]


def outlier_share(labels: np.ndarray) -> float:
    """Share of images without a cluster, in [0, 1]."""
    return float(np.mean(labels == OUTLIER)) if len(labels) else math.nan


def stability(labels: np.ndarray, previous: np.ndarray) -> float:
    """Adjusted Rand index against the labelling before; outliers as clusters of their own."""
    return adjusted_rand_index(_singletons(labels), _singletons(previous))


def similarity_to_centroids(features: Features, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine of every clustered image with its own centroid and with the nearest other one.

    A centroid is the normalised mean of its cluster, as in the cluster memory.

    Args:
        features: (N, D) unit rows, numpy or torch.
        labels: (N,), integer cluster numbers, -1 for outliers.

    Returns:
        Two arrays (N - outliers,), float32, in the images' order; the second is NaN with fewer than two clusters.
    """
    rows = unit_rows(features).cpu()
    clustered = np.flatnonzero(labels != OUTLIER)
    own = np.empty(len(clustered), np.float32)
    other = np.full(len(clustered), np.nan, np.float32)
    if not len(clustered):
        return own, other
    numbers = torch.from_numpy(np.unique(labels[clustered], return_inverse=True)[1])
    centroids = torch.zeros(int(numbers.max()) + 1, rows.shape[1])
    centroids.index_add_(0, numbers, rows[clustered])
    centroids = torch.nn.functional.normalize(centroids, dim=1)
    for start, stop in blocks_of(len(clustered), _ROWS_PER_BLOCK):
        similarities = rows[clustered[start:stop]] @ centroids.T
        column = numbers[start:stop, None]
        own[start:stop] = similarities.gather(1, column)[:, 0].numpy()
        if len(centroids) > 1:
            other[start:stop] = similarities.scatter_(1, column, -torch.inf).max(dim=1).values.numpy()
    return own, other


def silhouette(features: Features, labels: np.ndarray, sample: int = SILHOUETTE_SAMPLE, seed: int = 0) -> float:
    """Mean silhouette by cosine distance, in [-1, 1], on a sample of the clustered images.

    Source: Rousseeuw, Journal of Computational and Applied Mathematics 1987; scikit-learn.

    Args:
        features: (N, D) unit rows, numpy or torch.
        labels: (N,), integer cluster numbers, -1 for outliers.
        sample: images at most. An image that is alone in the sample counts as 0.
        seed: of the sample.

    Returns:
        NaN where the sample has fewer than two clusters, or every image is a cluster of its own.
    """
    chosen = np.flatnonzero(labels != OUTLIER)
    if len(chosen) > sample:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, sample, replace=False))
    if not 1 < len(np.unique(labels[chosen])) < len(chosen):
        return math.nan
    rows = unit_rows(features).cpu().numpy()[chosen]
    distances = np.clip(1 - rows @ rows.T, 0, None)
    np.fill_diagonal(distances, 0)
    return float(metrics.silhouette_score(distances, labels[chosen], metric="precomputed"))


def sampled_distances(
    features: Features, rows: np.ndarray, neighbors: tuple[np.ndarray, np.ndarray], k2: int = 6
) -> np.ndarray:
    """The k-reciprocal Jaccard distance (see :mod:`.jaccard`) of some rows to all rows.

    Args:
        features: (N, D) unit rows, numpy or torch.
        rows: (S,), the rows asked for.
        neighbors: similarities and ranks, both (N, k1), as a registered neighbour search gives them for all rows.
        k2: neighbours whose weights are averaged, at least 1.

    Returns:
        (S, N) float32, in [0, 1].
    """
    similarities, ranks = (np.ascontiguousarray(a, t) for a, t in zip(neighbors, (np.float32, np.int32)))
    half = min(int(np.around(ranks.shape[1] / 2)) + 1, ranks.shape[1])
    weights = expanded_neighborhoods(unit_rows(features), similarities, ranks, half)
    weights.values[:] = 2 - 2 * weights.values  # squared Euclidean distance of unit rows
    weights = neighborhood_weights(weights, ranks, min(k2, ranks.shape[1]))
    by_column, _ = transposed(weights)
    distances = np.empty((len(rows), len(ranks)), np.float32)
    for distance, row in zip(distances, rows):
        own = slice(weights.starts[row], weights.starts[row + 1])
        columns, lengths = weights.columns[own], np.diff(by_column.starts)[weights.columns[own]]
        # entries of the columns that the row has: a range of by_column for each
        entries = np.repeat(by_column.starts[columns] - np.cumsum(lengths) + lengths, lengths) + np.arange(
            lengths.sum()
        )
        shared = np.minimum(np.repeat(weights.values[own], lengths), by_column.values[entries])
        mass = np.bincount(by_column.columns[entries], shared, minlength=len(ranks))
        distance[:] = np.clip(1 - mass / (2 - mass), 0, 1)
        distance[row] = 0
    return distances


def identity_quality(labels: np.ndarray, identities: np.ndarray) -> dict:
    """Every measure against true identities, outliers left out; names as they are logged, values as floats."""
    sub, mixed = sub_cluster_error(labels, identities), mixed_cluster_error(labels, identities)
    v, cubed = v_measure(labels, identities), b_cubed(labels, identities)
    return _defined(
        ari=adjusted_rand_index(labels, identities),
        nmi=normalized_mutual_information(labels, identities),
        v_measure=v.v_measure,
        homogeneity=v.homogeneity,
        completeness=v.completeness,
        purity=purity(labels, identities),
        bcubed_precision=cubed.precision,
        bcubed_recall=cubed.recall,
        bcubed_f=cubed.f,
        split_identities=sub.share,
        pieces_per_split_identity=sub.pieces,
        mixed_clusters=mixed.share,
        minority_images=mixed.minority,
    )


def structure_quality(features: Features, labels: np.ndarray, previous: Optional[np.ndarray] = None) -> dict:
    """Every measure that needs no identities; names as they are logged, values as floats.

    Args:
        features: (N, D) unit rows, numpy or torch.
        labels: (N,), integer cluster numbers, -1 for outliers.
        previous: (N,), the labelling before, where there was one.
    """
    sizes = cluster_sizes(labels)
    own, other = similarity_to_centroids(features, labels)
    return _defined(
        clusters=len(sizes),
        outlier_share=outlier_share(labels),
        largest_share=sizes.max() / len(labels) if len(sizes) else math.nan,
        median_size=np.median(sizes) if len(sizes) else math.nan,
        stability=math.nan if previous is None else stability(labels, previous),
        similarity_inside=own.mean() if len(own) else math.nan,
        similarity_to_nearest_other=other.mean() if len(other) else math.nan,
        silhouette=silhouette(features, labels),
    )


def _comparable(labels: np.ndarray, identities: np.ndarray, outliers: str) -> tuple[np.ndarray, np.ndarray]:
    labels, identities = np.asarray(labels), np.asarray(identities)
    if labels.ndim != 1 or labels.shape != identities.shape:
        raise ValueError(
            f"labels and identities must be two rows of one length, got {labels.shape}, {identities.shape}"
        )
    if outliers not in _OUTLIER_RULES:
        raise ValueError(f"outliers must be one of {_OUTLIER_RULES}, got {outliers!r}")
    identities = np.unique(identities, return_inverse=True)[1]
    if outliers == "singletons":
        return _singletons(labels), identities
    return labels[labels != OUTLIER], identities[labels != OUTLIER]


def _singletons(labels: np.ndarray) -> np.ndarray:
    """Each outlier with a number of its own behind the clusters' numbers."""
    labels = np.array(labels)
    alone = labels == OUTLIER
    labels[alone] = labels.max(initial=OUTLIER) + 1 + np.arange(alone.sum())
    return labels


class _Counts(NamedTuple):
    """Which identity has how many images in which cluster: one entry for every pair that occurs."""

    identity: np.ndarray
    cluster: np.ndarray
    images: np.ndarray

    def largest(self) -> np.ndarray:
        """For every cluster the images of its most frequent identity."""
        largest = np.zeros(self.cluster.max() + 1, np.int64)
        np.maximum.at(largest, self.cluster, self.images)
        return largest


def _counts(labels: np.ndarray, identities: np.ndarray, outliers: str) -> Optional[_Counts]:
    """None where no image has a cluster."""
    labels, identities = _comparable(labels, identities, outliers)
    if not len(labels):
        return None
    numbered = [np.unique(values, return_inverse=True)[1] for values in (identities, labels)]
    pairs, images = np.unique(np.stack(numbered), axis=1, return_counts=True)
    return _Counts(pairs[0], pairs[1], images)


def _defined(**measures: float) -> dict:
    return {name: float(value) for name, value in measures.items() if not math.isnan(value)}
