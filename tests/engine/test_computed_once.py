"""What an epoch has computed travels with its labelling: nothing is searched, built or multiplied a second time."""

from collections import Counter

import pytest
import torch
from fastreid.utils.env import seed_all_rng
from helpers import CONFIGS, FOLDER_RUN_OPTIONS

from ise_plugin.clustering import centroids, jaccard
from ise_plugin.config import load_cfg
from ise_plugin.engine import ISETrainer
from ise_plugin.registry import NEIGHBOR_SEARCH


@pytest.fixture
def counted(monkeypatch):
    """How often each of the costly computations ran."""
    calls = Counter()

    def count(owner, name, label):
        original = getattr(owner, name)

        def counting(*arguments, **options):
            calls[label] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, counting)

    search = NEIGHBOR_SEARCH.get("exact")

    def counting_search(*arguments, **options):
        calls["searches"] += 1
        return search(*arguments, **options)

    monkeypatch.setitem(NEIGHBOR_SEARCH._obj_map, "exact", counting_search)
    count(jaccard, "neighborhood_weights", "weights")
    count(jaccard.JaccardDistances, "within", "graphs")
    count(torch, "segment_reduce", "centroids")  # how cluster_centroids sums
    count(centroids, "CentroidSimilarities", "similarities")
    return calls


def test_report_and_identities_compute_nothing_again(counted, datasets_folder, tmp_path):
    crops = datasets_folder / "synthetic_persons_tiny/bounding_box_train"
    options = ["DATASETS.FOLDER.ROOT", str(crops), "OUTPUT_DIR", str(tmp_path / "run"), *FOLDER_RUN_OPTIONS]
    options += ["ISE.REPORT.PICTURES", "True"]
    cfg = load_cfg(str(CONFIGS / "ISE/folder.yml"), options)
    assert {"RunReport", "IdentityChoice"} <= set(cfg.ISE.HOOKS) and cfg.ISE.REPORT.PICTURES
    seed_all_rng(cfg.SEED)
    trainer = ISETrainer(cfg)
    labellings = []
    label = trainer.pseudo_labels.label
    trainer.pseudo_labels.label = lambda: labellings.append(label()) or labellings[-1]
    trainer.train()
    assert (tmp_path / "run/identities.csv").exists() and (tmp_path / "run/report.html").exists()
    # one labelling for each epoch, one of the last weights, and one of the chosen ones where these are others
    assert cfg.SOLVER.MAX_EPOCH < len(labellings) <= cfg.SOLVER.MAX_EPOCH + 2
    expected = dict.fromkeys(("searches", "weights", "graphs", "centroids", "similarities"), len(labellings))
    assert dict(counted) == expected
