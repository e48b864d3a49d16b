"""Instance norm keeps the layout of its images, and is torch's otherwise."""

import copy

import pytest
import torch
from fastreid.layers import IBN
from helpers import backbone_cfg
from torch import nn

from ise_plugin.modeling.build import build_model
from ise_plugin.modeling.instance_norm import ChannelsLastInstanceNorm2d, keep_channels_last


def images(dtype=torch.float32, size=(4, 6, 5, 3)):
    x = torch.randn(size, generator=torch.Generator().manual_seed(1)) * 3 + 7
    return x.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()


def norms(make):
    """As fastreid has it, and as it is made here, with drawn weights."""
    torch.manual_seed(0)
    plain = make().train()
    for parameter in plain.parameters():
        nn.init.normal_(parameter, 1.0)
    ours = nn.Sequential(copy.deepcopy(plain))
    keep_channels_last(ours)
    return plain, ours[0]


NORMS = {"instance": lambda: nn.InstanceNorm2d(6, affine=True), "IBN": lambda: IBN(6, "BN")}


@pytest.mark.parametrize("make", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_gradients_are_those_of_the_contiguous_one(make, training):
    plain, ours = (norm.train(training).double() for norm in norms(make))
    x, y = images(torch.float64), images(torch.float64)
    weights = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected, actual = plain(x), ours(y)
    assert torch.allclose(actual, expected, atol=1e-5) and list(ours.state_dict()) == list(plain.state_dict())
    (expected * weights).sum().backward()
    (actual * weights).sum().backward()
    assert torch.allclose(y.grad, x.grad, atol=1e-5)
    for a, b in zip(ours.parameters(), plain.parameters()):
        assert torch.allclose(a.grad, b.grad, rtol=1e-5, atol=1e-5)
    for tensor in (actual, y.grad):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_half_precision_has_statistics_in_full():
    _, ours = norms(NORMS["instance"])
    x = images(torch.bfloat16, (2, 6, 64, 32))
    expected = nn.functional.instance_norm(x.double(), weight=ours.weight.double(), bias=ours.bias.double())
    output = ours(x)
    output.float().sum().backward()
    assert output.dtype == x.grad.dtype == torch.bfloat16
    assert torch.allclose(output.double(), expected, rtol=2**-8, atol=2**-8)


def test_contiguous_images_stay_contiguous():
    _, ours = norms(NORMS["IBN"])
    assert ours(images().contiguous()).is_contiguous()


def test_others_are_left_alone():
    norm = nn.Sequential(nn.InstanceNorm2d(3), nn.InstanceNorm2d(3, affine=True, track_running_stats=True))
    keep_channels_last(norm)
    assert not any(isinstance(layer, ChannelsLastInstanceNorm2d) for layer in norm)


@pytest.mark.parametrize("name, depth", [("resnet", "50x"), ("resnext", "101x")])
def test_every_convolution_of_an_ibn_network_is_given_channels_last_images(name, depth):
    model = build_model(backbone_cfg(name, depth, 2048, {"WITH_IBN": True})).train()
    convolutions = {name: layer for name, layer in model.backbone.named_modules() if isinstance(layer, nn.Conv2d)}
    wrong = []

    def note(name):
        def hook(_, given, output):
            wrong.extend(name for t in (*given, output) if not t.is_contiguous(memory_format=torch.channels_last))
            output.register_hook(
                lambda gradient: wrong.extend([name] * (not gradient.is_contiguous(memory_format=torch.channels_last)))
            )

        return hook

    for name, layer in convolutions.items():
        layer.register_forward_hook(note(name))
    model.embed({"images": torch.randint(256, (2, 3, 64, 32), dtype=torch.uint8)}).sum().backward()
    assert wrong == []


def test_a_traced_network_holds_torchs_own_operation():
    _, ours = norms(NORMS["instance"])
    x = images()
    with torch.no_grad():
        traced = torch.jit.trace(ours, x, check_trace=False)
        assert torch.allclose(traced(x), ours(x), atol=1e-5) and "aten::instance_norm" in str(traced.graph)
