"""Bottom-up clustering against values worked out by hand, and a plain merge of pairs; its config in training."""

import math

import numpy as np
import pytest
import torch
from helpers import REPOSITORY, load_project, train_project

from ise_plugin.config import load_cfg
from ise_plugin.errors import UsageError
from ise_plugin.method import ClusterMemory
from ise_plugin.modeling import ISELoss
from ise_plugin.registry import HOOK, build

SYNTHETIC = "BUC/configs/synthetic.yml"


@pytest.fixture(scope="module")
def buc():
    return load_project("BUC/buc.py")


PLACES = torch.tensor([[0.0], [10.0], [1.0], [3.0], [3.5]])  # of images on a line
LABELS = np.array([0, 3, 0, 1, 2])


@pytest.mark.parametrize("rows_at_once", [1, 2, 100])
def test_clusters_are_as_far_apart_as_their_nearest_images(buc, monkeypatch, rows_at_once):
    monkeypatch.setattr(buc, "_ROWS_AT_ONCE", rows_at_once)
    expected = [[0, 2, 2.5, 9], [2, 0, 0.5, 7], [2.5, 0.5, 0, 6.5], [9, 7, 6.5, 0]]
    np.testing.assert_allclose(buc.cluster_distances(PLACES, LABELS), expected, atol=1e-6)


# distance 0.50 of clusters of 10 and 1 images, 0.54 of 1 and 1: 0.555 and 0.550 with the paper's 0.005
PAIRS = np.array([[0, 0.50, 2, 2], [0.50, 0, 2, 2], [2, 2, 0, 0.54], [2, 2, 0.54, 0]])
SIZES = np.array([10, 1, 1, 1])


def test_diversity_prefers_small_clusters(buc):
    assert buc.merge_clusters(PAIRS, SIZES, 1, diversity=0.0).tolist() == [0, 0, 1, 2]
    assert buc.merge_clusters(PAIRS, SIZES, 1, diversity=0.005).tolist() == [0, 1, 2, 2]


def test_a_pair_that_others_have_joined_counts_nothing(buc):
    # 0-1, 1-2 and 0-2 come before 2-3, and 0-2 joins nobody
    distances = np.abs(np.subtract.outer([0, 1, 2.0, 5], [0, 1, 2.0, 5]))
    assert buc.merge_clusters(distances, np.ones(4), 2, 0.0).tolist() == [0, 0, 0, 1]
    assert buc.merge_clusters(distances, np.ones(4), 3, 0.0).tolist() == [0, 0, 0, 0]
    assert buc.merge_clusters(distances, np.ones(4), 0, 0.0).tolist() == [0, 1, 2, 3]


def merged_one_pair_after_the_other(criterion, merges):
    sets = {cluster: {cluster} for cluster in range(len(criterion))}
    pairs = sorted((criterion[a, b], a, b) for a in range(len(criterion)) for b in range(a))
    for _, a, b in pairs:
        if merges and sets[a] is not sets[b]:
            joined = sets[a] | sets[b]
            sets.update({cluster: joined for cluster in joined})
            merges -= 1
    names = {}
    return [names.setdefault(min(sets[cluster]), len(names)) for cluster in range(len(criterion))]


@pytest.mark.parametrize("merges", [1, 7, 19, 39])
@pytest.mark.parametrize("diversity", [0.0, 0.005, 1.0])
def test_merging_is_that_of_pairs_in_order(buc, merges, diversity):
    random = np.random.default_rng(0)
    points, sizes = random.normal(size=(40, 3)), random.integers(1, 9, 40)
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    criterion = distances + diversity * (sizes[:, None] + sizes)
    expected = merged_one_pair_after_the_other(criterion, merges)
    assert buc.merge_clusters(distances, sizes, merges, diversity).tolist() == expected


def test_repelled_loss_and_lookup_table_by_hand():
    cfg = load_cfg(str(REPOSITORY / "projects" / SYNTHETIC))
    memory = ClusterMemory(torch.eye(2), cfg.ISE.MEMORY.MOMENTUM, cfg.ISE.MEMORY.UPDATE)
    features, labels = torch.tensor([[0.6, 0.8]]), torch.tensor([0])
    outputs = {"features": features, "labels": labels, "centroids": memory.centroids}
    losses = ISELoss(cfg)({**outputs, "supports": features[:0], "support_labels": labels[:0]})
    # exp(0.6 / 0.1) against exp(0.8 / 0.1)
    assert {name: float(loss) for name, loss in losses.items()} == {"loss_se": pytest.approx(math.log(1 + math.e**2))}
    memory.update(features, labels)
    moved = torch.tensor([1 + 0.6, 0 + 0.8]) / 2
    torch.testing.assert_close(memory.centroids[0], moved / math.sqrt(0.8))


def test_clusters_become_fewer_until_the_stop(tiny_dataset, tmp_path):
    options = "SOLVER.MAX_EPOCH 4 ISE.OWN.BUC.MERGE_SHARE 0.3 ISE.OWN.BUC.STOP_SHARE 0.5".split()
    trainer = train_project(SYNTHETIC, tmp_path / "run", *options)
    assert len(trainer.images) == 150
    assert [count for count, _ in trainer.storage.history("clusters").values()] == [150, 105, 75, 75]
    assert sorted(set(trainer.pseudo_labels.labels)) == list(range(75))


def test_the_papers_setting_can_be_built():
    cfg = load_cfg(str(REPOSITORY / "projects/BUC/configs/market_r50.yml"))
    hook = build(HOOK, cfg.ISE.PSEUDO_LABEL.HOOK, "HOOK", cfg)
    assert dict(hook._settings) == {"MERGE_SHARE": 0.05, "DIVERSITY": 0.005, "START_EPOCHS": 20, "STOP_SHARE": 0.1}
    assert cfg.ISE.SAMPLER == "RandomBatchSampler" and not cfg.ISE.SUPPORT.ENABLED


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("MERGE_SHARE", "1.0", "MERGE_SHARE must be greater than 0 and less than 1"),
        ("STOP_SHARE", "0.0", "STOP_SHARE greater than 0"),
        ("DIVERSITY", "-0.1", "DIVERSITY at least 0"),
        ("START_EPOCHS", "0", "START_EPOCHS at least 1"),
    ],
)
def test_impossible_settings_are_refused(key, value, message):
    cfg = load_cfg(str(REPOSITORY / "projects" / SYNTHETIC), [f"ISE.OWN.BUC.{key}", value])
    with pytest.raises(UsageError, match=message):
        build(HOOK, cfg.ISE.PSEUDO_LABEL.HOOK, "HOOK", cfg)
