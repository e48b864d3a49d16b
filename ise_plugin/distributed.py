"""What the processes of a run tell one another. With one process every function is the identity.

Every process sees the global batch: embeddings are gathered, and memory, support samples and losses are computed from
all of them, the same everywhere. So the number of processes is a matter of speed only.
"""

from typing import Any, Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def shard(count: int) -> range:
    """This process's share of 0..count-1: contiguous, without overlap or gap, of sizes that differ by one at most."""
    share, rest = divmod(count, world_size())
    start = rank() * share + min(rank(), rest)
    return range(start, start + share + (rank() < rest))


@torch.no_grad()
def gather_rows(rows: Tensor) -> Tensor:
    """The rows (n_r, ...) of all processes, in the order of the ranks; the numbers of rows may differ."""
    if world_size() == 1:
        return rows
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(count) for _ in range(world_size())]
    dist.all_gather(counts, count)
    counts = [int(c) for c in counts]
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    return torch.cat([part[:c] for part, c in zip(gathered, counts)])


class _GatherWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows):
        gathered = gather_rows(rows)
        counts = gather_rows(torch.tensor([len(rows)], device=rows.device)).tolist()
        ctx.start, ctx.count = sum(counts[: rank()]), len(rows)
        return gathered

    @staticmethod
    def backward(ctx, gradient):
        # All processes compute the same loss, so each knows its rows' gradient without asking. DistributedDataParallel
        # will divide by the number of processes; the factor leaves the sum over all images, as one process has it.
        return gradient[ctx.start : ctx.start + ctx.count] * world_size()


def gather_with_gradient(rows: Tensor) -> Tensor:
    """:func:`gather_rows` for embeddings in training: the gradient flows back into this process's rows."""
    return rows if world_size() == 1 else _GatherWithGradient.apply(rows)


def computed_once(function: Callable[[], Any]) -> Any:
    """What ``function`` returns in process 0, in every process; what it raises there is raised everywhere."""
    if world_size() == 1:
        return function()
    result, error = None, None
    if rank() == 0:
        try:
            result = function()
        except Exception as raised:  # the other processes would wait for ever
            error = raised
    message = [(result, error)]
    dist.broadcast_object_list(message, src=0)
    result, error = message[0]
    if error is not None:
        raise error
    return result


@torch.no_grad()
def average_buffers(model: nn.Module) -> None:
    """Gives every process the mean of all processes' running statistics: each has normalised other images."""
    if world_size() == 1:
        return
    for buffer in model.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= world_size()


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, or the model itself."""
    return getattr(model, "module", model)
