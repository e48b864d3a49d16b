"""Runs as files alone, of two settings, and the rows of their table."""

import json
from pathlib import Path

import pytest
from helpers import CONFIGS

from ise_plugin.config import load_cfg
from ise_plugin.sweep import Grid, gather

TINY = str(CONFIGS / "ISE/synthetic_tiny.yml")
BETA = "ISE.LABEL_PRESERVING.WEIGHT"
# mAP of seeds 0, 1, 2 for beta 0 and 0.1
MEAN_AP = {"0": (60.0, 62.0, 64.0), "0.1": (70.0, 71.0)}
METRICS = ("mAP before training", "mAP", "rank-1", "clusters", "outliers", "ARI", "mINP")


def train(job, mean_ap, ari):
    """The files of a run that has ended so."""
    folder = Path(job.folder)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(load_cfg(TINY, job.options).dump())
    results = {"initial": {"mAP": 20.0}, "final": {"mAP": mean_ap, "Rank-1": mean_ap + 10}, "seconds": 90.0}
    (folder / "results.json").write_text(json.dumps(results))
    line = {"iteration": 4, "clusters": 11.0, "labels/outlier_share": 0.25, "labels/ari": ari}
    (folder / "metrics.json").write_text(
        json.dumps({**line, "iteration": 0, "labels/ari": 0.0}) + "\n" + json.dumps(line)
    )
    (folder / "model_final.pth").touch()


@pytest.fixture
def rows(tmp_path):
    settings = Grid({"tiny": TINY}, {BETA: {v: {BETA: v} for v in MEAN_AP}}, seeds=[0, 1, 2]).settings(str(tmp_path))
    for setting in settings:
        for seed, mean_ap in enumerate(MEAN_AP[setting.title[BETA]]):
            train(setting.jobs[seed], mean_ap, ari=0.5 + seed / 10)
    return gather(settings, METRICS)
