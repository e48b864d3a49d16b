"""What the network computes in."""

import logging
from typing import Callable, ContextManager, NamedTuple, Sequence

import torch
from torch import nn

from ..errors import UsageError
from ..utils.memory import precision_name
from ..utils.precision import without_tf32

logger = logging.getLogger("fastreid.ise.precision")

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Depthwise convolutions up to this kernel size have a fast gradient in bfloat16 on CPUs (docs/benchmarks.md).
_LARGEST_FAST_KERNEL = 3
# Rounding noise that lower precision may leave after a normalisation. Unit: deviations of what the layer puts out. ImageNet's
# MobileNetV2 has 1.8 after one layer in bfloat16 and learns worse in it (docs/benchmarks.md), 0.01 at most after the others;
# an OSNet trained on people 0.03.
_LARGEST_NOISE = 0.25
# Means of so many deviations are taken out of a network (:func:`take_out_constants`): in bfloat16 they would leave noise of
# 0.04 deviations, well below the bound above.
_LARGEST_RATIO = 20.0
# Relative difference of outputs that is rounding and no other function.
_SAME = 1e-4


def choose_precision(
    device: torch.device, mixed: bool, forced: str, backbone: nn.Module, image_size: Sequence[int]
) -> torch.dtype:
    """What to compute in: float32, or in mixed precision what the device is fast in if this backbone learns well in it.

    A choice for mixed precision is logged with its reason; float32 on a device that is faster in another is warned of.

    Args:
        mixed: ``SOLVER.AMP.ENABLED``.
        forced: ``ISE.PRECISION``, a key of :data:`PRECISIONS` or "auto".
        backbone: with the weights that training starts from.
        image_size: (height, width) of its images.

    Raises:
        UsageError: the forced precision is one that this device does not compute in.
    """
    if not mixed:
        return torch.float32
    if forced == "auto":
        choice, reason = _fastest(device)
        noise = rounding_noise(backbone, choice, image_size)
        if noise.deviations > _LARGEST_NOISE:
            name = precision_name(choice)
            logger.warning(
                f"SOLVER.AMP.ENABLED: computing in float32, which is slower here than {name}, because with these weights the "
                f"rounding of {name} would be {noise.deviations:.1f} times the signal after the backbone's layer {noise.layer}; "
                f"ISE.PRECISION {name} computes in it all the same"
            )
            return torch.float32
    else:
        choice, reason = PRECISIONS[forced], f"ISE.PRECISION says {forced}"
        _check_support(device, choice)
    logger.info(f"SOLVER.AMP.ENABLED: computing in {precision_name(choice)}, because {reason}")
    return choice


class Float32GradientConv2d(nn.Conv2d):
    """A convolution that bfloat16 autocast on the CPU computes in float32 while training, in bfloat16 without gradients."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not (torch.is_grad_enabled() and input.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            output = super().forward(input.float())
        return output.to(torch.get_autocast_dtype("cpu"))


def spare_slow_gradients(backbone: nn.Module, device: torch.device, precision: torch.dtype) -> int:
    """Takes out of bfloat16, in place, the layers that a CPU trains many times slower in it; says how many and returns that.

    They are depthwise convolutions with a stride or a large kernel: oneDNN (torch 2.13) has no fast bfloat16 gradient for
    them, which alone makes MobileNet, ShuffleNet and EfficientNet slower in bfloat16 than in float32, and without which they
    are faster. Names in the state dict stay.
    """
    if device.type != "cpu" or precision != torch.bfloat16:
        return 0
    slow = [layer for layer in backbone.modules() if type(layer) is nn.Conv2d and _has_slow_gradient(layer)]
    for layer in slow:
        layer.__class__ = Float32GradientConv2d
    if slow:
        logger.info(f"{len(slow)} depthwise convolutions train in float32: their bfloat16 gradient is slow on CPUs")
    return len(slow)


@torch.no_grad()
def take_out_constants(backbone: nn.Module, image_size: Sequence[int]) -> int:
    """Takes constants out of a network that its next normalisation subtracts again; same function. Returns how many.

    Where the bias of one batch normalisation passes through a 1 x 1 convolution into another, the second sees a constant
    that may be a thousand times its channels' deviation (ImageNet's MobileNetV2: 1,556 in its second block). Subtracting it
    leaves rounding: a thousandth of a deviation in float32, all of the signal in bfloat16, and runs that differ with the
    number of threads from the first step on. Here the bias moves into the second normalisation's running mean, in place.
    A change after which the network gives other outputs (the bias was used elsewhere as well) is undone.

    Args:
        backbone: with the weights that training starts from; left in the mode it was in.
        image_size: (height, width) of images that it takes.
    """
    images = torch.rand(2, 3, *image_size, generator=torch.Generator().manual_seed(0))
    images = images.to(next(backbone.parameters()))
    taken = 0
    for first, conv, second in _normalised_twice(backbone, images):
        if _largest_ratio(second) <= _LARGEST_RATIO:
            continue
        before = _watch(backbone, images)
        bias, mean = first.bias.clone(), second.running_mean.clone()
        second.running_mean -= conv.weight[:, :, 0, 0] @ bias
        first.bias.zero_()
        if torch.allclose(_watch(backbone, images), before, rtol=_SAME, atol=_SAME * before.abs().max().item()):
            taken += 1
        else:
            first.bias.copy_(bias)
            second.running_mean.copy_(mean)
    return taken


def _largest_ratio(norm: nn.Module) -> float:
    """Of a channel's mean to its deviation."""
    return (norm.running_mean.abs() / (norm.running_var + norm.eps).sqrt()).max().item()


def _normalised_twice(backbone: nn.Module, images: torch.Tensor) -> list[tuple]:
    """(normalisation, 1 x 1 convolution, normalisation) where the output of each is the input of the next."""
    made_by, found = {}, []

    def note(layer: nn.Module, given: torch.Tensor, output: torch.Tensor) -> None:
        source = made_by.get(id(given), ())
        if isinstance(layer, nn.Conv2d):
            plain = (
                set(layer.kernel_size) == {1} and layer.groups == 1 and layer.bias is None and not any(layer.padding)
            )
            made_by[id(output)] = (*source, layer) if plain and len(source) == 1 else ()
        elif layer.bias is not None:
            if len(source) == 2:
                found.append((*source, layer))
            made_by[id(output)] = (layer,)

    _watch(backbone, images, note)
    return found


@torch.no_grad()
def run_once(backbone: nn.Module, image_size: Sequence[int], note: Callable = lambda *_: None) -> None:
    """One black image through a backbone in evaluation mode, which leaves it as it was; ``note`` as for :func:`_watch`."""
    _watch(backbone, next(backbone.parameters()).new_zeros(1, 3, *image_size), note)


def _watch(backbone: nn.Module, images: torch.Tensor, note: Callable = lambda *_: None) -> torch.Tensor:
    """The backbone's output for images, in evaluation mode; ``note(layer, input, output)`` is told of convolutions and
    normalisations as they run."""
    alive = []  # or another output could get the address of one that is gone

    def hook(layer, inputs, output):
        alive.append(output)
        note(layer, inputs[0], output)

    training = {module: module.training for module in backbone.modules()}
    layers = [m for m in training if isinstance(m, nn.Conv2d) or getattr(m, "running_mean", None) is not None]
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        return backbone.eval().forward(images)  # not a call, which might be compiled
    finally:
        for handle in handles:
            handle.remove()
        for module, was_training in training.items():
            module.training = was_training


class Noise(NamedTuple):
    """What rounding leaves in the worst layer."""

    deviations: float  # of its output, >= 0
    layer: str  # the normalisation's name in the backbone; empty where there is none


@torch.no_grad()
def rounding_noise(backbone: nn.Module, precision: torch.dtype, image_size: Sequence[int]) -> Noise:
    """How much of a convolution's rounding is left after the batch normalisation that follows it, in the worst layer.

    A convolution's output is rounded relative to its size, and the normalisation then subtracts the mean: where a channel's
    mean is many times its standard deviation, rounding is all that remains. The channels of a layer are averaged (root mean
    square), each with its share in the variance of the layer's output: dead channels, of which ImageNet's ResNets have many,
    have means of any number of their deviations, but add nothing, and the rounding of a constant is a constant.

    Args:
        backbone: its running statistics are taken for the channels' means and variances.
        precision: of the convolutions' outputs.
        image_size: (height, width) of images that it takes.

    Returns:
        The noise; 0 where no batch normalisation follows a convolution directly.
    """
    names = {layer: name for name, layer in backbone.named_modules()}
    outputs, found = set(), [Noise(0.0, "")]

    def note(layer: nn.Module, given: torch.Tensor, output: torch.Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            outputs.add(id(output))
        elif id(given) in outputs:
            found.append(Noise(torch.finfo(precision).eps / 2 * _mean_ratio(layer), names[layer]))

    run_once(backbone, image_size, note)
    return max(found)


def _mean_ratio(norm: nn.Module) -> float:
    """Of the channels' means to their deviations, as they count in the output."""
    variance = norm.running_var + norm.eps
    ratios, weights = norm.running_mean.square() / variance, norm.running_var / variance
    weights = weights if norm.weight is None else weights * norm.weight.square()
    return ((weights * ratios).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)).sqrt().item()


def full_float32() -> ContextManager:
    """No TF32 inside, which cuDNN's float32 convolutions are rounded to by default on GPUs that have it."""
    cudnn = torch.backends.cudnn
    return without_tf32(getattr(cudnn, "conv", cudnn))  # torch >= 2.9 has a setting for convolutions alone


def _has_slow_gradient(layer: nn.Conv2d) -> bool:
    depthwise = layer.groups == layer.in_channels > 1
    return depthwise and (max(layer.stride) > 1 or max(layer.kernel_size) > _LARGEST_FAST_KERNEL)


def _fastest(device: torch.device) -> tuple[torch.dtype, str]:
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return (torch.bfloat16, "this GPU has it") if has_bfloat16 else (torch.float16, "this GPU has no bfloat16")
    if device.type == "cpu":
        has_bfloat16 = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        return (torch.bfloat16, "this CPU has it") if has_bfloat16 else (torch.float32, "this CPU has no bfloat16")
    return torch.float32, f"mixed precision on {device.type} has not been tried"


def _check_support(device: torch.device, precision: torch.dtype) -> None:
    name = precision_name(precision)
    if precision == torch.bfloat16 and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UsageError(f"ISE.PRECISION {name}: this GPU does not compute in it; use auto, float16 or float32")
    if precision == torch.float16 and device.type != "cuda":
        raise UsageError(f"ISE.PRECISION {name}: {device.type} does not train in it; use auto, bfloat16 or float32")
    if precision != torch.float32 and device.type not in ("cpu", "cuda"):
        raise UsageError(f"ISE.PRECISION {name}: {device.type} has no mixed precision here; use auto or float32")
