import math
from types import SimpleNamespace

import numpy as np
import pytest
from clustering.references import random_distance, random_embeddings, sparse_graph, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from ise_plugin.clustering import OUTLIER, Cosine, Infomap
from ise_plugin.clustering import infomap as module
from ise_plugin.errors import UsageError
from ise_plugin.neighbors import exact
from ise_plugin.registry import CLUSTERER

pytest.importorskip("infomap")


def description_length(weights: np.ndarray, labels: tuple) -> float:
    """The map equation of an undirected graph, L(M) = q H(Q) + sum of p_m H(P_m), from the random walk's own numbers."""
    total = weights.sum()
    visits = weights.sum(axis=1) / total

    def entropy(rates: list) -> float:
        rates = [rate for rate in rates if rate > 0]
        return -sum(rate / sum(rates) * math.log2(rate / sum(rates)) for rate in rates)

    leave, length = [], 0.0
    for module_ in set(labels):
        inside = np.array([label == module_ for label in labels])
        leave.append(weights[inside][:, ~inside].sum() / total)
        rates = [leave[-1], *visits[inside]]
        length += sum(rates) * entropy(rates)
    return length + sum(leave) * entropy(leave)


def partitions(size: int, labels: tuple = ()):
    """All partitions of so many rows, as restricted growth strings."""
    if len(labels) == size:
        yield labels
    else:
        for label in range(max(labels, default=-1) + 2):
            yield from partitions(size, (*labels, label))


@settings(max_examples=8, deadline=None)  # each is a process
@given(st.integers(3, 7), st.integers(0, 10_000), st.floats(0.4, 0.8))
def test_no_partition_has_a_shorter_description(size, seed, eps):
    distance = random_distance(size, seed, groups=2)
    weights = np.where((distance <= eps) & ~np.eye(size, dtype=bool), 1 - distance, 0.0)
    labels = Infomap(eps, 1).fit_predict(sparse_graph(distance, 0.9))
    if weights.any():
        shortest = min(description_length(weights, labels_) for labels_ in partitions(size))
        assert description_length(weights, tuple(labels)) <= shortest + 1e-6


def test_two_cliques_and_a_weak_link_by_hand():
    distance = np.ones((9, 9))
    distance[:4, :4] = distance[4:8, 4:8] = 0.2
    distance[3, 4] = distance[4, 3] = 0.45
    np.fill_diagonal(distance, 0)
    graph = sparse_graph(distance)
    assert Infomap(0.5, 4).fit_predict(graph).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, OUTLIER]
    assert Infomap(0.5, 1).fit_predict(graph).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert Infomap(0.5, 5).fit_predict(graph).tolist() == [OUTLIER] * 9  # smaller groups than that
    assert Infomap(0.1, 1).fit_predict(graph).tolist() == list(range(9))  # no links


def test_cluster_contrasts_setting():
    """15 neighbours by cosine, similarity above 0.5, groups below 4 are outliers."""
    groups = np.repeat(np.arange(6), [20, 20, 20, 20, 20, 3])
    random = np.random.default_rng(0)
    features = unit(np.eye(8)[groups] + 0.15 * random.standard_normal((103, 8)))
    clusterer = Infomap()
    assert clusterer.max_distance == 0.5
    labels = clusterer.fit_predict(Cosine()(features, exact(features, 15)).within(clusterer.max_distance))
    np.testing.assert_array_equal(labels, np.where(groups == 5, OUTLIER, groups))


def test_the_same_seed_gives_the_same_labels():
    features = random_embeddings(200, 8, noise=1.2)
    graph = Cosine()(features, exact(features, 15)).within(0.5)
    one, again = (Infomap(0.5, 4, seed).fit_predict(graph) for seed in (7, 7))
    np.testing.assert_array_equal(one, again)
    assert Infomap(0.5, 4, 2**62).fit_predict(graph).max() > 5  # any whole number is a seed


@pytest.mark.parametrize("size", [1, 2, 3])
def test_few_images(size):
    assert Infomap(0.5, 4).fit_predict(sparse_graph(np.zeros((size, size)))).tolist() == [OUTLIER] * size
    assert Infomap(0.5, 1).fit_predict(sparse_graph(np.zeros((size, size)))).tolist() == [0] * size


def test_equal_images_are_together():
    graph = sparse_graph(np.kron(1 - np.eye(3), np.ones((6, 6))))
    assert Infomap().fit_predict(graph).tolist() == np.repeat(range(3), 6).tolist()
    assert Infomap(1.0).fit_predict(graph).tolist() == np.repeat(range(3), 6).tolist()  # links without weight


def test_beside_faiss_whose_wrappers_share_its_types():
    import faiss  # noqa: F401  once it was imported, infomap's own results crashed the program

    assert Infomap(0.5, 2).fit_predict(sparse_graph(np.zeros((3, 3)))).tolist() == [0, 0, 0]


def test_what_the_process_says_when_it_fails(monkeypatch):
    clusterer = Infomap(0.5, 2)
    clusterer.seed = -5  # none that it takes
    with pytest.raises(ValueError, match=r"^infomap ended with exit code \d+: .*seed.*$"):
        clusterer.fit_predict(sparse_graph(np.zeros((3, 3))))


def test_without_the_package_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="Infomap needs the package infomap: pip install infomap"):
        Infomap()


def test_the_clusterer_of_the_config():
    settings_ = SimpleNamespace(EPS=0.5, MIN_SAMPLES=4)
    cfg = SimpleNamespace(SEED=3, ISE=SimpleNamespace(PSEUDO_LABEL=settings_))
    assert CLUSTERER.get("Infomap").from_config(cfg) == {"eps": 0.5, "min_samples": 4, "seed": 3}
