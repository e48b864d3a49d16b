"""Components are found by name or by where they are, and a wrong name says what may be meant."""

import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from clustering.references import random_embeddings
from helpers import train_project

from ise_plugin.clustering import DBSCAN
from ise_plugin.errors import UsageError
from ise_plugin.neighbors import exact
from ise_plugin.registry import CLUSTERER, DISTANCE, LOSS, build, registered

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


OUTSIDE = """
import numpy as np
import torch
from scipy.sparse import csr_matrix

from ise_plugin.config import own_settings
from ise_plugin.registry import CLUSTERER, DISTANCE, LOSS


@DISTANCE.register()
class OutsideDistance:
    @classmethod
    def from_config(cls, cfg):
        return {"scale": own_settings(cfg, "OUTSIDE", SCALE=1.0).SCALE}

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, features, neighbors):
        self.distances = self.scale * (1 - features @ features.T).clamp(min=1e-7).cpu().numpy()
        return self

    def within(self, max_distance):
        return csr_matrix(np.where(self.distances <= max_distance, self.distances, 0))

    def of_rows(self, rows):
        return self.distances[rows]


@CLUSTERER.register()
class OutsideHalves:
    max_distance = 0.5

    def __init__(self, cfg): ...

    def fit_predict(self, graph):
        return np.arange(graph.shape[0]) // ((graph.shape[0] + 1) // 2)


@LOSS.register()
class OutsideLoss(torch.nn.Module):
    def __init__(self, cfg):
        super().__init__()

    def forward(self, outputs):
        own = outputs["centroids"][outputs["labels"]]
        return {"loss_outside": 1 - (outputs["features"] * own).sum(1).mean()}
"""


def test_one_class_in_a_file_that_the_config_names_is_a_distance_a_clusterer_or_a_loss(
    tiny_dataset, tmp_path, monkeypatch, caplog
):
    """A run with all three; and what its config sets in vain is said."""
    for registry in (DISTANCE, CLUSTERER, LOSS):
        monkeypatch.setattr(registry, "_obj_map", dict(registry._obj_map))
    (tmp_path / "parts.py").write_text(OUTSIDE)
    (tmp_path / "own.yml").write_text("""
        _BASE_: ISE/synthetic_tiny.yml
        MODEL: {LOSSES: {NAME: ["OutsideLoss"]}}
        ISE:
          IMPORT: ["parts.py"]
          PSEUDO_LABEL: {DISTANCE: OutsideDistance, CLUSTERER: OutsideHalves}
          LABEL_PRESERVING: {WEIGHT: 0.7}
          OWN: {OUTSIDE: {SCALE: 0.25}}
    """)
    with caplog.at_level(logging.INFO, logger="fastreid.ise"):
        trainer = train_project(tmp_path / "own.yml", tmp_path / "run", "DATASETS.TESTS", "()")
    count = len(trainer.images)
    np.testing.assert_array_equal(trainer.pseudo_labels.labels, np.arange(count) // ((count + 1) // 2))
    losses = [value for value, _ in trainer.storage.history("loss_outside").values()]
    assert len(losses) == 4 and all(0 < value < 2 for value in losses)
    (said,) = [record.getMessage() for record in caplog.records if "read by no part" in record.getMessage()]
    # of this file and of its base, which has DBSCAN's
    assert said.endswith(": ISE.LABEL_PRESERVING.WEIGHT, ISE.PSEUDO_LABEL.EPS")
