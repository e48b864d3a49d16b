"""Cluster-Contrast: the paper's loss and update by hand, and a short run of its config."""

import math

import pytest
import torch
from helpers import PROJECTS, train_project

from ise_plugin.config import load_cfg
from ise_plugin.modeling import ClusterMemoryHead, ISELoss

CONFIGS = PROJECTS / "ClusterContrast/configs"


def test_loss_and_momentum_update_are_the_papers_by_hand():
    """Two clusters with centroids (1, 0) and (0, 1), temperature 0.05, momentum 0.1."""
    cfg = load_cfg(str(CONFIGS / "market_r50.yml"))
    cfg.MODEL.BACKBONE.FEAT_DIM = 2
    head, loss = ClusterMemoryHead(cfg).train(), ISELoss(cfg)
    head.set_centroids(torch.eye(2))
    queries = torch.tensor([[0.6, 0.8], [0.8, 0.6]])
    outputs = head.extend(queries, torch.tensor([0, 0]))
    losses = loss(outputs)
    assert losses.keys() == {"loss_se"} and len(outputs["supports"]) == 0
    by_hand = (math.log(1 + math.exp((0.8 - 0.6) / 0.05)) + math.log(1 + math.exp((0.6 - 0.8) / 0.05))) / 2
    assert losses["loss_se"].item() == pytest.approx(by_hand, rel=1e-5)
    # phi <- 0.1 phi + 0.9 q, query after query: (0.64, 0.72), normalised, then the second
    first = [0.64 / math.hypot(0.64, 0.72), 0.72 / math.hypot(0.64, 0.72)]
    second = [0.1 * first[0] + 0.9 * 0.8, 0.1 * first[1] + 0.9 * 0.6]
    expected = [value / math.hypot(*second) for value in second]
    assert head.memory.centroids[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert head.memory.centroids[1].tolist() == [0, 1]


@pytest.mark.parametrize("name", ["market_r50", "msmt17_r50", "market_r50_infomap", "msmt17_r50_infomap"])
def test_constants_of_the_paper(name):
    cfg = load_cfg(str(CONFIGS / f"{name}.yml"))
    assert (cfg.ISE.MEMORY.MOMENTUM, cfg.ISE.MEMORY.UPDATE, cfg.ISE.MEMORY.TEMPERATURE) == (0.1, "mean", 0.05)
    assert not cfg.ISE.SUPPORT.ENABLED and cfg.ISE.LABEL_PRESERVING.WEIGHT == 0
    assert cfg.MODEL.HEADS.POOL_LAYER == "GeneralizedMeanPoolingP"
    assert (cfg.SOLVER.MAX_EPOCH, cfg.SOLVER.STEPS) == (50, [20, 40])
    assert cfg.ISE.ITERS_PER_EPOCH == (400 if "msmt17" in name else 200)
    settings = cfg.ISE.PSEUDO_LABEL
    found = (settings.CLUSTERER, settings.K1, settings.EPS, settings.MIN_SAMPLES)
    assert found == (("Infomap", 15, 0.5, 4) if "infomap" in name else ("DBSCAN", 30, 0.6, 4))


def test_a_short_run_trains(tiny_dataset, tmp_path):
    trainer = train_project("ClusterContrast/configs/synthetic.yml", tmp_path / "run", "DATASETS.TESTS", "()")
    assert trainer.model.heads.num_neighbors == 0 and not trainer.model.heads.memories
    assert "loss_lp" not in trainer.storage.histories()
    losses = [value for value, _ in trainer.storage.history("loss_se").values()]
    assert len(losses) == 4 and all(0 < value < math.inf for value in losses)
