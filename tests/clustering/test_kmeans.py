from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clustering.references import random_embeddings, unit
from sklearn.cluster import KMeans as ScikitKMeans
from sklearn.metrics import adjusted_rand_score

from ise_plugin.clustering import KMeans
from ise_plugin.registry import CLUSTERER


def centroids(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return unit(np.stack([features[labels == label].mean(axis=0) for label in range(labels.max() + 1)]))


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy, lambda rows: torch.from_numpy(rows).bfloat16()])
def test_every_row_is_with_the_nearest_mean_direction(make):
    features = random_embeddings(300, 8, noise=0.3, per_identity=30)
    labels = KMeans(10).fit_predict(None, features=make(features))
    assert labels.dtype == np.int64 and set(labels) == set(range(10))
    assert list(dict.fromkeys(labels)) == list(range(10))  # in the order of the first images
    nearest = (features @ centroids(features, labels).T).argmax(axis=1)
    assert (nearest == labels).mean() > 0.99  # of a search that ends after some rounds, and halves are rounded


def test_groups_that_lie_apart_are_found_as_by_scikit_learn():
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(5), 20)
    features = unit(np.eye(5)[groups] + 0.05 * random.standard_normal((100, 5)))
    expected = ScikitKMeans(5, n_init=10, random_state=0).fit_predict(features)
    assert adjusted_rand_score(expected, groups) == 1
    np.testing.assert_array_equal(min_over_seeds(features, 5), groups)


def min_over_seeds(features: np.ndarray, k: int) -> np.ndarray:
    """The labels of the seed with the largest sum of cosines: one start alone may end in a local optimum."""
    found = [KMeans(k, seed=seed).fit_predict(None, features) for seed in range(10)]
    return max(found, key=lambda labels: (features * centroids(features, labels)[labels]).sum())


def test_the_same_seed_gives_the_same_labels_and_any_whole_number_is_one():
    features = random_embeddings(200, 8, noise=1.5)
    one, again, other = (KMeans(20, seed=seed).fit_predict(None, features) for seed in (3, 3, 2**40 + 4))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_small_clusters_become_outliers():
    features = unit(np.repeat(np.eye(3), [5, 4, 1], axis=0))
    clusterer = KMeans(3, min_samples=4)
    labels = [KMeans(3, min_samples=4, seed=seed).fit_predict(None, features).tolist() for seed in range(10)]
    assert [0] * 5 + [1] * 4 + [-1] in labels
    clusterer.fit_predict(None, features)
    assert "of 3 clusters have 4 images or more" in clusterer.summary_


@pytest.mark.parametrize("size, k", [(1, 1), (4, 1), (4, 4)])
def test_few_rows(size, k):
    labels = KMeans(k).fit_predict(None, random_embeddings(size, 4))
    assert sorted(set(labels)) == list(range(k))


def test_equal_rows_are_together():
    labels = KMeans(4).fit_predict(None, np.repeat(np.eye(2, 6, dtype=np.float32), 10, axis=0))
    assert all(len(set(half)) == 1 for half in (labels[:10], labels[10:])) and len(set(labels)) <= 2


def test_more_clusters_than_images():
    with pytest.raises(ValueError, match="6 clusters of 5 images.*KMEANS.NUM_CLUSTERS"):
        KMeans(6).fit_predict(None, random_embeddings(5, 4))


@pytest.mark.parametrize("options", [{"num_clusters": 0}, {"num_clusters": 2.5}, {"min_samples": 0}])
def test_bad_arguments(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        KMeans(**options)


def test_the_clusterer_of_the_config():
    settings = SimpleNamespace(KMEANS=SimpleNamespace(NUM_CLUSTERS=7), MIN_SAMPLES=3)
    cfg = SimpleNamespace(SEED=5, ISE=SimpleNamespace(PSEUDO_LABEL=settings))
    assert CLUSTERER.get("KMeans").from_config(cfg) == {"num_clusters": 7, "min_samples": 3, "seed": 5}
