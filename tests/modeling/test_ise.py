"""The meta-architecture with every backbone family of fastreid."""

import copy

import pytest
import torch
import torch.nn.functional as F
from fastreid.evaluation.evaluator import inference_context
from helpers import BACKBONES, CONFIGS
from helpers import backbone_cfg as make_cfg
from torch._dynamo.testing import CompileCounter

from ise_plugin.config import get_cfg, load_cfg
from ise_plugin.engine.labelling import extract_embeddings
from ise_plugin.errors import UsageError
from ise_plugin.modeling.build import build_model
from ise_plugin.registry import LOSS


@pytest.mark.parametrize("name, depth, channels, keys", BACKBONES, ids=lambda value: str(value))
def test_every_backbone_takes_a_step_that_changes_its_weights(name, depth, channels, keys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # nothing may depend on the folder of a fastreid clone
    torch.manual_seed(0)
    model = build_model(make_cfg(name, depth, channels, keys)).train()
    model.heads.set_centroids(torch.randn(4, channels))
    model.heads.degree = 0.1
    batch = {"images": torch.rand(8, 3, 128, 64) * 255, "targets": torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {n: p.detach().clone() for n, p in model.backbone.named_parameters()}
    losses = model(batch)
    assert set(losses) == {"loss_se", "loss_lp"} and all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    optimizer.step()
    changed = [not torch.equal(p, before[n]) for n, p in model.backbone.named_parameters()]
    assert sum(changed) > 0.5 * len(changed)
    with torch.no_grad():
        assert model.eval()(batch).shape == (8, channels)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_default_networks_first_loss_is_the_same_with_any_number_of_threads(precision):
    cfg = load_cfg(str(CONFIGS / "ISE/synthetic_mobilenetv2.yml"), ["MODEL.DEVICE", "cpu"])
    torch.manual_seed(0)
    model = build_model(cfg).train()
    model.heads.set_centroids(F.normalize(torch.randn(20, 1280), dim=1))
    model.heads.degree = 0.1
    images = torch.randint(256, (32, 3, 16, 8), dtype=torch.uint8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    images[:, :, :5] = 0  # padding
    before, losses = torch.get_num_threads(), {}
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                found = copy.deepcopy(model)({"images": images, "targets": torch.arange(32) // 8})
            losses[threads] = sum(found.values()).item()
    finally:
        torch.set_num_threads(before)
    assert losses[1] == pytest.approx(losses[2], abs=1e-5)


@pytest.fixture(scope="module")
def small_model():
    torch.manual_seed(0)
    return build_model(make_cfg("shufflenetv2", "1.0x", 1024, {})).eval()


def test_images_are_left_as_they_were(small_model):
    images = torch.rand(2, 3, 64, 32) * 255
    copy = images.clone()
    with torch.no_grad():
        small_model({"images": images})
    assert torch.equal(images, copy)


def test_bytes_floats_dictionary_and_tensor_give_the_same_embeddings(small_model):
    images = torch.randint(256, (2, 3, 64, 32), dtype=torch.uint8)
    with torch.no_grad():
        as_bytes, as_floats, as_tensor = (
            small_model({"images": images}),
            small_model({"images": images.float()}),
            small_model(images),
        )
    assert torch.equal(as_bytes, as_floats) and torch.equal(as_bytes, as_tensor)


def test_losses_are_looked_up_by_name():
    cfg = make_cfg("shufflenetv2", "1.0x", 1024, {})

    @LOSS.register()
    class NormLoss(torch.nn.Module):
        def __init__(self, cfg):
            super().__init__()

        def forward(self, outputs):
            return {"loss_norm": outputs["features"].sum()}

    try:
        cfg.MODEL.LOSSES.NAME = ("ISELoss", "NormLoss")
        model = build_model(cfg).train()
        model.heads.set_centroids(torch.randn(3, 1024))
        losses = model({"images": torch.rand(4, 3, 64, 32), "targets": torch.tensor([0, 0, 1, 1])})
        assert set(losses) == {"loss_se", "loss_lp", "loss_norm"}
    finally:
        del LOSS._obj_map["NormLoss"]
    cfg.MODEL.LOSSES.NAME = ("TripletLos",)
    with pytest.raises(UsageError, match="MODEL.LOSSES.NAME.*TripletLos.*ISELoss"):
        build_model(cfg)


def test_wrong_number_of_channels_is_named_with_the_right_one():
    model = build_model(make_cfg("shufflenetv2", "1.0x", 512, {})).eval()
    with pytest.raises(UsageError, match="FEAT_DIM is 512.*gives 1024"):
        model(torch.rand(2, 3, 64, 32))


def test_unknown_components_and_depths_are_named():
    for key, value in (("NAME", "build_alexnet_backbone"), ("DEPTH", "51x")):
        cfg = make_cfg("resnet", "50x", 2048, {key: value})
        with pytest.raises(UsageError, match=f"MODEL.BACKBONE.*{value}"):
            build_model(cfg)
    assert get_cfg().MODEL.META_ARCHITECTURE == "Baseline"


def test_a_compiled_backbone_has_one_graph_for_each_kind_of_pass():
    cfg = make_cfg("resnet", "18x", 512, {})
    cfg.ISE.COMPILE, cfg.ISE.BN_GROUP_SIZE = True, 4
    counter = CompileCounter()
    with pytest.MonkeyPatch.context() as patch:
        plain = torch.nn.Module.compile
        patch.setattr(torch.nn.Module, "compile", lambda self, **options: plain(self, backend=counter, **options))
        model = build_model(cfg).train()
    torch._dynamo.reset()
    batches = [{"images": torch.randint(256, (n, 3, 64, 32), dtype=torch.uint8)} for n in (16, 16, 7, 5)]
    for _ in range(2):  # epochs: extraction, training, evaluation
        extracted = extract_embeddings(model, batches)
        for batch in (*batches[:2], batches[2]):
            model.embed(batch).sum().backward()
        with torch.no_grad():
            model.embed(batches[0])  # the first pass of a batch in pieces
        with inference_context(model), torch.no_grad():
            evaluated = torch.cat([model(batch) for batch in batches])
    assert counter.frame_count == 3 and len(extracted) == len(evaluated) == 44
