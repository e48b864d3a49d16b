"""What the processes of a run tell one another. With one process every function is the identity.

Every process sees the global batch: embeddings are gathered, and memory, support samples and losses are computed from
all of them, the same everywhere. So the number of processes is a matter of speed only.
"""

import datetime
import hashlib
from typing import Any, Callable, NamedTuple, Optional, Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

# Of groups of processes made later on; torch would give them 30 minutes whatever the first group has.
timeout = datetime.timedelta(minutes=30)
# Exchanges what lies in host memory where the first group's backend knows the device alone (NCCL).
host_group: Optional[dist.ProcessGroup] = None


class WholeBatch(NamedTuple):
    """What is known of a step's batch on the host. All processes draw it and each takes its share, so none has to ask."""

    targets: Tensor  # (B,), int64, on the CPU: pseudo labels of the global batch, in the order of the processes
    counts: Optional[tuple]  # images of every process, their sum is B; None: not known, so they are asked for
    indices: Optional[Tensor] = None  # (B,), int64, on the CPU: positions in the list of training images


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def shards(count: int) -> list[range]:
    """Every process's share of 0..count-1: contiguous, without overlap or gap, of sizes that differ by one at most."""
    share, rest = divmod(count, world_size())
    starts = [r * share + min(r, rest) for r in range(world_size() + 1)]
    return [range(a, b) for a, b in zip(starts, starts[1:])]


def shard(count: int) -> range:
    """This process's share of 0..count-1, see :func:`shards`."""
    return shards(count)[rank()]


@torch.no_grad()
def gather_rows(rows: Tensor, counts: Optional[Sequence[int]] = None) -> Tensor:
    """The rows (n_r, ...) of all processes, in the order of the ranks; the numbers of rows may differ.

    Args:
        rows: on the CPU or the device. A process without rows need not know how wide they are.
        counts: rows of every process, where they are known: then nothing waits for the device.
    """
    if world_size() == 1:
        return rows
    if counts is None:
        gathered = _all_gather(torch.tensor(rows.shape, device=rows.device))
        shapes = [[int(size) for size in shape] for shape in gathered]
        counts = [shape[0] for shape in shapes]
        if len(rows) == 0:
            rows = rows.new_empty(0, *max(shapes)[1:])
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    return torch.cat([part[:c] for part, c in zip(_all_gather(padded), counts)])


def gather_parts(rows: np.ndarray, process: int) -> list[np.ndarray]:
    """The arrays of all processes, of one shape, in one of them; the others get an empty list."""
    if world_size() == 1:
        return [rows]
    own = torch.from_numpy(np.ascontiguousarray(rows))
    gathered = [torch.empty_like(own) for _ in range(world_size())] if rank() == process else None
    dist.gather(own, gathered, dst=process, group=host_group)
    return [part.numpy() for part in gathered or []]


def _all_gather(tensor: Tensor) -> list[Tensor]:
    gathered = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(gathered, tensor.contiguous(), group=host_group if tensor.device.type == "cpu" else None)
    return gathered


class _GatherWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: Optional[Sequence[int]]) -> Tensor:
        if counts is None:
            counts = [int(count) for count in gather_rows(torch.tensor([len(rows)], device=rows.device))]
        ctx.start, ctx.count = sum(counts[: rank()]), len(rows)
        return gather_rows(rows, counts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # All processes compute the same loss, so each knows its rows' gradient without asking. DistributedDataParallel
        # will divide by the number of processes; the factor leaves the sum over all images, as one process has it.
        return gradient[ctx.start : ctx.start + ctx.count] * world_size(), None


def gather_with_gradient(rows: Tensor, counts: Optional[Sequence[int]] = None) -> Tensor:
    """:func:`gather_rows` for embeddings in training: the gradient flows back into this process's rows."""
    return rows if world_size() == 1 else _GatherWithGradient.apply(rows, counts)


def computed_once(function: Callable[[], Any]) -> Any:
    """What ``function`` returns in process 0, in every process; what it raises there is raised everywhere."""
    if world_size() == 1:
        return function()
    outcome: list = [None, None]  # result, error
    if rank() == 0:
        try:
            outcome[0] = function()
        except Exception as error:  # else the other processes would wait without end
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0, group=host_group)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def verify_same(what: str, *arrays: np.ndarray) -> None:
    """Raises RuntimeError where processes hold other arrays than process 0: of another shape, type or content."""
    if world_size() == 1:
        return
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    digests = _all_gather(torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8))
    others = [r for r, d in enumerate(digests) if not torch.equal(d, digests[0])]
    if others:
        raise RuntimeError(
            f"{what} differ between process 0 and process {', '.join(map(str, others))}; give all machines the same "
            "images, software and checkpoint, and start again with --resume"
        )


@torch.no_grad()
def average_statistics(model: nn.Module) -> None:
    """Gives every process the mean of all processes' running statistics: each has normalised other images."""
    names = ("running_mean", "running_var")
    statistics = [buffer for name, buffer in model.named_buffers() if name.rpartition(".")[2] in names]
    if world_size() == 1 or not statistics:
        return
    flat = torch.cat([buffer.flatten() for buffer in statistics])
    dist.all_reduce(flat)
    flat /= world_size()
    for buffer, values in zip(statistics, flat.split([buffer.numel() for buffer in statistics])):
        buffer.copy_(values.view_as(buffer))


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, or the model itself."""
    return getattr(model, "module", model)
