"""What the network computes in."""

import logging

import torch
from torch import nn

from ..errors import UsageError

logger = logging.getLogger("fastreid.ise.precision")

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Above this share of depthwise convolutions a CPU trains faster in float32 (docs/benchmarks.md has the measurements).
_MOSTLY_DEPTHWISE = 0.2


def choose_precision(device: torch.device, mixed: bool, forced: str, backbone: nn.Module) -> torch.dtype:
    """What to compute in: float32, or for ``SOLVER.AMP.ENABLED`` what the device is fast in with this backbone.

    Says what it chose, and why, where mixed precision was asked for.

    Args:
        device: where the model is.
        mixed: ``SOLVER.AMP.ENABLED``.
        forced: ``ISE.PRECISION``, a key of :data:`PRECISIONS` or "auto".
        backbone: the network.

    Raises:
        UsageError: the forced precision is one that this device does not compute in.
    """
    if not mixed:
        return torch.float32
    if forced == "auto":
        choice, reason = _fastest(device, backbone)
    else:
        choice, reason = PRECISIONS[forced], f"ISE.PRECISION says {forced}"
        _check_support(device, choice)
    logger.info(f"SOLVER.AMP.ENABLED: computing in {str(choice).removeprefix('torch.')}, because {reason}")
    return choice


def depthwise_share(network: nn.Module) -> float:
    """Share of the convolutions with more than one channel that treat every channel by itself, in [0, 1]."""
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.in_channels > 1]
    return sum(m.groups == m.in_channels for m in layers) / max(1, len(layers))


def _fastest(device: torch.device, backbone: nn.Module) -> tuple[torch.dtype, str]:
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "this GPU has it"
        return torch.float16, "this GPU has no bfloat16"
    if device.type == "cpu":
        if not _cpu_has_bfloat16():
            return torch.float32, "this CPU has no bfloat16 arithmetic"
        share = depthwise_share(backbone)
        if share > _MOSTLY_DEPTHWISE:
            return (
                torch.float32,
                f"{share:.0%} of the convolutions are depthwise, which this CPU is faster with in float32",
            )
        return torch.bfloat16, "this CPU has it"
    return torch.float32, f"mixed precision on {device.type} has not been tried"


def _check_support(device: torch.device, precision: torch.dtype) -> None:
    name = str(precision).removeprefix("torch.")
    if precision == torch.bfloat16 and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UsageError(f"ISE.PRECISION {name}: this GPU does not compute in it; use auto, float16 or float32")
    if precision == torch.float16 and device.type != "cuda":
        raise UsageError(f"ISE.PRECISION {name}: {device.type} does not train in it; use auto, bfloat16 or float32")
    if precision != torch.float32 and device.type not in ("cpu", "cuda"):
        raise UsageError(f"ISE.PRECISION {name}: {device.type} has no mixed precision here; use auto or float32")


def _cpu_has_bfloat16() -> bool:
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
