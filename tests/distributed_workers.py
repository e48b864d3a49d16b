"""What the processes of the tests of several processes do. Started by spawn, so it must be importable."""

import datetime

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import ise_plugin  # noqa: F401
from ise_plugin.distributed import average_buffers, computed_once, gather_rows, shard
from ise_plugin.modeling import ClusterMemoryHead, ISELoss

CLUSTERS, DIM = 6, 12


def start(rank, world, store, results):
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=datetime.timedelta(seconds=60)
    )
    torch.set_num_threads(1)
    results[rank] = {function.__name__: function(rank, world) for function in FUNCTIONS}
    dist.barrier()
    dist.destroy_process_group()


def gather_uneven(rank, world):
    rows = torch.arange(10.0).reshape(10, 1)[list(shard(10))]
    nothing = torch.ones(rank, 2)  # process 0 has no row
    return gather_rows(rows).flatten().tolist(), len(gather_rows(nothing))


def once(rank, world):
    value = computed_once(lambda: {"rank": rank})
    try:
        computed_once(lambda: 1 / 0)
    except ZeroDivisionError:
        return value, "raised"


def buffers(rank, world):
    norm = nn.BatchNorm1d(2)
    norm.running_mean.fill_(rank)
    average_buffers(norm)
    return norm.running_mean.tolist()


def batches():
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        clusters = torch.randperm(CLUSTERS, generator=g)[:4]
        yield torch.rand(16, 5, 2, 2, generator=g), clusters.repeat_interleave(4)


class Small(nn.Module):
    """A backbone of one convolution in front of the head, without batch norm."""

    def __init__(self, update):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Conv2d(5, DIM, 1)
        self.heads = ClusterMemoryHead(feat_dim=DIM, with_bnneck=False, num_neighbors=2, update=update)
        self.heads.degree = 0.2
        self.heads.set_centroids(F.normalize(torch.randn(CLUSTERS, DIM), dim=1))
        self.loss = ISELoss()

    def forward(self, images, labels):
        return sum(self.loss(self.heads(self.backbone(images), labels)).values())


def twenty_steps(rank, world, update):
    """(loss and gradients of the first step, memory after twenty), the batch shared by groups."""
    model = Small(update)
    wrapped = DistributedDataParallel(model) if world > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = None
    for images, labels in batches():
        groups = shard(4)
        mine = slice(groups.start * 4, groups.stop * 4)
        optimizer.zero_grad()
        loss = wrapped(images[mine], labels[mine])
        loss.backward()
        if first is None:
            first = loss.item(), [p.grad.clone() for p in model.parameters()]
        optimizer.step()
    return first, model.heads.memory.centroids


def twenty_steps_hard(rank, world):
    return twenty_steps(rank, world, update="hard")


def twenty_steps_mean(rank, world):
    return twenty_steps(rank, world, update="mean")


FUNCTIONS = (gather_uneven, once, buffers, twenty_steps_hard, twenty_steps_mean)
