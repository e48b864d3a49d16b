"""Part of tools/gpu_check.py: what the device computes beside what the CPU computes, from the same numbers."""

import ise_plugin  # noqa: F401  isort:skip  (first: it makes fastreid importable)

from typing import Callable, Iterator

import torch
import torch.nn.functional as F
from benchmarks.clustering import EPS, K1, K2, MIN_SAMPLES, synthetic_embeddings
from benchmarks.gpu import Row, Setting
from fastreid.utils.events import EventStorage
from sklearn.metrics import adjusted_rand_score
from torch import Tensor, nn

from ise_plugin.clustering import generate_pseudo_labels, jaccard_graph
from ise_plugin.engine.step import TrainingStep
from ise_plugin.method import (
    ClusterMemory,
    generate_support_samples,
    label_preserving_loss,
    sample_extension_loss,
)
from ise_plugin.modeling import ISE, ClusterMemoryHead, ISELoss
from ise_plugin.modeling.build import build_model
from ise_plugin.modeling.precision import full_float32
from ise_plugin.neighbors import exact

BATCH, INSTANCES, CLUSTERS, WIDTH = 256, 16, 700, 512
# Of the largest number: sums of a few thousand float32 products in another order, passed on through a few layers.
ROUNDING = 1e-4
# Of the loss: bfloat16 keeps eight bits, a relative error of 0.004 at each of a few layers.
MIXED_ROUNDING = 0.05
# Similarities this close to one another are in no order that float32 can tell (the length of a row is known to 1e-6).
SAME_SIMILARITY = 2e-6
# A pair at the edge of a neighbourhood changes a distance at once; where that is so must be rare.
GRAPH_TOLERANCE, LEAST_SAME_PAIRS, LEAST_SAME_LABELS = 1e-3, 0.999, 0.999


def checks() -> tuple:
    return method, step, mixed_step, embeddings, neighbors_and_labels


def method(setting: Setting) -> Iterator[Row]:
    """losses and memory"""
    for update in ("hard", "mean"):
        yield from _compared(setting, f"memory, {update}", lambda device: {"centroids": [_updated(device, update)]})
    yield from _compared(setting, "losses", _losses)


def step(setting: Setting) -> Iterator[Row]:
    """a step with grouped batch norm"""
    for pieces in (1, 2):
        title = "step, groups of 4" + (", two pieces" if pieces > 1 else "")
        for update in ("hard", "mean"):
            yield from _compared(setting, f"{title}, {update}", lambda device: _step(device, pieces, update))


def mixed_step(setting: Setting) -> Iterator[Row]:
    """a step in mixed precision"""
    expected = torch.stack(_step("cpu")["losses"]).sum()
    for precision in (torch.bfloat16, torch.float16)[: 2 if setting.device == "cuda" else 1]:
        found = torch.stack(_step(setting.device, precision=precision)["losses"]).sum()
        difference = float((found - expected).abs() / expected)
        name = f"step in {str(precision).partition('.')[2]}: loss"
        yield Row(name, f"{difference:.1e}", f"≤ {MIXED_ROUNDING:g}", difference <= MIXED_ROUNDING)


def embeddings(setting: Setting) -> Iterator[Row]:
    """embeddings of the network"""
    from benchmarks.gpu_speed import network_cfg  # late: these two would wait for each other

    images = torch.rand(8, 3, *setting.image, generator=torch.Generator().manual_seed(0)) * 255

    def embed(device: str) -> dict:
        torch.manual_seed(0)
        cfg = network_cfg(setting)
        cfg.MODEL.DEVICE = device
        with torch.inference_mode():
            return {"unit rows": [F.normalize(build_model(cfg).eval()({"images": images}), dim=1)]}

    yield from _compared(setting, "embeddings", embed)


def neighbors_and_labels(setting: Setting) -> Iterator[Row]:
    """neighbours, graph and labels"""
    rows = torch.from_numpy(synthetic_embeddings(setting.compared, setting.width, "late")[0])
    both = rows, rows.to(setting.device)
    (_, expected), (_, found) = (exact(r, K1) for r in both)
    similarity = lambda indices: torch.einsum("nd,nkd->nk", rows.double(), rows.double()[torch.from_numpy(indices)])
    gap = float((similarity(expected) - similarity(found)).abs().max())
    same = float((expected == found).mean())
    bar = f"the others ≤ {SAME_SIMILARITY:g} apart"
    yield Row("neighbours that are the CPU's", f"{same:.4%} (largest gap {gap:.1e})", bar, gap <= SAME_SIMILARITY)

    graphs = [jaccard_graph(r, K1, K2, EPS) for r in both]
    difference = abs(graphs[0] - graphs[1])
    share = 1 - float((difference.data > GRAPH_TOLERANCE).sum()) / graphs[0].nnz
    yield Row(
        "pairs of the graph that are the CPU's", f"{share:.4%}", f"≥ {LEAST_SAME_PAIRS:.1%}", share >= LEAST_SAME_PAIRS
    )

    labels = [generate_pseudo_labels(r, EPS, MIN_SAMPLES, K1, K2) for r in both]
    agreement = adjusted_rand_score(*labels)
    clusters = ", ".join(str(int(found.max()) + 1) for found in labels)
    value = f"{agreement:.4f} ({clusters} clusters)"
    yield Row("labels: adjusted Rand index", value, f"≥ {LEAST_SAME_LABELS:g}", agreement >= LEAST_SAME_LABELS)


def _compared(setting: Setting, title: str, compute: Callable[[str], dict]) -> Iterator[Row]:
    """A row for each list of tensors that ``compute(device)`` gives: the largest difference, in parts of the largest value.

    Some gradients are zero but for rounding (of a shift that a normalisation takes out again), so all are compared as one."""
    with full_float32():  # TF32, on by default for convolutions, keeps ten bits
        expected, found = compute("cpu"), compute(setting.device)
    for what, tensors in expected.items():
        largest = torch.stack([tensor.abs().max() for tensor in tensors]).max()
        difference = float(
            torch.stack([(a - b.cpu()).abs().max() for a, b in zip(tensors, found[what])]).max() / largest
        )
        yield Row(f"{title}: {what}", f"{difference:.1e}", f"≤ {ROUNDING:g}", difference <= ROUNDING)


def _random_rows(count: int, width: int = WIDTH, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def _updated(device: str, update: str) -> Tensor:
    memory = ClusterMemory(_random_rows(CLUSTERS), update=update).to(device)
    memory.update(_random_rows(BATCH, seed=1).to(device), torch.arange(BATCH) // INSTANCES)
    return memory.centroids


def _losses(device: str) -> dict:
    features = _random_rows(BATCH, seed=1).to(device).requires_grad_()
    labels, centroids = torch.arange(BATCH, device=device) // INSTANCES, _random_rows(CLUSTERS).to(device)
    supports, support_labels = generate_support_samples(features, labels, centroids)
    losses = [
        sample_extension_loss(features, labels, centroids),
        label_preserving_loss(features, supports, labels, support_labels),
    ]
    gradients = torch.autograd.grad(sum(losses), features)
    return {"values": [loss.detach() for loss in losses], "gradient": list(gradients)}


def _step(device: str, pieces: int = 1, update: str = "hard", precision: torch.dtype = torch.float32) -> dict:
    """Losses, gradients, statistics and memory of one step of a small network with batch norm in groups of four."""
    torch.manual_seed(0)
    heads = ClusterMemoryHead(feat_dim=16, num_neighbors=2, update=update)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16)]
    model = ISE(
        backbone=nn.Sequential(*layers),
        heads=heads,
        losses=[ISELoss()],
        pixel_mean=[128.0] * 3,
        pixel_std=[60.0] * 3,
        bn_group_size=4,
    ).to(device)
    heads.degree = 0.2
    heads.set_centroids(_random_rows(6, 16))
    training = TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.0), torch.device(device), precision, pieces)
    images = torch.rand(16, 3, 24, 12, generator=torch.Generator().manual_seed(1)) * 255
    training.set_loader([{"images": images, "targets": torch.arange(16) // 4}])
    training.iter = 0
    training.run_step()
    with EventStorage() as storage:
        training.write_losses()
        losses = [torch.tensor(value) for name, (value, _) in storage.latest().items() if name.startswith("loss")]
    named = dict(model.named_buffers())
    return {
        "losses": losses,
        "gradients": [p.grad for p in model.parameters() if p.grad is not None],
        "running statistics": [buffer for name, buffer in named.items() if "running" in name],
        "memory": [heads.memory.centroids],
    }
