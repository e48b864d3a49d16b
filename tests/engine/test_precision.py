"""What the network computes in: chosen by device and backbone, forced, refused."""

import logging

import pytest
import torch
from torch import nn

from ise_plugin.engine.precision import choose_precision, depthwise_share
from ise_plugin.errors import UsageError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PLAIN = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
DEPTHWISE = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8))


@pytest.fixture
def cpu(monkeypatch):
    def pretend(avx, amx):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)

    return pretend


@pytest.mark.parametrize("avx, amx", [(True, False), (False, True)])
def test_a_cpu_with_bfloat16_uses_it_unless_convolutions_are_depthwise(cpu, caplog, avx, amx):
    cpu(avx, amx)
    with caplog.at_level(logging.INFO, logger="fastreid.ise"):
        assert choose_precision(CPU, True, "auto", PLAIN) is torch.bfloat16
        assert choose_precision(CPU, True, "auto", DEPTHWISE) is torch.float32
    assert "bfloat16, because this CPU has it" in caplog.text and "50% of the convolutions are depthwise" in caplog.text


def test_a_cpu_without_bfloat16_stays_in_float32_and_says_so(cpu, caplog):
    cpu(False, False)
    with caplog.at_level(logging.INFO, logger="fastreid.ise"):
        assert choose_precision(CPU, True, "auto", PLAIN) is torch.float32
    assert "float32, because this CPU has no bfloat16" in caplog.text


@pytest.mark.parametrize("fast, expected", [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_uses_what_it_has(monkeypatch, fast, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: fast)
    assert choose_precision(CUDA, True, "auto", DEPTHWISE) is expected


def test_a_forced_precision_is_taken(cpu, caplog):
    cpu(False, False)
    with caplog.at_level(logging.INFO, logger="fastreid.ise"):
        assert choose_precision(CPU, True, "bfloat16", DEPTHWISE) is torch.bfloat16
    assert "because ISE.PRECISION says bfloat16" in caplog.text


@pytest.mark.parametrize(
    "device, forced", [("cpu", "float16"), ("mps", "float16"), ("mps", "bfloat16"), ("cuda", "bfloat16")]
)
def test_a_forced_precision_that_the_device_lacks_is_refused(monkeypatch, device, forced):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    with pytest.raises(UsageError, match=f"ISE.PRECISION {forced}: .*use"):
        choose_precision(torch.device(device), True, forced, PLAIN)


def test_without_mixed_precision_everything_is_float32():
    assert choose_precision(CPU, False, "bfloat16", PLAIN) is torch.float32


def test_share_of_depthwise_convolutions():
    assert depthwise_share(nn.Linear(2, 2)) == 0 and depthwise_share(PLAIN) == 0 and depthwise_share(DEPTHWISE) == 0.5
    assert depthwise_share(nn.Conv2d(1, 4, 1)) == 0  # a single channel is no choice
