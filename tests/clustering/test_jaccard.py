import importlib.util
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clustering.references import random_embeddings, reference_distance, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from ise_plugin.clustering import jaccard, jaccard_distance, jaccard_graph
from ise_plugin.registry import DISTANCE, NEIGHBOR_SEARCH

FASTREID = importlib.util.find_spec("fastreid") is not None


def test_distances_equal_the_recordings(recordings):
    for recorded in recordings:
        distance = jaccard_distance(recorded["features"], int(recorded["k1"]), int(recorded["k2"]))
        np.testing.assert_allclose(distance, recorded["expected_distance"], atol=1e-5)


@pytest.mark.parametrize(
    "size, k1, k2, noise",
    [
        (60, 10, 3, 0.5),
        (60, 9, 1, 2.0),
        (90, 30, 6, 1.0),
        (90, 1, 1, 1.0),
        (90, 2, 2, 1.0),
        (40, 39, 39, 1.0),
        (80, 6, 20, 0.3),
    ],
)
def test_distances_equal_the_slow_reference(size, k1, k2, noise):
    features = random_embeddings(size, 16, seed=size + k1, noise=noise)
    np.testing.assert_allclose(jaccard_distance(features, k1, k2), reference_distance(features, k1, k2), atol=1e-5)


@pytest.mark.skipif(not FASTREID, reason="compares with fastreid")
@pytest.mark.parametrize("noise", [0.4, 1.5])
def test_distances_equal_fastreids_function(noise):
    from fastreid.utils.compute_dist import compute_jaccard_distance

    features = random_embeddings(250, 24, noise=noise)
    expected = compute_jaccard_distance(torch.from_numpy(features), k1=20, k2=6, search_option=3)
    np.testing.assert_allclose(jaccard_distance(features, 20, 6), expected, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.integers(0, 10_000), st.floats(0.1, 3.0), st.data())
def test_distances_are_symmetric_in_the_unit_interval_with_zero_diagonal(size, seed, noise, data):
    k1, k2 = data.draw(st.integers(1, size - 1)), data.draw(st.integers(1, 8))
    distance = jaccard_distance(random_embeddings(size, 8, seed, noise), k1, k2)
    assert distance.dtype == np.float32 and distance.shape == (size, size)
    np.testing.assert_array_equal(distance, distance.T)
    assert (np.diag(distance) == 0).all() and distance.min() >= 0 and distance.max() <= 1


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 80), st.integers(0, 10_000), st.floats(0.1, 3.0), st.floats(0, 1), st.data())
def test_graph_is_the_dense_matrix_within_the_bound(size, seed, noise, bound, data):
    """Bit for bit, whatever the graph leaves out of its sums on the way."""
    k1, k2 = data.draw(st.integers(1, size - 1)), data.draw(st.integers(1, 8))
    features = random_embeddings(size, 8, seed, noise)
    graph, dense = jaccard_graph(features, k1, k2, max_distance=bound), jaccard_distance(features, k1, k2)
    stored = np.zeros((size, size), dtype=bool)
    stored[np.repeat(np.arange(size), np.diff(graph.indptr)), graph.indices] = True
    np.testing.assert_array_equal(stored, dense <= np.float32(bound))
    np.testing.assert_array_equal(graph.toarray()[stored], dense[stored])


def test_graph_over_several_row_blocks(monkeypatch):
    features = random_embeddings(300, 16)
    whole = jaccard_graph(features)
    monkeypatch.setattr(jaccard, "_ROWS_PER_TASK", 37)
    pieces = jaccard_graph(features)
    assert whole.nnz > 300 and whole.has_canonical_format and whole.dtype == np.float32
    for attribute in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(whole, attribute), getattr(pieces, attribute))
    whole.check_format(full_check=True)
    assert (np.diff(whole.indptr) > 0).all() and (
        np.concatenate([np.diff(whole.indices[a:b]) for a, b in zip(whole.indptr, whole.indptr[1:])]) > 0
    ).all()


def test_equal_rows():
    features = np.repeat(random_embeddings(12, 8), 6, axis=0)
    np.testing.assert_allclose(jaccard_distance(features, 5, 3), reference_distance(features, 5, 3), atol=1e-5)


def test_all_rows_equal():
    features = np.tile(unit(np.ones((1, 8))), (50, 1))
    np.testing.assert_allclose(jaccard_distance(features, 10, 4), reference_distance(features, 10, 4), atol=1e-5)


def test_one_row():
    np.testing.assert_array_equal(jaccard_distance(np.ones((1, 1), np.float32)), [[0]])
    graph = jaccard_graph(np.ones((1, 1), np.float32))
    assert graph.shape == (1, 1) and graph.nnz == 1


def test_disconnected_groups_have_distance_one():
    features = np.zeros((40, 8), dtype=np.float32)
    features[:20, :4], features[20:, 4:] = random_embeddings(20, 4), random_embeddings(20, 4, seed=1)
    distance = jaccard_distance(features, 6, 3)
    assert (distance[:20, 20:] == 1).all()
    assert jaccard_graph(features, 6, 3, max_distance=0.99)[:20, 20:].nnz == 0


def test_memory_is_bounded_by_the_kept_pairs():
    """Every row overlaps with every other here; a matrix of all pairs would be 64 MB."""
    size, k = 4000, 20
    features = random_embeddings(size, 4, noise=10)
    jaccard_graph(features[:200], k)
    tracemalloc.start()
    graph = jaccard_graph(features, k, max_distance=0.3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Per row: candidates and neighbours of the search, expanded sets of weights, kept pairs (twice while mirrored).
    assert peak < 6e6 + size * (40 * k + 16 * 8 * k) + 24 * graph.nnz
    assert peak < 4 * size * size / 2


def test_rows_of_the_distances_are_those_of_the_graph():
    """Of a graph that leaves most pairs out, bit for bit."""
    features = random_embeddings(150, 16, noise=0.8)
    for k2 in (1, 4):
        distances = jaccard.Jaccard(12, k2)(features, NEIGHBOR_SEARCH.get("exact")(features, 15))
        rows, graph = np.array([3, 149, 42, 0]), distances.within(0.7)
        found = distances.of_rows(rows)
        assert found.dtype == np.float32 and found.shape == (4, 150)
        np.testing.assert_allclose(found, reference_distance(features, 12, k2)[rows], atol=1e-5)
        stored = np.asarray((graph[rows] != 0).todense())
        np.testing.assert_array_equal(np.asarray(graph[rows].todense())[stored], found[stored])
        np.testing.assert_array_equal(distances.within(1.0).toarray()[rows], found)


def test_the_distance_of_the_config():
    assert DISTANCE.get("Jaccard") is jaccard.Jaccard
    cfg = SimpleNamespace(ISE=SimpleNamespace(PSEUDO_LABEL=SimpleNamespace(K1=9, K2=3)))
    assert jaccard.Jaccard.from_config(cfg) == {"k1": 9, "k2": 3}
    features = random_embeddings(60, 8)
    distances = jaccard.Jaccard(9, 3)(features, NEIGHBOR_SEARCH.get("exact")(features, 9))
    np.testing.assert_array_equal(distances.within(1.0).toarray(), jaccard_distance(features, 9, 3))


def test_too_few_neighbours_are_refused():
    features = random_embeddings(60, 8)
    with pytest.raises(ValueError, match="neighbors must hold k1 = 10.*got 8"):
        jaccard.Jaccard(10)(features, NEIGHBOR_SEARCH.get("exact")(features, 8))


def test_similarities_are_computed_elsewhere_as_on_the_cpu():
    """Those that no search returned, with the code for accelerators, here on the CPU."""
    features = random_embeddings(80, 8, noise=2)
    similarities, ranks = NEIGHBOR_SEARCH.get("exact")(features, 6)
    rows = torch.from_numpy(features)
    expected = jaccard.expanded_neighborhoods(rows, similarities, ranks, 4)
    filled = expected.copy()
    filled.data[::3] = np.nan
    jaccard._fill_on_device(rows, filled)
    np.testing.assert_allclose(filled.data, expected.data, atol=1e-6)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda x: x[0], r"two-dimensional.*\(8,\)"),
        (lambda x: x[None], r"two-dimensional.*\(1, 20, 8\)"),
        (lambda x: x[:0], r"two-dimensional.*\(0, 8\)"),
        (lambda x: np.where(x == x[3, 3], np.nan, x), "finite.*row 3"),
        (lambda x: np.where(x == x[3, 3], np.inf, x), "finite.*row 3"),
        (lambda x: x * (np.arange(20) != 7)[:, None], "zero rows.*row 7"),
        (lambda x: x * 1.01, "unit length.*row 0.*1.01"),
        (lambda x: (x * 100).astype(np.int64), "floating point.*int64"),
    ],
)
def test_bad_features(spoil, message):
    with pytest.raises(ValueError, match=f"features must.*{message}"):
        jaccard_graph(spoil(random_embeddings(20, 8)), 5, 2)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"k1": 20}, "k1.*got 20"),
        ({"k1": 21}, "k1.*got 21"),
        ({"k1": 0}, "k1.*got 0"),
        ({"k1": 2.5}, "k1.*2.5"),
        ({"k2": 0}, "k2.*got 0"),
        ({"max_distance": -0.1}, "max_distance.*-0.1"),
        ({"max_distance": 1.5}, "max_distance.*1.5"),
        ({"max_distance": float("nan")}, "max_distance.*nan"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        jaccard_graph(random_embeddings(20, 8), **{"k1": 5, "k2": 2, **options})
