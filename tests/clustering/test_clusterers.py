import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.cluster import DBSCAN as DenseDBSCAN

from ise_plugin.clustering import DBSCAN
from ise_plugin.registry import CLUSTERER


def sparse_graph(distance: np.ndarray, bound: float) -> csr_matrix:
    """Pairs within the bound, zero distances stored too."""
    rows, columns = np.nonzero(distance <= bound)
    return csr_matrix((distance[rows, columns].astype(np.float32), (rows, columns)), distance.shape)


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


@pytest.mark.parametrize("eps", [-0.1, 1.1, float("nan")])
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
