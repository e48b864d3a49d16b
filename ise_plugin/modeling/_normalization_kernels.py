"""Triton kernels of batch norm: all groups of a layer in one reduction and one elementwise pass, forward and backward.

To be imported where Triton is installed. The layer's input are rows of C channels, as channels-last images are in memory, and
each group is as many consecutive ones. Of a layer a step launches six kernels, however many groups there are: partial sums over
rows, their totals (C numbers a group), and the pass over all values, twice.

Plain operators of torch need one launch for each group and step of the formula, twenty in all, or copies of the activations:
none has the sum of gradient times input, or writes several groups' gradients into one tensor. ReLU stays outside: backbones
call it as a layer of its own, and fusing it would take their code apart.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# A program's tile. Powers of two, as Triton needs them; 64 channels of bfloat16 are a cache line of 128 bytes.
_TILE_ROWS = 64
_TILE_CHANNELS = 64
# Parts that a group's rows are cut into at most; a power of two. Enough to occupy a GPU at the 64 channels of a first layer,
# and few enough for one program to add them up.
_SPLITS = 128
# Channels of a program that adds up: _SPLITS x 16 numbers are one tile.
_TOTAL_CHANNELS = 16

# A table (G, 4, C) tells a pass over the values x what to compute: (x - mean) * slope + constant, backward + gradient * own.
# Forward, where there is no gradient, the last row keeps the inverse deviation instead.


@triton.jit
def _partial_moments(x, partial, rows, span, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Mean and squared deviations from it of ``span`` rows, tile after tile (Chan et al., 1983)."""
    group, split = tl.program_id(0), tl.program_id(1)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < channels
    first = split * span
    last = tl.minimum(first + span, rows)
    start = x + group.to(tl.int64) * rows * channels
    mean = tl.zeros((COLUMNS,), tl.float32)
    squares = tl.zeros((COLUMNS,), tl.float32)
    for at in range(first, last, ROWS):
        row = at + tl.arange(0, ROWS)
        there = (row < last)[:, None] & inside[None, :]
        place = start + row.to(tl.int64)[:, None] * channels + column[None, :]
        values = tl.load(place, mask=there, other=0.0).to(tl.float32)
        count = tl.minimum(last - at, ROWS)
        tile_mean = tl.sum(values, 0) / count
        deviations = tl.where(there, values - tile_mean[None, :], 0.0)
        share = count / (at - first + count)
        moved = tile_mean - mean
        squares += tl.sum(deviations * deviations, 0) + moved * moved * ((at - first) * share)
        mean += moved * share
    target = partial + (group * tl.num_programs(1) + split) * 2 * channels + column
    tl.store(target, mean, mask=inside)
    tl.store(target + channels, squares, mask=inside)


@triton.jit
def _total_moments(
    partial, weight, bias, table, running_mean, running_variance, rows, span, splits, groups, channels, eps, keep, move,
    SPLITS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Each group's mean, slope, constant and inverse deviation; running statistics move by the sum over the groups."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < channels
    split = tl.arange(0, SPLITS)
    there = (split < splits)[:, None] & inside[None, :]
    count = tl.where(split < splits, tl.minimum(rows - split * span, span), 0).to(tl.float32)[:, None]
    scale = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    means = tl.zeros((COLUMNS,), tl.float32)
    variances = tl.zeros((COLUMNS,), tl.float32)
    for group in range(groups):
        place = partial + (group * splits + split)[:, None] * 2 * channels + column[None, :]
        own = tl.load(place, mask=there, other=0.0)
        squares = tl.load(place + channels, mask=there, other=0.0)
        mean = tl.sum(own * count, 0) / rows
        deviations = own - mean[None, :]
        squared = tl.sum(squares + count * deviations * deviations, 0)
        inverse = 1.0 / tl.sqrt(squared / rows + eps)
        target = table + group * 4 * channels + column
        tl.store(target, mean, mask=inside)
        tl.store(target + channels, inverse * scale, mask=inside)
        tl.store(target + 2 * channels, shift, mask=inside)
        tl.store(target + 3 * channels, inverse, mask=inside)
        means += mean
        variances += squared / tl.maximum(rows - 1, 1)
    before = tl.load(running_mean + column, mask=inside, other=0.0)
    tl.store(running_mean + column, before * keep + means * move, mask=inside)
    before = tl.load(running_variance + column, mask=inside, other=0.0)
    tl.store(running_variance + column, before * keep + variances * move, mask=inside)


@triton.jit
def _partial_gradients(x, gradient, table, partial, rows, span, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sums of the gradient, and of the gradient times the deviation from the mean, of ``span`` rows."""
    group, split = tl.program_id(0), tl.program_id(1)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < channels
    first = split * span
    last = tl.minimum(first + span, rows)
    start = group.to(tl.int64) * rows * channels
    mean = tl.load(table + group * 4 * channels + column, mask=inside, other=0.0)
    sums = tl.zeros((COLUMNS,), tl.float32)
    products = tl.zeros((COLUMNS,), tl.float32)
    for at in range(first, last, ROWS):
        row = at + tl.arange(0, ROWS)
        there = (row < last)[:, None] & inside[None, :]
        place = start + row.to(tl.int64)[:, None] * channels + column[None, :]
        slope = tl.load(gradient + place, mask=there, other=0.0).to(tl.float32)
        values = tl.load(x + place, mask=there, other=0.0).to(tl.float32)
        sums += tl.sum(slope, 0)
        products += tl.sum(slope * (values - mean[None, :]), 0)
    target = partial + (group * tl.num_programs(1) + split) * 2 * channels + column
    tl.store(target, sums, mask=inside)
    tl.store(target + channels, products, mask=inside)


@triton.jit
def _total_gradients(
    partial,
    weight,
    table,
    target,
    gradients,
    rows,
    splits,
    groups,
    channels,
    SPLITS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """What the pass over the values needs (``target``), and the gradients of weight and bias (2, C)."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < channels
    split = tl.arange(0, SPLITS)
    there = (split < splits)[:, None] & inside[None, :]
    scale = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    of_weight = tl.zeros((COLUMNS,), tl.float32)
    of_bias = tl.zeros((COLUMNS,), tl.float32)
    for group in range(groups):
        place = partial + (group * splits + split)[:, None] * 2 * channels + column[None, :]
        sums = tl.sum(tl.load(place, mask=there, other=0.0), 0)
        products = tl.sum(tl.load(place + channels, mask=there, other=0.0), 0)
        line = group * 4 * channels + column
        mean = tl.load(table + line, mask=inside, other=0.0)
        inverse = tl.load(table + line + 3 * channels, mask=inside, other=0.0)
        own = inverse * scale
        tl.store(target + line, mean, mask=inside)
        tl.store(target + line + channels, -own * inverse * inverse * products / rows, mask=inside)
        tl.store(target + line + 2 * channels, -own * sums / rows, mask=inside)
        tl.store(target + line + 3 * channels, own, mask=inside)
        of_weight += products * inverse
        of_bias += sums
    tl.store(gradients + column, of_weight, mask=inside)
    tl.store(gradients + channels + column, of_bias, mask=inside)


@triton.jit
def _pass(
    x, gradient, table, output, rows, channels, BACKWARD: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """(x - mean) * slope + constant, and backward + gradient * own: one tile of rows of one group."""
    group = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)  # the one dimension of a grid that may be long
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < channels
    there = (row < rows)[:, None] & inside[None, :]
    place = (group.to(tl.int64) * rows + row)[:, None] * channels + column[None, :]
    line = table + group * 4 * channels + column
    mean = tl.load(line, mask=inside, other=0.0)[None, :]
    slope = tl.load(line + channels, mask=inside, other=0.0)[None, :]
    constant = tl.load(line + 2 * channels, mask=inside, other=0.0)[None, :]
    values = tl.load(x + place, mask=there, other=0.0).to(tl.float32)
    result = (values - mean) * slope + constant
    if BACKWARD:
        own = tl.load(line + 3 * channels, mask=inside, other=0.0)[None, :]
        result += tl.load(gradient + place, mask=there, other=0.0).to(tl.float32) * own
    tl.store(output + place, result.to(output.dtype.element_ty), mask=there)


def forward(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, running: tuple) -> tuple[Tensor, Tensor]:
    """
    Args:
        x: (B, C) or (B, C, H, W), see :func:`takes`; ``groups`` divides B.
        weight, bias: (C,).
        running: mean (C,) and variance (C,), moved in place; the part of them that is kept, and the part of the sum over the
            groups' means and unbiased variances that is added.

    Returns:
        The output, like ``x``, and what :func:`backward` wants of the groups.
    """
    mean, variance, keep, move = running
    rows, span, splits, partial = _cut(x, groups)
    channels, output = x.shape[1], torch.empty_like(x)
    table = torch.empty((groups, 4, channels), dtype=torch.float32, device=x.device)
    tiles = {"ROWS": _TILE_ROWS, "COLUMNS": _TILE_CHANNELS}
    totals = {"SPLITS": _SPLITS, "COLUMNS": _TOTAL_CHANNELS}
    across = triton.cdiv(channels, _TILE_CHANNELS)
    with torch.cuda.device_of(x):
        _partial_moments[(groups, splits, across)](x, partial, rows, span, channels, **tiles)
        _total_moments[(triton.cdiv(channels, _TOTAL_CHANNELS),)](
            partial,
            weight,
            bias,
            table,
            mean,
            variance,
            rows,
            span,
            splits,
            groups,
            channels,
            eps,
            keep,
            move,
            **totals,
        )
        grid = (triton.cdiv(rows, _TILE_ROWS), groups, across)
        _pass[grid](x, x, table, output, rows, channels, BACKWARD=False, **tiles)
    return output, table


def backward(gradient: Tensor, x: Tensor, weight: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the input, like ``x``, of the weight and of the bias, (C,), float32."""
    layout = torch.channels_last if x.ndim == 4 else torch.contiguous_format
    gradient, groups = gradient.contiguous(memory_format=layout), len(table)
    rows, span, splits, partial = _cut(x, groups)
    channels, output, target = x.shape[1], torch.empty_like(x), torch.empty_like(table)
    gradients = torch.empty((2, channels), dtype=torch.float32, device=x.device)
    tiles = {"ROWS": _TILE_ROWS, "COLUMNS": _TILE_CHANNELS}
    totals = {"SPLITS": _SPLITS, "COLUMNS": _TOTAL_CHANNELS}
    across = triton.cdiv(channels, _TILE_CHANNELS)
    with torch.cuda.device_of(x):
        _partial_gradients[(groups, splits, across)](x, gradient, table, partial, rows, span, channels, **tiles)
        _total_gradients[(triton.cdiv(channels, _TOTAL_CHANNELS),)](
            partial, weight, table, target, gradients, rows, splits, groups, channels, **totals
        )
        grid = (triton.cdiv(rows, _TILE_ROWS), groups, across)
        _pass[grid](x, gradient, target, output, rows, channels, BACKWARD=True, **tiles)
    return output, gradients[0], gradients[1]


def takes(x: Tensor) -> bool:
    """Whether the values are rows of channels in memory."""
    return x.is_contiguous() if x.ndim == 2 else x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _cut(x: Tensor, groups: int) -> tuple[int, int, int, Tensor]:
    """Rows of a group, rows of each of its parts, the number of these, and room for two numbers of each channel of them."""
    rows, channels = x.numel() // x.shape[1] // groups, x.shape[1]
    span = triton.cdiv(triton.cdiv(rows, _SPLITS), _TILE_ROWS) * _TILE_ROWS
    splits = triton.cdiv(rows, span)
    return rows, span, splits, torch.empty((groups, splits, 2, channels), dtype=torch.float32, device=x.device)


@torch.no_grad()
def check(device: torch.device) -> None:
    """Compares the kernels with the definition on a few numbers.

    Raises:
        RuntimeError: they differ; Triton has errors of its own.
    """
    draw = torch.Generator().manual_seed(0)
    shape = (4, _TILE_CHANNELS + 6, 13, 11)  # no dimension fills its tiles
    x, slope = (torch.randn(shape, generator=draw).to(device, memory_format=torch.channels_last) for _ in range(2))
    weight, bias = (torch.rand(shape[1], generator=draw).to(device) for _ in range(2))
    x += 10
    for dtype, tolerance in _TOLERANCES.items():
        given, gradient = x.to(dtype), slope.to(dtype)
        mean, variance = torch.zeros(2, shape[1], device=device)
        output, table = forward(given, 2, weight, bias, _CHECK_EPS, (mean, variance, 0.0, 0.5))
        found = (output, mean, variance, *backward(gradient, given, weight, table))
        wanted = _by_definition(given.double(), gradient.double(), weight.double(), bias.double())
        for name, a, b in zip(_CHECKED, found, wanted, strict=True):
            if not torch.allclose(a.double(), b, rtol=tolerance, atol=tolerance * b.abs().max().item()):
                raise RuntimeError(f"the {name} is not that of the definition in {dtype}")


_CHECK_EPS = 1e-5
_CHECKED = ("output", "mean", "variance", "gradient of the input", "gradient of the weight", "gradient of the bias")
# Relative to the largest value: the output's rounding, or that of sums in float32.
_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 2**-7}


def _by_definition(x: Tensor, gradient: Tensor, weight: Tensor, bias: Tensor) -> tuple:
    """What two groups should give, with the mean of their statistics."""
    halves, slopes, dims = x.unflatten(0, (2, -1)), gradient.unflatten(0, (2, -1)), (1, 3, 4)
    mean = halves.mean(dims, keepdim=True)
    squares = (halves - mean).square()
    inverse = (squares.mean(dims, keepdim=True) + _CHECK_EPS).rsqrt()
    normal, scale = (halves - mean) * inverse, weight.view(-1, 1, 1)
    of_input = slopes - slopes.mean(dims, keepdim=True) - normal * (slopes * normal).mean(dims, keepdim=True)
    count = halves[0].numel() // len(weight)
    output = (normal * scale + bias.view(-1, 1, 1)).flatten(0, 1)
    sums = (mean.flatten(1).mean(0), squares.sum(dims).mean(0) / (count - 1))
    return (
        output,
        *sums,
        (of_input * inverse * scale).flatten(0, 1),
        (slopes * normal).sum((0, *dims)),
        slopes.sum((0, *dims)),
    )
