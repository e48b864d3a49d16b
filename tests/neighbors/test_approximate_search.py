import numpy as np
import pytest
from clustering.references import random_embeddings, reference_ranks

from ise_plugin.clustering import generate_pseudo_labels
from ise_plugin.registry import NEIGHBOR_SEARCH

GENEROUS = {"ivf": {"num_cells": 8, "num_probes": 8}, "hnsw": {"search_effort": 400, "construction_effort": 200}}


@pytest.mark.parametrize("name", ["ivf", "hnsw"])
def test_with_enough_effort_the_neighbours_are_the_true_ones(name):
    features = random_embeddings(500, 16)
    similarities, indices = NEIGHBOR_SEARCH.get(name)(features, 10, **GENEROUS[name])
    expected = reference_ranks(features, 10)
    assert np.mean(indices == expected) > 0.99
    np.testing.assert_array_equal(indices[:, 0], np.arange(500))
    np.testing.assert_allclose(similarities, np.take_along_axis(features @ features.T, indices, 1), atol=1e-5)


def test_more_probes_find_more():
    features = random_embeddings(2000, 16, noise=3)
    expected = reference_ranks(features, 10)

    def recall(probes: int) -> float:
        _, found = NEIGHBOR_SEARCH.get("ivf")(features, 10, num_cells=64, num_probes=probes)
        return np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found, expected)])

    assert recall(1) < recall(8) < recall(64) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", ["ivf", "hnsw"])
def test_own_index_comes_first_among_equal_rows(name):
    features = np.repeat(random_embeddings(40, 8), 12, axis=0)
    _, indices = NEIGHBOR_SEARCH.get(name)(features, 5)
    np.testing.assert_array_equal(indices[:, 0], np.arange(len(features)))
    assert all(len(set(row)) == 5 for row in indices.tolist())


def test_rows_that_met_too_few_others_are_searched_exactly():
    features = random_embeddings(300, 16)
    similarities, indices = NEIGHBOR_SEARCH.get("ivf")(features, 30, num_cells=60, num_probes=1)
    np.testing.assert_allclose(similarities, np.take_along_axis(features @ features.T, indices, 1), atol=1e-5)
    assert (indices >= 0).all() and (indices < 300).all()
    assert all(len(set(row)) == 30 for row in indices.tolist())


@pytest.mark.parametrize("name", ["ivf", "hnsw"])
def test_labels_are_close_to_the_exact_ones(name):
    from sklearn.metrics import adjusted_rand_score

    features = random_embeddings(1000, 32, noise=0.5, per_identity=20)
    exact = generate_pseudo_labels(features)
    assert exact.max() > 10
    assert adjusted_rand_score(exact, generate_pseudo_labels(features, search=name)) > 0.95


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("ivf", {"num_cells": 0}, "num_cells.*got 0"),
        ("ivf", {"num_cells": 101}, "num_cells.*got 101"),
        ("ivf", {"num_probes": 0}, "num_probes.*got 0"),
        ("hnsw", {"num_links": 1}, "num_links.*got 1"),
        ("hnsw", {"search_effort": 0}, "search_effort.*got 0"),
        ("hnsw", {"construction_effort": 0}, "got 0"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        NEIGHBOR_SEARCH.get(name)(random_embeddings(100, 8), 5, **options)
