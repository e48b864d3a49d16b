"""What a person looks like, before any network has learned to tell people apart: colours and textures in stripes.

A network from ImageNet knows dogs from cars; two people are one class to it. Until it has learned more, where on the body
which colours and textures are tells people apart far better: histograms of colours in stripes are the descriptors of the
years before learned ones (Gray and Tao, ECCV 2008; Farenzena et al., CVPR 2010; Zheng et al., ICCV 2015).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The body in its height: head, shoulders, ... feet.
STRIPES = 8
# Levels of hue, saturation and value in a histogram: colour names more than shades.
_LEVELS = (8, 4, 4)
# Persons stand in the middle of their crops: pixels weigh by a normal curve over the width. Unit: share of the width.
_SPREAD = 0.28
# Channels of a feature map that are kept, as random combinations of all (Johnson and Lindenstrauss, 1984).
_CHANNELS = 128
# Dimensions of a block after principal component analysis, and the power of the variances that is taken out: none would let
# a few dimensions speak for all, 1 would make noise as loud as they are (the square root of whitening).
_DIMENSIONS, _WHITENING = 256, 0.5
# Pixels of the input to one of the feature map, of the maps that textures are read from.
_STRIDES = (8, 16)
_MIDDLE = 128.0  # mean of every channel after the grey-world correction (Buchsbaum, 1980); pixels are 0..255


class AppearanceDescriptor:
    """Colours and textures of images in horizontal stripes, as several blocks of numbers.

    Colours are histograms over hue, saturation and value, of the image and of the image with every channel's mean made
    equal, which takes out the light's colour. Textures are the means of the backbone's last feature maps at an eighth and a
    sixteenth of the input's size; a backbone without such maps (a transformer) has none. It looks on while the network runs,
    so that nothing runs twice::

        with AppearanceDescriptor(model) as describe:
            model(batch)
            blocks = describe(batch["images"])

    Args:
        model: whose backbone is looked into, as it is now.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._maps: dict[int, Tensor] = {}
        self._handles: list = []

    def __enter__(self) -> "AppearanceDescriptor":
        self._handles = [block.register_forward_hook(self._keep) for block in blocks_of(self._model.backbone)]
        return self

    def __exit__(self, *_) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep(self, _module: nn.Module, _inputs: tuple, output: object) -> None:
        """Keeps the output of the last block at each height."""
        if isinstance(output, Tensor) and output.dim() == 4:
            self._maps[output.shape[2]] = output

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Blocks (B, D_i), float32, on the images' device, of the images (B, 3, H, W), RGB, 0..255, that the model saw last."""
        wanted = [math.ceil(images.shape[2] / stride) for stride in _STRIDES]
        maps = [self._maps[rows].float() for rows in wanted if rows in self._maps and rows >= STRIPES]
        self._maps.clear()
        return [*colors(images), *(stripe_means(each) for each in maps)]


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The parts of a network that run one after the other, in order: containers that only list others are opened."""
    children = [child for _, child in module.named_children()]
    lists = (nn.Sequential, nn.ModuleList)
    return [part for child in children for part in (blocks_of(child) if isinstance(child, lists) else [child])]


def colors(images: Tensor) -> list[Tensor]:
    """Histograms of the colours in each stripe, of the images and of the images in grey-world light.

    Args:
        images: (B, 3, H, W), float, RGB, 0..255.

    Returns:
        Two of (B, STRIPES * 128), the square roots of shares, so that a dot product is the Bhattacharyya coefficient.
    """
    gray = images / images.mean((2, 3), keepdim=True).clamp(min=1) * _MIDDLE
    width = images.shape[3]
    columns = torch.arange(width, device=images.device)
    weights = torch.exp(-(((columns - (width - 1) / 2) / (_SPREAD * width)) ** 2))
    return [stripe_histograms(images, weights), stripe_histograms(gray.clamp(max=255), weights)]


def stripe_histograms(images: Tensor, weights: Tensor) -> Tensor:
    """(B, STRIPES * 128), the square roots of shares, of images as :func:`colors` takes them; pixels weigh as their column
    does, (W,)."""
    count, _, height, width = images.shape
    bins = math.prod(_LEVELS)
    # a stripe is as many rows as any other, or one more
    stripe = torch.arange(height, device=images.device) * STRIPES // height
    slots = stripe[:, None] * bins + _color_codes(images)
    sums = torch.zeros(count, STRIPES * bins, device=images.device)
    sums.scatter_add_(1, slots.flatten(1), weights.expand(count, height, width).reshape(count, -1))
    shares = F.normalize(sums.view(count, STRIPES, bins), p=1, dim=2)
    return shares.sqrt().flatten(1)


def _color_codes(images: Tensor) -> Tensor:
    """(B, H, W), int64: which of the histogram's bins a pixel is in."""
    red, green, blue = (images / 255).unbind(1)
    value, lowest = images.amax(1) / 255, images.amin(1) / 255
    chroma = (value - lowest).clamp(min=1e-6)
    hue = torch.where(
        value == red,
        (green - blue) / chroma % 6,
        torch.where(value == green, (blue - red) / chroma + 2, (red - green) / chroma + 4),
    )
    parts = (hue / 6, chroma / value.clamp(min=1e-6), value)
    levels = [(part * level).long().clamp(0, level - 1) for part, level in zip(parts, _LEVELS)]
    return (levels[0] * _LEVELS[1] + levels[1]) * _LEVELS[2] + levels[2]


def stripe_means(feature_map: Tensor) -> Tensor:
    """(B, C, H, W) to (B, STRIPES * min(C, 128)): the means of each stripe."""
    means = F.adaptive_avg_pool2d(feature_map, (STRIPES, 1)).squeeze(3)  # (B, C, STRIPES)
    channels = means.shape[1]
    if channels > _CHANNELS:
        generator = torch.Generator().manual_seed(channels)
        mixing = torch.randn(_CHANNELS, channels, generator=generator) / math.sqrt(channels)
        means = torch.einsum("kc,bcs->bks", mixing.to(means.device), means)
    return means.flatten(1)


def fused(blocks: list[Tensor]) -> Tensor:
    """Blocks (N, D_i) as unit rows (N, D), each block half whitened and of equal weight: cosines are means of theirs."""
    return F.normalize(torch.cat([half_whitened(block) for block in blocks], dim=1), dim=1)


def half_whitened(block: Tensor, dimensions: int = _DIMENSIONS) -> Tensor:
    """Unit rows on the first principal axes of (N, D), divided by the fourth root of the variances."""
    centered = (block - block.mean(0)).double()
    variances, axes = torch.linalg.eigh(centered.T @ centered / len(block))
    variances, axes = variances.flip(0)[:dimensions], axes.flip(1)[:, :dimensions]
    used = variances > 1e-9 * variances[:1].clamp(min=1e-30)
    scaled = centered @ axes[:, used] / variances[used] ** (_WHITENING / 2)
    return F.normalize(scaled, dim=1).float()
