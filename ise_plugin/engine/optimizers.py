"""fastreid's optimiser, with groups large enough for torch's fused kernels."""

import inspect
import logging

import torch
from fastreid.solver.build import build_optimizer as build_fastreid_optimizer
from fastreid.solver.build import (
    get_default_optimizer_params,
    maybe_add_freeze_layer,
    maybe_add_gradient_clipping,
)
from torch import nn
from torch.optim import Optimizer

logger = logging.getLogger("fastreid.ise.optimizers")

# devices whose fused kernels torch documents as complete (pages of torch.optim.Adam, AdamW and SGD)
_FUSED_DEVICES = ("cpu", "cuda")


def build_optimizer(cfg, model: nn.Module) -> Optimizer:
    """The optimiser of ``SOLVER.OPT`` with fastreid's hyper-parameters per parameter.

    fastreid makes one group per parameter, so that neither fused nor foreach kernels have anything to batch. With
    ``SOLVER.FUSED`` parameters of equal hyper-parameters share a group, in fastreid's order, and torch's fused kernel is used
    where it has one for the device. Never fastreid's flat buffers (``compat.switch_off_contiguous_parameters`` says why).
    """
    solver = cfg.SOLVER
    if not solver.FUSED:
        return build_fastreid_optimizer(cfg, model, contiguous=False)[0]
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        heads_lr_factor=solver.HEADS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        freeze_layers=cfg.MODEL.FREEZE_LAYERS if solver.FREEZE_ITERS > 0 else [],
    )
    kind = getattr(torch.optim, solver.OPT)
    options = {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV} if solver.OPT == "SGD" else {}
    if "fused" in inspect.signature(kind).parameters and torch.device(cfg.MODEL.DEVICE).type in _FUSED_DEVICES:
        options["fused"] = True
    kind = maybe_add_freeze_layer(cfg, maybe_add_gradient_clipping(cfg, kind))
    return kind(merge_groups(groups), **options)


def merge_groups(groups: list[dict]) -> list[dict]:
    """Optimiser groups with equal hyper-parameters joined; groups and parameters stay in the order of their first appearance."""
    merged: dict = {}
    for group in groups:
        settings = {name: value for name, value in group.items() if name != "params"}
        key = tuple(sorted(settings.items()))
        merged.setdefault(key, {**settings, "params": []})["params"].extend(group["params"])
    return list(merged.values())
