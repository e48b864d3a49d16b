"""What the processes of the tests of several processes do. Started in other interpreters, so it must be importable."""

import ise_plugin  # noqa: F401  isort:skip

import datetime
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from fastreid.evaluation import inference_on_dataset
from helpers import HANG, Reads
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader

from ise_plugin.config import get_cfg
from ise_plugin.engine.evaluation import PortableReidEvaluator
from ise_plugin.engine.labelling import extract_embeddings
from ise_plugin.errors import UsageError
from ise_plugin.method import memory
from ise_plugin.modeling import ISE, CameraProxyLoss, CameraProxyMemory, ClusterMemoryHead, InstanceMemory, ISELoss
from ise_plugin.neighbors import all_pairs, search_by_camera
from ise_plugin.neighbors._device import search_on_device
from ise_plugin.neighbors.exact_search import exact
from ise_plugin.utils import distributed
from ise_plugin.utils.distributed import (
    WholeBatch,
    average_statistics,
    computed_once,
    gather_rows,
    shard,
    shards,
    verify_same,
)

CLUSTERS, DIM = 6, 12
# where a process computes, and the test that compares with it
DEVICE = torch.device("cpu")


def compute_on(device):
    global DEVICE
    DEVICE = torch.device(device)
    torch.backends.cudnn.allow_tf32 = False  # it keeps ten bits


def on_host(found):
    return tree_map_only(torch.Tensor, torch.Tensor.cpu, found)


def start(rank, world, store, results, backend, names):
    waiting = datetime.timedelta(seconds=HANG)
    if backend == "nccl":
        torch.cuda.set_device(rank)
        compute_on(f"cuda:{rank}")
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=world, timeout=waiting)
    if backend == "nccl":
        distributed.host_group = dist.new_group(backend="gloo", timeout=waiting)
    torch.set_num_threads(1)
    chosen = [function for function in FUNCTIONS if not names or function.__name__ in names]
    results[rank] = on_host({function.__name__: function(rank, world) for function in chosen})
    dist.barrier()
    dist.destroy_process_group()


def gather_uneven(rank, world):
    rows = torch.arange(10.0, device=DEVICE).reshape(10, 1)[list(shard(10))]
    nothing = torch.ones(rank, 2, device=DEVICE)  # process 0 has no row
    of_unknown_width = (torch.ones(1, 3) if rank == 0 else torch.empty(0, 0)).to(DEVICE)
    known = gather_rows(rows, [len(s) for s in shards(10)])
    assert torch.equal(known, gather_rows(rows))
    return gather_rows(rows).flatten().tolist(), len(gather_rows(nothing)), gather_rows(of_unknown_width).tolist()


def once(rank, world):
    value = computed_once(lambda: {"rank": rank})
    try:
        computed_once(lambda: 1 / 0)
    except ZeroDivisionError:
        return value, "raised"


def buffers(rank, world):
    norm = nn.BatchNorm1d(2).to(DEVICE)
    norm.running_mean.fill_(rank)
    average_statistics(norm)
    return norm.running_mean.tolist()


def batches():
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        clusters = torch.randperm(CLUSTERS, generator=g)[:4]
        yield torch.rand(16, 5, 2, 2, generator=g).to(DEVICE), clusters.repeat_interleave(4)


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
    model = Small(update).to(DEVICE)
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


def normalized_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, DIM, 3), nn.BatchNorm2d(DIM))


def make_ise(group_size):
    backbone = normalized_model()
    heads = ClusterMemoryHead(feat_dim=DIM, num_neighbors=2, update="mean")
    heads.degree = 0.2
    heads.set_centroids(F.normalize(torch.randn(CLUSTERS, DIM), dim=1))
    return ISE(
        backbone=backbone,
        heads=heads,
        losses=[ISELoss()],
        pixel_mean=[0.5] * 3,
        pixel_std=[0.3] * 3,
        bn_group_size=group_size,
    ).to(DEVICE)


def image_batches(count):
    g = torch.Generator().manual_seed(0)
    for _ in range(count):
        clusters = torch.randperm(CLUSTERS, generator=g)[:4]
        yield torch.rand(16, 3, 8, 6, generator=g), clusters.repeat_interleave(4)


def counts_of(division, world):
    if division == "groups":
        return tuple(4 * len(s) for s in shards(4))
    if division == "images":
        return tuple(len(s) for s in shards(16))
    return (16, *[0] * (world - 1))


# how the batch of 16 images is divided among the processes, and ISE.BN_GROUP_SIZE
NORMALISED = [("groups", 4), ("groups", 5), ("groups", 8), ("groups", 16), ("images", 6), ("one has all", 8)]


def normalised_steps(rank, world, division, group_size, steps=20):
    """(loss, gradients and statistics of the first step, memory and statistics after all), with batch norm everywhere."""
    model = make_ise(group_size)
    wrapped = DistributedDataParallel(model, broadcast_buffers=False) if world > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)  # a larger one blows roundings up
    counts = counts_of(division, world)
    mine = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    first = None
    for images, labels in image_batches(steps):
        batch = {"images": images[mine], "targets": labels[mine]}
        if world > 1:
            batch["whole"] = WholeBatch(labels, counts)
        optimizer.zero_grad()
        loss = sum(wrapped(batch).values())
        loss.backward()
        if first is None:
            average_statistics(model)
            first = loss.item(), [p.grad.clone() for p in model.parameters() if p.requires_grad], statistics_of(model)
        optimizer.step()
    average_statistics(model)
    return first, model.heads.memory.centroids, statistics_of(model)


def statistics_of(model):
    return [b.clone() for name, b in model.named_buffers() if "running" in name or "tracked" in name]


def normalised(rank, world):
    return {case: normalised_steps(rank, world, *case) for case in NORMALISED}


def search_rows():
    rows = F.normalize(torch.randn(700, 24, generator=torch.Generator().manual_seed(0)), dim=1)
    return torch.cat([rows, rows[:50]]).to(DEVICE)  # some twice


SEARCHES = [("float32", 6), ("bfloat16", 6), ("float32", 300)]


def searches(rank, world):
    all_pairs._LARGEST_BLOCK = 128  # a few hundred rows cross several blocks
    few = search_rows()[:3]  # more processes than blocks, and than rows
    found = [exact(search_rows(), k, precision, shared=True) for precision, k in SEARCHES]
    on_device = search_on_device(search_rows(), 5, shared=True)
    return [*found, exact(few, 2, shared=True), on_device, *searches_by_camera(shared=True)]


def searches_by_camera(shared):
    rows = search_rows()
    cameras = np.arange(len(rows)) % 4 - 1
    return [
        search_by_camera(exact, rows, cameras, 5, 9, precision=precision, shared=shared)
        for precision in ("float32", "bfloat16")
    ]


def reads(rank, world):
    """What a step with batch norm shared by processes and the sequential update of the memory reads back from the device."""
    model = make_ise(16)
    wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    groups = memory._groups

    def on_the_host(labels):  # from labels that the loader left there
        assert labels is not None
        with _disable_current_modes():
            return groups(labels)

    memory._groups = on_the_host
    counts = counts_of("groups", world)
    mine = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    for images, labels in image_batches(2):
        with Reads() as seen:
            batch = {"images": images[mine], "targets": labels[mine], "whole": WholeBatch(labels, counts)}
            sum(wrapped(batch).values()).backward()
    with Reads() as would_be_noticed:
        gather_rows(torch.rand(2, 2))  # without counts
    memory._groups = groups
    return seen.seen, would_be_noticed.seen


def memories_of_images(rank, world):
    """(losses of the steps, memories) with cameras of which some are unknown, outliers and images twice in a batch; what was
    read back."""
    model, generator = make_ise(16), torch.Generator().manual_seed(3)
    model.loss_modules.append(CameraProxyLoss(num_negatives=4))
    of_images = torch.arange(60) % (CLUSTERS + 1) - 1
    images = SimpleNamespace(cameras=np.arange(60) * 7 % 5 - 1)  # -1 to 3
    for memory_of in CameraProxyMemory(0.3), InstanceMemory(0.3):
        model.heads.memories[type(memory_of).__name__] = memory_of.to(DEVICE)
        memory_of.fill(F.normalize(torch.randn(60, DIM, generator=generator)).to(DEVICE), of_images, images)
    wrapped = DistributedDataParallel(model, broadcast_buffers=False) if world > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    counts, losses, groups = counts_of("groups", world), [], memory._groups
    mine = slice(sum(counts[:rank]), sum(counts[: rank + 1]))

    def on_the_host(labels):  # from labels that the loader left there
        with _disable_current_modes():
            return groups(labels)

    memory._groups = on_the_host
    for pixels, _ in image_batches(6):
        indices = torch.randint(60, (16,), generator=generator)
        labels = of_images[indices]
        batch = {"images": pixels[mine], "targets": labels[mine], "indices": indices[mine]}
        if world > 1:
            batch["whole"] = WholeBatch(labels, counts, indices)
        optimizer.zero_grad()
        with Reads() as seen:
            loss = sum(wrapped(batch).values())
            loss.backward()
        optimizer.step()
        losses.append(loss.item())
    memory._groups = groups
    others = [tensor for each in model.heads.memories.values() for tensor in each.kept().values()]
    return losses, [model.heads.memory.centroids, *others], seen.seen


class Twice(nn.Module):
    def forward(self, batch):
        return batch["images"] * 2


def evaluation(rank, world):
    """Two queries and twelve images in the gallery, all of them in the first process."""
    items = [(0.0, 5, 0), (1.0, 6, 0), (0.1, 5, 1), *((2.0 + i, 7, 1) for i in range(11))]
    batches = [
        {"images": torch.tensor([[1.0, i]]), "targets": torch.tensor([t]), "camids": torch.tensor([c])}
        for i, t, c in items
    ]
    mine = DataLoader(batches, batch_size=None, sampler=range(len(items) if rank == 0 else 0))
    return extract_shape(mine), inference_on_dataset(Twice(), mine, PortableReidEvaluator(get_cfg(), 2))


def extract_shape(batches):
    return tuple(gather_rows(extract_embeddings(Twice(), batches)).shape)


def digests(rank, world):
    labels = torch.arange(5).numpy()
    verify_same("labels", labels, labels * 0.5)
    try:
        verify_same("labels", labels, labels + (rank == world - 1))
    except RuntimeError as error:
        return str(error)


def twenty_steps_hard(rank, world):
    return twenty_steps(rank, world, update="hard")


def twenty_steps_mean(rank, world):
    return twenty_steps(rank, world, update="mean")


def meet(folder):
    dist.barrier()
    (Path(folder) / f"{dist.get_rank()} of {dist.get_world_size()}").touch()


def wait_to_be_told(folder):
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    dist.barrier()
    if dist.get_rank() == 0:
        os.kill(os.getppid(), signal.SIGTERM)
    end = time.monotonic() + HANG
    while not told.is_set() and time.monotonic() < end:
        told.wait(0.1)  # a signal that comes just before a wait does not end it
    if told.is_set():
        (Path(folder) / f"{dist.get_rank()} was told").touch()


def fail():
    if dist.get_rank() == 1:
        raise UsageError("process 1 has no images")
    dist.barrier()


def die():
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def hang():
    if dist.get_rank() == 1:
        time.sleep(10**6)
    dist.barrier()


FUNCTIONS = (
    gather_uneven,
    once,
    buffers,
    reads,
    evaluation,
    searches,
    digests,
    normalised,
    memories_of_images,
    twenty_steps_hard,
    twenty_steps_mean,
)
