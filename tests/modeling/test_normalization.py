"""Batch norm in groups against the definition, with every backbone that has one. Several processes: tests/test_distributed.py."""

import copy
import sys
import threading

import pytest
import torch
from helpers import BACKBONES
from helpers import backbone_cfg as make_cfg
from torch import nn
from triton_on_cpu import Kernel, load_kernels

from ise_plugin.config import load_cfg
from ise_plugin.errors import UsageError
from ise_plugin.modeling import normalization
from ise_plugin.modeling.build import build_model
from ise_plugin.modeling.normalization import (
    GroupedBatchNorm2d,
    Layout,
    NormalizationGroups,
    Part,
    group_normalization,
)


def grouped(layer, size):
    groups = NormalizationGroups(size)
    group_normalization(layer, groups)
    return layer, groups


def by_definition(x, layer, sizes):
    """Output and the groups' means and unbiased variances, in float64."""
    x = x.double()
    outputs, means, variances = [], [], []
    for part in x.split(sizes):
        values = part.transpose(0, 1).flatten(1)
        mean, variance = values.mean(1), values.var(1, correction=0)
        shape = (1, -1, *[1] * (x.ndim - 2))
        output = (part - mean.view(shape)) / (variance.view(shape) + layer.eps).sqrt()
        outputs.append(output * layer.weight.double().view(shape) + layer.bias.double().view(shape))
        means.append(mean)
        variances.append(values.var(1))
    return torch.cat(outputs), torch.stack(means), torch.stack(variances)


@pytest.mark.parametrize("size, sizes", [(2, [2] * 5), (3, [3, 4, 3]), (5, [5, 5]), (7, [10]), (64, [10])])
@pytest.mark.parametrize("shape", [(10, 3, 4, 2), (10, 3)])
def test_each_group_has_its_own_statistics(size, sizes, shape):
    torch.manual_seed(0)
    x = torch.randn(shape) * 3 + torch.arange(10.0).view(-1, *[1] * (len(shape) - 1))
    layer = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(3, momentum=0.3)
    nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    layer, groups = grouped(layer, size)
    x.requires_grad_()
    expected, means, variances = by_definition(x, layer, sizes)
    probe = torch.randn(shape)
    (expected_gradient,) = torch.autograd.grad((expected * probe).sum(), x)
    with groups.using(groups.layout_of(10)):
        output = layer(x)
    (gradient,) = torch.autograd.grad((output * probe).sum(), x)
    assert torch.allclose(output, expected.float(), atol=1e-5) and torch.allclose(
        gradient, expected_gradient, atol=1e-5
    )
    assert torch.allclose(layer.running_mean, 0.3 * means.mean(0).float(), atol=1e-5)
    assert torch.allclose(layer.running_var, 0.7 + 0.3 * variances.mean(0).float(), rtol=1e-5)
    assert layer.num_batches_tracked == 1


@pytest.fixture
def kernels(monkeypatch):
    """The Triton kernels, interpreted, with tiles that these small images do not fill."""
    kernels = load_kernels()
    for name, value in {"_TILE_ROWS": 4, "_TILE_CHANNELS": 8, "_SPLITS": 4, "_TOTAL_CHANNELS": 4}.items():
        monkeypatch.setattr(kernels, name, value)
    monkeypatch.setattr(normalization, "_kernels", lambda device: kernels)
    Kernel.launches.clear()
    return kernels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(8, 11, 5, 3), (12, 3, 1, 1), (8, 5)], ids=str)
def test_kernels_normalise_all_groups_at_once(kernels, shape, dtype):
    torch.manual_seed(0)
    x = torch.randn(shape) * 3 + 100 * torch.arange(shape[1]).view(-1, *[1] * (len(shape) - 2))  # means far from 0
    x = (x + torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1))).to(dtype)  # no two groups alike
    x = x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.contiguous_format).requires_grad_()
    layer = (nn.BatchNorm2d if x.ndim == 4 else nn.BatchNorm1d)(shape[1], momentum=0.3)
    nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    layer, groups = grouped(layer, 4)
    inputs, sizes = (x, layer.weight, layer.bias), [4] * (shape[0] // 4)
    expected, means, variances = by_definition(x, layer, sizes)
    probe = torch.randn(shape).to(dtype)
    wanted = torch.autograd.grad((expected * probe.double()).sum(), inputs)
    with groups.using(groups.layout_of(shape[0])):
        output = layer(x)
    found = torch.autograd.grad(output, inputs, probe)
    assert Kernel.launches.total() == 6 and output.dtype == found[0].dtype == dtype
    rounding = {torch.float32: 3e-5, torch.bfloat16: 2**-8}[dtype]
    for a, b in zip((output, *found), (expected, *wanted)):
        assert torch.allclose(a.double(), b.double(), rtol=rounding, atol=rounding * b.abs().max().item())
    assert torch.allclose(layer.running_mean.double(), 0.3 * means.mean(0), rtol=1e-6)
    assert torch.allclose(layer.running_var.double(), 0.7 + 0.3 * variances.mean(0), rtol=1e-5)
    assert layer.num_batches_tracked == 1


def test_kernels_add_pieces_of_a_step_to_the_running_statistics(kernels):
    torch.manual_seed(0)
    x, plain = torch.randn(8, 3, 2, 2).contiguous(memory_format=torch.channels_last), nn.BatchNorm2d(3)
    whole, pieces = copy.deepcopy(plain), copy.deepcopy(plain)
    for layer, cuts in ((whole, [(0, 4)]), (pieces, [(0, 2), (2, 4)])):
        layer, groups = grouped(layer, 2)
        for first, last in cuts:
            with groups.using(Layout(groups.layout_of(8).parts[first:last], first == 0)):
                layer(x[2 * first : 2 * last])
    assert Kernel.launches["_pass"] == 3 and pieces.num_batches_tracked == 1
    assert torch.allclose(pieces.running_mean, whole.running_mean, atol=1e-7)
    assert torch.allclose(pieces.running_var, whole.running_var, atol=1e-6)


@pytest.mark.parametrize("images, shape", [(7, (7, 3, 2, 2)), (8, (8, 3, 2, 4))], ids=["unequal", "planes"])
def test_what_kernels_do_not_take_is_normalised_without_them(kernels, images, shape):
    torch.manual_seed(0)
    x = torch.randn(shape)  # one channel after the other
    x = x.contiguous(memory_format=torch.channels_last) if images % 2 else x
    layer, groups = grouped(nn.BatchNorm2d(3), 2)
    layout = groups.layout_of(images)
    with groups.using(layout):
        output = layer(x)
    assert torch.allclose(output, by_definition(x, layer, [p.images for p in layout.parts])[0].float(), atol=1e-5)
    assert not Kernel.launches


def test_kernels_that_cannot_be_used_are_left_and_named_once(monkeypatch, caplog):
    caplog.set_level("INFO")
    kernels, device = load_kernels(), torch.device("cuda", 0)
    kernels.check(torch.device("cpu"))
    monkeypatch.setattr(kernels, "_total_gradients", Kernel(lambda *a, **k: None))
    with pytest.raises(RuntimeError, match="gradient"):
        kernels.check(torch.device("cpu"))
    monkeypatch.delitem(sys.modules, "ise_plugin.modeling._normalization_kernels", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)  # as where it is not installed
    normalization._kernels.cache_clear()
    assert normalization._kernels(device) is None and normalization._kernels(device) is None
    normalization._kernels.cache_clear()
    assert caplog.text.count("one group after the other") == 1 and "triton" in caplog.text


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(64, 256, 32, 16), (12, 70, 9, 5), (8, 2048, 1, 1)], ids=str)
def test_kernels_on_a_gpu_normalise_as_the_definition(shape, dtype):
    assert normalization._kernels(torch.device("cuda", 0)) is not None
    torch.manual_seed(0)
    x = (torch.randn(shape) * 3 + 5).to("cuda", dtype, memory_format=torch.channels_last).requires_grad_()
    layer, groups = grouped(nn.BatchNorm2d(shape[1], momentum=1.0).cuda(), 4)
    inputs, probe = (x, layer.weight, layer.bias), torch.randn(shape, device="cuda").to(dtype)
    expected, means, variances = by_definition(x, layer, [4] * (shape[0] // 4))
    wanted = torch.autograd.grad((expected * probe.double()).sum(), inputs)
    with groups.using(groups.layout_of(shape[0])):
        output = layer(x)
    rounding = {torch.float32: 3e-5, torch.bfloat16: 2**-8, torch.float16: 2**-10}[dtype]
    for a, b in zip((output, *torch.autograd.grad(output, inputs, probe)), (expected, *wanted)):
        assert torch.allclose(a.double(), b.double(), rtol=rounding, atol=rounding * b.abs().max().item())
    assert torch.allclose(layer.running_mean.double(), means.mean(0), rtol=1e-5)
    assert torch.allclose(layer.running_var.double(), variances.mean(0), rtol=1e-5)


class Threads:
    """``torch.distributed`` among threads, for what a group exchanges."""

    def __init__(self, count):
        self.barrier, self.given, self.me = threading.Barrier(count, timeout=60), {}, threading.local()

    def exchanged(self, tensor):
        self.given[self.me.rank] = tensor.clone()
        self.barrier.wait()
        found = [self.given[r] for r in sorted(self.given)]
        self.barrier.wait()
        return found

    def all_gather(self, outputs, tensor, group):
        for output, found in zip(outputs, self.exchanged(tensor)):
            output.copy_(found)

    def all_reduce(self, tensor, group):
        tensor.copy_(sum(self.exchanged(tensor)))


def torchs_synchronised_kernels():
    """What torch documents its CUDA kernels of SyncBatchNorm to give, in plain words."""
    dims, line = (0, 2, 3), (1, -1, 1, 1)

    def gather(x, means, scales, running_mean, running_var, momentum, eps, counts):
        weights = (counts / counts.sum()).unsqueeze(1)
        mean = (weights * means).sum(0)
        variance = (weights * (scales**-2 - eps + (means - mean) ** 2)).sum(0)
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(variance * counts.sum() / (counts.sum() - 1), momentum)
        return mean, (variance + eps).rsqrt()

    def reduce(gradient, x, mean, scale, weight, *wanted):
        products = (gradient * (x - mean.view(line))).sum(dims)
        return gradient.sum(dims), products, products * scale, gradient.sum(dims)

    def elemt(gradient, x, mean, scale, weight, sums, products, counts):
        assert counts.dtype == torch.int32
        inner = gradient - (sums / counts.sum()).view(line)
        inner -= (x - mean.view(line)) * (scale**2 * products / counts.sum()).view(line)
        return inner * (scale * weight).view(line)

    return {
        "batch_norm_stats": lambda x, eps: (x.mean(dims), (x.var(dims, correction=0) + eps).rsqrt()),
        "batch_norm_gather_stats_with_counts": gather,
        "batch_norm_elemt": lambda x, w, b, m, s, eps: (x - m.view(line)) * (s * w).view(line) + b.view(line),
        "batch_norm_backward_reduce": reduce,
        "batch_norm_backward_elemt": elemt,
    }


def test_torchs_synchronised_kernels_are_put_together_rightly(monkeypatch):
    for name, function in torchs_synchronised_kernels().items():
        monkeypatch.setattr(torch, name, function)
    members = (2, 3)
    threads = Threads(len(members))
    monkeypatch.setattr(normalization, "dist", threads)
    torch.manual_seed(0)
    x, probe, layer = torch.randn(5, 3, 4, 2, requires_grad=True), torch.randn(5, 3, 4, 2), nn.BatchNorm2d(3)
    nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    expected, means, variances = by_definition(x, layer, [5])
    wanted = torch.autograd.grad((expected * probe).sum(), (x, layer.weight, layer.bias))
    found = {}

    def one(rank):
        threads.me.rank = rank
        own, part = x.detach().split(members)[rank].requires_grad_(), Part(members[rank], 1.0, members, "both")
        output, mean, variance = normalization._normalize_on_cuda(own, part, layer.weight, layer.bias, layer.eps)
        inputs, slope = (own, layer.weight, layer.bias), probe.split(members)[rank]
        found[rank] = output, mean, variance, torch.autograd.grad(output, inputs, slope)

    workers = [threading.Thread(target=one, args=(rank,)) for rank in range(2)]
    [worker.start() for worker in workers], [worker.join() for worker in workers]
    (first, mean, variance, a), (second, *_, b) = found[0], found[1]
    assert torch.allclose(torch.cat([first, second]), expected.float(), atol=1e-5)
    assert torch.allclose(mean, means[0].float(), atol=1e-6) and torch.allclose(variance, variances[0].float())
    gradients = torch.cat([a[0], b[0]]), a[1] + b[1], a[2] + b[2]
    assert all(torch.allclose(g, w.float(), atol=1e-5) for g, w in zip(gradients, wanted))


def test_one_group_is_torchs_batch_norm_to_the_bit():
    torch.manual_seed(0)
    x, plain = torch.randn(6, 3, 4, 2), nn.BatchNorm2d(3)
    layer, groups = grouped(copy.deepcopy(plain), 6)
    with groups.using(groups.layout_of(6)):
        assert torch.equal(layer(x), plain(x))
    assert all(torch.equal(a, b) for a, b in zip(layer.state_dict().values(), plain.state_dict().values()))
    assert torch.equal(layer.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_channels_last_images_have_exact_statistics_and_gradients(dtype):
    """Most pixels alike, as padding and erased rectangles are: sums in float32, one value after the other, are far off then."""
    torch.manual_seed(0)
    x = torch.where(torch.rand(16, 4, 64, 48) < 0.8, torch.tensor(2.1), torch.randn(16, 4, 64, 48)).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    layer, groups = grouped(nn.BatchNorm2d(4, momentum=1.0), 16)
    expected, means, variances = by_definition(x, layer, [16])
    probe = torch.randn_like(expected)
    inputs = (x, layer.weight, layer.bias)
    wanted = torch.autograd.grad((expected * probe).sum(), inputs)
    with groups.using(groups.layout_of(16)):
        output = layer(x)
    assert output.dtype == dtype and output.is_contiguous(memory_format=torch.channels_last)
    rounding = {torch.float32: 2e-6, torch.bfloat16: 2**-8}[dtype]
    close = dict(rtol=rounding, atol=rounding)
    assert torch.allclose(output.double(), expected, **close)
    for found, gradient in zip(torch.autograd.grad((output.float() * probe.float()).sum(), inputs), wanted):
        assert torch.allclose(
            found.double(), gradient.double(), rtol=1e-3, atol=2 * rounding * gradient.abs().max().item()
        )
    assert torch.allclose(layer.running_mean.double(), means[0], rtol=1e-6)  # statistics are float32 in either case
    assert torch.allclose(layer.running_var.double(), variances[0], rtol=1e-6)
    if dtype == torch.float32:
        naive = nn.functional.batch_norm(x, None, None, layer.weight, layer.bias, True)
        assert not torch.allclose(naive.double(), expected, rtol=1e-4, atol=1e-4)  # what this is for


def test_pieces_of_a_step_move_the_running_statistics_as_the_whole():
    torch.manual_seed(0)
    x, plain = torch.randn(12, 3, 2, 2), nn.BatchNorm2d(3)
    whole, groups = grouped(copy.deepcopy(plain), 3)
    with groups.using(groups.layout_of(12)):
        expected = whole(x)
    pieces, groups = grouped(copy.deepcopy(plain), 3)
    parts, outputs = groups.layout_of(12).parts, []
    for images, chunk in ((x[:3], parts[:1]), (x[3:], parts[1:])):
        with groups.using(Layout(chunk, chunk is parts[:1] or len(chunk) == 1)):
            outputs.append(pieces(images))
    assert torch.allclose(torch.cat(outputs), expected, atol=1e-6)
    assert torch.allclose(pieces.running_mean, whole.running_mean) and torch.allclose(
        pieces.running_var, whole.running_var
    )
    assert pieces.num_batches_tracked == whole.num_batches_tracked == 1


def test_cumulative_average_without_momentum():
    torch.manual_seed(0)
    layer, groups = grouped(nn.BatchNorm2d(3, momentum=None), 2)
    batches = torch.randn(3, 4, 3, 5, 5)
    for x in batches:
        with groups.using(groups.layout_of(4)):
            layer(x)
    assert torch.allclose(layer.running_mean, batches.mean((0, 1, 3, 4)), atol=1e-6)


@pytest.mark.parametrize("name, depth, channels, keys", BACKBONES, ids=lambda value: str(value))
def test_every_batch_norm_of_every_backbone_is_grouped(name, depth, channels, keys):
    cfg = make_cfg(name, depth, channels, keys)
    cfg.ISE.BN_GROUP_SIZE = 0
    torch.manual_seed(0)
    plain = build_model(cfg).train()
    cfg.ISE.BN_GROUP_SIZE = 4
    torch.manual_seed(0)
    model = build_model(cfg).train()
    found = {n: m for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert "heads.bottleneck.0" in found and all(m.groups is model.normalization for m in found.values())
    assert len(found) == sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in plain.modules())
    assert not model.heads.bottleneck[0].bias.requires_grad  # frozen as before
    batch = {"images": torch.rand(8, 3, 128, 64) * 255, "targets": torch.arange(8) // 4}
    seen = {}
    for label, network in (("grouped", model), ("plain", plain)):
        for module in network.modules():
            if isinstance(module, (nn.Dropout, nn.Dropout2d)) or type(module).__name__ == "DropPath":
                module.eval()  # what is left out is drawn for the whole batch at once
        with torch.no_grad():
            if label == "grouped":
                seen[label] = network.embed(batch)
            else:
                network.backbone.double()  # torch's sums in float32 are no reference
                network.pixel_mean, network.pixel_std = network.pixel_mean.double(), network.pixel_std.double()
                seen[label] = torch.cat([network.embed({k: v[i : i + 4] for k, v in batch.items()}) for i in (0, 4)])
    # rounding of a hundred layers in float32 is up to 3.5e-4; one group instead of two is a hundred times that
    assert torch.allclose(seen["grouped"], seen["plain"], atol=7e-4)


@pytest.mark.parametrize("norm", ["FrozenBN", "GhostBN", "syncBN"])
def test_norms_with_a_rule_of_their_own_stay(norm):
    cfg = make_cfg("resnet", "18x", 512, {"NORM": norm})
    model = build_model(cfg)
    assert not any(isinstance(m, GroupedBatchNorm2d) for m in model.backbone.modules())


def test_a_copied_network_normalises_by_itself():
    model = build_model(make_cfg("resnet", "18x", 512, {}))
    twin = copy.deepcopy(model)
    assert twin.backbone.bn1.groups is twin.normalization is not model.normalization
    assert twin.normalization.size == model.normalization.size


@pytest.mark.parametrize(
    "opts, word", [(("ISE.BN_GROUP_SIZE", "1"), "at least 2"), (("SOLVER.ACCUMULATE", "8"), "pieces of 32")]
)
def test_impossible_groups_are_refused(opts, word):
    with pytest.raises(UsageError, match=f"{word}.*ISE.BN_GROUP_SIZE|ISE.BN_GROUP_SIZE.*{word}"):
        load_cfg(None, ["DATASETS.NAMES", "('Market1501',)", "SOLVER.IMS_PER_BATCH", "256", *opts])
