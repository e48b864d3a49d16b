"""The choice of eps: right where the answer is known, never one cluster of everything, and as the formula says."""

import numpy as np
import pytest
from clustering.references import random_embeddings
from scipy.sparse import csr_matrix
from sklearn.cluster import DBSCAN as DenseDBSCAN
from sklearn.metrics import adjusted_rand_score

from ise_plugin.clustering import DBSCAN, jaccard_distance, jaccard_graph, kth_neighbor_distances
from ise_plugin.clustering import eps as choice_of_eps
from ise_plugin.clustering.eps import LARGEST_EPS, STEP, Candidate


def people(count, images, spread, seed, dim=32):
    """Unit rows around random centres, and who is who."""
    random = np.random.default_rng(seed)
    centers = random.standard_normal((count, dim))
    rows = np.repeat(centers / np.linalg.norm(centers, axis=1, keepdims=True), images, axis=0)
    rows = rows + spread * random.standard_normal(rows.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), np.repeat(np.arange(count), images)


def choose_eps(graph, min_samples=4):
    return choice_of_eps.choose_eps(graph, min_samples, DBSCAN)


def graph_of(rows, k1=15):
    return jaccard_graph(rows, k1=k1, k2=4, max_distance=LARGEST_EPS)


@pytest.mark.parametrize("spread", [0.05, 0.12, 0.18])
@pytest.mark.parametrize("seed", range(3))
def test_choice_is_near_the_best_of_a_sweep(spread, seed):
    rows, truth = people(30, 14, spread, seed)
    graph = graph_of(rows)

    def agreement(eps):
        labels = DBSCAN(eps, 4).fit_predict(graph)
        alone = np.where(labels < 0, labels.max() + 1 + np.arange(len(labels)), labels)
        return adjusted_rand_score(truth, alone)

    sweep = [agreement(eps) for eps in np.arange(0.05, LARGEST_EPS, 0.05)]
    assert agreement(choose_eps(graph, 4).eps) >= max(sweep) - 0.1


def test_scores_are_those_of_the_definition():
    rows, _ = people(12, 10, 0.15, 0)
    dense = jaccard_graph(rows, k1=15, k2=4, max_distance=1.0).toarray()
    choice = choose_eps(graph_of(rows), 4)
    outcomes = {}
    for eps in np.round(np.arange(1, 17) * STEP, 10):
        labels = DenseDBSCAN(eps=eps, min_samples=4, metric="precomputed").fit_predict(dense)
        outcomes[eps] = labels, np.where(labels < 0, 1000 + np.arange(len(labels)), labels)
    for candidate in choice.candidates:
        labels, alone = outcomes[candidate.eps]
        others = [outcomes[round(candidate.eps + d, 10)][1] for d in (-STEP, STEP)]
        assert candidate.clusters == labels.max() + 1
        assert candidate.clustered == pytest.approx((labels >= 0).mean())
        assert candidate.stability == pytest.approx(min(adjusted_rand_score(alone, other) for other in others))
        counts = np.bincount(labels[labels >= 0], minlength=1)
        expected = candidate.stability**0.5 * ((labels >= 0).mean() - counts.max() / len(labels))
        assert candidate.score == pytest.approx(expected)
    assert choice.eps == max(choice.candidates, key=lambda c: c.score).eps


def test_labellings_that_agree_less_than_by_chance_score_nothing():
    assert Candidate(0.5, 2, clustered=0.8, largest=0.4, stability=-0.1).score == 0


def test_one_cluster_of_everything_is_not_chosen():
    rows, truth = people(8, 12, 0.10, 1)
    choice = choose_eps(graph_of(rows), 4)
    assert DBSCAN(choice.eps, 4).fit_predict(graph_of(rows)).max() + 1 == len(np.unique(truth))


def test_reason_names_what_was_found():
    rows, _ = people(10, 10, 0.1, 0)
    choice = choose_eps(graph_of(rows), 4)
    best = next(c for c in choice.candidates if c.eps == choice.eps)
    assert f"{best.clusters} clusters" in choice.reason and "3 neighbours" in choice.reason


@pytest.mark.parametrize(
    "graph, tried", [("nothing near", LARGEST_EPS - STEP), ("all equal", 2 * STEP), ("one row", LARGEST_EPS - STEP)]
)
def test_degenerate_graphs_leave_one_candidate(graph, tried):
    if graph == "nothing near":
        matrix = csr_matrix((np.zeros(9, np.float32), np.arange(9), np.arange(10)), shape=(9, 9))
    elif graph == "all equal":
        matrix = csr_matrix((np.zeros(81, np.float32), np.tile(np.arange(9), 9), np.arange(0, 82, 9)), shape=(9, 9))
    else:
        matrix = csr_matrix((np.zeros(1, np.float32), np.zeros(1, int), np.array([0, 1])), shape=(1, 1))
    choice = choose_eps(matrix, 4)
    assert [candidate.eps for candidate in choice.candidates] == pytest.approx([tried])
    assert choice.eps == pytest.approx(tried)


def test_same_data_same_choice():
    rows, _ = people(10, 10, 0.2, 3)
    assert choose_eps(graph_of(rows), 4) == choose_eps(graph_of(rows), 4)


def test_least_number_of_samples():
    with pytest.raises(ValueError, match="min_samples"):
        choose_eps(graph_of(people(3, 8, 0.1, 0)[0], k1=5), 0)


@pytest.mark.parametrize("min_samples", [1, 2, 4])
def test_candidates_reach_from_where_few_images_are_core_points_to_where_nearly_all_are(min_samples):
    rows, _ = people(12, 10, 0.2, 0)
    dense = jaccard_graph(rows, k1=15, k2=4, max_distance=1.0).toarray()
    to_neighbor = np.sort(dense, axis=1)[:, max(1, min_samples - 1)]  # column 0 is the image itself
    low, high = np.quantile(to_neighbor, (0.10, 0.99))
    tried = [candidate.eps for candidate in choose_eps(graph_of(rows), min_samples).candidates]
    # one candidate more at either end only serves for comparison, and the least eps is one step
    first, last = max(2, np.floor(low / STEP)), np.ceil(high / STEP)
    assert last * STEP < LARGEST_EPS
    assert np.allclose(tried, STEP * np.arange(first, last + 1))


def test_kth_neighbor_distances():
    features = random_embeddings(80, 8)
    dense = jaccard_distance(features, 10, 3)
    graph = jaccard_graph(features, 10, 3, max_distance=0.5)
    for k in (1, 3, 15):
        expected = np.sort(dense, axis=1)[:, k]
        expected[expected > 0.5] = 1
        np.testing.assert_array_equal(kth_neighbor_distances(graph, k), expected)
    with pytest.raises(ValueError, match="k must.*got 0"):
        kth_neighbor_distances(graph, 0)


def test_candidates_reach_as_far_as_the_images_of_other_tracks():
    """Two tracks of a person 0.5 apart; within each 0.02, so its own images would end the candidates at once."""
    units, truth = np.repeat(np.arange(20), 5), np.repeat(np.arange(10), 10)
    distance = np.where(units[:, None] == units, 0.02, 0.5).astype(np.float32)
    np.fill_diagonal(distance, 0)
    rows, columns = np.nonzero(truth[:, None] == truth)
    graph = csr_matrix((distance[rows, columns], (rows, columns)), shape=(100, 100))
    assert choose_eps(graph).candidates[-1].eps == 0.1
    assert choice_of_eps.choose_eps(graph, 4, DBSCAN, units).candidates[-1].eps == 0.5
    clusterer = DBSCAN("auto", 4)
    clusterer.fit_predict(graph, units)
    assert clusterer.eps_ == choice_of_eps.choose_eps(graph, 4, DBSCAN, units).eps
