"""Sample mixing: the papers' equations by hand, which images move the memory, and a few steps from the configs."""

import math

import pytest
import torch
from helpers import PROJECT_RUN_OPTIONS, REPOSITORY, load_project, train_project

from ise_plugin.config import load_cfg
from ise_plugin.errors import UsageError
from ise_plugin.modeling import ISE
from ise_plugin.modeling.build import build_model


@pytest.fixture(scope="module")
def mixing():
    return load_project("SampleMixing/sample_mixing.py")


def two_images(mixing):
    """One of zeros and one of ones, (2, 3, 4, 4)."""
    return torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4).contiguous()


def test_mixup_by_hand(mixing):
    images = two_images(mixing)
    mixed, shares = mixing.mixup(images, images.flip(0), torch.tensor([0.75, 0.4]))
    assert torch.allclose(mixed[0], torch.tensor(0.25)) and torch.allclose(mixed[1], torch.tensor(0.4))
    assert shares.tolist() == pytest.approx([0.75, 0.4])


def test_cutmix_pastes_the_rectangle_and_counts_the_pixels_left(mixing):
    images = two_images(mixing)
    mixed, shares = mixing.cutmix(images, images.flip(0), torch.tensor([[1, 0, 2, 3], [0, 0, 0, 4]]))
    assert mixed[0, 0].tolist() == [[0, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    assert torch.equal(mixed[1], images[1]) and shares.tolist() == [1 - 6 / 16, 1]


@pytest.mark.parametrize(
    "share, center, expected",
    [
        (0.75, (0.5, 0.5), [4, 2, 8, 4]),  # half of each side, a quarter of the area
        (0.75, (0.0, 0.0), [0, 0, 4, 2]),  # three quarters of it outside
        (0.75, (0.875, 0.5), [10, 2, 6, 4]),  # the last rows lie outside
        (1.0, (0.3, 0.3), [5, 2, 0, 0]),
        (0.0, (0.5, 0.5), [0, 0, 16, 8]),
    ],
)
def test_cutmix_rectangles_by_hand(mixing, share, center, expected):
    found = mixing.cutmix_rectangles(torch.tensor([share]), torch.tensor([center]), height=16, width=8)
    assert found.tolist() == [expected]


def test_a_perturbation_has_the_budget_whatever_its_size(mixing):
    drawn = torch.randn(3, 3, 5, 4) * torch.tensor([1e-6, 1.0, 100.0]).view(3, 1, 1, 1)
    found = mixing.bounded(drawn, 0.05)
    assert found.abs().sum((1, 2, 3)).tolist() == pytest.approx([0.05 * 60] * 3, rel=1e-4)
    assert torch.equal(found.sign(), drawn.sign()) and not mixing.bounded(torch.zeros(1, 3, 2, 2), 0.05).any()


def test_mixed_target_loss_by_hand(mixing):
    features, centroids = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8]]), torch.eye(2)
    labels, partners, shares = torch.tensor([0, 0, -1]), torch.tensor([1, 1, 0]), torch.tensor([1.0, 0.25, 0.5])
    loss = mixing.mixed_target_loss(features, centroids, labels, partners, shares, temperature=0.5)
    total = math.exp(1.2) + math.exp(1.6)
    first = -math.log(math.exp(2) / (math.exp(2) + 1))  # not mixed: its own label alone
    second = -0.25 * math.log(math.exp(1.2) / total) - 0.75 * math.log(math.exp(1.6) / total)
    third = -0.5 * math.log(math.exp(1.2) / total)  # an outlier counts 0, its partner counts
    assert float(loss) == pytest.approx((first + second + third) / 3, abs=1e-6)


def test_no_gradient_flows_into_centroids(mixing):
    centroids = torch.eye(2, requires_grad=True)
    features = torch.tensor([[0.6, 0.8]], requires_grad=True)
    zero = torch.zeros(1, dtype=torch.int64)
    mixing.mixed_target_loss(features, centroids, zero, zero, torch.ones(1), 0.05).backward()
    assert centroids.grad is None and features.grad.abs().sum() > 0


def test_half_of_every_group_is_mixed(mixing):
    assert mixing.mixed_rows(8, 0.5).tolist() == [False, True] * 4
    assert mixing.mixed_rows(8, 0.25).tolist() == [False, False, False, True] * 2
    assert not mixing.mixed_rows(8, 0.0).any() and mixing.mixed_rows(64, 0.3).sum() == 19


def test_view_maker_stays_within_budget_and_pixels_and_climbs_the_loss(mixing):
    torch.manual_seed(0)
    maker = mixing.ViewMaker(budget=0.05, channels=4)
    pixels = torch.rand(2, 3, 18, 9)  # no multiple of its strides
    views = maker(pixels)
    assert views.min() >= 0 and views.max() <= 1
    assert 0 < (views - pixels).abs().mean() <= 0.05 + 1e-6  # clamping takes away some
    assert not torch.equal(views, maker(pixels))  # noise

    def loss_of(seed):
        torch.manual_seed(seed)
        return (maker(pixels) - 0.5).square().mean()

    optimizer = torch.optim.SGD(maker.parameters(), lr=10.0)
    before = float(loss_of(1).detach())
    for _ in range(20):
        optimizer.zero_grad()
        loss_of(1).backward()
        optimizer.step()
    assert float(loss_of(1).detach()) > before * 1.01


@pytest.mark.parametrize("kind", ["mixup", "cutmix", "viewmaker"])
def test_a_run_from_the_config(kind, tiny_dataset, tmp_path):
    config = {"mixup": "synthetic.yml"}.get(kind, f"synthetic_{kind}.yml")
    trainer = train_project(f"SampleMixing/configs/{config}", tmp_path / "run", "DATASETS.TESTS", "()")
    model = trainer.step.model
    losses = [value for value, _ in trainer.storage.history("loss_mix").values()]
    assert len(losses) == 4 and all(math.isfinite(loss) and loss > 0 for loss in losses)
    assert (model.view_maker is not None) == (kind == "viewmaker")


def make_model(*options):
    """A model of the config, in training, with a memory of three clusters, and a batch for it."""
    cfg = load_cfg(
        str(REPOSITORY / "projects" / "SampleMixing/configs/synthetic.yml"),
        [*PROJECT_RUN_OPTIONS, "ISE.MEMORY.MOMENTUM", "0.5", *options],
    )
    torch.manual_seed(0)
    model = build_model(cfg).train()
    model.heads.set_centroids(torch.randn(3, 1280))
    images = torch.randint(256, (12, 3, 64, 32), dtype=torch.uint8)
    return model, {"images": images, "targets": torch.arange(3).repeat_interleave(4)}


def test_unmixed_images_alone_move_the_memory(mixing):
    model, batch = make_model("ISE.OWN.SAMPLE_MIXING.ALPHA", "1.0")
    seen = {}
    model.heads.memory.update = lambda features, labels: seen.update(features=features, labels=labels)
    model.loss_modules[0].register_forward_pre_hook(lambda _module, arguments: seen.update(arguments[0]))
    model(batch)
    clean = ~mixing.mixed_rows(12, 0.5)
    assert torch.equal(seen["own_labels"], batch["targets"]) and (seen["shares"][clean] == 1).all()
    assert ((seen["shares"] > 0) & (seen["shares"] < 1))[~clean].all()
    assert (seen["labels"] == batch["targets"].masked_fill(~clean, -1)).all()


def test_what_is_mixed_is_what_the_targets_say(mixing):
    model, batch = make_model("ISE.OWN.SAMPLE_MIXING.ALPHA", "1.0")
    batch["images"] = batch["targets"].to(torch.uint8).view(12, 1, 1, 1).expand(12, 3, 64, 32) * 100
    seen = {}
    model._run_backbone = lambda images: seen.update(images=images) or torch.zeros(12, 1280, 2, 1, requires_grad=True)
    model.loss_modules[0].register_forward_pre_hook(lambda _module, arguments: seen.update(arguments[0]))
    model(batch)
    pixels = (seen["images"] * model.pixel_std + model.pixel_mean).mean((1, 2, 3)) / 100
    expected = seen["shares"] * seen["own_labels"] + (1 - seen["shares"]) * seen["partner_labels"]
    assert torch.allclose(pixels, expected, atol=1e-4)


def test_evaluation_mixes_nothing(mixing):
    model, batch = make_model()
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(batch), ISE.forward(model, batch))
        assert torch.equal(model.preprocess_image(batch), ISE.preprocess_image(model, batch))


@pytest.mark.parametrize(
    "options, message",
    [
        (("ISE.OWN.SAMPLE_MIXING.KIND", "mixmatch"), "KIND must be one of mixup, cutmix, viewmaker, not 'mixmatch'"),
        (("ISE.OWN.SAMPLE_MIXING.SHARE", "1.0"), "SHARE must be at least 0 and less than 1"),
        (("ISE.OWN.SAMPLE_MIXING.SHAER", "0.5"), "unknown key SHAER; the nearest valid key is SHARE"),
        (("SOLVER.ACCUMULATE", "2", "ISE.BN_GROUP_SIZE", "0"), "set SOLVER.ACCUMULATE 1"),
        (("MODEL.META_ARCHITECTURE", "ISE"), "set MODEL.META_ARCHITECTURE MixingISE"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        model, batch = make_model(*options)
        model(batch)
