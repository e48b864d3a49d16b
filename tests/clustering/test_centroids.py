"""Similarities to centroids against values computed by hand and slow, obvious code."""

import numpy as np
import pytest
import torch
from clustering.references import random_embeddings

from ise_plugin.clustering import centroids, similarity_to_centroids

# Clusters 0 and 1 in the plane with centroids at 0 and 90 degrees; the last image is an outlier, nearer to cluster 1.
ANGLES = np.radians([-10, 10, 90, 50])
FEATURES, LABELS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1), np.array([0, 0, 1, -1])


def test_values_computed_by_hand():
    found = similarity_to_centroids(FEATURES, LABELS)
    assert found.own == pytest.approx(np.cos(np.radians([10, 10, 0, np.nan])), abs=1e-6, nan_ok=True)
    assert found.other == pytest.approx(np.cos(np.radians([100, 80, 90, 40])), abs=1e-6)
    assert found.nearest.tolist() == [1, 1, 0, 1]
    assert (found.own.dtype, found.other.dtype, found.nearest.dtype) == (np.float32, np.float32, np.int64)
    a, b = 1 - np.cos(np.radians([10, 10, 0])), 1 - np.cos(np.radians([100, 80, 90]))
    assert found.silhouette == pytest.approx([*((b - a) / b), 0], abs=1e-6)


def test_an_image_nearer_to_another_cluster_has_a_negative_silhouette():
    found = similarity_to_centroids(FEATURES, np.array([0, 1, 0, 1]))
    assert found.silhouette[0] < 0 < found.silhouette[1]


def test_one_cluster_has_no_other_and_outliers_have_it():
    found = similarity_to_centroids(FEATURES, np.array([0, 0, 0, -1]))
    assert np.isnan(found.other[:3]).all() and found.nearest.tolist() == [-1, -1, -1, 0]
    assert found.other[3] == pytest.approx(1, abs=0.1) and np.isnan(found.own[3])
    assert found.silhouette.tolist() == [0, 0, 0, 0]


def test_without_clusters_there_is_nothing():
    found = similarity_to_centroids(FEATURES, np.full(4, -1))
    assert np.isnan(found.own).all() and np.isnan(found.other).all()
    assert found.nearest.tolist() == [-1] * 4 and found.silhouette.tolist() == [0] * 4


def test_images_on_both_centroids_are_no_failure():
    found = similarity_to_centroids(np.ones((4, 1), np.float32), np.array([0, 0, 1, 1]))
    assert found.silhouette.tolist() == [0] * 4


@pytest.mark.parametrize("elements", [1, 21, 1 << 25])
def test_equal_to_slow_obvious_code_whatever_the_size_of_a_block(elements, monkeypatch):
    monkeypatch.setattr(centroids, "_BLOCK_ELEMENTS", elements)
    features, labels = random_embeddings(50, 8), np.append(np.arange(6), np.random.default_rng(0).integers(-1, 6, 44))
    found = similarity_to_centroids(torch.from_numpy(features), labels)
    means = np.stack([features[labels == number].mean(axis=0) for number in range(6)])
    cosines = features @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    for i, label in enumerate(labels):
        others = [number for number in range(6) if number != label]
        nearest = max(others, key=lambda number: cosines[i, number])
        assert found.nearest[i] == nearest and found.other[i] == pytest.approx(cosines[i, nearest], abs=1e-6)
        assert found.own[i] == pytest.approx(cosines[i, label] if label >= 0 else np.nan, abs=1e-6, nan_ok=True)


def test_given_centroids_are_used():
    given = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    found = similarity_to_centroids(FEATURES, LABELS, given)
    assert found.own[:3] == pytest.approx(np.cos(np.radians([100, 80, 90])), abs=1e-6)


def test_a_cluster_without_images_is_named():
    with pytest.raises(ValueError, match="label 1 has no member"):
        similarity_to_centroids(FEATURES, np.array([0, 0, 2, -1]))
