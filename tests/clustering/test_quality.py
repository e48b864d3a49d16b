"""Measures of a clustering against values computed by hand, slow obvious code, and scikit-learn."""

import math
from itertools import permutations

import numpy as np
import pytest
from clustering.references import random_embeddings, unit
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.cluster import DBSCAN as DenseDBSCAN

from ise_plugin.clustering import quality, similarity_to_centroids

# Identity a: 3 images in cluster 0, 1 in cluster 1. b: 1 in cluster 0, 2 in cluster 1. c: 2 in cluster 2, 1 outlier.
LABELS = np.array([0, 0, 0, 1, 0, 1, 1, 2, 2, -1])
IDENTITIES = np.array(["a", "a", "a", "a", "b", "b", "b", "c", "c", "c"])

labellings = st.integers(0, 10_000).flatmap(
    lambda seed: st.builds(
        lambda size, clusters, people: (
            np.random.default_rng(seed).integers(-1, clusters, size),
            np.random.default_rng(seed + 1).integers(0, people, size),
        ),
        st.integers(2, 60),
        st.integers(1, 8),
        st.integers(1, 8),
    )
)


def test_values_computed_by_hand():
    # 9 clustered images; the most frequent identity holds 3 of 4, 2 of 3, 2 of 2
    assert quality.purity(LABELS, IDENTITIES) == pytest.approx(7 / 9)
    # precision: a 3 x 3/4 + 1 x 1/3, b 1 x 1/4 + 2 x 2/3, c 2 x 1; recall: a 3 x 3/4 + 1 x 1/4, b 1/3 + 2 x 2/3, c 2 x 1
    precision, recall = (9 / 4 + 1 / 3 + 1 / 4 + 4 / 3 + 2) / 9, (9 / 4 + 1 / 4 + 1 / 3 + 4 / 3 + 2) / 9
    cubed = quality.b_cubed(LABELS, IDENTITIES)
    assert cubed == pytest.approx((precision, recall, 2 * precision * recall / (precision + recall)))
    # a and b are split into two pieces each; clusters 0 and 1 are mixed, with one image of the minority in each
    assert quality.sub_cluster_error(LABELS, IDENTITIES) == pytest.approx((2 / 3, 2))
    assert quality.mixed_cluster_error(LABELS, IDENTITIES) == pytest.approx((2 / 3, 2 / 9))
    # of 36 pairs 10 share a cluster, 10 an identity, 5 both: expected 100 / 36
    expected = 10 * 10 / 36
    assert quality.adjusted_rand_index(LABELS, IDENTITIES) == pytest.approx((5 - expected) / (10 - expected))
    assert quality.cluster_sizes(LABELS).tolist() == [4, 3, 2]


@settings(max_examples=100, deadline=None)
@given(labellings)
def test_equal_to_scikit_learn_without_outliers(labelling):
    labels, identities = labelling
    kept = labels >= 0
    ours = quality.identity_quality(labels, identities)
    if not kept.any():
        assert ours == {}
        return
    true, found = identities[kept], labels[kept]
    assert ours["ari"] == pytest.approx(metrics.adjusted_rand_score(true, found))
    assert ours["nmi"] == pytest.approx(metrics.normalized_mutual_info_score(true, found))
    parts = metrics.homogeneity_completeness_v_measure(true, found)
    assert (ours["homogeneity"], ours["completeness"], ours["v_measure"]) == pytest.approx(parts)
    assert ours["purity"] == pytest.approx(
        metrics.cluster.contingency_matrix(true, found).max(axis=0).sum() / kept.sum()
    )


@settings(max_examples=100, deadline=None)
@given(labellings)
def test_counting_measures_equal_slow_obvious_code(labelling):
    labels, identities = labelling
    images = [i for i in range(len(labels)) if labels[i] >= 0]
    if not images:
        return
    same = lambda values, i: {j for j in images if values[j] == values[i]}
    both = {i: len(same(labels, i) & same(identities, i)) for i in images}
    precision, recall, _ = quality.b_cubed(labels, identities)
    assert precision == pytest.approx(np.mean([both[i] / len(same(labels, i)) for i in images]))
    assert recall == pytest.approx(np.mean([both[i] / len(same(identities, i)) for i in images]))
    pieces = [len({labels[i] for i in images if identities[i] == p}) for p in {identities[i] for i in images}]
    split_share, mean_pieces = quality.sub_cluster_error(labels, identities)
    assert split_share == pytest.approx(np.mean([n > 1 for n in pieces]))
    split = [n for n in pieces if n > 1]
    assert mean_pieces == pytest.approx(np.mean(split)) if split else math.isnan(mean_pieces)
    members = [[identities[i] for i in images if labels[i] == m] for m in {labels[i] for i in images}]
    mixed, minority_share = quality.mixed_cluster_error(labels, identities)
    assert mixed == pytest.approx(np.mean([len(set(m)) > 1 for m in members]))
    minority = sum(len(m) - max(m.count(p) for p in m) for m in members)
    assert minority_share == pytest.approx(minority / len(images))


def test_outliers_alone_are_clusters_of_one():
    alone = np.array([0, 0, 0, 1, 0, 1, 1, 2, 2, 3])
    np.testing.assert_array_equal(quality.outliers_alone(LABELS), alone)
    assert LABELS[-1] == -1  # of a copy
    for measure in (quality.adjusted_rand_index, quality.purity, quality.b_cubed, quality.v_measure):
        assert measure(LABELS, IDENTITIES) != measure(alone, IDENTITIES)


def test_stability_sees_images_that_leave_a_cluster_but_not_new_numbers():
    labels = np.array([0, 0, 0, 1, 1, 1, -1, -1])
    assert quality.stability(labels, np.array([1, 1, 1, 0, 0, 0, -1, -1])) == pytest.approx(1)
    left = np.array([0, 0, -1, 1, 1, 1, -1, -1])
    expected = metrics.adjusted_rand_score([0, 0, 2, 1, 1, 1, 3, 4], [0, 0, 0, 1, 1, 1, 2, 3])
    assert quality.stability(left, labels) == pytest.approx(expected) and expected < 1


NO_CLUSTER, ONE_CLUSTER = np.full(6, -1), np.zeros(6, np.int64)


def structure_of(features, labels, previous=None):
    return quality.structure_quality(labels, similarity_to_centroids(features, labels), previous)


def test_what_is_not_defined_is_left_out():
    features, identities = random_embeddings(6, 4), np.arange(6) // 2
    assert quality.identity_quality(NO_CLUSTER, identities) == {}
    assert structure_of(features, NO_CLUSTER) == {"clusters": 0, "outlier_share": 1}
    assert structure_of(features, NO_CLUSTER, NO_CLUSTER)["stability"] == 1
    one = structure_of(features, ONE_CLUSTER)
    assert one["clusters"] == 1 and one["largest_share"] == 1 and one["median_size"] == 6
    assert not {"silhouette", "similarity_to_nearest_other", "stability"} & set(one)
    assert "pieces_per_split_identity" not in quality.identity_quality(ONE_CLUSTER, identities)
    assert quality.identity_quality(ONE_CLUSTER, identities)["minority_images"] == pytest.approx(4 / 6)
    alone = structure_of(features, np.arange(6))
    assert alone["silhouette"] == pytest.approx(1) and alone["similarity_inside"] == pytest.approx(1)


def test_means_are_those_of_the_clustered_images():
    features, labels = random_embeddings(60, 8, noise=0.5), np.arange(60) % 5 - 1
    found, similarities = structure_of(features, labels), similarity_to_centroids(features, labels)
    kept = labels >= 0
    assert found["similarity_inside"] == pytest.approx(similarities.own[kept].mean())
    assert found["similarity_to_nearest_other"] == pytest.approx(similarities.other[kept].mean())
    assert found["silhouette"] == pytest.approx(similarities.silhouette[kept].mean())


def test_perfect_labels_are_perfect_in_every_measure():
    features = unit(np.eye(4)[np.arange(12) // 3] + 0.01 * np.random.default_rng(0).standard_normal((12, 4)))
    labels = DenseDBSCAN(eps=0.3, min_samples=2).fit_predict(features)
    found = quality.identity_quality(labels, np.arange(12) // 3)
    perfect = {"split_identities": 0, "mixed_clusters": 0, "minority_images": 0}
    assert found == pytest.approx({name: perfect.get(name, 1) for name in found})
    assert structure_of(features, labels)["silhouette"] > 0.9


@pytest.mark.parametrize("labels, identities", [([0, 1], [0]), ([[0, 1]], [[0, 1]])])
def test_labellings_of_different_images_are_refused(labels, identities):
    with pytest.raises(ValueError, match="labels and identities must be rows of one length"):
        quality.adjusted_rand_index(labels, identities)


def test_a_labelling_without_clusters_is_refused():
    with pytest.raises(ValueError, match="no image has a cluster"):
        quality.purity(np.full(3, -1), np.arange(3))


def test_explained_variance_is_that_of_an_analysis_of_variance():
    random = np.random.default_rng(0)
    groups = random.integers(0, 6, 200)
    values = random.standard_normal((200, 3)) + groups[:, None]
    inside = sum(((values[groups == g] - values[groups == g].mean(0)) ** 2).sum() for g in range(6)) / 194
    assert quality.explained(values, groups) == pytest.approx(1 - inside / (values.var(0, ddof=1).sum()))
    assert abs(quality.explained(random.standard_normal((2000, 3)), random.integers(0, 500, 2000))) < 0.05
    assert quality.explained(np.ones((4, 2)), np.array([0, 0, 1, 1])) == quality.explained(values, np.arange(200)) == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(-1, 2)), max_size=6))
def test_camera_spread_equals_slow_counting_and_the_mean_over_all_ways_to_deal_out_the_cameras(images):
    labels, cameras = np.array(images, np.int64).reshape(-1, 2).T
    found = quality.camera_spread(labels, cameras)
    shown = sorted({camera for _, camera in images if camera >= 0})
    clusters = [[c for other, c in images if other == label and c >= 0] for label in range(3)]
    clusters = [cluster for cluster in clusters if len(cluster) > 1]

    def counts(clusters):
        single = sum(len(set(cluster)) == 1 for cluster in clusters)
        return single / len(clusters), [[sum({a, b} <= set(c) for c in clusters) for a in shown] for b in shown]

    assert found.cameras.tolist() == shown and found.images.tolist() == [sum(cameras == c) for c in shown]
    for place, c in enumerate(shown):
        own = [cluster for cluster in clusters for camera in cluster if camera == c]
        assert found.clustered[place] == pytest.approx(np.mean([label >= 0 for label, camera in images if camera == c]))
        alone = [set(cluster) == {c} for cluster in own]
        assert found.alone[place] == pytest.approx(np.mean(alone) if alone else math.nan, nan_ok=True)
    if not clusters:
        assert math.isnan(found.one_camera) and math.isnan(found.one_camera_by_chance) and not found.joined.any()
        return
    cuts = np.cumsum([len(cluster) for cluster in clusters])[:-1]
    dealt = [counts(np.split(np.array(order), cuts)) for order in permutations(sum(clusters, []))]
    assert (found.one_camera, found.joined.tolist()) == counts(clusters)
    assert found.one_camera_by_chance == pytest.approx(np.mean([share for share, _ in dealt]))
    assert found.joined_by_chance == pytest.approx(np.mean([pairs for _, pairs in dealt], axis=0), abs=1e-9)


def test_camera_spread_tells_of_the_cameras_with_most_images_and_counts_the_clusters_of_all():
    cameras = np.repeat([7, 3, 9, 5], [2, 5, 4, 3])
    labels = np.where(cameras == 7, 1, 0)
    found = quality.camera_spread(labels, cameras, most=2)
    assert found.cameras.tolist() == [3, 9] and found.images.tolist() == [5, 4]
    assert found.joined.tolist() == [[1, 1], [1, 1]] and found.one_camera == 0.5  # the cluster of camera 7


def test_camera_spread_of_cameras_dealt_out_by_chance_is_that_of_chance():
    random = np.random.default_rng(0)
    labels, cameras = np.arange(30_000) // 3, random.permutation(np.arange(30_000) % 7 // 2)
    found = quality.camera_spread(labels, cameras)
    assert found.one_camera == pytest.approx(found.one_camera_by_chance, abs=0.02)
    assert found.joined == pytest.approx(found.joined_by_chance, rel=0.05)
