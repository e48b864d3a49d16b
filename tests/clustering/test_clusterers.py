import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clustering.references import random_embeddings, reference_distance, sparse_graph, unit
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.cluster import DBSCAN as DenseDBSCAN
from sklearn.metrics import adjusted_rand_score

from ise_plugin.clustering import (
    DBSCAN,
    HDBSCAN,
    Agglomerative,
    Infomap,
    SelfPacedDBSCAN,
    generate_pseudo_labels,
    jaccard_distance,
    jaccard_graph,
)
from ise_plugin.clustering.eps import LARGEST_EPS, choose_eps
from ise_plugin.registry import CLUSTERER

FASTREID = importlib.util.find_spec("fastreid") is not None


def dense_labels(distance: np.ndarray, eps: float, min_samples: int) -> np.ndarray:
    return DenseDBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit_predict(distance)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([1e-3, 0.25, 0.5, 0.75, 1.0]))
def test_labels_equal_scikit_learns_on_the_dense_matrix(size, seed, min_samples, eps):
    """Few distinct distances: many ties at eps, many border points between clusters."""
    random = np.random.default_rng(seed)
    points = random.integers(0, 9, (size, 1)) / 8
    jump = (random.random((size, size)) < 0.1) / 2
    distance = np.minimum(np.abs(points - points.T) + jump + jump.T, 1).astype(np.float32)
    np.fill_diagonal(distance, 0)
    labels = DBSCAN(eps, min_samples).fit_predict(sparse_graph(distance, 1.0))
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, dense_labels(distance, eps, min_samples))


def test_border_point_joins_the_first_cluster_that_reaches_it():
    #  0 1 2 (3) 4 5 6 on a line, 3 within eps of both sides but no core point
    points = np.array([0.0, 0.05, 0.1, 0.3, 0.5, 0.55, 0.6])
    distance = np.abs(points[:, None] - points).astype(np.float32)
    assert DBSCAN(0.21, 4).fit_predict(sparse_graph(distance, 1)).tolist() == [0, 0, 0, 0, 1, 1, 1]
    backwards = distance[::-1, ::-1]
    assert DBSCAN(0.21, 4).fit_predict(sparse_graph(backwards, 1)).tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_entries_beyond_eps_are_ignored():
    distance = np.array([[0, 0.5], [0.5, 0]], dtype=np.float32)
    assert DBSCAN(0.4, 2).fit_predict(sparse_graph(distance, 1.0)).tolist() == [-1, -1]
    assert DBSCAN(0.5, 2).fit_predict(sparse_graph(distance, 1.0)).tolist() == [0, 0]


def test_it_is_registered_under_its_name():
    assert CLUSTERER.get("DBSCAN") is DBSCAN


@pytest.mark.parametrize("eps", [-0.1, 1.1, float("nan"), "automatic"])
def test_bad_eps(eps):
    with pytest.raises(ValueError, match=f"eps.*{eps}"):
        DBSCAN(eps=eps)


@pytest.mark.parametrize("min_samples", [0, -3, 1.5])
def test_bad_min_samples(min_samples):
    with pytest.raises(ValueError, match=f"min_samples.*{min_samples}"):
        DBSCAN(min_samples=min_samples)


def test_graph_must_be_square():
    with pytest.raises(ValueError, match=r"square.*\(2, 3\)"):
        DBSCAN().fit_predict(csr_matrix((2, 3), dtype=np.float32))


def test_the_clusterer_of_the_config():
    cfg = SimpleNamespace(ISE=SimpleNamespace(PSEUDO_LABEL=SimpleNamespace(EPS="auto", MIN_SAMPLES=3)))
    assert DBSCAN.from_config(cfg) == {"eps": "auto", "min_samples": 3}


def test_eps_can_be_chosen_from_the_graph():
    features = random_embeddings(150, 16, noise=0.5, per_identity=15)
    clusterer = DBSCAN("auto", 4)
    graph = jaccard_graph(features, 15, 4, clusterer.max_distance)
    choice = choose_eps(graph, 4, DBSCAN)
    labels = clusterer.fit_predict(graph)
    assert (clusterer.max_distance, clusterer.eps_, clusterer.reason_) == (LARGEST_EPS, choice.eps, choice.reason)
    np.testing.assert_array_equal(labels, DBSCAN(choice.eps, 4).fit_predict(graph))
    np.testing.assert_array_equal(generate_pseudo_labels(features, "auto", 4, 15, 4), labels)


def test_a_given_eps_is_the_one_used():
    clusterer = DBSCAN(0.3)
    clusterer.fit_predict(csr_matrix(np.zeros((2, 2), np.float32)))
    assert (clusterer.max_distance, clusterer.eps_, clusterer.reason_) == (0.3, 0.3, None)


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


@pytest.mark.parametrize("make", [DBSCAN, SelfPacedDBSCAN, HDBSCAN, Agglomerative, Infomap])
def test_no_rows(make):
    labels = make().fit_predict(csr_matrix((0, 0), dtype=np.float32))
    assert labels.shape == (0,) and labels.dtype == np.int64


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
def test_bad_arguments_of_labels(options, message):
    with pytest.raises(ValueError, match=message):
        generate_pseudo_labels(random_embeddings(60, 8), **options)


def test_unknown_search_is_named():
    with pytest.raises(KeyError, match="guess"):
        generate_pseudo_labels(random_embeddings(60, 8), search="guess")
