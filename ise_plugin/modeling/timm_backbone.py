"""Any network of timm as a backbone, and the vision transformers that were trained on people without labels.

timm is an extra and is imported when a config asks for ``build_timm_backbone``. Nothing is downloaded here: weights come
from ``MODEL.BACKBONE.PRETRAIN_PATH`` (:func:`ise_plugin.modeling.build.build_model`).
"""

import contextlib
import importlib
import logging
import math
import sys
from difflib import get_close_matches
from types import ModuleType
from typing import Any, Iterator, Optional

import torch
from fastreid.config import get_cfg
from fastreid.layers import IBN
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from torch import Tensor, nn

from ..compat import MOST_OVERRUN_CHANNELS, subsample_before
from ..errors import UsageError

logger = logging.getLogger("fastreid.ise.timm")

INSTALL_COMMAND = "pip install timm"
# The convolutional stem: channels (Luo et al., arXiv 2111.12084, section 3.3), and the side of a pixel of its output in pixels.
_STEM_CHANNELS, _STEM_STRIDE = 64, 2
# PASS has three part tokens beside the class token (Zhu et al., ECCV 2022).
_PARTS = {"reg_tokens": 3}
# Vision transformers for people, by the name in MODEL.BACKBONE.DEPTH: timm's network, its arguments, whether with that stem.
VARIANTS: dict[str, tuple[str, dict, bool]] = {
    "vit_small_ics": ("vit_small_patch16_224", {}, True),
    "vit_base_ics": ("vit_base_patch16_224", {}, True),
    "vit_small_pass": ("vit_small_patch16_224", _PARTS, False),
    "vit_base_pass": ("vit_base_patch16_224", _PARTS, False),
}
# timm's arguments, and fastreid's keys that they are given
_RATES = {"drop_path_rate": "DROP_PATH_RATIO", "proj_drop_rate": "DROP_RATIO", "attn_drop_rate": "ATT_DROP_RATE"}
# fastreid's keys of other backbones
_NOT_USED = ("NORM", "WITH_IBN", "WITH_SE", "WITH_NL", "STRIDE_SIZE")
# Height to width of the images that position embeddings were trained on: a square number of patches is a square, and persons
# are mostly 256 x 128 or 384 x 128.
_USUAL_RATIOS = (1, 2, 3)
_LARGEST_RATIO = 4
# Names that an error suggests.
_NAMES_MEANT = 3


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg) -> nn.Module:
    """The network of timm that ``MODEL.BACKBONE.DEPTH`` names, or one of :data:`VARIANTS`, with random weights.

    Images (B, 3, H, W) -> (B, C, h, w). A network of feature maps gives its last one, which the head pools. A network of
    tokens gives one column, (B, C, 1, 1): what timm takes of it, which is the class token of ViT, DINOv2 and CLIP (as in
    TransReID-SSL) and the mean of the patches where timm's network has no use for such a token. C is its ``feature_dim``.
    Parameters have timm's names.

    Reads ``DEPTH``, ``LAST_STRIDE``, ``DROP_PATH_RATIO``, ``DROP_RATIO``, ``ATT_DROP_RATE`` and ``FREEZE_PATCH_EMBED`` of
    ``MODEL.BACKBONE``, and ``INPUT.SIZE_TRAIN``, for which position embeddings are laid out.

    Raises:
        UsageError: timm is not installed, it has no such network (the message names the nearest), the network does not take
            images of this size, or has no patch embedding to freeze; or weights are asked for and no file is named.
    """
    settings, size = cfg.MODEL.BACKBONE, tuple(cfg.INPUT.SIZE_TRAIN)
    timm = _timm()
    name, arguments, with_stem = VARIANTS.get(settings.DEPTH, (settings.DEPTH, {}, False))
    _check_name(timm, name)
    if settings.PRETRAIN:
        raise UsageError(
            f"MODEL.BACKBONE.PRETRAIN: nothing is downloaded for {name} unasked; name its weights in MODEL.BACKBONE."
            f"PRETRAIN_PATH, a file or {_hub_address(timm, name)}, or set MODEL.BACKBONE.PRETRAIN False"
        )
    _tell_unused(settings)
    rates = {argument: settings[key] for argument, key in _RATES.items()}  # 0 as well: some have another default
    arguments = {**arguments, "img_size": size, **rates}
    if with_stem:
        arguments["embed_layer"] = _conv_stem(timm)
    network = _create(timm, name, arguments)
    _split_activations(timm, network)
    _as_feature_map(network, settings, size)
    if settings.FREEZE_PATCH_EMBED:
        if not hasattr(network, "patch_embed"):
            raise UsageError(f"MODEL.BACKBONE.FREEZE_PATCH_EMBED: {name} has no patch embedding; set it False")
        network.patch_embed.requires_grad_(False)
    return network


def _timm() -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise UsageError(f"build_timm_backbone needs timm, which is not installed: {INSTALL_COMMAND}") from error


def _check_name(timm: ModuleType, name: str) -> None:
    """Refuses a name that timm has no network of, or no weights by that tag; says what it has."""
    architecture, _, tag = name.partition(".")
    known = [*VARIANTS, *timm.list_models()]
    if timm.is_model(architecture) and tag:
        known = timm.list_pretrained(f"{architecture}.*")
    elif timm.is_model(architecture):
        return
    if name not in known:
        nearest = ", ".join(get_close_matches(name, known, n=_NAMES_MEANT, cutoff=0)) or architecture
        raise UsageError(f"MODEL.BACKBONE.DEPTH: timm has no network {name!r}; the nearest are {nearest}")


def _hub_address(timm: ModuleType, name: str) -> str:
    """Of timm's own weights of a network."""
    known = timm.get_pretrained_cfg(name)
    return f"hub://{known.hf_hub_id}/model.safetensors" if known and known.hf_hub_id else "hub://OWNER/NAME/FILE"


def _tell_unused(settings) -> None:
    defaults = get_cfg().MODEL.BACKBONE
    for key in _NOT_USED:
        if settings[key] != defaults[key]:
            logger.warning(f"MODEL.BACKBONE.{key} {settings[key]} is not used by build_timm_backbone")


def _create(timm: ModuleType, name: str, arguments: dict) -> nn.Module:
    """Without those arguments that the network does not know, which is logged."""
    while True:
        try:
            return timm.create_model(name, pretrained=False, num_classes=0, **arguments)
        except TypeError as error:
            unknown = [argument for argument in arguments if f"'{argument}'" in str(error)]
            if not unknown:
                raise
            for argument in unknown:
                if arguments.pop(argument) and argument in _RATES:
                    logger.info(f"MODEL.BACKBONE.{_RATES[argument]} is not used: {name} has no {argument}")


def _split_activations(timm: ModuleType, network: nn.Module) -> None:
    """timm's layers of batch norm and activation become plain batch norms and a hook, in place; names stay.

    So they are normalised by groups like any other (``ISE.BN_GROUP_SIZE``)."""
    for module in network.modules():
        if type(module) is timm.layers.BatchNormAct2d:
            module.__class__ = nn.BatchNorm2d
            module.register_forward_hook(_activate)


def _activate(module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
    return module.act(module.drop(output))


class FeatureMap:
    """Mixed into the class of a network of timm: its forward gives a feature map, whatever the network gives.

    Attributes:
        feature_dim: channels of the map.
    """

    feature_dim: int
    _made_by: type  # timm's class

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, h, w)."""
        features = super().forward(images)  # type: ignore[misc]
        if features.ndim == 2:
            return features[..., None, None]
        return features.permute(0, 3, 1, 2) if getattr(self, "output_fmt", None) == "NHWC" else features

    def parameter_layers(self) -> dict[str, int]:
        """Layer of each parameter, counted from the images, for ``SOLVER.LAYER_DECAY``.

        Raises:
            UsageError: timm does not say how this network is layered.
        """
        if not hasattr(self, "group_matcher"):
            raise UsageError(f"SOLVER.LAYER_DECAY: timm does not know the layers of {self._made_by.__name__}; set it 1")
        return _timm().models.group_parameters(self, self.group_matcher(coarse=False), reverse=True)

    def adapt_weights(self, state: dict) -> dict:
        """A file's weights, by timm's names or by those that timm itself converts, for this network and its images.

        Part tokens become register tokens. Position embeddings are resized bilinearly, without antialiasing, as TransReID
        and fastreid resize theirs. What is left is timm's own conversion of the network's original files (OpenAI's CLIP,
        DINOv2, Swin, ConvNeXt), position biases included.
        """
        own = self.state_dict()  # type: ignore[attr-defined]
        state = _part_tokens_as_registers(state)
        if "pos_embed" in state and "pos_embed" in own:
            state = {**state, "pos_embed": self._resized(state["pos_embed"])}
        convert = getattr(sys.modules[self._made_by.__module__], "checkpoint_filter_fn", None)
        if convert is None or all(name in state and state[name].shape == value.shape for name, value in own.items()):
            return state
        try:
            return convert(dict(state), self)
        except Exception as error:  # of a file of another network: what does not fit is named by its names here
            logger.debug(f"timm's conversion of weights for {self._made_by.__name__} failed: {error!r}")
            return state

    def _resized(self, embedding: Tensor) -> Tensor:
        """(1, tokens, C), the class token's first, for the grid of this network's patches; as it is where none is found."""
        grid = getattr(getattr(self, "patch_embed", None), "grid_size", None)
        prefix = 0 if getattr(self, "no_embed_class", False) else getattr(self, "num_prefix_tokens", 1)
        if grid is None or embedding.ndim != 3 or embedding.shape[1] == prefix + grid[0] * grid[1]:
            return embedding
        before = grid_of(embedding.shape[1] - prefix, grid[0] / grid[1])
        if before is None:
            return embedding
        logger.info(f"Position embeddings resized from {before[0]} x {before[1]} patches to {grid[0]} x {grid[1]}")
        resample = _timm().layers.resample_abs_pos_embed
        return resample(embedding, list(grid), list(before), prefix, interpolation="bilinear", antialias=False)


def grid_of(patches: int, ratio: float) -> Optional[tuple[int, int]]:
    """(rows, columns) that a number of patches was laid out in: a square, 2 : 1, 3 : 1, or else nearest to the given ratio
    of height to width. None where all are far from that of a picture."""
    pairs = [(patches // columns, columns) for columns in range(1, patches + 1) if patches % columns == 0]
    for usual in _USUAL_RATIOS:
        if usual_pairs := [(rows, columns) for rows, columns in pairs if rows == usual * columns]:
            return usual_pairs[0]
    pairs = [(r, c) for r, c in pairs if 1 / _LARGEST_RATIO <= r / c <= _LARGEST_RATIO]
    return min(pairs, key=lambda pair: abs(math.log(pair[0] / pair[1] / ratio)), default=None)


def _part_tokens_as_registers(state: dict) -> dict:
    """PASS's tokens, and their position embeddings, which it keeps each by itself, as timm keeps them: one after the other."""
    parts = sorted(name for name in state if name.startswith("part_token"))
    positions = ["cls_pos", *(f"part{name.removeprefix('part_token')}_pos" for name in parts), "pos_embed"]
    if not parts or not all(name in state for name in positions):
        return state
    rest = {name: value for name, value in state.items() if name not in (*parts, *positions)}
    together = torch.cat([state[name] for name in positions], dim=1)
    return {**rest, "reg_token": torch.cat([state[name] for name in parts], dim=1), "pos_embed": together}


def _conv_stem(timm: ModuleType) -> type:
    """The patch embedding of TransReID-SSL's ICS, by its names: three convolutions, two of them with IBN, then the patches."""

    class ConvStem(timm.layers.PatchEmbed):
        def __init__(self, img_size, patch_size, in_chans, embed_dim, **options):
            halved = tuple(side // _STEM_STRIDE for side in img_size)
            super().__init__(halved, patch_size // _STEM_STRIDE, _STEM_CHANNELS, embed_dim, **options)
            width = _STEM_CHANNELS
            self.conv = nn.Sequential(
                nn.Conv2d(in_chans, width, 7, stride=_STEM_STRIDE, padding=3, bias=False),
                IBN(width, "BN"),
                nn.ReLU(inplace=True),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                IBN(width, "BN"),
                nn.ReLU(inplace=True),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            )

        def forward(self, images):
            return super().forward(self.conv(images))

    return ConvStem


def _as_feature_map(network: nn.Module, settings, size: tuple) -> None:
    """Makes a network of timm give feature maps, in place, by a class of its own: in a wrapper all names would change."""
    original = type(network)
    try:
        if (features := _output(network.forward_features, network, size)).ndim == 4:
            network.reset_classifier(0, "")  # pooling is the head's
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"MODEL.BACKBONE.DEPTH {settings.DEPTH} does not take images of INPUT.SIZE_TRAIN {list(size)} ({reason})"
        ) from error
    network.__class__ = type(f"{original.__name__}Backbone", (FeatureMap, original), {"_made_by": original})
    if features.ndim == 4 and settings.LAST_STRIDE == 1:
        _take_last_stride(network, size)
    _subsample_first(network)
    network.feature_dim = _output(network, network, size).shape[1]


def _subsample_first(network: nn.Module) -> None:
    """Keeps the gradient of FastViT, MobileOne and RepVGG inside its buffers on CPUs (:mod:`ise_plugin.compat`); same values."""
    for module in network.modules():
        plain = isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1} and not any(module.padding)
        if plain and max(module.stride) > 1 and module.in_channels <= MOST_OVERRUN_CHANNELS:
            subsample_before(module)


@torch.no_grad()
def _output(function: Any, network: nn.Module, size: tuple) -> Tensor:
    """A function of the network for one black image, in evaluation mode; the network is left in the mode that it was in."""
    image, was_training = next(network.parameters()).new_zeros(1, 3, *size), network.training
    try:
        network.eval()
        return function(image)
    finally:
        network.train(was_training)


def _take_last_stride(network: nn.Module, size: tuple) -> None:
    """Gives the network's last reduction stride 1, where convolutions or average pooling make it; else leaves it, and says so.

    Without dilation, as the last stride of a ResNet is taken for re-identification (Luo et al., CVPRW 2019)."""
    seen: list[tuple] = []
    with _watched(network, lambda layer, given, output: seen.append((layer, given.shape[-2:], output.shape[-2:]))):
        before = _output(network, network, size).shape[-2:]
    wanted = max((given for _, given, output in seen if output == before), default=before)
    last = [layer for layer, given, output in seen if output == before != given]
    settings = [(layer, layer.stride, getattr(layer, "kernel_size", None)) for layer in last]
    for layer in last:
        one = (1, 1) if isinstance(layer, nn.Conv2d) else 1
        layer.stride = one
        if isinstance(layer, nn.AvgPool2d):
            layer.kernel_size = one
    try:
        after = _output(network, network, size).shape[-2:] if last else before
    except RuntimeError:  # its branches have no longer the same size
        after = before
    if after != wanted or after == before:
        for layer, stride, kernel in settings:
            layer.stride, layer.kernel_size = stride, kernel
        logger.info("MODEL.BACKBONE.LAST_STRIDE is not used: this network has no last stride that can be taken")


@contextlib.contextmanager
def _watched(network: nn.Module, note: Any) -> Iterator[None]:
    """``note(layer, input, output)`` is told of convolutions and average pooling as they run."""
    layers = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.AvgPool2d))]
    handles = [layer.register_forward_hook(lambda m, given, output: note(m, given[0], output)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
