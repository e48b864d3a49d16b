"""SpCL: classes, means, loss and batches against the paper's equations by hand; a short run, and its resume."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastreid.engine.hooks import HookBase
from helpers import PROJECT_RUN_OPTIONS, PROJECTS, load_project, train_project

from ise_plugin.config import load_cfg
from ise_plugin.engine import ISETrainer
from ise_plugin.utils.distributed import WholeBatch

spcl = load_project("SpCL/spcl.py")

LABELS = torch.tensor([1, 0, -1, 0, 1, -1])
CLASSES = torch.tensor([1, 0, 2, 0, 1, 3])


def unit(count, seed=0):
    return F.normalize(torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_every_outlier_is_a_class_of_its_own():
    assert torch.equal(spcl.number_classes(LABELS), CLASSES)
    assert spcl.number_classes(torch.tensor([-1, -1])).tolist() == [0, 1]
    assert spcl.number_classes(torch.tensor([0, 0])).tolist() == [0, 0]


def test_classes_are_means_of_the_instances_as_they_are_at_this_step():
    memory, rows = spcl.HybridMemory(0.2), unit(6)
    memory.fill(rows, LABELS, None)
    indices, features = torch.tensor([1, 2, 0]), unit(3, 1)
    for batch in (features, unit(3, 2)):
        expected = torch.stack([rows[CLASSES == k].sum(0) / (CLASSES == k).sum() for k in range(4)])
        outputs = memory(batch, WholeBatch(LABELS[indices], (3,), indices))
        assert torch.allclose(outputs["class_means"], expected, atol=1e-6)
        assert torch.equal(outputs["classes"], CLASSES[indices])
        for i, f in zip(indices, batch):  # v_i <- m v_i + (1 - m) f_i
            rows[i] = F.normalize(0.2 * rows[i] + 0.8 * f, dim=0)
        assert torch.allclose(memory.instances, rows, atol=1e-6)


def test_loss_is_the_papers_by_hand():
    """Two images of a cluster at (1, 0) and (0, 1), whose mean is (0.5, 0.5), and an outlier at (0, -1)."""
    memory = spcl.HybridMemory()
    memory.fill(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), torch.tensor([0, 0, -1]), None)
    features = torch.tensor([[0.6, 0.8], [0.0, -1.0]], requires_grad=True)
    batch = WholeBatch(torch.tensor([0, -1]), (2,), torch.tensor([0, 2]))
    losses = spcl.UnifiedContrastiveLoss(temperature=0.5)({"features": features, **memory(features, batch)})
    of_cluster = math.log(1 + math.exp((-0.8 - 0.7) / 0.5))  # the image against its cluster, 0.7, and the outlier, -0.8
    of_outlier = math.log(1 + math.exp((-0.5 - 1.0) / 0.5))  # itself, 1.0, against the cluster, -0.5
    assert losses["loss_unified"].item() == pytest.approx((of_cluster + of_outlier) / 2, rel=1e-5)
    losses["loss_unified"].backward()
    assert features.grad.abs().sum() > 0


def test_batches_have_groups_of_clusters_and_single_outliers():
    labels = np.array([0] * 6 + [1] * 5 + [2] * 3 + [-1] * 10)
    sampler = spcl.PseudoClassBatchSampler(
        labels, np.arange(24) % 3, num_instances=4, batch_size=8, num_batches=30, seed=0
    )
    batches = [[index for index, _, _ in batch] for batch in sampler]
    assert len(batches) == 30 and all(len(batch) == 8 for batch in batches)
    drawn = [index for batch in batches for index in batch]
    passes = [drawn[start : start + 22] for start in range(0, 22 * 10, 22)]  # three groups of four and ten outliers
    for images in passes:
        assert sorted(labels[images]) == [-1] * 10 + [0] * 4 + [1] * 4 + [2] * 4
        assert len({index for index in images if labels[index] < 0}) == 10
    assert passes[0] != passes[1]


def test_constants_of_the_paper():
    cfg = load_cfg(str(PROJECTS / "SpCL/configs/market_r50.yml"))
    assert (cfg.ISE.MEMORY.INSTANCE_MOMENTUM, spcl.UnifiedContrastiveLoss.from_config(cfg)) == (
        0.2,
        {"temperature": 0.05},
    )
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_INSTANCE, cfg.ISE.ITERS_PER_EPOCH) == (64, 4, 400)
    assert (cfg.ISE.PSEUDO_LABEL.CLUSTERER, cfg.ISE.PSEUDO_LABEL.EPS) == ("SelfPacedDBSCAN", 0.6)


class Stop(HookBase):
    def after_epoch(self):
        raise KeyboardInterrupt


def test_a_short_run_trains_on_outliers_too_and_is_resumed_to_the_bit(tiny_dataset, tmp_path):
    """Between two labellings, so that the rows of the memory come from the checkpoint."""
    options = ["ISE.PSEUDO_LABEL.PERIOD", "2", "DATASETS.TESTS", "()"]
    whole = train_project("SpCL/configs/synthetic.yml", tmp_path / "whole", *options)
    losses = [value for value, _ in whole.storage.history("loss_unified").values()]
    assert len(losses) == 4 and all(0 < value < math.inf for value in losses)
    assert (whole.pseudo_labels.labels < 0).any()
    memory = whole.model.heads.memories["HybridMemory"]
    assert memory.instances.shape[0] == len(whole.images) and whole.model.heads.num_neighbors == 0

    given = [*PROJECT_RUN_OPTIONS, "OUTPUT_DIR", str(tmp_path / "cut"), *options]
    cfg = load_cfg(str(PROJECTS / "SpCL/configs/synthetic.yml"), given)
    cut = ISETrainer(cfg)
    cut.resume_or_load(resume=False)
    cut.register_hooks([Stop()])
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    resumed = ISETrainer(cfg)
    resumed.resume_or_load(resume=True)
    resumed.train()
    assert resumed.start_epoch == 1
    assert torch.equal(resumed.model.heads.memories["HybridMemory"].instances, memory.instances)
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())
