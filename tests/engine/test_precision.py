"""What the network computes in: chosen by device, forced, refused; layers that stay in float32."""

import copy
import logging

import pytest
import torch
from torch import nn

from ise_plugin.engine.precision import Float32GradientConv2d, choose_precision, spare_slow_gradients
from ise_plugin.errors import UsageError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


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
        assert choose_precision(CPU, True, "auto") is torch.bfloat16
    assert "bfloat16, because this CPU has it" in caplog.text


def test_a_cpu_without_bfloat16_stays_in_float32_and_says_so(cpu, caplog):
    cpu(False, False)
    with caplog.at_level(logging.INFO, logger="fastreid.ise"):
        assert choose_precision(CPU, True, "auto") is torch.float32
    assert "float32, because this CPU has no bfloat16" in caplog.text


@pytest.mark.parametrize("fast, expected", [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_uses_what_it_has(monkeypatch, fast, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: fast)
    assert choose_precision(CUDA, True, "auto") is expected


def test_a_forced_precision_is_taken(cpu, caplog):
    cpu(False, False)
    with caplog.at_level(logging.INFO, logger="fastreid.ise"):
        assert choose_precision(CPU, True, "bfloat16") is torch.bfloat16
    assert "because ISE.PRECISION says bfloat16" in caplog.text


@pytest.mark.parametrize(
    "device, forced", [("cpu", "float16"), ("mps", "float16"), ("mps", "bfloat16"), ("cuda", "bfloat16")]
)
def test_a_forced_precision_that_the_device_lacks_is_refused(monkeypatch, device, forced):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    with pytest.raises(UsageError, match=f"ISE.PRECISION {forced}: .*use"):
        choose_precision(torch.device(device), True, forced)


def test_without_mixed_precision_everything_is_float32():
    assert choose_precision(CPU, False, "bfloat16") is torch.float32


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
