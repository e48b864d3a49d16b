"""What an image shows before any network has learned to tell people apart: what a person looks like, and where.

Appearance is colours and textures in horizontal stripes; a scene is what is seen to the left and the right of the person.

A network from ImageNet knows dogs from cars; two people are one class to it. Until it has learned more, where on the body
which colours and textures are tells people apart far better: histograms of colours in stripes are the descriptors of the
years before learned ones (Gray and Tao, ECCV 2008; Farenzena et al., CVPR 2010; Zheng et al., ICCV 2015).
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor, nn

# The body in its height: head, shoulders, ... feet.
STRIPES = 8
# Levels of hue, saturation and value in a histogram: colour names more than shades.
_LEVELS = (8, 4, 4)
# Persons stand in the middle of their crops: pixels weigh by a normal curve over the width. Unit: share of the width.
_SPREAD = 0.28
# The ground to the left and the right of a person that tells the scene. Unit: share of the width.
_BORDER = 0.16
# Channels of a feature map that are kept, as random combinations of all (Johnson and Lindenstrauss, 1984).
_CHANNELS = 128
# Dimensions of a block after principal component analysis, and the power of the variances that is taken out: none would let
# a few dimensions speak for all, 1 would make noise as loud as they are (the square root of whitening).
_DIMENSIONS, _WHITENING = 256, 0.5
_SCENE_DIMENSIONS = 64
# So many images on average, or there are fewer scenes: the mean of a scene must be of many people.
_IMAGES_PER_SCENE = 60
# A smaller scene has the mean of all images.
_FEWEST_IMAGES = 10
# How soon a scene of images that are much alike, of one person perhaps, keeps its mean.
_SCENE_SHARE_POWER = 2
# Pixels of the input to one of the feature map, of the maps that textures are read from.
_STRIDES = (8, 16)
_MIDDLE = 128.0  # mean of every channel after the grey-world correction (Buchsbaum, 1980); pixels are 0..255


class AppearanceDescriptor:
    """Colours and textures of images in horizontal stripes, as several blocks of numbers.

    Colours are histograms over hue, saturation and value, of the image and of the image with every channel's mean made
    equal, which takes out the light's colour. Textures are the means of the backbone's last feature maps at an eighth and a
    sixteenth of the input's size; a backbone without such maps (a transformer) has none.

    Args:
        model: whose backbone is looked into, as it is now.
    """

    def __init__(self, model: nn.Module):
        self._model = model

    @torch.inference_mode()
    def __call__(self, batch: dict) -> list[Tensor]:
        """Blocks (B, D_i), float32, on the model's device, of ``images`` (B, 3, H, W), RGB, 0..255."""
        images = batch["images"].to(self._model.device).float()
        maps = self._maps(batch, images.shape[2])
        return [*colors(images), *(stripe_means(each) for each in maps)]

    def _maps(self, batch: dict, height: int) -> list[Tensor]:
        """The output of the backbone's last block at each stride."""
        outputs: dict[int, Tensor] = {}

        def keep(_module, _inputs, output) -> None:
            if isinstance(output, Tensor) and output.dim() == 4:
                outputs[output.shape[2]] = output

        handles = [block.register_forward_hook(keep) for block in blocks_of(self._model.backbone)]
        try:
            self._model(batch)
        finally:
            for handle in handles:
                handle.remove()
        wanted = [math.ceil(height / stride) for stride in _STRIDES]
        return [outputs[rows].float() for rows in wanted if rows in outputs and rows >= STRIPES]


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
    return [_histograms(images, weights), _histograms(gray.clamp(max=255), weights)]


def surroundings(images: Tensor) -> Tensor:
    """Histograms of the colours beside the person in each stripe, (B, STRIPES * 128); arguments as :func:`colors` has them."""
    border = max(1, round(_BORDER * images.shape[3]))
    beside = torch.cat([images[..., :border], images[..., -border:]], dim=3)
    return _histograms(beside, torch.ones(beside.shape[3], device=images.device))


def _histograms(images: Tensor, weights: Tensor) -> Tensor:
    """Of pixels that weigh as their column does, (W,)."""
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


def find_scenes(block: Tensor, count: int, seed: int) -> np.ndarray:
    """Images grouped by their :func:`surroundings`: cameras and places that nobody has named.

    Args:
        block: (N, D), float.
        count: how many at most, at least 1; with few images there are fewer.
        seed: of k-means.

    Returns:
        (N,), int64, 0..count-1.
    """
    count = min(count, len(block) // _IMAGES_PER_SCENE)
    points = half_whitened(block, _SCENE_DIMENSIONS).cpu().numpy()
    if count < 2 or points.shape[1] == 0:  # few images, or all of them before the same wall
        return np.zeros(len(block), dtype=np.int64)
    return KMeans(count, n_init=1, random_state=seed).fit_predict(points).astype(np.int64)


def without_scenes(features: Tensor, scenes: Tensor) -> Tensor:
    """Unit rows, less what those of a scene have in common.

    Where a network has not learned people yet, much of what an embedding tells is where it was taken: neighbours are images
    of the same place. The mean of a scene is that part, where many people pass through it: it is taken out as far as the scene's
    images are as various as all images are, by the square of the ratio of their variances. Somebody who stands still all the
    time is a scene of his own, and is left as he is for the most part.

    Args:
        features: (N, D), float32, unit rows.
        scenes: (N,), int64, 0..S-1.
    """
    member = F.one_hot(scenes).double()  # sums in float64 do not depend on their order
    count = member.sum(0).unsqueeze(1).clamp(min=1)
    center = features.double()
    center = center - center.mean(0)
    means = member.T @ center / count
    spread = (member.T @ center.square().sum(1, keepdim=True)) / count - means.square().sum(1, keepdim=True)
    share = (spread / center.square().sum(1).mean().clamp(min=1e-12)).clamp(0, 1) ** _SCENE_SHARE_POWER
    # a mean of a few images is those images
    means = torch.where(count < _FEWEST_IMAGES, 0.0, share * means)
    rest = (center - means[scenes]).to(features.dtype)
    # images that are all alike leave nothing
    return F.normalize(torch.where(rest.norm(dim=1, keepdim=True) > 1e-6, rest, features), dim=1)


def half_whitened(block: Tensor, dimensions: int = _DIMENSIONS) -> Tensor:
    """Unit rows on the first principal axes of (N, D), divided by the fourth root of the variances."""
    centered = (block - block.mean(0)).double()
    variances, axes = torch.linalg.eigh(centered.T @ centered / len(block))
    variances, axes = variances.flip(0)[:dimensions], axes.flip(1)[:, :dimensions]
    used = variances > 1e-9 * variances[:1].clamp(min=1e-30)
    scaled = centered @ axes[:, used] / variances[used] ** (_WHITENING / 2)
    return F.normalize(scaled, dim=1).float()
