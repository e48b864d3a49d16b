"""Batch norm whose group of images is a number in the configuration, whatever the number of processes.

The global batch of a step, B images in the order of the processes, is cut into B // size consecutive groups of nearly equal
size, each normalised with its own statistics. A group may be smaller than a process's share ("ghost batches", Hoffer
et al., "Train longer, generalize better", NIPS 2017), equal to it, or spread over several processes, which then exchange
the statistics among themselves. Running statistics move once per step, towards the mean over the groups.

On CUDA groups of equal size go through Triton kernels, six a layer whatever the number of groups, which copy nothing
(``_normalization_kernels.py``), where these pass a check at their first use. All else, and a compiled network, goes through
torch's own batch norm, group after group.

On the CPU torch 2.13 adds up a channel of channels-last images one value after the other in float32: over the 131,072 of a
first layer mean and variance are off by a thousandth, and differ with the number of threads. Here they are exact to 1e-6.
"""

from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType
from typing import Iterator, NamedTuple, Optional, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..utils import distributed
from ..utils.distributed import rank
from ..utils.logs import log_once

# Values whose deviations from the mean are held at once. Unit: numbers in float32; they stay in a core's cache.
_BLOCK = 1 << 17


class Part(NamedTuple):
    """This process's images of one group."""

    images: int
    weight: float  # of the group's statistics in this process's running ones, whose mean over the processes is taken
    members: tuple = ()  # images of the group in each process that has some of it, where there are several
    group: Optional[dist.ProcessGroup] = None  # these processes


class Layout(NamedTuple):
    """How the images of one pass through the network fall into groups."""

    parts: tuple  # Part after Part, in the order of the images
    first: bool = True  # whether the pass begins a step; later pieces of the step add to what the first one has moved


class NormalizationGroups:
    """Which images share batch-norm statistics; one object for all layers of a network.

    Args:
        size: images in a group. A batch of fewer images is one group; what does not fill a group joins the others.

    Attributes:
        layout: of the pass that is under way; None outside of one.
    """

    def __init__(self, size: int):
        self.size = size
        self.layout: Optional[Layout] = None
        self._layouts: dict = {}
        self._process_groups: dict = {}

    def __getstate__(self) -> dict:  # a copy of the network makes its own groups of processes
        return {"size": self.size, "layout": None, "_layouts": {}, "_process_groups": {}}

    def layout_of(self, images: int, counts: Optional[Sequence[int]] = None) -> Layout:
        """The layout of a step with ``images`` here, and ``counts`` in every process where they normalise together."""
        key = (images, *(counts or ()))
        if key not in self._layouts:
            self._layouts[key] = Layout(self._parts(tuple(counts or (images,)), rank() if counts else 0))
        return self._layouts[key]

    @contextmanager
    def using(self, layout: Layout) -> Iterator[None]:
        """The layers normalise by ``layout`` inside."""
        before, self.layout = self.layout, layout
        try:
            yield
        finally:
            self.layout = before

    def _parts(self, counts: tuple, me: int) -> tuple:
        total = sum(counts)
        number = max(1, total // self.size)
        bounds = [round(i * total / number) for i in range(number + 1)]
        starts = [sum(counts[:r]) for r in range(len(counts) + 1)]
        parts = []
        for first, last in zip(bounds, bounds[1:]):
            shares = [max(0, min(last, b) - max(first, a)) for a, b in zip(starts, starts[1:])]
            members = {r: share for r, share in enumerate(shares) if share}
            group = self._process_group(tuple(members)) if len(members) > 1 else None  # all processes have to ask
            if me in members:
                weight = len(counts) / number * members[me] / (last - first)
                parts.append(Part(members[me], weight, tuple(members.values()) if group else (), group))
        return tuple(parts) or (Part(0, 0.0),)

    def _process_group(self, ranks: tuple) -> dist.ProcessGroup:
        if ranks not in self._process_groups:
            self._process_groups[ranks] = dist.new_group(ranks, timeout=distributed.timeout)
        return self._process_groups[ranks]


class _GroupedBatchNorm(_BatchNorm):
    """Batch norm that asks :class:`NormalizationGroups` in training."""

    groups: NormalizationGroups

    def forward(self, input: Tensor) -> Tensor:
        layout = self.groups.layout if self.training else None
        whole = layout is None or layout.parts == (Part(len(input), 1.0),) and layout.first
        if whole and not (self.training and _adds_up_naively(input)):
            return super().forward(input)
        layout = layout or Layout((Part(len(input), 1.0),))
        parts = layout.parts
        if kernels := self._kernels_for(input, parts):
            kept, added = self._momenta(layout)
            running = (self.running_mean, self.running_var, kept, added * parts[0].weight)
            return _AllGroups.apply(input, self.weight, self.bias, kernels, len(parts), self.eps, running)
        # one group is not cut out: the gradient of a cut is a copy
        pieces = input.split([part.images for part in parts]) if len(parts) > 1 else (input,)
        found = [self._normalize(x, part) for x, part in zip(pieces, parts)]
        outputs, means, variances = zip(*found)
        if self.track_running_stats:
            self._move(layout, means, variances)
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]

    def _kernels_for(self, x: Tensor, parts: Sequence[Part]) -> Optional[ModuleType]:
        """What normalises all groups at once, where something can."""
        alike = len(parts) > 1 and len(set(parts)) == 1 and parts[0].group is None
        if not (alike and self.affine and self.track_running_stats) or torch.compiler.is_compiling():
            return None
        kernels = _kernels(x.device)
        return kernels if kernels and kernels.takes(x) else None

    def _normalize(self, x: Tensor, part: Part) -> tuple[Tensor, Tensor, Tensor]:
        """Output, mean and unbiased variance."""
        if part.group is not None:
            together = _normalize_on_cuda if x.is_cuda and self.affine else _normalize_together
            return together(x, part, self.weight, self.bias, self.eps)
        if _adds_up_naively(x):
            output, mean, variance = _ExactBatchNorm.apply(x, self.weight, self.bias, self.eps)
            count = x.numel() // x.shape[1]
            return output, mean, variance * (count / max(1, count - 1))
        mean, variance = (torch.zeros(self.num_features, device=x.device) for _ in range(2))
        # with a momentum of 1 the running statistics are those of the group
        return F.batch_norm(x, mean, variance, self.weight, self.bias, True, 1.0, self.eps), mean, variance

    @torch.no_grad()
    def _move(self, layout: Layout, means: Sequence[Tensor], variances: Sequence[Tensor]) -> None:
        kept, added = self._momenta(layout)
        for running, values in ((self.running_mean, means), (self.running_var, variances)):
            if layout.first:
                running.mul_(kept)
            for value, part in zip(values, layout.parts):
                running.add_(value, alpha=added * part.weight)

    @torch.no_grad()
    def _momenta(self, layout: Layout) -> tuple[float, float]:
        """The part of the running statistics that is kept, and of the groups' weighted sum that is added. Counts the step."""
        if layout.first:
            self.num_batches_tracked.add_(1)
        momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        return 1 - momentum if layout.first else 1.0, momentum


class GroupedBatchNorm1d(_GroupedBatchNorm, nn.BatchNorm1d):
    """``nn.BatchNorm1d`` with groups."""


class GroupedBatchNorm2d(_GroupedBatchNorm, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with groups."""


def group_normalization(model: nn.Module, groups: NormalizationGroups) -> None:
    """Makes every plain batch norm of a network normalise by ``groups``, in place: parameters, hooks and references stay.

    Left as they are: norms with a rule of their own (frozen, ghost, synchronised over all processes, instance norm).
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and type(module).forward is _BatchNorm.forward:
            module.__class__ = GroupedBatchNorm1d if isinstance(module, nn.BatchNorm1d) else GroupedBatchNorm2d
            module.groups = groups


def _adds_up_naively(x: Tensor) -> bool:
    """Whether torch's own kernel does, for these images."""
    if x.device.type != "cpu" or x.ndim != 4 or x.dtype == torch.float64 or torch.compiler.is_compiling():
        return False
    return len(x) > 0 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


@lru_cache(maxsize=None)
def _kernels(device: torch.device) -> Optional[ModuleType]:
    """The Triton kernels, where this device can run them and gets the right numbers out of them."""
    if device.type != "cuda":
        return None
    try:
        from . import _normalization_kernels as kernels

        kernels.check(device)
    except Exception as error:  # of a compiler, a driver, a linker
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        log_once(f"Batch norm takes one group after the other; its Triton kernels cannot be used ({reason})")
        return None
    return kernels


class _AllGroups(torch.autograd.Function):
    """Batch norm of equal groups by :mod:`._normalization_kernels`, which also moves the running statistics."""

    @staticmethod
    def forward(ctx, x, weight, bias, kernels, groups, eps, running):
        output, table = kernels.forward(x, groups, weight, bias, eps, running)
        ctx.save_for_backward(x, weight, table)
        ctx.kernels = kernels
        return output

    @staticmethod
    def backward(ctx, gradient):
        return (*ctx.kernels.backward(gradient, *ctx.saved_tensors), None, None, None, None)


class _ExactBatchNorm(torch.autograd.Function):
    """Batch norm of channels-last images with sums in stages: output, mean and biased variance. The gradient is torch's own,
    which is as good as these two."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        rows = x.permute(0, 2, 3, 1).flatten(0, 2)  # a view
        mean = rows.sum(0, dtype=torch.float32) / len(rows)
        blocks = rows.split(max(1, _BLOCK // rows.shape[1]))
        variance = torch.stack([(block - mean).square_().sum(0) for block in blocks]).sum(0) / len(rows)
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(variance + eps))
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps), mean, variance

    @staticmethod
    def backward(ctx, gradient, *_):
        x, weight, mean, scale = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        found = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, None, None, mean, scale, True, ctx.eps, wanted
        )
        return (*found, None)


@torch.compiler.disable
def _normalize_together(
    x: Tensor, part: Part, weight: Optional[Tensor], bias: Optional[Tensor], eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """This process's part of a group that several processes share: output, and the group's mean and unbiased variance."""
    values = x.float()
    own_variance, own_mean = torch.var_mean(values, [d for d in range(x.ndim) if d != 1], correction=0)
    gathered = _GatherStatistics.apply(torch.stack([own_mean, own_variance]), part)
    means, variances = gathered.unbind(1)
    shares = _shares(part.members, x.device)
    mean = (shares * means).sum(0)
    variance = (shares * (variances + (means - mean).square())).sum(0)
    shape = (1, -1, *[1] * (x.ndim - 2))
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    output = (values - mean.view(shape)) * scale.view(shape)
    output = output if bias is None else output + bias.view(shape)
    count = sum(part.members) * (x.numel() // (x.shape[0] * x.shape[1]))
    return output.to(x.dtype), mean.detach(), variance.detach() * (count / max(1, count - 1))


@torch.compiler.disable
def _normalize_on_cuda(
    x: Tensor, part: Part, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`_normalize_together` by the kernels of torch's SyncBatchNorm."""
    mean, variance = (torch.zeros(x.shape[1], device=x.device) for _ in range(2))
    return _Synchronised.apply(x, weight, bias, part, eps, mean, variance), mean, variance


class _Synchronised(torch.autograd.Function):
    """As torch's own function of SyncBatchNorm, which waits for the device to learn who has images: here it is known."""

    @staticmethod
    def forward(ctx, x, weight, bias, part, eps, mean, variance):
        x = _dense(x)
        own = torch.stack(torch.batch_norm_stats(x, eps))
        gathered = [torch.empty_like(own) for _ in part.members]
        dist.all_gather(gathered, own, group=part.group)
        means, scales = torch.stack(gathered, 1)
        counts = _counts(part.members, x.numel() // (x.shape[0] * x.shape[1]), x.device)
        # with a momentum of 1 the running statistics are those of the group
        statistics = torch.batch_norm_gather_stats_with_counts(x, means, scales, mean, variance, 1.0, eps, counts)
        ctx.save_for_backward(x, weight, *statistics, counts)
        ctx.group = part.group
        return torch.batch_norm_elemt(x, weight, bias, *statistics, eps)

    @staticmethod
    def backward(ctx, gradient):
        (x, weight, mean, scale, counts), gradient = ctx.saved_tensors, _dense(gradient)
        found = torch.batch_norm_backward_reduce(gradient, x, mean, scale, weight, True, True, True)
        sums = torch.stack(found[:2])
        dist.all_reduce(sums, group=ctx.group)
        of_input = torch.batch_norm_backward_elemt(gradient, x, mean, scale, weight, *sums, counts.int())
        return (of_input, *found[2:], None, None, None, None)


def _dense(x: Tensor) -> Tensor:
    """In one of the two layouts that these kernels know."""
    return x if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


@lru_cache(maxsize=None)
def _counts(members: tuple, pixels: int, device: torch.device) -> Tensor:
    """(R,), float32: values of a channel that each process has of a group."""
    return (torch.tensor(members, dtype=torch.float32) * pixels).to(device, non_blocking=True)


@lru_cache(maxsize=None)
def _shares(members: tuple, device: torch.device) -> Tensor:
    """(R, 1): the part that each process has of a group."""
    return (torch.tensor(members, dtype=torch.float32) / sum(members)).unsqueeze(1).to(device)


class _GatherStatistics(torch.autograd.Function):
    """Statistics (2, C) of every process of a group, (R, 2, C)."""

    @staticmethod
    def forward(ctx, own, part):
        ctx.part = part
        gathered = [torch.empty_like(own) for _ in part.members]
        dist.all_gather(gathered, own.contiguous(), group=part.group)
        return torch.stack(gathered)

    @staticmethod
    def backward(ctx, gradient):
        gradient, group = gradient.contiguous(), ctx.part.group
        dist.all_reduce(gradient, group=group)  # the outputs in all of them depend on this one's statistics
        return gradient[dist.get_rank(group)], None
