import importlib.util

import numpy as np
import pytest
import torch
from clustering.references import random_embeddings, reference_distance, unit
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import DBSCAN as DenseDBSCAN
from sklearn.metrics import adjusted_rand_score

from ise_plugin.clustering import DBSCAN, generate_pseudo_labels, jaccard_distance, jaccard_graph

FASTREID = importlib.util.find_spec("fastreid") is not None


def dense_labels(distance, eps, min_samples):
    return DenseDBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit_predict(distance)


def test_the_constants_of_the_released_program_are_the_defaults():
    """k1 30, k2 6, eps 0.6 and min_samples 4, on data that tells each from its neighbours."""
    features = random_embeddings(150, 12, noise=1.3)
    labels = generate_pseudo_labels(features)
    np.testing.assert_array_equal(labels, dense_labels(reference_distance(features, 30, 6), 0.6, 4))
    np.testing.assert_allclose(jaccard_distance(features), reference_distance(features, 30, 6), atol=1e-5)
    graph = jaccard_graph(features)
    assert 0.59 < graph.data.max() <= 0.6
    np.testing.assert_array_equal(labels, DBSCAN().fit_predict(graph))
    others = {"eps": 0.55, "k1": 29, "k2": 5, "min_samples": 5}
    assert all((generate_pseudo_labels(features, **{k: v}) != labels).any() for k, v in others.items())


def test_labels_equal_the_recordings(recordings):
    for recorded in recordings:
        labels = generate_pseudo_labels(
            recorded["features"],
            float(recorded["eps"]),
            int(recorded["min_samples"]),
            int(recorded["k1"]),
            int(recorded["k2"]),
        )
        assert labels.dtype == np.int64
        np.testing.assert_array_equal(labels, recorded["expected_labels"])


@pytest.mark.parametrize("seed", range(4))
def test_labels_equal_dbscan_on_the_slow_reference(seed):
    features = random_embeddings(120, 16, seed, noise=0.4 + 0.3 * seed)
    expected = dense_labels(reference_distance(features, 12, 4), 0.55, 4)
    np.testing.assert_array_equal(generate_pseudo_labels(features, 0.55, 4, 12, 4), expected)


@pytest.mark.skipif(not FASTREID, reason="compares with fastreid")
def test_labels_equal_fastreids_function_with_scikit_learn():
    from fastreid.utils.compute_dist import compute_jaccard_distance

    features = random_embeddings(400, 32, noise=1.4, per_identity=15)
    distance = compute_jaccard_distance(torch.from_numpy(features), k1=30, k2=6, search_option=3)
    expected = dense_labels(distance, 0.6, 4)
    assert expected.max() > 5 and (expected == -1).any()
    np.testing.assert_array_equal(generate_pseudo_labels(features), expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(20, 120), st.integers(0, 10_000), st.floats(0.1, 1.5))
def test_permuting_the_rows_permutes_the_labels(size, seed, noise):
    """Up to the clusters' numbers, and to border points between clusters, which go to the first of them."""
    features = random_embeddings(size, 12, seed, noise)
    order = np.random.default_rng(seed).permutation(size)
    # With min_samples 2 there are no border points, so nothing depends on the order. (eps 0.5 would be a bad choice:
    # rows that share two of three averaged neighbours are at distance 0.5 up to rounding.)
    labels = generate_pseudo_labels(features, 0.55, 2, 10, 3)
    permuted = generate_pseudo_labels(features[order], 0.55, 2, 10, 3)
    np.testing.assert_array_equal(labels[order] == -1, permuted == -1)
    assert adjusted_rand_score(labels[order], permuted) == 1


def test_one_row():
    assert generate_pseudo_labels(np.ones((1, 4), np.float32) / 2).tolist() == [-1]
    assert generate_pseudo_labels(np.ones((1, 4), np.float32) / 2, min_samples=1).tolist() == [0]


def test_all_rows_equal_make_one_cluster():
    assert (generate_pseudo_labels(np.tile(unit(np.ones((1, 8))), (100, 1))) == 0).all()


def test_groups_without_connection_stay_apart():
    features = np.repeat(np.eye(5, dtype=np.float32), 20, axis=0)
    features = unit(features + 1e-3 * np.random.default_rng(0).standard_normal((100, 5)))
    labels = generate_pseudo_labels(features, k1=15)
    np.testing.assert_array_equal(labels, np.repeat(np.arange(5), 20))


def test_eps_at_its_ends():
    features = random_embeddings(60, 8)
    assert (generate_pseudo_labels(features, eps=1.0, k1=10) == 0).all()
    assert (generate_pseudo_labels(features, eps=0.0, k1=10) == -1).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"eps": -0.1}, "eps.*-0.1"),
        ({"eps": 1.1}, "eps.*1.1"),
        ({"min_samples": 0}, "min_samples.*got 0"),
        ({"k1": 60}, "k1.*got 60"),
        ({"k2": 0}, "k2.*got 0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        generate_pseudo_labels(random_embeddings(60, 8), **options)


def test_unknown_search_is_named():
    with pytest.raises(KeyError, match="guess"):
        generate_pseudo_labels(random_embeddings(60, 8), search="guess")
