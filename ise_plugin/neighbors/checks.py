"""What the functions of this package accept, and what they say when they get something else."""

import math
import operator
from typing import Optional, Union

import numpy as np
import torch

Features = Union[np.ndarray, torch.Tensor]

# A float32 row that was L2-normalised has a length within about 1e-6 of one; anything off by more than this was
# not normalised. Half-precision rows lose that much to rounding alone, so they get more room.
_LENGTH_TOLERANCE = 1e-3
_HALF_LENGTH_TOLERANCE = 2e-2


def unit_rows(features: Features, name: str = "features") -> torch.Tensor:
    """Check embeddings and give them as one contiguous float32 tensor on the device they are on.

    A float32 array that is contiguous already is not copied. float16 and bfloat16 rows are normalised again after the
    conversion, because rounding moved their length.

    Args:
        features: (N, D) rows of unit length, numpy or torch, any floating type.
        name: what to call the argument in an error.

    Raises:
        ValueError: not two-dimensional, empty, not floating, not finite, a zero row, a row that is not unit length.
    """
    tensor = _two_dimensional(features, name)
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {tensor.dtype}")
    was_half = tensor.dtype in (torch.float16, torch.bfloat16)
    tensor = tensor.to(torch.float32).contiguous()
    lengths = torch.linalg.vector_norm(tensor, dim=1)
    _check_lengths(lengths, _HALF_LENGTH_TOLERANCE if was_half else _LENGTH_TOLERANCE, name)
    return tensor / lengths[:, None] if was_half else tensor


def normalized_rows(features: Features, name: str) -> torch.Tensor:
    """Any embeddings (N, D) as float32 unit rows on the CPU; ValueError where empty, not finite, or a row is zero."""
    tensor = _two_dimensional(features, name).to("cpu", torch.float32)
    lengths = torch.linalg.vector_norm(tensor, dim=1)
    _check_lengths(lengths, math.inf, name)
    return tensor / lengths[:, None]


def _two_dimensional(features: Features, name: str) -> torch.Tensor:
    tensor = torch.as_tensor(features).detach()
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise ValueError(f"{name} must be two-dimensional (N, D) with N, D >= 1, got shape {tuple(tensor.shape)}")
    return tensor


def _check_lengths(lengths: torch.Tensor, tolerance: float, name: str) -> None:
    """Lengths are not finite exactly where a row holds NaN or infinity (or is far beyond unit length)."""
    for bad, problem in (
        (~torch.isfinite(lengths), "must be finite; look for NaN or infinity"),
        (lengths == 0, "must have no zero rows; normalise after removing them"),
        ((lengths - 1).abs() > tolerance, "must have rows of unit length; L2-normalise them"),
    ):
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise ValueError(f"{name} {problem} (row {row} has length {float(lengths[row]):g})")


def neighbor_counts(num_rows: int, k1: int, k2: int) -> tuple[int, int]:
    """k1 and min(k2, k1); ValueError if k1 < 1, k2 < 1 or k1 >= N. One row is its own only neighbour with any k1."""
    k1, k2 = integer(k1, "k1", 1), integer(k2, "k2", 1)
    if num_rows == 1:
        return 1, 1
    if k1 >= num_rows:
        raise ValueError(f"k1 must be smaller than the number of rows {num_rows}, got {k1}")
    return k1, min(k2, k1)


def integer(value: int, name: str, least: int, most: Optional[int] = None) -> int:
    """Give ``value`` as a plain int; ValueError where it is not whole, or outside [least, most]."""
    try:
        value = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, got {value!r}") from None
    if most is not None and not least <= value <= most:
        raise ValueError(f"{name} must lie in [{least}, {most}], got {value}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def unit_interval(value: Union[float, str], name: str) -> float:
    """Give ``value`` as a float; ValueError unless 0 <= value <= 1 (NaN fails)."""
    if isinstance(value, str) or not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must lie in [0, 1], got {value!r}")
    return float(value)
