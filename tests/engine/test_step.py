"""The step in full and mixed precision."""

import logging

import pytest
import torch
from fastreid.utils.events import EventStorage
from torch import nn

from ise_plugin.engine.step import TrainingStep, choose_precision
from ise_plugin.modeling import ISE, ClusterMemoryHead, ISELoss

CPU = torch.device("cpu")


def make_model():
    torch.manual_seed(0)
    heads = ClusterMemoryHead(feat_dim=8)
    heads.set_centroids(torch.randn(4, 8))
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    return ISE(backbone=backbone, heads=heads, losses=[ISELoss()], pixel_mean=[128.0] * 3, pixel_std=[60.0] * 3)


def make_batches(count):
    g = torch.Generator().manual_seed(1)
    return [
        {"images": torch.rand(8, 3, 12, 6, generator=g) * 255, "targets": torch.arange(8) // 2} for _ in range(count)
    ]


def run(precision, steps=3):
    model = make_model()
    step = TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.05), CPU, precision)
    step.set_loader(make_batches(steps))
    with EventStorage() as storage:
        for step.iter in range(steps):
            step.run_step()
        return model, storage.latest()


def test_steps_in_float32_are_the_plain_loop():
    expected = make_model()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.05)
    for batch in make_batches(3):
        optimizer.zero_grad()
        sum(expected(batch).values()).backward()
        optimizer.step()
    model, logged = run(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), expected.state_dict().values()))
    assert {"loss_se", "loss_lp", "total_loss", "data_time"} <= set(logged)


def test_bfloat16_computes_the_network_in_bfloat16_and_the_rest_in_float32():
    model = make_model()
    seen = {}
    model.backbone[0].register_forward_hook(lambda m, i, o: seen.update(network=o.dtype))
    model.heads.register_forward_hook(lambda m, i, o: seen.update(head=o["features"].dtype))
    step = TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.05), CPU, torch.bfloat16)
    step.set_loader(make_batches(1))
    step.iter = 0
    with EventStorage():
        step.run_step()
    assert seen == {"network": torch.bfloat16, "head": torch.float32}
    assert model.heads.memory.centroids.dtype == torch.float32 and model.backbone[0].weight.dtype == torch.float32


def test_bfloat16_learns_nearly_what_float32_learns():
    (full, _), (mixed, _) = run(torch.float32), run(torch.bfloat16)
    flat = lambda model: torch.cat([p.detach().flatten() for p in model.parameters()])  # noqa: E731
    moved = flat(full) - flat(make_model())
    assert 0 < (flat(mixed) - flat(full)).norm() < 0.2 * moved.norm()


def test_loss_that_is_not_finite_stops_before_the_step():
    model = make_model()
    step = TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.05), CPU)
    batch = make_batches(1)[0]
    batch["images"][0] = float("nan")
    step.set_loader([batch])
    step.iter = 7
    weights = [p.detach().clone() for p in model.parameters()]
    with EventStorage(), pytest.raises(FloatingPointError, match="iteration=7"):
        step.run_step()
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters()))


@pytest.mark.parametrize(
    "avx, amx, expected", [(True, False, torch.bfloat16), (False, True, torch.bfloat16), (False, False, torch.float32)]
)
def test_precision_on_the_cpu_is_what_the_cpu_has(monkeypatch, caplog, avx, amx, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    with caplog.at_level(logging.INFO, logger="fastreid.ise"):
        assert choose_precision(CPU, mixed=True) is expected
    assert str(expected).removeprefix("torch.") in caplog.text and "because this CPU" in caplog.text


@pytest.mark.parametrize("fast, expected", [(True, torch.bfloat16), (False, torch.float16)])
def test_precision_on_cuda_is_what_the_gpu_has(monkeypatch, fast, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: fast)
    assert choose_precision(torch.device("cuda"), mixed=True) is expected


def test_without_mixed_precision_everything_is_float32():
    assert choose_precision(CPU, mixed=False) is torch.float32
