"""Groups, fused kernels, and equality with fastreid's optimiser."""

import pytest
import torch
from fastreid.solver.build import build_optimizer as build_fastreid_optimizer
from torch import nn

from ise_plugin.config import get_cfg
from ise_plugin.engine.optimizers import build_optimizer, merge_groups


def make_model():
    torch.manual_seed(0)
    model = nn.Module()
    model.backbone = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    model.heads = nn.Sequential(nn.Linear(3, 2))
    return model


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_NORM = 0.01, 0.01, 0.02
    cfg.SOLVER.BIAS_LR_FACTOR, cfg.SOLVER.HEADS_LR_FACTOR, cfg.SOLVER.WEIGHT_DECAY_BIAS = 2.0, 3.0, 0.0
    return cfg


def train(build, cfg, steps=4):
    model = make_model()
    optimizer = build(model)
    g = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=g)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()]), optimizer


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "RMSprop"])
def test_it_learns_what_fastreids_optimiser_learns(cfg, name):
    cfg.SOLVER.OPT = name
    expected, stock = train(lambda m: build_fastreid_optimizer(cfg, m, contiguous=False)[0], cfg)
    weights, optimizer = train(lambda m: build_optimizer(cfg, m), cfg)
    assert torch.allclose(weights, expected, atol=1e-5)
    assert len(optimizer.param_groups) == 5 < len(stock.param_groups) == 8
    assert optimizer.defaults.get("fused", False) is (name != "RMSprop")


def test_switched_off_it_is_fastreids(cfg):
    cfg.SOLVER.FUSED = False
    assert len(build_optimizer(cfg, make_model()).param_groups) == 8


def test_clipping_and_freezing_work_as_in_fastreid(cfg):
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = True, 0.01
    cfg.MODEL.FREEZE_LAYERS, cfg.SOLVER.FREEZE_ITERS = ["backbone"], 2
    expected, _ = train(lambda m: build_fastreid_optimizer(cfg, m, contiguous=False)[0], cfg)
    weights, _ = train(lambda m: build_optimizer(cfg, m), cfg)
    assert torch.allclose(weights, expected, atol=1e-5)


def test_groups_with_equal_settings_are_joined_in_order():
    a, b, c, d = (nn.Parameter(torch.tensor(float(i))) for i in range(4))
    groups = [
        {"params": [a], "lr": 1},
        {"params": [b], "lr": 2},
        {"params": [c], "lr": 1},
        {"params": [d], "lr": 1, "x": 0},
    ]
    merged = merge_groups(groups)
    assert [[p.item() for p in group["params"]] for group in merged] == [[0, 2], [1], [3]]
    assert [(group["lr"], group.get("x")) for group in merged] == [(1, None), (2, None), (1, 0)]
    assert merge_groups([]) == [] and len(groups[0]["params"]) == 1
