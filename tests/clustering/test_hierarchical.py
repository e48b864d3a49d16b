from types import SimpleNamespace

import numpy as np
import pytest
from clustering.references import random_distance, random_embeddings, sparse_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import HDBSCAN as DenseHDBSCAN
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from ise_plugin.clustering import HDBSCAN, OUTLIER, Agglomerative, Cosine, hierarchical, jaccard_graph
from ise_plugin.clustering.eps import choose_eps
from ise_plugin.clustering.labels import numbered
from ise_plugin.neighbors import exact
from ise_plugin.registry import CLUSTERER


def cut_off(distance: np.ndarray, reach: float) -> np.ndarray:
    """The dense matrix that a graph up to ``reach`` stands for."""
    return np.where(distance <= reach, distance, 1).astype(np.float64)


def dense_agglomerative(distance: np.ndarray, eps: float, linkage: str) -> np.ndarray:
    # scikit-learn joins what is less than the threshold apart
    scikit = AgglomerativeClustering(
        None, distance_threshold=np.nextafter(eps, 2), metric="precomputed", linkage=linkage
    )
    return scikit.fit_predict(distance)


def dense_hdbscan(distance: np.ndarray, min_samples: int) -> np.ndarray:
    scikit = DenseHDBSCAN(max(2, min_samples), min_samples=min_samples, metric="precomputed", copy=True)
    return scikit.fit_predict(distance)


@pytest.mark.parametrize("linkage", ["average", "complete", "single"])
@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10_000), st.floats(0.2, 0.75), st.integers(1, 4))
def test_agglomerative_labels_equal_scikit_learns_on_the_dense_matrix(linkage, size, seed, eps, min_samples):
    distance, reach = random_distance(size, seed), 0.8
    labels = Agglomerative(eps, min_samples, linkage).fit_predict(sparse_graph(distance, reach))
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(
        labels, numbered(dense_agglomerative(cut_off(distance, reach), eps, linkage), min_samples)
    )


def test_agglomerative_by_hand():
    #  0-1 at 0.1, 2-3 at 0.2; of their four pairs two are known: means (0.3 + 0.5 + 1 + 1) / 4 = 0.7
    distance = np.ones((5, 5))
    for i, j, d in ((0, 1, 0.1), (2, 3, 0.2), (0, 2, 0.3), (1, 3, 0.5)):
        distance[i, j] = distance[j, i] = d
    np.fill_diagonal(distance, 0)
    graph = sparse_graph(distance, 0.8)
    label = lambda eps, linkage: Agglomerative(eps, 1, linkage).fit_predict(graph).tolist()
    assert label(0.05, "average") == [0, 1, 2, 3, 4]
    assert label(0.69, "average") == label(0.99, "complete") == label(0.2, "single") == [0, 0, 1, 1, 2]
    assert label(0.701, "average") == label(0.3, "single") == [0, 0, 0, 0, 1]
    assert Agglomerative(0.69, 2).fit_predict(graph).tolist() == [0, 0, 1, 1, OUTLIER]


def test_images_too_many_for_all_their_pairs_are_one_line(monkeypatch):
    monkeypatch.setattr(hierarchical, "_MOST_AT_ONCE", 9)
    graph = sparse_graph(random_distance(30, 0, groups=1), 0.8)
    with pytest.raises(ValueError, match=r"eps 0.5 connects, 30 here, and can hold 9; lower ISE.PSEUDO_LABEL.EPS"):
        Agglomerative(0.5).fit_predict(graph)
    apart = sparse_graph(np.kron(1 - np.eye(4), np.ones((8, 8))))  # four parts of eight
    assert Agglomerative(0.5).fit_predict(apart).tolist() == np.repeat(range(4), 8).tolist()


def test_agglomerative_eps_can_be_chosen_from_the_graph():
    clusterer = Agglomerative("auto", 4, "complete")
    graph = jaccard_graph(random_embeddings(150, 16, noise=0.5, per_identity=15), 15, 4, clusterer.max_distance)
    labels = clusterer.fit_predict(graph)
    choice = choose_eps(graph, 4, lambda eps, min_samples: Agglomerative(eps, min_samples, "complete"))
    assert (clusterer.eps_, clusterer.reason_) == (choice.eps, choice.reason)
    np.testing.assert_array_equal(labels, Agglomerative(choice.eps, 4, "complete").fit_predict(graph))


def merging_heights(distance: np.ndarray) -> np.ndarray:
    """The distance at which any two rows are first in one cluster: the best worst step of all paths (Floyd, Warshall)."""
    heights = distance.copy()
    for middle in range(len(heights)):
        heights = np.minimum(heights, np.maximum(heights[:, middle, None], heights[middle]))
    return heights


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([0.4, 0.6, 0.8, 1.0]))
def test_the_tree_joins_all_rows_at_the_distances_of_the_dense_matrix(size, seed, min_samples, reach):
    distance = cut_off(random_distance(size, seed), reach)
    cores = np.sort(np.c_[distance, np.ones((size, min_samples))], axis=1)[:, min_samples - 1]  # the row itself counts
    mutual = np.maximum(distance, np.maximum(cores, cores[:, None]))
    tree = hierarchical._spanning_tree(sparse_graph(distance, reach), min_samples)
    assert tree.nnz == 2 * (size - 1) and (tree != tree.T).nnz == 0
    steps = np.where(tree.toarray() > 0, tree.toarray(), np.inf)
    off_diagonal = ~np.eye(size, dtype=bool)
    np.testing.assert_allclose(merging_heights(steps)[off_diagonal], merging_heights(mutual)[off_diagonal], rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(0, 10_000))
def test_hdbscan_labels_equal_scikit_learns_on_the_dense_matrix(size, seed):
    """With min_samples 1 and all pairs no two distances are equal; with ties a row between clusters may go to either."""
    distance = random_distance(size, seed)
    labels = HDBSCAN(1).fit_predict(sparse_graph(distance))
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, numbered(dense_hdbscan(distance.astype(np.float64), 1)))


@pytest.mark.parametrize("seed", range(3))
def test_hdbscan_on_distances_of_neighbours(seed):
    """A graph in many parts, rows with fewer neighbours than min_samples; ties decide of few rows."""
    features = random_embeddings(120, 16, seed, noise=0.6)
    graph = Cosine()(features, exact(features, 6)).within(0.7)
    distance = np.ones(graph.shape)
    distance[graph.tocoo().coords] = graph.data
    labels, expected = HDBSCAN(4).fit_predict(graph), numbered(dense_hdbscan(distance, 4))
    assert labels.max() == expected.max() > 3 and (labels == OUTLIER).any()
    assert (labels != expected).sum() <= 2


@pytest.mark.parametrize("clusterer", [HDBSCAN(4), Agglomerative(0.5, 4)])
def test_equal_images_are_together_and_few_are_outliers(clusterer):
    graph = sparse_graph(np.kron(1 - np.eye(3), np.ones((6, 6))), 0.8)
    assert clusterer.fit_predict(graph).tolist() == np.repeat(range(3), 6).tolist()
    for size in (1, 2, 3):
        assert clusterer.fit_predict(sparse_graph(np.zeros((size, size)))).tolist() == [OUTLIER] * size
    nothing_near = sparse_graph(1 - np.eye(8), 0.8)
    assert clusterer.fit_predict(nothing_near).tolist() == [OUTLIER] * 8


def test_what_hdbscan_says_of_its_labels():
    clusterer = HDBSCAN(4)
    clusterer.fit_predict(sparse_graph(np.kron(1 - np.eye(3), np.ones((6, 6)))))
    assert clusterer.summary_ == "HDBSCAN: mean strength of membership 1.00"
    clusterer.fit_predict(sparse_graph(np.zeros((3, 3))))
    assert clusterer.summary_ == "HDBSCAN: 3 images are fewer than the 4 of the smallest cluster"


def test_hdbscan_finds_groups_without_an_eps():
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(6), 20)
    spread = 0.05 + 0.1 * (groups % 2)[:, None]  # tight groups and loose ones
    features = np.eye(8)[groups] + spread * random.standard_normal((120, 8))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    labels = HDBSCAN(5).fit_predict(Cosine()(features, exact(features, 20)).within(0.8))
    kept = labels != OUTLIER
    assert kept.mean() > 0.8 and adjusted_rand_score(labels[kept], groups[kept]) == 1


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Agglomerative(linkage="ward"), "linkage must be one of average, complete, single, got 'ward'"),
        (lambda: Agglomerative(eps=1.5), "eps.*1.5"),
        (lambda: HDBSCAN(0), "min_samples.*0"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_clusterers_of_the_config():
    settings_ = SimpleNamespace(EPS=0.3, MIN_SAMPLES=2, AGGLOMERATIVE=SimpleNamespace(LINKAGE="single"))
    cfg = SimpleNamespace(ISE=SimpleNamespace(PSEUDO_LABEL=settings_))
    expected = {"eps": 0.3, "min_samples": 2, "linkage": "single"}
    assert CLUSTERER.get("Agglomerative").from_config(cfg) == expected
    assert CLUSTERER.get("HDBSCAN").from_config(cfg) == {"min_samples": 2}
