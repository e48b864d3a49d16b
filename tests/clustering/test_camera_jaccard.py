"""CA-Jaccard against the paper's equations in slow float64, and what must not matter."""

import numpy as np
import pytest
from clustering.references import random_embeddings, reference_camera_distance, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from ise_plugin.clustering import CameraJaccard, Jaccard, jaccard_graph
from ise_plugin.config import get_cfg
from ise_plugin.neighbors import exact
from ise_plugin.registry import DISTANCE


def cast_embeddings(size, cameras, seed=0, noise=0.6, cast=0.8):
    """People, each image with what its camera adds; and the cameras."""
    random = np.random.default_rng(seed)
    people, seen_by = random.integers(0, max(1, size // 12), size), random.integers(0, cameras, size)
    center, added = random.standard_normal((size, 24)), cast * random.standard_normal((cameras, 24))
    return unit(center[people] + added[seen_by] + noise * random.standard_normal((size, 24))), seen_by


def camera_distance(features, cameras, *counts, **plain):
    distance = CameraJaccard(*counts, **plain)
    return distance(features, distance.find_neighbors(exact, features, cameras), cameras)


def dense(distances):
    return distances.of_rows(np.arange(distances.weights.shape[0]))


@pytest.mark.parametrize("cameras", [2, 3, 4, 5, 6])
def test_equals_the_papers_equations(cameras):
    features, seen_by = cast_embeddings(600, cameras, seed=cameras)
    found = dense(camera_distance(features, seen_by))
    expected = reference_camera_distance(features, seen_by)
    assert (expected == 1).any() and (expected < 0.5).mean() > 2 / 600  # near and far pairs beside the diagonal
    assert np.abs(found - expected).max() <= 1e-6


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 70), st.integers(0, 10_000), st.data())
def test_equals_the_equations_where_cameras_are_small_or_unknown(size, seed, data):
    count = data.draw(st.integers(2, 6))
    counts = [data.draw(st.integers(least, 12)) for least in (1, 1, 1, 0)]
    features, cameras = cast_embeddings(size, count, seed)
    cameras[np.random.default_rng(seed).random(size) < data.draw(st.floats(0, 0.6))] = -1
    cameras[:2] = 0, 1  # two are known
    k1_intra, k1_inter, k2_intra, k2_inter = counts
    expected = reference_camera_distance(
        features, cameras, k1_intra, k1_inter, min(k2_intra, k1_intra), min(k2_inter, k1_inter)
    )
    distances = camera_distance(features, cameras, *counts)
    np.testing.assert_allclose(dense(distances), expected, atol=1e-6)
    graph, bound = distances.within(0.7), np.float32(0.7)
    stored = np.zeros((size, size), dtype=bool)
    stored[graph.nonzero()] = True
    stored |= dense(distances) == 0  # zeros are stored as well, and not among what nonzero finds
    np.testing.assert_array_equal(stored, dense(distances) <= bound)


def test_the_order_of_rows_does_not_matter():
    features, cameras = cast_embeddings(300, 4)
    order = np.random.default_rng(1).permutation(300)
    expected = dense(camera_distance(features, cameras))[np.ix_(order, order)]
    np.testing.assert_allclose(dense(camera_distance(features[order], cameras[order])), expected, atol=1e-6)


def test_the_names_of_cameras_do_not_matter():
    features, cameras = cast_embeddings(300, 4)
    cameras[::9] = -1
    renamed = np.where(cameras < 0, -1, np.array([70, 3, 12, 0])[cameras])
    given_, again = (camera_distance(features, names).weights for names in (cameras, renamed))
    for attribute in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(given_, attribute), getattr(again, attribute))


@pytest.mark.parametrize("cameras", [np.zeros(200, np.int64), np.full(200, -1), np.arange(200) // 150 - 1])
def test_without_two_known_cameras_it_is_the_plain_distance_to_the_bit(cameras):
    features = random_embeddings(200, 16)
    graph = camera_distance(features, cameras, k1=12, k2=3).within(0.6)
    expected = jaccard_graph(features, 12, 3, 0.6)
    for attribute in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(graph, attribute), getattr(expected, attribute))


def test_what_a_camera_adds_does_not_join_strangers():
    """Two people whom two cameras saw: to the plain distance the nearest are strangers before the same camera."""
    random = np.random.default_rng(0)
    people, cameras = np.repeat([0, 1], 40), np.tile(np.repeat([0, 1], 20), 2)
    features = np.zeros((80, 40))
    features[np.arange(80), people] = 0.7
    features[np.arange(80), 2 + cameras] = 1.0
    features = unit(features + 0.1 * random.standard_normal((80, 40)))
    same = people[:, None] == people
    across = same & (cameras[:, None] != cameras)
    aware, plain = dense(camera_distance(features, cameras)), dense(Jaccard(26, 6)(features, exact(features, 26)))
    assert aware[across].mean() < aware[~same].mean() - 0.1
    assert plain[across].mean() > plain[~same & ~across & (cameras[:, None] == cameras)].mean()


def test_the_distance_of_the_config():
    cfg = get_cfg()
    made = CameraJaccard(**CameraJaccard.from_config(cfg))
    assert DISTANCE.get("CameraJaccard") is CameraJaccard and CameraJaccard.wants == ("cameras",)
    assert (made.k1_intra, made.k1_inter, made.k2_intra, made.k2_inter) == (5, 20, 2, 4)
    assert CameraJaccard.from_config(cfg)["k1"] == cfg.ISE.PSEUDO_LABEL.K1


def test_other_neighbours_are_refused():
    features, cameras = cast_embeddings(60, 3)
    with pytest.raises(ValueError, match=r"find_neighbors, 5 \+ 20 for each of 60 rows, got \(60, 30\)"):
        CameraJaccard()(features, exact(features, 30), cameras)


@pytest.mark.parametrize("name, value", [("k1_intra", 0), ("k1_inter", 0), ("k2_intra", 0), ("k2_inter", -1)])
def test_bad_counts(name, value):
    with pytest.raises(ValueError, match=f"{name}.*got {value}"):
        CameraJaccard(**{name: value})
