import math
from types import SimpleNamespace

import numpy as np
import pytest
from clustering.references import random_distance, sparse_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import DBSCAN as DenseDBSCAN

from ise_plugin.clustering import DBSCAN, OUTLIER, SelfPacedDBSCAN
from ise_plugin.clustering.eps import LARGEST_EPS
from ise_plugin.registry import CLUSTERER


def clusters(distance: np.ndarray, eps: float, min_samples: int) -> list:
    """The set of images of every image's cluster; an outlier's own is itself."""
    labels = DenseDBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit_predict(distance)
    return [{j for j, label in enumerate(labels) if label == labels[i] != -1} | {i} for i in range(len(labels))]


def overlap(one: set, other: set) -> float:
    return len(one & other) / len(one | other)


def slow_groups(distance, eps, min_samples, gap, share, alpha=None) -> tuple:
    """The criterion as the paper has it, with sets: the groups that stay, and the bound on independence."""
    plain, loose, tight = (clusters(distance, bound, min_samples) for bound in (eps, eps + gap, eps - gap))
    found = {frozenset(group) for group in plain if len(group) > 1}
    independence = {group: max(overlap(set(group), loose[i]) for i in group) for group in found}
    if alpha is None and found:
        alpha = sorted(independence.values(), reverse=True)[math.ceil(share * len(found) - 1e-9) - 1]
    groups = set()
    for group in found:
        compactness = {i: overlap(set(group), tight[i]) for i in group}
        kept = frozenset(i for i in group if compactness[i] == max(compactness.values()))
        if independence[group] >= alpha and len(kept) > 1:
            groups.add(kept)
    return groups, alpha


def groups_of(labels: np.ndarray) -> set:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in range(labels.max() + 1)}


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(0, 10_000),
    st.integers(2, 4),
    st.sampled_from([0.02, 0.1]),
    st.sampled_from([0.3, 0.5, 0.9]),
)
def test_what_stays_is_what_the_slow_criterion_keeps(size, seed, min_samples, gap, share):
    first, second = (random_distance(size, seed + number, groups=6) for number in range(2))
    clusterer = SelfPacedDBSCAN(0.3, min_samples, gap, share)
    labels = clusterer.fit_predict(sparse_graph(first))
    expected, alpha = slow_groups(first.astype(np.float64), 0.3, min_samples, gap, share)
    assert groups_of(labels) == expected and labels.dtype == np.int64
    again = clusterer.fit_predict(sparse_graph(second))  # by the bound of the first labelling
    assert groups_of(again) == slow_groups(second.astype(np.float64), 0.3, min_samples, gap, share, alpha)[0]


def line(*points: float) -> np.ndarray:
    places = np.array(points)
    return np.abs(places[:, None] - places)


def test_by_hand():
    #    0 1 2 fall apart at 0.09: 2 is alone; 3 4 5 stand; 6 7 8 and 9 10 11 are joined at 0.11
    points = [0, 0.01, 0.105, 1, 1.01, 1.02, 2, 2.01, 2.02, 2.125, 2.135, 2.145]
    distance = line(*points)
    assert DBSCAN(0.1, 2).fit_predict(sparse_graph(distance)).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    strict = SelfPacedDBSCAN(0.1, 2, 0.01, 0.5)  # half of the clusters reach 1: the others reach 3 of 6 images
    assert strict.fit_predict(sparse_graph(distance)).tolist() == [0, 0, OUTLIER, 1, 1, 1] + [OUTLIER] * 6
    assert strict.summary_ == (
        "self-paced: 2 of 4 clusters are independent (at least 1.00); 7 of 12 clustered images become outliers"
    )
    lax = SelfPacedDBSCAN(0.1, 2, 0.01, 1.0)
    assert lax.fit_predict(sparse_graph(distance)).tolist() == [0, 0, OUTLIER, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_the_bound_is_of_the_first_labelling_and_outlives_a_resume():
    joined, lone = sparse_graph(line(0, 0.01, 0.11, 0.12)), sparse_graph(line(0, 0.01, 1, 1.01))
    fresh = SelfPacedDBSCAN(0.095, 2, 0.01, 0.9)
    assert fresh.state_dict() == {}
    assert fresh.fit_predict(joined).tolist() == [0, 0, 1, 1]  # the best there are: two of four images
    assert fresh.state_dict() == {"alpha": 0.5}
    used = SelfPacedDBSCAN(0.095, 2, 0.01, 0.9)
    used.fit_predict(lone)
    resumed = SelfPacedDBSCAN(0.095, 2, 0.01, 0.9)
    resumed.load_state_dict(used.state_dict())
    for clusterer in (used, resumed):
        assert clusterer.fit_predict(joined).tolist() == [OUTLIER] * 4


def test_no_cluster_and_one_row():
    clusterer = SelfPacedDBSCAN()
    assert clusterer.fit_predict(sparse_graph(1 - np.eye(6), 0.8)).tolist() == [OUTLIER] * 6
    assert clusterer.fit_predict(sparse_graph(np.zeros((1, 1)))).tolist() == [OUTLIER]
    assert clusterer.state_dict() == {} and "no cluster" in clusterer.summary_
    assert clusterer.fit_predict(sparse_graph(np.zeros((5, 5)))).tolist() == [0] * 5


def test_eps_chosen_from_the_graph_and_at_the_ends():
    graph = sparse_graph(random_distance(60, 0))
    clusterer = SelfPacedDBSCAN("auto", 3)
    labels = clusterer.fit_predict(graph)
    plain = DBSCAN("auto", 3)
    plain.fit_predict(graph)
    assert (clusterer.eps_, clusterer.reason_) == (plain.eps_, plain.reason_)
    assert clusterer.max_distance == pytest.approx(LARGEST_EPS + 0.02)
    np.testing.assert_array_equal(labels, SelfPacedDBSCAN(plain.eps_, 3).fit_predict(graph))
    for eps in (0.0, 0.01, 0.99, 1.0):
        assert 0 <= SelfPacedDBSCAN(eps).max_distance <= 1
        SelfPacedDBSCAN(eps).fit_predict(graph)


@pytest.mark.parametrize("options", [{"gap": -0.1}, {"gap": 2}, {"independent_share": 1.1}, {"min_samples": 0}])
def test_bad_arguments(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SelfPacedDBSCAN(**options)


def test_the_clusterer_of_the_config():
    own = SimpleNamespace(GAP=0.05, INDEPENDENT_SHARE=0.8)
    cfg = SimpleNamespace(ISE=SimpleNamespace(PSEUDO_LABEL=SimpleNamespace(EPS=0.6, MIN_SAMPLES=4, SELF_PACED=own)))
    expected = {"eps": 0.6, "min_samples": 4, "gap": 0.05, "independent_share": 0.8}
    assert CLUSTERER.get("SelfPacedDBSCAN").from_config(cfg) == expected
