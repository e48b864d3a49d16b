import numpy as np
import pytest
import torch
from clustering.references import random_embeddings, reference_ranks, unit
from scipy.spatial.distance import cdist

from ise_plugin.clustering import Cosine, Euclidean
from ise_plugin.neighbors import exact
from ise_plugin.registry import DISTANCE, build

REFERENCES = {"Cosine": lambda x, y: cdist(x, y, "cosine"), "Euclidean": lambda x, y: cdist(x, y) / 2}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("bound", [0.3, 0.8, 1.0])
@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy])
def test_the_graph_holds_the_distances_of_neighbours_either_way(name, bound, make):
    features, k = random_embeddings(50, 8), 5
    ranks, expected = reference_ranks(features, k), REFERENCES[name](features, features)
    distances = build(DISTANCE, name, "KEY", None)(make(features), exact(features, k))
    graph = distances.within(bound)
    assert graph.dtype == np.float32 and graph.has_sorted_indices
    stored = {(i, j): v for i, j, v in zip(*(a.tolist() for a in (graph.tocoo().row, graph.tocoo().col, graph.data)))}
    near = {(i, j) for i in range(50) for j in range(50) if j in ranks[i] or i in ranks[j]}
    assert set(stored) == {(i, j) for i, j in near if expected[i, j] <= bound or i == j}
    assert all(stored[i, i] == 0 and stored[i, j] == stored[j, i] for i, j in stored)
    assert all(v == pytest.approx(expected[i, j], abs=1e-3 if i == j else 1e-5) for (i, j), v in stored.items())


@pytest.mark.parametrize("name", REFERENCES)
def test_rows_hold_the_distances_to_all_images_at_most_one(name):
    features = random_embeddings(40, 4)
    distances = build(DISTANCE, name, "KEY", None)(features, exact(features, 3)).of_rows(np.array([7, 0]))
    expected = np.minimum(REFERENCES[name](features[[7, 0]], features), 1)
    assert distances.dtype == np.float32 and distances[0, 7] == distances[1, 0] == 0
    np.testing.assert_allclose(distances, expected, atol=1e-3)
    assert (distances == 1).any() == (name == "Cosine")


def test_equal_and_opposite_rows():
    features = unit(np.array([[1, 0], [1, 0], [-1, 0], [0, 1]]))
    neighbors = exact(features, 4)
    assert Cosine()(features, neighbors).within(1).toarray().tolist() == [
        [0, 0, 1, 1],
        [0, 0, 1, 1],
        [1, 1, 0, 1],
        [1, 1, 1, 0],
    ]
    euclidean = Euclidean()(features, neighbors).within(1)
    np.testing.assert_allclose(euclidean.toarray()[3], np.sqrt([0.5, 0.5, 0.5, 0]), rtol=1e-6)
    np.testing.assert_allclose(euclidean.toarray()[2], [1, 1, 0, 0.5**0.5], rtol=1e-6)
    assert euclidean.nnz == 16  # the zeros are stored


def test_one_row_and_a_neighbour_that_is_missing():
    one = np.ones((1, 4), np.float32) / 2
    assert Cosine()(one, exact(one, 1)).within(0.5).nnz == 1
    features = unit(np.eye(3) + 0.5)
    similarities, indices = exact(features, 3)
    indices[:, 2], similarities[:, 2] = -1, -np.inf  # as an approximate search may say
    graph = Cosine()(features, (similarities, indices)).within(1)
    assert graph.nnz < 9 and np.isfinite(graph.data).all()


def test_bad_arguments():
    features = random_embeddings(10, 4)
    with pytest.raises(ValueError, match="max_distance.*1.5"):
        Cosine()(features, exact(features, 3)).within(1.5)
    with pytest.raises(ValueError, match="neighbors must be those of 9 rows, got 10"):
        Cosine()(features[:9], exact(features, 3))
    with pytest.raises(ValueError, match="unit length"):
        Euclidean()(2 * features, exact(features, 3))
