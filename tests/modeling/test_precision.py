"""What the network computes in: chosen by device, forced, refused; layers that stay in float32."""

import copy
import logging

import pytest
import torch
from helpers import CONFIGS, backbone_cfg
from torch import nn

import ise_plugin.modeling.build as build_module
from ise_plugin.config import load_cfg
from ise_plugin.errors import UsageError
from ise_plugin.modeling.build import build_model
from ise_plugin.modeling.precision import (
    Float32GradientConv2d,
    choose_precision,
    full_float32,
    rounding_noise,
    spare_slow_gradients,
    take_out_constants,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SIZE = (16, 8)


def backbone(mean=0.0):
    """A convolution whose normalisation subtracts a mean of so many standard deviations."""
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4, eps=0.0), nn.ReLU())
    layers[1].running_mean[2] = mean * 5
    layers[1].running_var.fill_(25.0)
    return layers


def choose(device, mixed, forced, mean=0.0):
    return choose_precision(device, mixed, forced, backbone(mean), SIZE)


@pytest.fixture
def cpu(monkeypatch):
    def pretend(avx, amx):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)

    return pretend


@pytest.mark.parametrize("avx, amx", [(True, False), (False, True)])
def test_a_cpu_with_bfloat16_uses_it(cpu, caplog, avx, amx):
    cpu(avx, amx)
    with caplog.at_level(logging.INFO, logger="fastreid.ise"):
        assert choose(CPU, True, "auto") is torch.bfloat16
    assert "bfloat16, because this CPU has it" in caplog.text


def test_a_cpu_without_bfloat16_stays_in_float32_and_says_so(cpu, caplog):
    cpu(False, False)
    with caplog.at_level(logging.INFO, logger="fastreid.ise"):
        assert choose(CPU, True, "auto") is torch.float32
    assert "float32, because this CPU has no bfloat16" in caplog.text


@pytest.mark.parametrize("fast, expected", [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_uses_what_it_has(monkeypatch, fast, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: fast)
    assert choose(CUDA, True, "auto") is expected


def test_a_forced_precision_is_taken(cpu, caplog):
    cpu(False, False)
    with caplog.at_level(logging.INFO, logger="fastreid.ise"):
        assert choose(CPU, True, "bfloat16") is torch.bfloat16
    assert "because ISE.PRECISION says bfloat16" in caplog.text


@pytest.mark.parametrize(
    "device, forced", [("cpu", "float16"), ("mps", "float16"), ("mps", "bfloat16"), ("cuda", "bfloat16")]
)
def test_a_forced_precision_that_the_device_lacks_is_refused(monkeypatch, device, forced):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    with pytest.raises(UsageError, match=f"ISE.PRECISION {forced}: .*use"):
        choose(torch.device(device), True, forced)


def test_a_backbone_that_loses_too_much_by_rounding_stays_in_float32(cpu, caplog):
    cpu(True, False)
    with caplog.at_level(logging.WARNING, logger="fastreid.ise"):
        assert choose(CPU, True, "auto", mean=100) is torch.bfloat16 and not caplog.text
        assert choose(CPU, True, "auto", mean=200) is torch.float32
    assert "rounding of bfloat16 would be 0.4 times the signal after the backbone's layer 1;" in caplog.text
    assert "ISE.PRECISION bfloat16" in caplog.text
    assert choose(CPU, True, "bfloat16", mean=200) is torch.bfloat16


def test_rounding_noise_is_the_noise_that_rounding_leaves():
    torch.manual_seed(0)
    layers = backbone(mean=200)
    with torch.no_grad():
        layers[0].bias[2] = 1000.0
        layers[0].weight[2] *= 25 / layers[0](torch.randn(64, 3, *SIZE))[:, 2].std()
        outputs = layers[0](torch.randn(64, 3, *SIZE))
    error = (outputs.bfloat16().float() - outputs).abs().amax((0, 2, 3)) / 5
    noise, layer = rounding_noise(layers, torch.bfloat16, SIZE)
    # one of four channels has it all, and a quarter of the layer's variance
    assert layer == "1" and noise == pytest.approx(200 * 2**-8 / 2) and 0.3 * noise < error[2] / 2 <= 1.3 * noise
    assert rounding_noise(layers, torch.float16, SIZE).deviations == pytest.approx(noise / 8)
    layers[1].weight.data[2] = 0.1  # a channel counts as much as it puts out
    assert rounding_noise(layers, torch.bfloat16, SIZE).deviations == pytest.approx(200 * 2**-8 * 0.1 / 3.01**0.5)


def resnet(dead):
    """ResNet-50 with the statistics that it has on drawn images, and in the first block channels as ImageNet's has them: one
    that no image moves, by its weight, and constants made of it, of which the normalisation keeps nothing."""
    torch.manual_seed(0)
    layers = build_model(backbone_cfg("resnet", "50x", 2048, {})).backbone
    block = layers.layer1[0]
    with torch.no_grad():
        if dead:
            block.bn1.weight[:8], block.bn1.bias[:8] = 1e-8, 1.0
            block.conv2.weight[:8] = 0.0
            block.conv2.weight[range(8), range(8), 1, 1] = torch.linspace(0.5, 4, 8)
        for norm in (m for m in layers.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.momentum = 1.0
        images = nn.functional.interpolate(torch.randn(8, 3, 16, 8), scale_factor=4, mode="bicubic")
        for _ in range(2):  # the second time with what the first has found
            layers.train()(images)
    return layers.eval(), images


def test_dead_channels_take_no_precision_from_a_network(cpu, caplog):
    cpu(True, False)
    lost = []
    for dead in (False, True):
        layers, images = resnet(dead)
        assert choose_precision(CPU, True, "auto", layers, (64, 32)) is torch.bfloat16
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            full = layers(images)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            lost.append(((layers(images).float() - full).norm() / (full - full.mean(0)).norm()).item())
    norm = layers.layer1[0].bn2
    assert (norm.running_mean / (norm.running_var + norm.eps).sqrt()).max() > 1000  # of deviations that no image has
    assert lost[1] < 1.1 * lost[0]
    assert "computing in float32" not in caplog.text


@pytest.mark.parametrize("taken, expected", [(True, torch.bfloat16), (False, torch.float32)])
def test_imagenets_mobilenet_loses_its_signal_unless_its_constant_is_taken_out(
    monkeypatch, cpu, caplog, taken, expected
):
    cpu(True, False)
    if not taken:
        monkeypatch.setattr(build_module, "take_out_constants", lambda *_: 0)
    cfg = load_cfg(str(CONFIGS / "ISE/synthetic_mobilenetv2.yml"), ["MODEL.DEVICE", "cpu"])
    assert choose_precision(CPU, True, "auto", build_model(cfg).backbone, cfg.INPUT.SIZE_TRAIN) is expected
    assert ("1.8 times the signal after the backbone's layer features.2.conv.1" in caplog.text) is not taken


def test_full_float32_is_no_tf32_and_ends():
    now = lambda: torch.backends.cudnn.conv.fp32_precision  # noqa: E731
    before = now()
    with pytest.raises(KeyError), full_float32():
        assert now() == "ieee"
        raise KeyError
    assert now() == before


def test_rounding_noise_leaves_the_backbone_as_it_was():
    layers = backbone(mean=7)
    layers[2].eval()
    before = copy.deepcopy(layers.state_dict())
    rounding_noise(layers, torch.bfloat16, SIZE)
    assert [m.training for m in layers] == [True, True, False]
    assert all(torch.equal(before[k], v) for k, v in layers.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in layers)


def test_without_normalisation_after_a_convolution_there_is_no_noise():
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), backbone()[1])
    assert rounding_noise(layers, torch.bfloat16, SIZE).deviations == 0


def test_without_mixed_precision_everything_is_float32():
    assert choose(CPU, False, "bfloat16") is torch.float32


def mobile_layers():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),  # not depthwise
        nn.Conv2d(8, 8, 3, padding=1, groups=8),  # neither stride nor large kernel
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
        nn.Conv2d(8, 8, 5, padding=2, groups=8),
        nn.Conv2d(8, 4, 1),
    )


def test_depthwise_layers_with_stride_or_large_kernel_are_spared(caplog):
    layers = mobile_layers()
    names = list(layers.state_dict())
    with caplog.at_level(logging.INFO, logger="fastreid.ise"):
        assert spare_slow_gradients(layers, CPU, torch.bfloat16) == 2
    assert [type(layer) is Float32GradientConv2d for layer in layers] == [False, False, True, True, False]
    assert list(layers.state_dict()) == names and "2 depthwise convolutions" in caplog.text


@pytest.mark.parametrize("device, precision", [(CPU, torch.float32), (CUDA, torch.bfloat16), (CUDA, torch.float16)])
def test_nothing_is_spared_elsewhere(device, precision):
    assert spare_slow_gradients(mobile_layers(), device, precision) == 0


def test_a_spared_layer_computes_in_float32_only_while_training():
    layers = mobile_layers()
    spare_slow_gradients(layers, CPU, torch.bfloat16)
    layer, plain = layers[2], mobile_layers()[2]
    images = torch.randn(2, 8, 9, 9).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        trained = layer(images)
        with torch.no_grad():
            evaluated, expected = layer(images), plain(images)
    assert trained.dtype == torch.bfloat16
    assert torch.equal(trained, plain(images.float()).bfloat16()) and torch.equal(evaluated, expected)
    trained.float().sum().backward()
    plain(images.float()).sum().backward()
    assert torch.allclose(layer.weight.grad, plain.weight.grad, rtol=1e-2)


def test_a_spared_layer_is_a_plain_one_without_autocast():
    layers, plain = mobile_layers(), mobile_layers()
    spare_slow_gradients(layers, CPU, torch.bfloat16)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(copy.deepcopy(layers)(images), plain(images))


def bottleneck(bias, residual=False):
    """Normalisation with a large bias, 1 x 1 convolution, normalisation that subtracts it again; maybe with a second use."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
            self.expand = nn.Sequential(nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
            self.stem[1].bias.data[1] = bias
            self.expand[1].running_mean.copy_(self.expand[0].weight[:, 1, 0, 0].detach() * bias)

        def forward(self, images):
            features = self.stem(images)
            expanded = self.expand(features)
            return torch.cat([expanded, features], dim=1) if residual else expanded

    torch.manual_seed(0)
    return Network()


@pytest.mark.parametrize("training", [True, False])
def test_constants_are_taken_out_of_an_equal_network(training):
    network = bottleneck(1e4).double().train(training)
    images = torch.rand(4, 3, *SIZE, dtype=torch.float64)
    expected = copy.deepcopy(network)(images)
    assert rounding_noise(network, torch.bfloat16, SIZE).deviations > 1
    assert take_out_constants(network, SIZE) == 1
    assert rounding_noise(network, torch.bfloat16, SIZE).deviations < 1e-6
    assert network.training == training and torch.allclose(network(images), expected, atol=1e-6)


def test_a_constant_that_is_used_elsewhere_stays():
    network = bottleneck(1e4, residual=True).eval()
    before = copy.deepcopy(network.state_dict())
    assert take_out_constants(network, SIZE) == 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_network_without_large_constants_stays():
    network = bottleneck(0.1).eval()
    before = copy.deepcopy(network.state_dict())
    assert take_out_constants(network, SIZE) == 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
