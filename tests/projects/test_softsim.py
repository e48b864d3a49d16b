"""Softened similarity against values worked out by hand, and dissimilarities written from their description."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import REPOSITORY, load_project, train_project

from ise_plugin.config import load_cfg
from ise_plugin.engine.labelling import extract_embeddings
from ise_plugin.errors import UsageError
from ise_plugin.registry import HOOK, LOSS, build

SYNTHETIC = "SoftSim/configs/synthetic.yml"


@pytest.fixture(scope="module")
def softsim():
    return load_project("SoftSim/softsim.py")


def test_stripes_are_means_of_rows(softsim):
    feature_map = torch.tensor([[[[3.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [5.0, 1.0]]]])  # (1, 2, 2, 2)
    assert softsim.stripes(feature_map, 2).tolist() == [[[1.0, 0.0], [0.0, 1.0]]]
    whole = softsim.stripes(feature_map, 1)[0, 0]
    torch.testing.assert_close(whole, F.normalize(torch.tensor([1.0, 1.5]), dim=0))


def test_dissimilarity_by_hand(softsim):
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    parts = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], [[-1.0, 0.0], [1.0, 0.0]]])
    found = softsim.dissimilarities(torch.tensor([0]), features, parts, torch.tensor([4, 4, 5]), 0.5, 0.02)
    root = math.sqrt(2)
    # alike in itself but for the camera; embeddings and the second part at right angles; the first part opposite
    expected = [[0.02, 0.5 * root + 0.5 * root / 2 + 0.02, 0.5 * 2 / 2]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_unknown_cameras_are_different_ones(softsim):
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    parts = features.unsqueeze(1)
    found = softsim.dissimilarities(torch.tensor([0]), features, parts, torch.tensor([-1, -1]), 0.5, 0.02)
    assert found.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("rows_at_once", [1, 7, 512])
def test_reliable_images_are_the_least_unlike_others(softsim, monkeypatch, rows_at_once):
    monkeypatch.setattr(softsim, "_ROWS_AT_ONCE", rows_at_once)
    generator = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(20, 6, generator=generator), dim=1)
    parts = F.normalize(torch.randn(20, 3, 5, generator=generator), dim=2)
    cameras = torch.randint(-1, 3, (20,), generator=generator)
    found = softsim.reliable_images(features, parts, cameras, 4, part_weight=0.3, camera_penalty=0.2)
    for i in range(20):
        unlike = {}
        for j in range(20):
            by_parts = sum(float((parts[i, k] - parts[j, k]).norm()) for k in range(3)) / 3
            same = cameras[i] == cameras[j] and cameras[i] >= 0
            unlike[j] = 0.7 * float((features[i] - features[j]).norm()) + 0.3 * by_parts + 0.2 * same
        assert found[i].tolist() == sorted(set(unlike) - {i}, key=unlike.get)[:4]


def test_without_reliable_images_there_are_none(softsim):
    features = torch.eye(3)
    found = softsim.reliable_images(
        features, features.unsqueeze(1), torch.zeros(3), 0, part_weight=0.5, camera_penalty=0
    )
    assert found.shape == (3, 0)


LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
TOTAL = math.log(math.e**2 + math.e + 1 + 1 / math.e)


def test_loss_by_hand(softsim):
    # own class 0: -log p = TOTAL - 2; reliable 1 and 3: TOTAL - 1 and TOTAL + 1
    loss = softsim.softened_loss(LOGITS, torch.tensor([0]), torch.tensor([[1, 3]]), own_share=0.6)
    assert loss.item() == pytest.approx(0.6 * (TOTAL - 2) + 0.4 * TOTAL, rel=1e-6)


def test_loss_with_its_own_class_alone(softsim):
    loss = softsim.softened_loss(LOGITS, torch.tensor([0]), torch.empty(1, 0, dtype=torch.int64), own_share=0.6)
    assert loss.item() == pytest.approx(TOTAL - 2, rel=1e-6)


def test_loss_is_the_cross_entropy_with_the_softened_target(softsim):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 9, generator=generator)
    images = torch.tensor([0, 4, 8, 1, 1])
    reliable = torch.stack([torch.tensor([i for i in range(9) if i != own])[:3] for own in images.tolist()])
    target = torch.zeros(5, 9).scatter(1, reliable, 0.4 / 3).scatter(1, images.unsqueeze(1), 0.6)
    torch.testing.assert_close(softsim.softened_loss(logits, images, reliable, 0.6), F.cross_entropy(logits, target))


def test_from_its_config_targets_are_softened_after_the_first_epoch(tiny_dataset, tmp_path, softsim, monkeypatch):
    seen = []

    class Watched(softsim.SoftenedLoss):
        def forward(self, outputs):
            seen.append((tuple(self.reliable.shape), len(outputs["centroids"])))
            return super().forward(outputs)

    monkeypatch.setitem(LOSS._obj_map, "SoftenedLoss", Watched)
    trainer = train_project(SYNTHETIC, tmp_path / "run", "SOLVER.MAX_EPOCH", "2")
    assert seen == 2 * [((150, 0), 150)] + 2 * [((150, 4), 150)]  # two steps an epoch
    hook, resumed = trainer.pseudo_labels, softsim.SoftenedLabelHook(trainer.cfg)
    resumed.trainer = trainer
    resumed.load_state_dict(hook.state_dict())
    assert torch.equal(resumed.reliable, hook.reliable)

    # what the labelling finds is what embeddings, stripes of the maps and cameras say, one after the other
    labelling = hook.label()
    maps = []
    watch = trainer.model.backbone.register_forward_hook(lambda module, inputs, output: maps.append(output))
    features = extract_embeddings(trainer.model, hook._loader.extraction())
    watch.remove()
    torch.testing.assert_close(features, labelling.features)
    parts, cameras = softsim.stripes(torch.cat(maps), 4).half(), torch.from_numpy(trainer.images.cameras)
    expected = softsim.reliable_images(features, parts, cameras, 4, part_weight=0.5, camera_penalty=0.1)
    assert torch.equal(hook.reliable, expected)


def test_the_papers_setting_can_be_built():
    cfg = load_cfg(str(REPOSITORY / "projects/SoftSim/configs/market_r50.yml"))
    loss = build(LOSS, *cfg.MODEL.LOSSES.NAME, "NAME", cfg)
    assert (loss.own_share, loss.temperature) == (0.6, 0.1)
    build(HOOK, cfg.ISE.PSEUDO_LABEL.HOOK, "HOOK", cfg)
    assert cfg.ISE.SAMPLER == "RandomBatchSampler"


@pytest.mark.parametrize(
    "registry, name, key, value",
    [
        (LOSS, "SoftenedLoss", "OWN_SHARE", "1.1"),
        (HOOK, "SoftenedLabelHook", "RELIABLE", "0"),
        (HOOK, "SoftenedLabelHook", "PARTS", "0"),
        (HOOK, "SoftenedLabelHook", "PART_WEIGHT", "-0.1"),
        (HOOK, "SoftenedLabelHook", "CAMERA_PENALTY", "-0.1"),
        (HOOK, "SoftenedLabelHook", "HARD_EPOCHS", "-1"),
    ],
)
def test_impossible_settings_are_refused(registry, name, key, value):
    cfg = load_cfg(str(REPOSITORY / "projects" / SYNTHETIC), [f"ISE.OWN.SOFTSIM.{key}", value])
    with pytest.raises(UsageError, match=f"{key}.* at least .*{value}"):
        build(registry, name, "KEY", cfg)
