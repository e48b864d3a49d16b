"""Multi-label classification against values worked out by hand, and a prediction written from its description."""

import pytest
import torch
import torch.nn.functional as F
from helpers import REPOSITORY, load_project, train_project

from ise_plugin.config import load_cfg
from ise_plugin.errors import UsageError
from ise_plugin.registry import HOOK, LOSS, build

SYNTHETIC = "MMCL/configs/synthetic.yml"


@pytest.fixture(scope="module")
def mmcl():
    return load_project("MMCL/mmcl.py")


def at(*degrees):
    """Unit rows of the plane."""
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], 1)


def test_a_candidate_with_nearer_images_of_its_own_is_none(mmcl):
    # of 0 degrees 20 and 50 have cosines of 0.6 or more, so k is 3; 50 has itself, 56 and 60 nearer than 0, and 20 itself alone
    memory = at(0, 20, 50, 56, 60)
    assert mmcl.predict_positives(memory, torch.tensor([0]), 0.6).tolist() == [[True, True, False, False, False]]


def test_the_first_candidate_that_is_none_ends_the_list(mmcl):
    # of 0: 30 and -40, so k is 3; 30 has itself, 54, 55 and 56 nearer than 0; -40 would have 0 in the second place
    memory = at(0, 30, -40, 54, 55, 56)
    assert mmcl.predict_positives(memory, torch.tensor([0]), 0.6)[0].nonzero().tolist() == [[0]]
    without_30 = at(0, -40, 54, 55, 56)
    assert mmcl.predict_positives(without_30, torch.tensor([0]), 0.6)[0].nonzero().tolist() == [[0], [1]]


def described(memory, image, threshold):
    """From the paper's words, image by image."""
    count = len(memory)
    similarity = [[float(memory[a] @ memory[b]) for b in range(count)] for a in range(count)]
    ranked = [sorted(range(count), key=lambda b, a=a: -similarity[a][b]) for a in range(count)]
    candidates = [b for b in ranked[image] if similarity[image][b] >= threshold]
    positives = []
    for candidate in candidates:
        if image not in ranked[candidate][: len(candidates)]:
            break
        positives.append(candidate)
    return sorted(positives)


@pytest.mark.parametrize("at_once", [1, 3, 256])
@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.9])
def test_prediction_as_described(mmcl, monkeypatch, threshold, at_once):
    monkeypatch.setattr(mmcl, "_CANDIDATES_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    memory = F.normalize(torch.randn(60, 4, generator=generator, dtype=torch.float64), dim=1)
    found = mmcl.predict_positives(memory, torch.arange(60), threshold)
    for image in range(60):
        assert found[image].nonzero().ravel().tolist() == described(memory, image, threshold)


def test_alone_an_image_is_its_own_positive(mmcl):
    assert mmcl.predict_positives(at(0, 90, 180), torch.tensor([2, 0])).tolist() == [
        [False, False, True],
        [True, False, False],
    ]


def test_loss_by_hand(mmcl):
    scores = torch.tensor([[0.9, 0.5, 0.2, -0.4, 0.1]])
    positives = torch.tensor([[True, True, False, False, False]])
    pull = 5 / 2 * (0.1**2 + 0.5**2)
    hardest_two = (1.2**2 + 1.1**2) / 2  # a share of 0.6 of three classes is two of them: 0.2 and 0.1
    assert mmcl.multi_label_loss(scores, positives, 0.6, 5.0).item() == pytest.approx(pull + hardest_two, rel=1e-6)
    assert mmcl.multi_label_loss(scores, positives, 0.01, 1.0).item() == pytest.approx(pull / 5 + 1.2**2, rel=1e-6)


def test_loss_is_the_mean_over_images_with_different_numbers_of_classes(mmcl):
    scores = torch.tensor([[1.0, -1.0, 0.0, 0.5], [1.0, 1.0, 1.0, 1.0]], requires_grad=True)
    positives = torch.tensor([[True, False, False, False], [True, True, True, True]])
    loss = mmcl.multi_label_loss(scores, positives, 0.34, 5.0)  # one of three; none of none
    assert loss.item() == pytest.approx((1.5**2 + 0) / 2)
    loss.backward()
    assert torch.isfinite(scores.grad).all()
    assert scores.grad.tolist() == [[0.0, 0.0, 0.0, 1.5], [0.0, 0.0, 0.0, 0.0]]


def test_from_its_config_the_memory_is_filled_once_and_positives_are_predicted_later(
    tiny_dataset, tmp_path, mmcl, monkeypatch
):
    seen = []

    class Watched(mmcl.MultiLabelLoss):
        def forward(self, outputs):
            seen.append((self.predicting, len(outputs["centroids"])))
            return super().forward(outputs)

    monkeypatch.setitem(LOSS._obj_map, "MultiLabelLoss", Watched)
    trainer = train_project(SYNTHETIC, tmp_path / "run", "SOLVER.MAX_EPOCH", "3", "ISE.PSEUDO_LABEL.PERIOD", "3")
    assert seen == 2 * [(False, 150)] + 4 * [(True, 150)]  # two steps an epoch
    assert len(trainer.storage.history("clusters").values()) == 1
    assert trainer.model.heads.memory.momentum == 0.5 and trainer.pseudo_labels.labels.tolist() == list(range(150))


def test_the_loss_is_of_the_predicted_positives_or_of_the_own_class_alone(mmcl):
    loss = mmcl.MultiLabelLoss(load_cfg(str(REPOSITORY / "projects" / SYNTHETIC)))
    memory, image = at(0, 20, 50, 56, 60), torch.tensor([0])  # 20 is a positive of 0, see above
    outputs = {"features": memory[:1], "labels": image, "centroids": memory}
    cosines = memory @ memory[0]
    alone = (cosines[1] + 1) ** 2  # 5 % of four classes, so one: the most similar; its own class has score 1
    assert float(loss(outputs)["loss_multi_label"]) == pytest.approx(float(alone))
    loss.predicting = True
    both = 5 / 2 * (cosines[1] - 1) ** 2 + (cosines[2] + 1) ** 2
    assert float(loss(outputs)["loss_multi_label"]) == pytest.approx(float(both))


def test_the_papers_setting_can_be_built():
    cfg = load_cfg(str(REPOSITORY / "projects/MMCL/configs/market_r50.yml"))
    loss = build(LOSS, *cfg.MODEL.LOSSES.NAME, "NAME", cfg)
    assert (loss.threshold, loss.negative_share, loss.weight) == (0.6, 0.01, 5.0)
    build(HOOK, cfg.ISE.PSEUDO_LABEL.HOOK, "HOOK", cfg)
    assert cfg.ISE.SAMPLER == "RandomBatchSampler" and cfg.ISE.PSEUDO_LABEL.PERIOD == cfg.SOLVER.MAX_EPOCH


@pytest.mark.parametrize(
    "registry, name, key, value",
    [
        (LOSS, "MultiLabelLoss", "THRESHOLD", "1.1"),
        (LOSS, "MultiLabelLoss", "NEGATIVE_SHARE", "0.0"),
        (LOSS, "MultiLabelLoss", "POSITIVE_WEIGHT", "-1.0"),
        (HOOK, "MultiLabelHook", "MOMENTUM", "1.0"),
        (HOOK, "MultiLabelHook", "SINGLE_EPOCHS", "-1"),
    ],
)
def test_impossible_settings_are_refused(registry, name, key, value):
    cfg = load_cfg(str(REPOSITORY / "projects" / SYNTHETIC), [f"ISE.OWN.MMCL.{key}", value])
    with pytest.raises(UsageError, match=rf"{key} (must be )?(at least|greater than).*'{key}': {value}"):
        build(registry, name, "KEY", cfg)
