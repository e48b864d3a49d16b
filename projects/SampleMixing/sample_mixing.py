"""Explicit sample mixing against the implicit support samples of ISE: Mixup, CutMix, and a learned bounded perturbation.

A part of every batch is changed before the backbone sees it, so that as many images go through it as in ISE. Targets are mixed
over the cluster centroids, which the unchanged images of the batch alone move.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from fastreid.config import configurable
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from torch import Tensor, nn

from ise_plugin.config import own_settings
from ise_plugin.errors import UsageError
from ise_plugin.method.losses import OUTLIER
from ise_plugin.modeling import ISE
from ise_plugin.modeling.preprocessing import erase
from ise_plugin.registry import LOSS
from ise_plugin.utils.distributed import gather_rows, rank

# Keys below ISE.OWN.SAMPLE_MIXING with their defaults; README.md explains them.
DEFAULTS = {"KIND": "mixup", "SHARE": 0.5, "ALPHA": 1.0, "BUDGET": 0.05, "CHANNELS": 16}
LARGEST_PIXEL = 255.0


class Mixed(NamedTuple):
    """A batch that was mixed.

    Attributes:
        images: (B, 3, H, W).
        shares: (B,), float, in [0, 1]: how much of each image is its own; the rest is its partner's.
    """

    images: Tensor
    shares: Tensor


def mixup(images: Tensor, partners: Tensor, shares: Tensor) -> Mixed:
    """``share * image + (1 - share) * partner``. Source: Zhang et al., "mixup", ICLR 2018, equation of section 1.

    Args:
        images, partners: (B, 3, H, W), float.
        shares: (B,), in [0, 1].
    """
    weights = shares.view(-1, 1, 1, 1)
    return Mixed(weights * images + (1 - weights) * partners, shares)


def cutmix(images: Tensor, partners: Tensor, rectangles: Tensor) -> Mixed:
    """The partner's pixels inside a rectangle; the share is that of the pixels left. Source: Yun et al., "CutMix", ICCV 2019,
    equation 1.

    Args:
        images, partners: (B, 3, H, W), float.
        rectangles: (B, 4), int64, pixels: (top, left, height, width), inside the image.
    """
    height, width = images.shape[2:]
    shares = 1 - rectangles[:, 2:].prod(1) / (height * width)
    return Mixed(erase(images, rectangles, partners), shares)


def cutmix_rectangles(shares: Tensor, centers: Tensor, height: int, width: int) -> Tensor:
    """Rectangles of ``sqrt(1 - share)`` of the image's sides, around the centers, cut off at its edges. CutMix, equation 2.

    Args:
        shares: (B,), in [0, 1], before the edges cut anything off.
        centers: (B, 2), in [0, 1): row and column, as parts of height and width.
        height, width: of the image, pixels.

    Returns:
        (B, 4), int64, (top, left, height, width).
    """
    sides = torch.tensor([height, width])
    halves = (1 - shares).sqrt().unsqueeze(1) * sides / 2
    places = centers * sides
    first, last = ((places + sign * halves).round().long() for sign in (-1, 1))
    first, last = first.clamp(min=0), torch.minimum(last, sides)
    return torch.cat([first, last - first], 1)


def bounded(perturbation: Tensor, budget: float) -> Tensor:
    """The perturbation (B, C, H, W) scaled so that the mean size of its numbers, image by image, is ``budget``, >= 0.

    Source: Tamkin et al., "Viewmaker Networks", ICLR 2021, section 3: the sphere of the l1 norm with radius budget * C * H * W.
    """
    sizes = perturbation.abs().mean((1, 2, 3), keepdim=True)
    return budget * perturbation / sizes.clamp(min=torch.finfo(perturbation.dtype).tiny)


def mixed_target_loss(
    features: Tensor, centroids: Tensor, labels: Tensor, partners: Tensor, shares: Tensor, temperature: float
) -> Tensor:
    """Mean of ``share * CE(own label) + (1 - share) * CE(partner's label)``, the logits being those over cluster centroids.

    Args:
        features: (B, D), unit rows.
        centroids: (M, D), unit rows; no gradient flows into them.
        labels, partners: (B,), int64, in 0..M-1; -1, an outlier, counts 0.
        shares: (B,), in [0, 1]; 1 for an image that was not mixed.
        temperature: > 0.

    Returns:
        Scalar, >= 0.
    """
    logits = features @ centroids.detach().t() / temperature
    own, other = (F.cross_entropy(logits, each, ignore_index=OUTLIER, reduction="none") for each in (labels, partners))
    return (shares * own + (1 - shares) * other).mean()


class _Reversed(torch.autograd.Function):
    """What went in comes out; the gradient comes back with the other sign."""

    @staticmethod
    def forward(context, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        return -gradient


class ViewMaker(nn.Module):
    """Adds to every image a perturbation that a small network makes of the image and of noise, to raise the encoder's loss.

    The gradient is reversed at the perturbation, so one backward pass lowers the loss by the encoder and raises it by this
    network. Source: Tamkin et al., "Viewmaker Networks", ICLR 2021.

    Args:
        budget: mean size of the perturbation, as a share of the range of a pixel, >= 0.
        channels: of the network at half of the image's size; twice as many at a quarter.
    """

    def __init__(self, budget: float, channels: int):
        super().__init__()
        self.budget = budget
        self.down = nn.Sequential(_block(4, channels, 2), _block(channels, 2 * channels, 2))
        self.middle = nn.ModuleList(_block(2 * channels, 2 * channels) for _ in range(2))
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2), _block(2 * channels, channels), nn.Upsample(scale_factor=2)
        )
        self.last = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """The views (B, 3, H, W), in [0, 1], of images (B, 3, H, W), in [0, 1]."""
        noise = torch.rand(len(pixels), 1, *pixels.shape[2:]).to(pixels.device)
        hidden = self.down(torch.cat([pixels, noise], 1))
        for block in self.middle:
            hidden = hidden + block(hidden)
        perturbation = F.interpolate(self.last(self.up(hidden)).float(), pixels.shape[2:])
        return (pixels + _Reversed.apply(bounded(perturbation, self.budget))).clamp(0, 1)


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1)
    return nn.Sequential(convolution, nn.InstanceNorm2d(outputs, affine=True), nn.ReLU())


def mixed_rows(count: int, share: float) -> Tensor:
    """Which rows of a batch are mixed: (count,), bool, spread evenly over it. Nothing is drawn, so every process knows them."""
    rows = torch.arange(count, dtype=torch.float64)
    return ((rows + 1) * share).floor() > (rows * share).floor()


@META_ARCH_REGISTRY.register()
class MixingISE(ISE):
    """:class:`ise_plugin.modeling.ISE` that mixes a part of every batch before the backbone; for :class:`MixedTargetLoss`.

    Args:
        kind: "mixup", "cutmix" or "viewmaker".
        share: of the batch that is mixed, in [0, 1).
        alpha: of the Beta distribution that shares of mixup and areas of cutmix are drawn from, > 0.
        budget, channels: of :class:`ViewMaker`.
        parts: those of ISE.
    """

    @configurable
    def __init__(self, *, kind: str, share: float, alpha: float, budget: float, channels: int, **parts):
        super().__init__(**parts)
        changes = {"mixup": self._mixup, "cutmix": self._cutmix, "viewmaker": self._view}
        if kind not in changes:
            raise UsageError(f"ISE.OWN.SAMPLE_MIXING.KIND must be one of {', '.join(changes)}, not {kind!r}")
        if not (0 <= share < 1 and alpha > 0 and budget >= 0):
            raise UsageError(
                f"ISE.OWN.SAMPLE_MIXING: SHARE must be at least 0 and less than 1, ALPHA greater than 0, BUDGET at least 0, not "
                f"{share}, {alpha}, {budget}"
            )
        self._change, self._share, self._beta = changes[kind], share, torch.distributions.Beta(alpha, alpha)
        self.view_maker = ViewMaker(budget, channels) if kind == "viewmaker" else None

    @classmethod
    def from_config(cls, cfg):
        if cfg.SOLVER.ACCUMULATE > 1:
            raise UsageError("MixingISE mixes the images of a whole batch; set SOLVER.ACCUMULATE 1")
        own = own_settings(cfg, "SAMPLE_MIXING", **DEFAULTS)
        return {**super().from_config(cfg), **{name.lower(): value for name, value in own.items()}}

    def forward(self, batched_inputs):
        """As ISE's. In training the head takes mixed images for outliers, so that they move no memory."""
        if not self.training or "gradients" in batched_inputs:
            return super().forward(batched_inputs)
        whole = batched_inputs.get("whole")
        self._own, labels = batched_inputs["targets"], batched_inputs["targets"] if whole is None else whole.targets
        mine = slice(start := sum(whole.counts[: rank()]) if whole else 0, start + len(self._own))
        mixed = mixed_rows(len(labels), self._share)
        self._rows, hidden = mixed[mine].nonzero().squeeze(1), labels.masked_fill(mixed, OUTLIER)
        batch = {**batched_inputs, "targets": hidden[mine]}
        return super().forward(batch if whole is None else {**batch, "whole": whole._replace(targets=hidden)})

    def preprocess_image(self, batched_inputs) -> Tensor:
        """ISE's, and in training a part of the images mixed with others of this process."""
        images = super().preprocess_image(batched_inputs)
        if not self.training:
            return images
        self._partners, self._shares, rows = torch.randperm(len(images)), torch.ones(len(images)), self._rows
        mixed = self._change(images[rows], images[self._partners[rows]])
        self._shares[rows] = mixed.shares.to(self._shares)
        return images.index_copy(0, rows.to(images.device), mixed.images.to(images))

    def _losses(self, outputs: dict) -> dict[str, Tensor]:
        drawn = {"own_labels": self._own, "partner_labels": self._own[self._partners], "shares": self._shares}
        device = outputs["features"].device
        return super()._losses({**outputs, **{name: gather_rows(rows).to(device) for name, rows in drawn.items()}})

    def _mixup(self, images: Tensor, partners: Tensor) -> Mixed:
        return mixup(images, partners, self._beta.sample((len(images),)).to(images))

    def _cutmix(self, images: Tensor, partners: Tensor) -> Mixed:
        drawn, centers = self._beta.sample((len(images),)), torch.rand(len(images), 2)
        rectangles = cutmix_rectangles(drawn, centers, *images.shape[2:])
        return cutmix(images, partners, rectangles.to(images.device))

    def _view(self, images: Tensor, partners: Tensor) -> Mixed:
        pixels = (images * self.pixel_std + self.pixel_mean) / LARGEST_PIXEL
        views = self.view_maker(pixels) * LARGEST_PIXEL
        return Mixed((views - self.pixel_mean) / self.pixel_std, torch.ones(len(images)))


@LOSS.register()
class MixedTargetLoss(nn.Module):
    """:func:`mixed_target_loss` of a batch of :class:`MixingISE`.

    Args:
        temperature: > 0.
    """

    @configurable
    def __init__(self, *, temperature: float = 0.05):
        super().__init__()
        self.temperature = temperature

    @classmethod
    def from_config(cls, cfg):
        return {"temperature": cfg.ISE.MEMORY.TEMPERATURE}

    def forward(self, outputs: dict) -> dict[str, Tensor]:
        """``{"loss_mix": scalar}`` of the head's output, with what MixingISE adds to it."""
        if "shares" not in outputs:
            raise UsageError("MixedTargetLoss needs a model that mixes images; set MODEL.META_ARCHITECTURE MixingISE")
        targets = outputs["own_labels"], outputs["partner_labels"], outputs["shares"]
        loss = mixed_target_loss(outputs["features"], outputs["centroids"], *targets, self.temperature)
        return {"loss_mix": loss}
