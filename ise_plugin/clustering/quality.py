"""What can be said about a clustering, with and without true identities.

With true identities (for study only; training never sees them) the functions compare two labellings of the same images.
Without, they look at sizes, at the labelling before, and at the embeddings. Where scikit-learn has a measure, it is
scikit-learn's. A measure that is not defined (no clusters, one cluster) is NaN; the two functions that gather
measures, :func:`identity_quality` and :func:`structure_quality`, leave it out.

Outliers (label -1) belong to no cluster: a comparison leaves them out, as training does (read the result together with
the share of outliers). Where each shall count as a cluster of its own, compare :func:`outliers_alone` of the labels.
"""

import math
from typing import NamedTuple, Optional

import numpy as np
from scipy.sparse import coo_matrix

from .centroids import CentroidSimilarities

# The label of an image that belongs to no cluster.
OUTLIER = -1


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


def adjusted_rand_index(labels: np.ndarray, identities: np.ndarray) -> float:
    """Agreement over pairs of images, corrected for chance: 1 for equal partitions, about 0 for independent ones.

    Source: Hubert and Arabie, "Comparing partitions", Journal of Classification 1985; scikit-learn.

    Args:
        labels: (N,), integer cluster numbers, -1 for outliers.
        identities: (N,), the other labelling: integers or text.

    Raises:
        ValueError: the two differ in shape.
    """
    from sklearn import metrics

    labels, identities = _comparable(labels, identities)
    return float(metrics.adjusted_rand_score(identities, labels)) if len(labels) else math.nan


def v_measure(labels: np.ndarray, identities: np.ndarray) -> VMeasure:
    """Homogeneity, completeness and their harmonic mean, which is the mutual information over the mean of both entropies.

    Source: Rosenberg and Hirschberg, EMNLP 2007; scikit-learn. Arguments as for :func:`adjusted_rand_index`.
    """
    from sklearn import metrics

    labels, identities = _comparable(labels, identities)
    if not len(labels):
        return VMeasure(math.nan, math.nan, math.nan)
    return VMeasure(*map(float, metrics.homogeneity_completeness_v_measure(identities, labels)))


def purity(labels: np.ndarray, identities: np.ndarray) -> float:
    """Share of images that belong to the most frequent identity of their cluster, in (0, 1].

    Source: Manning, Raghavan, Schuetze, "Introduction to Information Retrieval", section 16.3. It says nothing of split
    identities: one cluster per image is pure. Arguments as for :func:`adjusted_rand_index`.
    """
    counts = _contingency(labels, identities)
    return math.nan if counts is None else float(counts.max(axis=0).sum() / counts.sum())


def b_cubed(labels: np.ndarray, identities: np.ndarray) -> BCubed:
    """Of an image's cluster, the share that has its identity (precision); of its identity, the share in its cluster
    (recall); the image itself counts. Both are means over images.

    Source: Bagga and Baldwin, "Entity-based cross-document coreferencing using the vector space model", COLING-ACL 1998.
    Arguments as for :func:`adjusted_rand_index`.
    """
    counts = _contingency(labels, identities)
    if counts is None:
        return BCubed(math.nan, math.nan, math.nan)
    identity, cluster, images = counts.row, counts.col, counts.data
    precision = float(np.average(images / np.bincount(cluster, images)[cluster], weights=images))
    recall = float(np.average(images / np.bincount(identity, images)[identity], weights=images))
    return BCubed(precision, recall, 2 * precision * recall / (precision + recall))


def sub_cluster_error(labels: np.ndarray, identities: np.ndarray) -> SubClusterError:
    """How many identities are split over several clusters, and into how many. Outliers are no cluster and no piece.

    Source: Zhang et al., CVPR 2022, section 1 and figure 1, which name the error; counted here among the identities that
    have an image in a cluster. Arguments as for :func:`adjusted_rand_index`.
    """
    counts = _contingency(labels, identities)
    if counts is None:
        return SubClusterError(math.nan, math.nan)
    pieces = np.bincount(counts.row)
    split = pieces > 1
    return SubClusterError(float(split.mean()), float(pieces[split].mean()) if split.any() else math.nan)


def mixed_cluster_error(labels: np.ndarray, identities: np.ndarray) -> MixedClusterError:
    """How many clusters hold several identities, and how many images are there in the minority (1 - purity).

    Source: Zhang et al., CVPR 2022, section 1 and figure 1, which name the error. Arguments as for
    :func:`adjusted_rand_index`.
    """
    counts = _contingency(labels, identities)
    if counts is None:
        return MixedClusterError(math.nan, math.nan)
    return MixedClusterError(float((np.bincount(counts.col) > 1).mean()), 1 - purity(labels, identities))


def cluster_sizes(labels: np.ndarray) -> np.ndarray:
    """(M,) int64, the number of images of every cluster that has any, in the order of the cluster numbers."""
    return np.unique(labels[labels != OUTLIER], return_counts=True)[1]


def outlier_share(labels: np.ndarray) -> float:
    """Share of images without a cluster, in [0, 1]."""
    return float(np.mean(labels == OUTLIER)) if len(labels) else math.nan


def stability(labels: np.ndarray, previous: np.ndarray) -> float:
    """Adjusted Rand index against the labelling before; outliers as clusters of their own."""
    return adjusted_rand_index(outliers_alone(labels), outliers_alone(previous))


def outliers_alone(labels: np.ndarray) -> np.ndarray:
    """The labels with each outlier in a cluster of its own, numbered after the clusters."""
    alone = labels == OUTLIER
    labels = np.array(labels)
    labels[alone] = labels.max(initial=OUTLIER) + 1 + np.arange(alone.sum())
    return labels


def identity_quality(labels: np.ndarray, identities: np.ndarray) -> dict:
    """Every measure against true identities, outliers left out; names as they are logged, values as floats."""
    sub, mixed = sub_cluster_error(labels, identities), mixed_cluster_error(labels, identities)
    v, cubed = v_measure(labels, identities), b_cubed(labels, identities)
    return _defined(
        ari=adjusted_rand_index(labels, identities),
        nmi=v.v_measure,  # normalised by the arithmetic mean, mutual information is the same
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


def structure_quality(
    labels: np.ndarray, similarities: CentroidSimilarities, previous: Optional[np.ndarray] = None
) -> dict:
    """Every measure that needs no identities; names as they are logged, values as floats.

    Args:
        labels: (N,), integer cluster numbers, -1 for outliers.
        similarities: of the images to the centroids of these clusters.
        previous: (N,), the labelling before, where there was one.
    """
    sizes, clustered = cluster_sizes(labels), labels != OUTLIER
    mean = lambda values, least: values[clustered].mean() if len(sizes) >= least else math.nan
    return _defined(
        clusters=len(sizes),
        outlier_share=outlier_share(labels),
        largest_share=sizes.max() / len(labels) if len(sizes) else math.nan,
        median_size=np.median(sizes) if len(sizes) else math.nan,
        stability=math.nan if previous is None else stability(labels, previous),
        similarity_inside=mean(similarities.own, 1),
        similarity_to_nearest_other=mean(similarities.other, 2),
        silhouette=mean(similarities.silhouette, 2),
    )


def _comparable(labels: np.ndarray, identities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both of the images that have a cluster, identities as numbers."""
    labels, identities = np.asarray(labels), np.asarray(identities)
    if labels.ndim != 1 or labels.shape != identities.shape:
        raise ValueError(
            f"labels and identities must be two rows of one length, got {labels.shape}, {identities.shape}"
        )
    identities = np.unique(identities, return_inverse=True)[1]
    return labels[labels != OUTLIER], identities[labels != OUTLIER]


def _contingency(labels: np.ndarray, identities: np.ndarray) -> Optional[coo_matrix]:
    """(identities, clusters) the images that each identity has in each cluster; None where no image has a cluster."""
    from sklearn.metrics.cluster import contingency_matrix

    labels, identities = _comparable(labels, identities)
    return contingency_matrix(identities, labels, sparse=True).tocoo() if len(labels) else None


def _defined(**measures: float) -> dict:
    return {name: float(value) for name, value in measures.items() if not math.isnan(value)}
