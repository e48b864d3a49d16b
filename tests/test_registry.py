"""Components are found by name or by where they are, and a wrong name says what may be meant."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from clustering.references import random_embeddings

from ise_plugin.clustering import DBSCAN
from ise_plugin.errors import UsageError
from ise_plugin.neighbors import exact
from ise_plugin.registry import CLUSTERER, DISTANCE, build, registered

OWN = '''
import numpy as np
from scipy.sparse import csr_matrix


class Cosine:
    """1 - cosine of the neighbours."""

    @classmethod
    def from_config(cls, cfg):
        return {"scale": cfg.ISE.DISTANCE.Cosine.SCALE}

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, features, neighbors):
        self.distances = self.scale * (1 - features @ features.T)
        return self

    def within(self, max_distance):
        kept = self.distances <= max_distance
        return csr_matrix((self.distances[kept], np.nonzero(kept)), kept.shape)


class Halves:
    """Two clusters, whatever the distances."""

    max_distance = 0.5

    def __init__(self, cfg):
        self.cfg = cfg

    def fit_predict(self, graph):
        return np.arange(graph.shape[0]) // ((graph.shape[0] + 1) // 2)
'''


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module of somebody's own, outside the package."""
    (tmp_path / "somebodys_own.py").write_text(OWN)
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('two\\nlines')")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("somebodys_own", None)


def test_a_registered_name():
    assert registered(CLUSTERER, "DBSCAN", "KEY") is DBSCAN


def test_distance_and_clusterer_from_outside_the_package(own_module):
    cfg = SimpleNamespace(ISE=SimpleNamespace(DISTANCE=SimpleNamespace(Cosine=SimpleNamespace(SCALE=0.5))))
    distance = build(DISTANCE, "somebodys_own.Cosine", "ISE.PSEUDO_LABEL.DISTANCE", cfg)
    clusterer = build(CLUSTERER, "somebodys_own.Halves", "ISE.PSEUDO_LABEL.CLUSTERER", cfg)
    assert clusterer.cfg is cfg
    features = random_embeddings(10, 4)
    graph = distance(features, exact(features, 3)).within(clusterer.max_distance)
    assert graph.max() <= 0.5 and (graph.diagonal() < 1e-6).all()
    np.testing.assert_array_equal(clusterer.fit_predict(graph), np.repeat([0, 1], 5))


@pytest.mark.parametrize(
    "name, meant",
    [
        ("dbscan", "DBSCAN or HDBSCAN"),
        ("k-means", "KMeans"),
        ("Info-Map", "Infomap"),
        ("agglomerativ", "Agglomerative"),
    ],
)
def test_a_wrong_name_says_what_may_be_meant(name, meant):
    with pytest.raises(
        UsageError, match=rf"^KEY: nothing named '{name}'.*known are: .*DBSCAN.*did you mean {meant}\?$"
    ):
        registered(CLUSTERER, name, "KEY")


def test_a_name_like_no_other_says_what_there_is():
    with pytest.raises(UsageError, match=r"known are: [^?]*DBSCAN[^?]*$"):
        registered(CLUSTERER, "xyz", "KEY")


@pytest.mark.parametrize(
    "name, reason",
    [
        ("somebodys_own.Missing", "AttributeError.*Missing"),
        ("no_such_module.Class", "ModuleNotFoundError.*no_such_module"),
        ("broken_module.Class", "RuntimeError: two lines"),
        (".Class", "ValueError"),
        ("somebodys_own.", "AttributeError"),
    ],
)
def test_what_cannot_be_imported_is_one_line(name, reason, own_module):
    with pytest.raises(UsageError) as caught:
        registered(CLUSTERER, name, "KEY")
    assert "\n" not in str(caught.value)
    assert caught.match(rf"^KEY: {name} cannot be imported \({reason}.*check the name, and PYTHONPATH$")
