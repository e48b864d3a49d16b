"""The step in full and mixed precision; groups, fused kernels, and equality with fastreid's optimiser."""

import contextlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fastreid.engine.hooks import LRScheduler
from fastreid.solver import build_lr_scheduler
from fastreid.solver.build import build_optimizer as build_fastreid_optimizer
from fastreid.utils.events import EventStorage
from helpers import CONFIGS, Launches, MetaAutocast, MetaReads
from torch import nn
from triton_on_cpu import Kernel, load_kernels

import ise_plugin.engine.step as step_module
from ise_plugin.config import get_cfg, load_cfg
from ise_plugin.engine.step import TrainingStep, build_optimizer, merge_groups, split_batch
from ise_plugin.errors import UsageError
from ise_plugin.modeling import (
    ISE,
    CameraProxyLoss,
    CameraProxyMemory,
    ClusterMemoryHead,
    InstanceMemory,
    ISELoss,
    normalization,
)
from ise_plugin.modeling.build import build_model

CPU = torch.device("cpu")


def make_model(update="hard", bn_group_size=0):
    torch.manual_seed(0)
    heads = ClusterMemoryHead(feat_dim=8, update=update)
    heads.set_centroids(torch.randn(4, 8))
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    return ISE(
        backbone=backbone,
        heads=heads,
        losses=[ISELoss()],
        pixel_mean=[128.0] * 3,
        pixel_std=[60.0] * 3,
        bn_group_size=bn_group_size,
    )


def make_batches(count):
    g = torch.Generator().manual_seed(1)
    return [
        {"images": torch.rand(8, 3, 12, 6, generator=g) * 255, "targets": torch.arange(8) // 2} for _ in range(count)
    ]


def run(precision, steps=3):
    model = make_model()
    step = TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.05), CPU, precision)
    step.set_loader(make_batches(steps))
    with EventStorage() as storage:
        for step.iter in range(steps):
            step.run_step()
        step.write_losses()
        return model, storage.latest()


def test_steps_in_float32_are_the_plain_loop():
    expected = make_model()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.05)
    for batch in make_batches(3):
        optimizer.zero_grad()
        sum(expected(batch).values()).backward()
        optimizer.step()
    model, logged = run(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), expected.state_dict().values()))
    assert {"loss_se", "loss_lp", "total_loss", "data_time"} <= set(logged)


def test_bfloat16_computes_the_network_in_bfloat16_and_the_rest_in_float32():
    model = make_model()
    seen = {}
    model.backbone[0].register_forward_hook(lambda m, i, o: seen.update(network=o.dtype))
    model.heads.register_forward_hook(lambda m, i, o: seen.update(head=o["features"].dtype))
    step = TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.05), CPU, torch.bfloat16)
    step.set_loader(make_batches(1))
    step.iter = 0
    with EventStorage():
        step.run_step()
    assert seen == {"network": torch.bfloat16, "head": torch.float32}
    assert model.heads.memory.centroids.dtype == torch.float32 and model.backbone[0].weight.dtype == torch.float32


def test_bfloat16_learns_nearly_what_float32_learns():
    (full, _), (mixed, _) = run(torch.float32), run(torch.bfloat16)
    flat = lambda model: torch.cat([p.detach().flatten() for p in model.parameters()])  # noqa: E731
    moved = flat(full) - flat(make_model())
    assert 0 < (flat(mixed) - flat(full)).norm() < 0.2 * moved.norm()


def test_loss_that_is_not_finite_is_named_when_the_losses_are_written():
    model = make_model()
    step = TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.05), CPU)
    batches = make_batches(3)
    batches[1]["images"][0] = float("nan")
    step.set_loader(batches)
    with EventStorage():
        for step.iter in (6, 7, 8):
            step.run_step()
        with pytest.raises(FloatingPointError, match="iteration=7.*loss_se nan.*BASE_LR"):
            step.write_losses()


def spoil(batch):
    """An image that makes everything in the network, statistics and memory included, not a number."""
    return {
        **batch,
        "images": torch.full_like(batch["images"], float("nan")),
        "img_paths": [f"{n}.jpg" for n in range(8)],
    }


def everything(batches, kind, pieces=1, max_skipped=1):
    """All that a run depends on, after a step with each batch."""
    model = make_model()
    optimizer = kind(model.parameters())
    step = TrainingStep(model, optimizer, CPU, pieces=pieces, max_skipped=max_skipped)
    step.set_loader(batches)
    with EventStorage() as storage:
        for step.iter in range(len(batches)):
            storage.iter = step.iter
            step.run_step()
        step.write_losses()
        logged = storage.histories()["total_loss"].values()
    state = optimizer.state_dict()["state"]
    tensors = [t for entry in state.values() for t in entry.values() if t is not None]
    return [*model.state_dict().values(), model.heads.memory.centroids, *tensors], logged


OPTIMIZERS = {
    "fused": lambda parameters: torch.optim.Adam(parameters, lr=0.01, fused=True),
    "not fused": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
}


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_step_that_is_not_finite_leaves_no_trace(kind, pieces, caplog):
    first, second, third = make_batches(3)
    expected, losses = everything([first, third], kind, pieces)
    actual, logged = everything([first, spoil(second), third], kind, pieces)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
    assert [value for value, _ in logged] == [value for value, _ in losses] and [i for _, i in logged] == [0, 2]
    assert "iteration=1" in caplog.text and "0.jpg, 1.jpg, 2.jpg and 5 more" in caplog.text


def test_guard_of_many_buffers_launches_little_and_gives_each_its_own_back(monkeypatch):
    monkeypatch.setattr(step_module, "_NEVER_WAITING", ())  # as on any other device
    network = nn.Sequential(*(nn.BatchNorm2d(n) for n in range(1, 41)))
    network.register_buffer("colour", torch.rand(3, 2, 1))
    network.register_buffer("memory", torch.rand(5, 2))
    for usable in (True, False):
        buffers = dict(network.named_buffers())
        former = {name: buffer.clone() for name, buffer in buffers.items()}
        with Launches() as launches:
            kept = step_module._kept_buffers(network)
        network.memory = network.memory * float("nan")  # is replaced, all others change in place
        changed = {name: buffer.mul_(2).add_(3) for name, buffer in network.named_buffers() if name != "memory"}
        wanted = {**changed, "memory": network.memory} if usable else former
        wanted = {name: buffer.clone() for name, buffer in wanted.items()}
        with launches:
            step_module._restore_buffers(kept, torch.tensor(usable))
        for name, buffer in network.named_buffers():
            assert torch.equal(buffer.nan_to_num(9), wanted[name].nan_to_num(9)), name
            assert (buffer is buffers[name]) == (name != "memory"), name
        assert launches.count.total() <= 10  # for 122 buffers of two dtypes
        network.memory = torch.rand(3, 2)  # the next labelling found fewer clusters


@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_gradient_that_is_not_finite_leaves_no_trace(kind):
    def spoiled_gradient(parameters):
        parameters = list(parameters)
        calls = []
        parameters[0].register_hook(lambda g: calls.append(1) or (g * float("inf") if len(calls) == 2 else g))
        return kind(parameters)

    first, second, third = make_batches(3)
    expected, _ = everything([first, third], kind)
    actual, _ = everything([first, second, third], spoiled_gradient)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_more_such_steps_than_may_be_end_the_run():
    batches = [spoil(batch) for batch in make_batches(3)]
    with pytest.raises(
        FloatingPointError, match="iteration=0.*0.jpg.*one of 3 such steps.*MAX_SKIPPED_STEPS 2.*BASE_LR"
    ):
        everything(batches, OPTIMIZERS["fused"], max_skipped=2)
    everything(batches, OPTIMIZERS["fused"], max_skipped=3)


def test_steps_are_counted_for_each_epoch_and_over_a_resume():
    def make():
        model = make_model()
        return TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.05), CPU, max_skipped=1)

    def one_bad(step):
        step.iter = 0
        with EventStorage():
            step.run_step()
            step.write_losses()

    class Loader(list):
        def after(self, count):
            return iter(self[count:])

    batches = Loader([spoil(batch) for batch in make_batches(2)])
    step = make()
    for _ in range(3):  # three epochs
        step.set_loader(batches)
        one_bad(step)
    resumed = make()
    resumed.load_state_dict(step.state_dict())
    resumed.set_loader(batches, 1)
    with pytest.raises(FloatingPointError, match="one of 2"):
        one_bad(resumed)


def test_weights_that_are_not_finite_are_named():
    model = make_model()
    step = TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.05), CPU)
    step.check_weights()
    model.heads.bottleneck[0].running_var[2] = float("inf")
    with pytest.raises(FloatingPointError, match="heads.bottleneck.0.running_var"):
        step.check_weights()


def test_losses_are_stored_with_the_step_they_belong_to():
    model = make_model()
    step = TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.05), CPU)
    step.set_loader(make_batches(3))
    seen = []
    model.register_forward_hook(lambda m, i, losses: seen.append(float(sum(losses.values()).detach())))
    with EventStorage(10) as storage:
        for step.iter in (10, 11, 12):
            storage.iter = step.iter
            step.run_step()
        assert "total_loss" not in storage.histories()
        step.write_losses()
        step.write_losses()  # nothing new: nothing stored twice
        written = storage.history("total_loss").values()
    assert [i for _, i in written] == [10, 11, 12] and storage.iter == 12
    assert [value for value, _ in written] == pytest.approx(seen, rel=1e-6)


def loader_batch():
    """As the loader gives it: bytes, and what the device is to do with them."""
    layout = torch.channels_last
    return {
        "images": torch.randint(256, (8, 3, 12, 6), dtype=torch.uint8).contiguous(memory_format=layout),
        "targets": torch.arange(8) // 2,
        "indices": torch.arange(8),
        "flipped": torch.arange(8) % 2 == 0,
        "offsets": torch.zeros(8, 2, dtype=torch.int64),
        "erased": torch.tensor([[2, 1, 4, 3]]).repeat(8, 1),
        "img_paths": list("abcdefgh"),
    }


class Loop:
    """What fastreid's hooks ask of a trainer, for one step."""

    iter, warmup_iters = 0, 10

    def __init__(self, step):
        self.step, self.storage = step, EventStorage()

    @property
    def grad_scaler(self):
        return self.step.grad_scaler

    def run(self, hook):
        hook.trainer = self
        hook.before_step()
        self.step.run_step()
        hook.after_step()


def device_step(cfg, update, pieces, precision):
    """A step on ``meta`` of everything that a configuration brings: groups, clipping, the rate's warm-up, the loader's batch."""
    cfg.MODEL.DEVICE, cfg.SOLVER.CLIP_GRADIENTS.ENABLED, cfg.SOLVER.WARMUP_ITERS = "meta", True, 10
    model = with_memories(make_model(update, bn_group_size=4)).to("meta", memory_format=torch.channels_last)
    optimizer = build_optimizer(cfg, model)
    step = TrainingStep(model, optimizer, torch.device("meta"), precision, pieces)
    step.set_loader([loader_batch()])
    step.iter = 0
    return step, LRScheduler(optimizer, build_lr_scheduler(cfg, optimizer, 10))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("update", ["hard", "mean"])
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_whole_step_stays_on_the_device_and_reads_nothing_back(monkeypatch, cfg, update, pieces, precision):
    monkeypatch.setattr(torch, "autocast", MetaAutocast)
    monkeypatch.setattr(step_module, "_FUSED_DEVICES", ("meta",))  # as CUDA has one
    monkeypatch.setattr(
        sys.modules[torch.optim.Optimizer.__module__], "_get_fused_kernels_supported_devices", lambda: ["meta"]
    )
    step, hook = device_step(cfg, update, pieces, precision)
    computed = []
    step.model.backbone.register_forward_hook(lambda m, i, o: computed.append((o.device.type, o.dtype)))
    with MetaReads() as reads:
        Loop(step).run(hook)
    assert reads.seen == set()
    assert (
        step.optimizer.param_groups[0]["lr"] > step.optimizer.param_groups[0]["initial_lr"] / 1000
    )  # it has warmed up
    assert set(computed) == {("meta", precision)} and step.optimizer.defaults["fused"]


def test_what_waits_or_mixes_devices_would_be_noticed():
    device, host = torch.zeros(3, device="meta"), torch.zeros(3)
    with MetaReads() as reads:
        for wrong in (
            lambda: device.sum().item(),
            lambda: device[device > 0],
            lambda: device + host,
            lambda: host.to("meta"),
            lambda: device.copy_(host),
        ):
            with contextlib.suppress(RuntimeError, NotImplementedError):
                wrong()
    assert reads.seen == {"_local_scalar_dense", "index", "add of both devices", "blocking _to_copy", "blocking copy_"}
    with MetaReads() as reads:
        host.to("meta", non_blocking=True), device.copy_(host, non_blocking=True), host.sum().item(), host.nonzero()
    assert reads.seen == set()


@pytest.mark.parametrize("fused", [True, False])
def test_a_scaled_gradient_is_clipped_at_its_own_size(cfg, fused):
    cfg.SOLVER.FUSED, cfg.SOLVER.OPT, cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM = fused, "SGD", 1.0, 0.0
    cfg.SOLVER.WEIGHT_DECAY = cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    cfg.SOLVER.BIAS_LR_FACTOR = cfg.SOLVER.HEADS_LR_FACTOR = 1.0
    clip = cfg.SOLVER.CLIP_GRADIENTS
    clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE = True, "norm", 1e-4  # less than any parameter's gradient
    model = make_model()
    before = [p.detach().clone() for p in model.parameters()]
    step = TrainingStep(model, build_optimizer(cfg, model), CPU, torch.float16)
    scaled = {**step.state_dict()["scaler"], "scale": 1024.0}  # the first one, 65,536, is too much for this network
    step.load_state_dict({"scaler": scaled, "skipped": 0})
    step.set_loader(make_batches(1))
    step.iter = 0
    step.run_step()
    moved = [(p - b).norm().item() for p, b in zip(model.parameters(), before) if p.grad is not None]
    assert len(moved) == 5 and moved == pytest.approx([1e-4] * 5, rel=0.01)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_groups_cost_few_launches_and_no_copy(monkeypatch, precision):
    """Of a whole ResNet-50 step: forward, backward, guard, losses, memory, fused optimiser. On the CPU, with what is CUDA's way:
    no exact statistics, no early end of the guard, and Triton's kernels, which are counted one by one and compute nothing. (On
    ``meta`` convolutions lose the channels-last layout.) Views and empty tensors launch nothing and are not counted."""
    kernels = load_kernels()
    monkeypatch.setattr(Kernel, "computes", False)
    monkeypatch.setattr(normalization, "_kernels", lambda device: kernels)
    monkeypatch.setattr(normalization, "_adds_up_naively", lambda x: False)
    monkeypatch.setattr(step_module, "_NEVER_WAITING", ())
    cfg = load_cfg(str(CONFIGS / "ISE/market_r50.yml"), ["MODEL.BACKBONE.PRETRAIN", "False"])
    cfg.MODEL.DEVICE, images = "cpu", 8
    launched, copied = {}, {}
    for groups in (1, 4):
        cfg.ISE.BN_GROUP_SIZE = images // groups
        model = build_model(cfg).train()
        model.heads.set_centroids(torch.randn(50, cfg.MODEL.BACKBONE.FEAT_DIM))
        step = TrainingStep(model, build_optimizer(cfg, model), CPU, precision)
        pictures = torch.zeros(images, 3, 32, 16, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
        step.set_loader([{"images": pictures, "targets": torch.arange(images) // 4}] * 2)
        step.iter = 0
        step.run_step()  # the first one makes the optimiser's state
        Kernel.launches.clear()
        with Launches() as launches:
            step.run_step()
        launched[groups], copied[groups] = launches.count.total() + Kernel.launches.total(), launches.copied
    assert Kernel.launches.total() == 6 * 54  # 53 layers and the neck
    assert launched[1] < launched[4] <= 1250
    assert copied[4] == copied[1]


@pytest.mark.cuda
def test_nothing_waits_for_cuda_in_a_step():
    model = make_model().cuda()
    device = torch.device("cuda")
    step = TrainingStep(model, torch.optim.Adam(model.parameters(), fused=True), device, torch.bfloat16)
    step.set_loader([{name: value.pin_memory() for name, value in batch.items()} for batch in make_batches(3)])
    step.iter = 0
    step.run_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step.run_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def gradients_and_memory(pieces, precision=torch.float32, update="hard", backbone=None):
    model = make_model(update)
    if backbone is not None:
        model.backbone = backbone
    step = TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.0), CPU, precision, pieces)
    step.set_loader(make_batches(1))
    step.iter = 0
    torch.manual_seed(5)
    step.run_step()
    with EventStorage() as storage:
        step.write_losses()
        losses = {name: value for name, (value, _) in storage.latest().items() if name.startswith("loss")}
    return losses, [p.grad for p in model.parameters() if p.grad is not None], model


def frozen(module):
    """With normalisation that does not depend on the batch, pieces see what the whole sees."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
            layer.train = lambda mode=True: None
    return module


@pytest.mark.parametrize("pieces", [2, 3, 8, 20])
@pytest.mark.parametrize("update", ["hard", "mean"])
def test_accumulation_equals_the_large_batch(monkeypatch, pieces, update):
    plain = make_model
    monkeypatch.setitem(globals(), "make_model", lambda *a: frozen(plain(*a)))
    expected, actual = gradients_and_memory(1, update=update), gradients_and_memory(pieces, update=update)
    assert actual[0] == pytest.approx(expected[0], rel=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(actual[1], expected[1]))
    assert torch.allclose(actual[2].heads.memory.centroids, expected[2].heads.memory.centroids, atol=1e-6)


def test_pieces_are_normalised_by_themselves_and_count_once():
    model = gradients_and_memory(2)[2]
    by_hand = make_model()
    for piece in split_batch(make_batches(1)[0], 2):
        by_hand.embed(piece)
    for (name, a), b in zip(model.state_dict().items(), by_hand.state_dict().values()):
        assert torch.allclose(a, b, atol=1e-6), name


@pytest.mark.parametrize("pieces", [2, 3, 4, 8])
def test_pieces_of_whole_normalisation_groups_equal_the_large_batch(monkeypatch, pieces):
    plain = make_model
    monkeypatch.setitem(globals(), "make_model", lambda *a: plain(*a, bn_group_size=2))
    expected, actual = gradients_and_memory(1), gradients_and_memory(pieces)
    assert actual[0] == pytest.approx(expected[0], rel=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(actual[1], expected[1]))
    for (name, a), b in zip(actual[2].state_dict().items(), expected[2].state_dict().values()):
        assert torch.allclose(a, b, atol=1e-6), name


def test_pieces_cannot_share_a_group_with_other_processes():
    model = make_model(bn_group_size=4)
    layout = model.normalization.layout_of(8)
    shared = layout._replace(parts=tuple(part._replace(group="other processes") for part in layout.parts))
    step = TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.0), CPU, pieces=2)
    step.set_loader([{**make_batches(1)[0], "layout": shared}])
    step.iter = 0
    with pytest.raises(UsageError, match="SOLVER.ACCUMULATE.*ISE.BN_GROUP_SIZE"):
        step.run_step()


def test_dropout_leaves_out_the_same_in_both_passes():
    def backbone():
        torch.manual_seed(2)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Dropout2d(0.5), nn.ReLU())

    model = gradients_and_memory(2, backbone=backbone())[2]
    expected = make_model()
    expected.backbone = backbone()
    torch.manual_seed(5)
    pieces = split_batch(make_batches(1)[0], 2)
    features = torch.cat([expected.embed(piece) for piece in pieces])  # one pass, with its graph
    sum(expected.compute_losses(features, make_batches(1)[0]).values()).backward()
    assert torch.allclose(model.backbone[0].weight.grad, expected.backbone[0].weight.grad, atol=1e-6)


def test_batches_are_cut_in_order_without_loss():
    batch = {"images": torch.arange(7.0), "targets": torch.arange(7), "img_paths": list("abcdefg")}
    pieces = split_batch(batch, 3)
    assert [len(p["targets"]) for p in pieces] == [2, 3, 2]
    assert torch.equal(torch.cat([p["images"] for p in pieces]), batch["images"])
    assert sum((p["img_paths"] for p in pieces), []) == batch["img_paths"]
    assert len(split_batch(batch, 100)) == 7


def make_layers():
    torch.manual_seed(0)
    model = nn.Module()
    model.backbone = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    model.heads = nn.Sequential(nn.Linear(3, 2))
    return model


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_NORM = 0.01, 0.01, 0.02
    cfg.SOLVER.BIAS_LR_FACTOR, cfg.SOLVER.HEADS_LR_FACTOR, cfg.SOLVER.WEIGHT_DECAY_BIAS = 2.0, 3.0, 0.0
    return cfg


def trained(build, cfg, steps=4):
    model = make_layers()
    optimizer = build(model)
    g = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=g)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()]), optimizer


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "RMSprop"])
def test_it_learns_what_fastreids_optimiser_learns(cfg, name):
    cfg.SOLVER.OPT = name
    expected, stock = trained(lambda m: build_fastreid_optimizer(cfg, m, contiguous=False)[0], cfg)
    weights, optimizer = trained(lambda m: build_optimizer(cfg, m), cfg)
    assert torch.allclose(weights, expected, atol=1e-5)
    assert len(optimizer.param_groups) == 5 < len(stock.param_groups) == 8
    assert optimizer.defaults.get("fused", False) is (name != "RMSprop")


def test_switched_off_it_is_fastreids(cfg):
    cfg.SOLVER.FUSED = False
    assert len(build_optimizer(cfg, make_layers()).param_groups) == 8


def test_clipping_and_freezing_work_as_in_fastreid(cfg):
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = True, 0.01
    cfg.MODEL.FREEZE_LAYERS, cfg.SOLVER.FREEZE_ITERS = ["backbone"], 2
    expected, _ = trained(lambda m: build_fastreid_optimizer(cfg, m, contiguous=False)[0], cfg)
    weights, _ = trained(lambda m: build_optimizer(cfg, m), cfg)
    assert torch.allclose(weights, expected, atol=1e-5)


def test_groups_with_equal_settings_are_joined_in_order():
    a, b, c, d = (nn.Parameter(torch.tensor(float(i))) for i in range(4))
    groups = [
        {"params": [a], "lr": 1},
        {"params": [b], "lr": 2},
        {"params": [c], "lr": 1},
        {"params": [d], "lr": 1, "x": 0},
    ]
    merged = merge_groups(groups)
    assert [[p.item() for p in group["params"]] for group in merged] == [[0, 2], [1], [3]]
    assert [(group["lr"], group.get("x")) for group in merged] == [(1, None), (2, None), (1, 0)]
    assert merge_groups([]) == [] and len(groups[0]["params"]) == 1


IMAGES = SimpleNamespace(cameras=np.array([0, 1, 1, -1, 0, 0, 1, 0]))  # of the batch, the images 0 to 7


def with_memories(model):
    """The model with memories that know each image of the batch."""
    model.loss_modules.append(CameraProxyLoss())
    model.heads.memories.update({kind.__name__: kind() for kind in (CameraProxyMemory, InstanceMemory)})
    rows = nn.functional.normalize(torch.randn(8, 8, generator=torch.Generator().manual_seed(2)))
    for memory in model.heads.memories.values():
        memory.fill(rows, torch.arange(8) // 2, IMAGES)
    return model


def rows_of(model):
    return [tensor for memory in model.heads.memories.values() for tensor in memory.kept().values()]


def test_accumulation_with_memories_of_images_equals_the_large_batch(monkeypatch):
    plain, batches, indices = make_model, make_batches, torch.tensor([3, 1, 2, 0, 7, 7, 5, 6])
    monkeypatch.setitem(globals(), "make_model", lambda *args: frozen(with_memories(plain(*args))))
    monkeypatch.setitem(globals(), "make_batches", lambda n: [{**b, "indices": indices} for b in batches(n)])
    expected, actual = gradients_and_memory(1), gradients_and_memory(3)
    assert {"loss_intra", "loss_inter"} < set(expected[0]) and actual[0] == pytest.approx(expected[0], rel=1e-6)
    pairs = zip(actual[1], expected[1])
    assert all(torch.allclose(a, b, rtol=0, atol=3e-6 * b.abs().max().item()) for a, b in pairs)  # rounding of sums
    before = rows_of(make_model())
    for moved, wanted, kept in zip(rows_of(actual[2]), rows_of(expected[2]), before, strict=True):
        assert torch.allclose(moved, wanted, atol=1e-6) and not (kept.is_floating_point() and torch.equal(moved, kept))


def test_step_that_is_not_finite_leaves_memories_of_images_alone():
    model = with_memories(make_model())
    before = [tensor.clone() for tensor in rows_of(model)]
    step = TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.05), CPU, max_skipped=1)
    step.set_loader([{**spoil(make_batches(1)[0]), "indices": torch.arange(8)}])
    step.iter = 0
    step.run_step()
    assert all(torch.equal(a, b) for a, b in zip(rows_of(model), before, strict=True))
