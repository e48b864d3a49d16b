"""What can be said about a clustering, with and without true identities.

With true identities (for study only; training never sees them) the functions compare two labellings of the same images.
Without, they look at sizes, at the labelling before, and at the embeddings. Where scikit-learn has a measure, it is
scikit-learn's. The two functions that gather measures, :func:`identity_quality` and :func:`structure_quality`, leave out
what is not defined (with no cluster, or with one).

Outliers (label -1) belong to no cluster: a comparison leaves them out, as training does (read the result together with
the share of outliers). Where each shall count as a cluster of its own, compare :func:`outliers_alone` of the labels.
"""

import math
from typing import NamedTuple, Optional

import numpy as np
from scipy.sparse import coo_matrix
from scipy.special import gammaln

from .centroids import CentroidSimilarities

# The label of an image that belongs to no cluster.
OUTLIER = -1


def adjusted_rand_index(labels: np.ndarray, identities: np.ndarray) -> float:
    """Agreement over pairs of images, corrected for chance: 1 for equal partitions, about 0 for independent ones.

    Source: Hubert and Arabie, "Comparing partitions", Journal of Classification 1985; scikit-learn.

    Args:
        labels: (N,), integer cluster numbers, -1 for outliers.
        identities: (N,), the other labelling: integers or text.

    Raises:
        ValueError: the two differ in shape, or no image has a cluster.
    """
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(*_clustered(labels, identities)))


def v_measure(labels: np.ndarray, identities: np.ndarray) -> tuple[float, float, float]:
    """Homogeneity (clusters hold one identity), completeness (identities lie in one cluster) and their harmonic mean, which
    is the mutual information over the arithmetic mean of both entropies; all in [0, 1].

    Source: Rosenberg and Hirschberg, EMNLP 2007; scikit-learn. Arguments as for :func:`adjusted_rand_index`.
    """
    from sklearn.metrics import homogeneity_completeness_v_measure

    homogeneity, completeness, both = map(float, homogeneity_completeness_v_measure(*_clustered(labels, identities)))
    return homogeneity, completeness, both


def purity(labels: np.ndarray, identities: np.ndarray) -> float:
    """Share of images that belong to the most frequent identity of their cluster, in (0, 1].

    Source: Manning, Raghavan, Schuetze, "Introduction to Information Retrieval", section 16.3. It says nothing of split
    identities: one cluster per image is pure. Arguments as for :func:`adjusted_rand_index`.
    """
    counts = _contingency(labels, identities)
    return float(counts.max(axis=0).sum() / counts.sum())


def b_cubed(labels: np.ndarray, identities: np.ndarray) -> tuple[float, float, float]:
    """Of an image's cluster, the share that has its identity (precision); of its identity, the share in its cluster
    (recall); the image itself counts. Means over images, and the harmonic mean of the two; all in [0, 1].

    Source: Bagga and Baldwin, "Entity-based cross-document coreferencing using the vector space model", COLING-ACL 1998.
    Arguments as for :func:`adjusted_rand_index`.
    """
    counts = _contingency(labels, identities)
    identity, cluster, images = counts.row, counts.col, counts.data
    precision = float(np.average(images / np.bincount(cluster, images)[cluster], weights=images))
    recall = float(np.average(images / np.bincount(identity, images)[identity], weights=images))
    return precision, recall, 2 * precision * recall / (precision + recall)


def sub_cluster_error(labels: np.ndarray, identities: np.ndarray) -> tuple[float, float]:
    """Share of identities that are split over several clusters, in [0, 1], and the mean number of their pieces, at least 2
    (NaN where none is split). Outliers are no cluster and no piece.

    Source: Zhang et al., CVPR 2022, section 1 and figure 1, which name the error; counted here among the identities that
    have an image in a cluster. Arguments as for :func:`adjusted_rand_index`.
    """
    pieces = np.bincount(_contingency(labels, identities).row)
    split = pieces > 1
    return float(split.mean()), float(pieces[split].mean()) if split.any() else math.nan


def mixed_cluster_error(labels: np.ndarray, identities: np.ndarray) -> tuple[float, float]:
    """Share of clusters that hold several identities, and of images in the minority of their cluster (1 - purity).

    Source: Zhang et al., CVPR 2022, section 1 and figure 1, which name the error. Arguments as for
    :func:`adjusted_rand_index`.
    """
    mixed = np.bincount(_contingency(labels, identities).col) > 1
    return float(mixed.mean()), 1 - purity(labels, identities)


def cluster_sizes(labels: np.ndarray) -> np.ndarray:
    """(M,) int64, the number of images of every cluster that has any, in the order of the cluster numbers."""
    return np.unique(labels[labels != OUTLIER], return_counts=True)[1]


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
    if not (labels != OUTLIER).any():
        return {}
    homogeneity, completeness, both = v_measure(labels, identities)
    precision, recall, f = b_cubed(labels, identities)
    split, pieces = sub_cluster_error(labels, identities)
    mixed, minority = mixed_cluster_error(labels, identities)
    return _defined(
        ari=adjusted_rand_index(labels, identities),
        nmi=both,
        v_measure=both,
        homogeneity=homogeneity,
        completeness=completeness,
        purity=purity(labels, identities),
        bcubed_precision=precision,
        bcubed_recall=recall,
        bcubed_f=f,
        split_identities=split,
        pieces_per_split_identity=pieces,
        mixed_clusters=mixed,
        minority_images=minority,
    )


def structure_quality(
    labels: np.ndarray, similarities: CentroidSimilarities, previous: Optional[np.ndarray] = None
) -> dict:
    """Every measure that needs no identities; names as they are logged, values as floats.

    Of labels (N,), -1 for outliers, similarities to their centroids, and the previous labels (N,), if any.
    """
    sizes, clustered = cluster_sizes(labels), labels != OUTLIER
    mean = lambda values, least: values[clustered].mean() if len(sizes) >= least else math.nan
    return _defined(
        clusters=len(sizes),
        outlier_share=(~clustered).mean(),
        largest_share=sizes.max() / len(labels) if len(sizes) else math.nan,
        median_size=np.median(sizes) if len(sizes) else math.nan,
        stability=math.nan if previous is None else stability(labels, previous),
        similarity_inside=mean(similarities.own, 1),
        similarity_to_nearest_other=mean(similarities.other, 2),
        silhouette=mean(similarities.silhouette, 2),
    )


def explained(values: np.ndarray, groups: np.ndarray) -> float:
    """Share of the variance of values (N, ...) that lies between groups (N,), at most 1, adjusted for their number: about 0 for
    groups at random. 0 where nothing varies or every group is one value."""
    _, groups, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    freedom = len(values) - len(sizes)
    if freedom <= 0:
        return 0.0
    values = values.reshape(len(values), -1)
    total = ((values - values.mean(0)) ** 2).sum()
    if not total:
        return 0.0
    means = np.zeros((len(sizes), values.shape[1]))
    np.add.at(means, groups, values)
    inside = ((values - (means / sizes[:, None])[groups]) ** 2).sum()
    return float(1 - (inside / freedom) / (total / (len(values) - 1)))


class CameraSpread(NamedTuple):
    """What a clustering makes of the cameras; see :func:`camera_spread`. Shares are in [0, 1], NaN of nothing."""

    cameras: np.ndarray  # (C,) int64, numbers of those that are told of one by one, ascending
    images: np.ndarray  # (C,) int64, of each
    clustered: np.ndarray  # (C,), the share of them in a cluster
    alone: np.ndarray  # (C,), of these, the share in clusters that no other camera has an image in
    joined: np.ndarray  # (C, C) int64, clusters with images of both cameras; on the diagonal, of the one
    joined_by_chance: np.ndarray  # (C, C), the number expected
    one_camera: float  # share of all clusters with images of one camera alone
    one_camera_by_chance: float  # the share expected


def camera_spread(labels: np.ndarray, cameras: np.ndarray, most: int = 16) -> CameraSpread:
    """How clusters lie across cameras, beside what chance would give: the same clusters, and the cameras of their images dealt
    out anew in the same numbers. The means are exact (hypergeometric), nothing is drawn.

    A cluster counts by its images of a known camera, from two on: a single one has no other camera to be with.

    Args:
        labels: (N,) integers, -1 for outliers; identities as numbers tell what is true.
        cameras: (N,) integers, -1: unknown.
        most: cameras that are told of one by one, those with the most images; the two shares of clusters are of all.
    """
    numbers, images = np.unique(cameras[cameras >= 0], return_counts=True)
    shown = np.sort(np.argsort(-images, kind="stable")[:most])
    clustered = (labels != OUTLIER) & (cameras >= 0)
    labels, camera = np.unique(labels[clustered], return_inverse=True)[1], np.searchsorted(numbers, cameras[clustered])
    counts_in = lambda kept: np.bincount(camera[kept], minlength=len(numbers))
    counted = np.bincount(labels)[labels] > 1
    pairs = np.unique(np.stack([labels, camera], 1)[counted], axis=0)  # each camera of a cluster once
    alone = np.bincount(pairs[:, 0], minlength=len(labels))[labels] == 1
    present = coo_matrix((np.ones(len(pairs), np.int64), pairs.T), (len(labels), len(numbers))).tocsc()[:, shown]

    counts = counts_in(counted)
    sizes, of_size = np.unique(np.unique(labels[counted], return_counts=True)[1], return_counts=True)
    total, clusters, own = int(counts.sum()), int(of_size.sum()), counts[shown]
    either = np.where(np.eye(len(own), dtype=bool), own, own[:, None] + own)
    others, of_others = np.unique(total - counts, return_counts=True)
    missing = lambda some: _chance_of_none(some, sizes, total) @ of_size
    with np.errstate(invalid="ignore"):
        return CameraSpread(
            cameras=numbers[shown],
            images=images[shown],
            clustered=counts_in(slice(None))[shown] / images[shown],
            alone=counts_in(alone)[shown] / own,
            joined=(present.T @ present).toarray(),
            joined_by_chance=clusters - missing(own)[:, None] - missing(own) + missing(either),
            one_camera=float(np.divide(len(np.unique(labels[alone])), clusters)),
            one_camera_by_chance=float(np.divide(missing(others) @ of_others, clusters)),
        )


def _chance_of_none(some: np.ndarray, sizes: np.ndarray, total: int) -> np.ndarray:
    """(..., S) how likely so many images (S,), drawn of all without return, have none of some (...)."""
    rest = total - some[..., None]
    ways = lambda number: gammaln(number + 1) - gammaln(np.maximum(number - sizes, -1) + 1)
    return np.exp(ways(rest) - ways(total))  # too few left: gammaln(0) is infinite, and the chance 0


def _clustered(labels: np.ndarray, identities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Identities, as numbers, and clusters of the images that have one."""
    labels, identities = np.asarray(labels), np.asarray(identities)
    if labels.ndim != 1 or labels.shape != identities.shape:
        raise ValueError(f"labels and identities must be rows of one length, got {labels.shape}, {identities.shape}")
    kept = labels != OUTLIER
    if not kept.any():
        raise ValueError("no image has a cluster: every label is -1")
    return np.unique(identities, return_inverse=True)[1][kept], labels[kept]


def _contingency(labels: np.ndarray, identities: np.ndarray) -> coo_matrix:
    """(identities, clusters) how many images each identity has in each cluster."""
    from sklearn.metrics.cluster import contingency_matrix

    return contingency_matrix(*_clustered(labels, identities), sparse=True).tocoo()


def _defined(**measures: float) -> dict:
    return {name: float(value) for name, value in measures.items() if not math.isnan(value)}
