"""The levers of projects/Photographs against slow equations, and in a run that is cut and resumed."""

import importlib.util
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastreid.engine.hooks import HookBase
from fastreid.utils.env import seed_all_rng
from helpers import CONFIGS, REPOSITORY

from ise_plugin.config import load_cfg
from ise_plugin.engine import ISETrainer
from ise_plugin.engine.checkpointing import load_checkpoint_file
from ise_plugin.engine.labelling import Labelling
from ise_plugin.sweep import read_grid
from ise_plugin.utils.distributed import WholeBatch

PROJECT = REPOSITORY / "projects/Photographs"
LEVERS = PROJECT / "levers.py"
LABELS = torch.tensor([0, -1, 1, 0, -1, 1])


@pytest.fixture(scope="module")
def levers():
    """The module as ISE.IMPORT makes it: registered once."""
    load_cfg(str(CONFIGS / "ISE/synthetic_tiny.yml"), ["ISE.IMPORT", f"('{LEVERS}',)"])
    from ise_plugin.registry import LOSS

    return importlib.import_module(LOSS.get("OutlierLoss").__module__)


def unit(count, seed):
    return F.normalize(torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_outliers_are_classes_beside_the_clusters(levers):
    memory, features, rows, centroids = levers.OutlierMemory(0.3), unit(4, 1).requires_grad_(), unit(6, 0), unit(2, 2)
    memory.fill(rows, LABELS, None)
    indices = torch.tensor([4, 0, 1, 2])
    outputs = memory(features, WholeBatch(LABELS[indices], (4,), indices))
    loss = levers.OutlierLoss(0.5)({"features": features, "centroids": centroids, **outputs})["loss_outliers"]
    classes, expected = torch.cat([centroids, rows[[1, 4]]]), 0.0
    for feature, own in ((features[0], 3), (features[2], 2)):
        terms = [math.exp((feature @ c).item() / 0.5) for c in classes]
        expected -= math.log(terms[own] / sum(terms)) / 4
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    moved = [0.3 * rows[i] + 0.7 * features[b].detach() for i, b in ((1, 2), (4, 0))]
    assert torch.allclose(memory.rows, F.normalize(torch.stack(moved), dim=1), atol=1e-6)
    loss.backward()  # the rows of before are as they were


def test_a_batch_without_outliers_costs_nothing(levers):
    memory, indices = levers.OutlierMemory(0.3), torch.tensor([0, 2])
    memory.fill(unit(6, 0), LABELS, None)
    outputs = memory(unit(2, 1), WholeBatch(LABELS[indices], (2,), indices))
    loss = levers.OutlierLoss()({"features": unit(2, 1), "centroids": unit(2, 2), **outputs})
    assert loss["loss_outliers"] == 0 and torch.equal(memory.rows, unit(6, 0)[[1, 4]])


def test_outliers_near_to_a_centroid_join_its_cluster(levers):
    angles = np.array([0, 10, 90, 100, 20, 45])  # two clusters; an outlier near one of them, another between them
    features = torch.tensor(np.stack([np.cos(np.radians(angles)), np.sin(np.radians(angles))], 1), dtype=torch.float32)
    found = Labelling(features, np.array([0, 0, 1, 1, -1, -1]))  # members are 5 degrees from their centroids
    assert levers.with_nearest(found, 0.5).tolist() == [0, 0, 1, 1, -1, -1]
    wide = Labelling(features, np.array([0, 0, 1, 1, -1, -1])[[0, 1, 2, 3, 4, 5]])
    wide.__dict__["similarities"] = wide.similarities._replace(own=np.float32([0.9, 0.95, 0.9, 0.95, np.nan, np.nan]))
    assert levers.with_nearest(wide, 0.5).tolist() == [0, 0, 1, 1, 0, -1]


def test_batches_hold_outliers_by_their_share(levers):
    labels = np.repeat([0, 1, 2, 3, -1], 4)  # a fifth
    sampler = levers.WithOutliersBatchSampler(
        labels, np.zeros(20, int), num_instances=2, batch_size=8, num_batches=5, seed=0
    )
    for batch in sampler:
        assert len(batch) == sampler.images_per_batch == 8
        assert [label for _, label, _ in batch].count(-1) == 0  # less than a group of two would leave room for
    few = levers.WithOutliersBatchSampler(
        np.array([0, 0, 1, 1, -1, -1, -1, -1]), np.zeros(8, int), 2, 8, num_batches=3, seed=0
    )
    for batch in few:
        labels = [label for _, label, _ in batch]
        assert labels.count(-1) == 4 and len(set(i for i, label, _ in batch if label == -1)) == 4


def test_every_lever_of_the_grid_is_pulled_alone_on_the_same_number_of_steps(levers):
    settings = read_grid(str(PROJECT / "grids/levers.yml"), []).settings("out")
    asked = [setting.jobs[0].asked for setting in settings]
    assert {each["ISE.ITERS_PER_EPOCH"] * each["SOLVER.MAX_EPOCH"] for each in asked} == {480}
    recipe = asked[0]
    apart = [{(k, str(each[k])) for k in recipe if recipe[k] != each[k] and k != "OUTPUT_DIR"} for each in asked[1:]]
    assert all(apart) and len(set(map(frozenset, apart))) == len(apart)


class Watch(HookBase):
    def __init__(self):
        self.seen, self.average = [], None

    def after_step(self):
        weights = self.trainer.model.state_dict()["heads.bottleneck.0.weight"].double()
        self.seen.append(weights.clone())
        self.average = self.seen[0] if len(self.seen) == 1 else 0.9 * self.average + 0.1 * weights


class Cut(HookBase):
    def after_epoch(self):
        raise InterruptedError


def trained(output, *hooks, resume=False):
    options = ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(output), "SOLVER.CHECKPOINT_PERIOD", "1", "ISE.HOOKS", "()"]
    options += ["ISE.IMPORT", f"('{LEVERS}',)", "ISE.PSEUDO_LABEL.HOOK", "TeacherPseudoLabelHook"]
    options += ["ISE.SAMPLER", "WithOutliersBatchSampler", "MODEL.LOSSES.NAME", "('ISELoss','OutlierLoss')"]
    options += ["ISE.OWN.LEVERS.TEACHER_MOMENTUM", "0.9", "ISE.PSEUDO_LABEL.EPS", "0.3", "DATASETS.TESTS", "()"]
    options += ["ISE.ITERS_PER_EPOCH", "2", "INPUT.SIZE_TRAIN", "[32,16]", "INPUT.SIZE_TEST", "[32,16]"]
    seed_all_rng(0)
    trainer = ISETrainer(load_cfg(str(CONFIGS / "ISE/synthetic_tiny.yml"), options))
    trainer.resume_or_load(resume=resume)
    trainer.register_hooks(list(hooks))
    trainer.train()
    return trainer


def test_the_teacher_is_the_average_of_the_weights_and_survives_a_cut(levers, tiny_dataset, tmp_path):
    watch = Watch()
    trainer = trained(tmp_path / "whole", watch)
    (hook,) = [hook for hook in trainer._hooks if isinstance(hook, levers.TeacherPseudoLabelHook)]
    assert torch.allclose(hook._teacher["heads.bottleneck.0.weight"].double(), watch.average, atol=1e-6)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    teacher_view = hook.label().features
    assert all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())
    student = super(levers.TeacherPseudoLabelHook, hook).label().features
    assert not torch.equal(teacher_view, student)
    with pytest.raises(InterruptedError):
        trained(tmp_path / "cut", Cut())
    trained(tmp_path / "cut", resume=True)
    whole, cut = (load_checkpoint_file(str(tmp_path / n / "model_final.pth"))["model"] for n in ("whole", "cut"))
    assert all(torch.equal(cut[name], value) for name, value in whole.items())
