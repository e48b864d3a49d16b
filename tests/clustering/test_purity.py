"""The purity that is estimated without identities."""

import math

import numpy as np
import pytest
from clustering.references import random_embeddings, reference_distance, unit
from scipy.sparse import csr_matrix

from ise_plugin.clustering import DBSCAN, OUTLIER, jaccard_graph, purity, quality

K1, K2 = 8, 3


@pytest.fixture(scope="module")
def grouped():
    """Embeddings, their distance graph, and labels with clusters of one image up to twenty, and outliers."""
    features = random_embeddings(80, 16, noise=0.5)
    labels = np.repeat([0, 1, 2, 3, OUTLIER], [1, 2, 20, 30, 27])
    return features, jaccard_graph(features, K1, K2, purity.REACH), np.random.default_rng(0).permutation(labels)


def test_cohesion_is_the_mean_similarity_of_all_pairs(grouped, monkeypatch):
    features, graph, labels = grouped
    similar = 1 - reference_distance(features, K1, K2)
    similar[similar < 1 - purity.REACH] = 0
    expected = []
    for cluster in range(4):
        members = np.flatnonzero(labels == cluster)
        pairs = [similar[i, j] for i in members for j in members if i != j]
        expected.append(np.mean(pairs) if pairs else 1)
    assert purity.cohesion(labels, graph) == pytest.approx(expected, abs=1e-6)
    monkeypatch.setattr(purity, "_ROWS_AT_ONCE", 7)
    assert purity.cohesion(labels, graph) == pytest.approx(expected, abs=1e-6)


def test_one_image_is_pure_and_an_empty_labelling_is_nothing(grouped):
    _, graph, labels = grouped
    assert purity.estimate_purities(labels, graph)[0] == 1
    nobody = np.full(80, OUTLIER)
    assert purity.estimate_purities(nobody, graph).shape == (0,)
    assert math.isnan(purity.mean_purity(nobody, np.zeros(0)))


def test_the_whole_is_the_mean_over_images():
    labels = np.array([0, 0, 0, 1, OUTLIER])
    assert purity.mean_purity(labels, np.array([0.8, 0.4])) == pytest.approx((3 * 0.8 + 0.4) / 4)


@pytest.mark.parametrize("noise, true", [(0.5, 1.0), (2.0, 0.47)])
def test_the_estimate_is_near_the_truth_for_clear_people_and_for_mixed_ones(noise, true):
    random, size = np.random.default_rng(0), 17
    people = np.repeat(np.arange(40), size)
    rows = unit(random.standard_normal((40, 32))[people] + noise * random.standard_normal((40 * size, 32)))
    graph = jaccard_graph(rows, 20, 6, purity.REACH)
    labels = DBSCAN(0.65, 4).fit_predict(graph)
    assert quality.purity(labels, people) == pytest.approx(true, abs=0.1)
    estimate = purity.mean_purity(labels, purity.estimate_purities(labels, graph))
    assert estimate == pytest.approx(quality.purity(labels, people), abs=0.1)


def test_pairs_that_the_graph_does_not_store_share_nothing():
    graph = csr_matrix((np.zeros(4, np.float32), (range(4), range(4))), shape=(4, 4))
    assert purity.cohesion(np.array([0, 0, 0, 0]), graph) == [0]
