"""Whose names the weights in a file have: one table from other programs' names to those of a model here."""

import re
from functools import lru_cache
from itertools import accumulate
from typing import Any, Collection, Mapping, NamedTuple, Optional

import numpy as np
import torch
from fastreid.config import get_cfg
from fastreid.modeling.backbones import build_backbone
from torch import Tensor, nn

# Where it says which files are read, and where they can be had.
HOWTO = "docs/howto/starting_weights.md"
# Entries of a checkpoint that hold the state dict: fastreid and this package; torchreid, Cluster Contrast, timm; pycls; DINO,
# iBOT and their heirs, who keep a student beside it.
_STATE_KEYS = ("model", "state_dict", "model_state", "teacher")
# What DataParallel and torch.compile put before every name.
_WRAPPED = re.compile(r"^(module\.|_orig_mod\.)+")
# MobileNetV2: blocks of each stage (Sandler et al., arXiv 1801.04381, table 2). EfficientNet: the most in a stage, B5's.
_MOBILENETV2_BLOCKS = (1, 2, 3, 4, 3, 3, 1)
_EFFICIENTNET_BLOCKS = 13
# Share of a network's weights that a file of its own architecture holds at least.
_OWN_SHARE = 0.9
# Names that did not fit that an error shows.
_NAMED = 3


class Layout(NamedTuple):
    """How a program names weights.

    Attributes:
        name: of the programs.
        renames: (pattern, replacement) pairs, applied to a name one after the other; they give its name in a model here.
        note: in what its network differs from fastreid's with the same weights; empty where it does not.
    """

    name: str
    renames: tuple
    note: str = ""


def _base(first_stage: int) -> tuple:
    """A ResNet's children in a Sequential called base, without names; a neck called feat_bn."""
    stages = tuple((rf"^base\.{first_stage + i}\.", f"backbone.layer{i + 1}.") for i in range(4))
    ends = (r"^base\.0\.", "backbone.conv1."), (r"^base\.1\.", "backbone.bn1.")
    return (*ends, *stages, (r"^feat_bn\.", "heads.bottleneck.0."), (r"^gap\.", "heads.pool_layer."))


_BLOCK = r"^(s\d\.b\d+)\."
_FIRST, _LATER = r"^(features\.1\.conv)\.", r"^(features\.(?!1\.)\d+\.conv)\."
# the last pairs of a backbone's own names; classifiers belong to no backbone
_HEADS = (
    (r"^(fc|classifier|head\.fc)\.", r"heads.classifier.\1."),
    (r"^head\.(weight|bias)$", r"heads.classifier.head.\1"),
)
_BACKBONE = (*_HEADS, (r"^(?!heads\.)", "backbone."))

OWN = Layout("fastreid, DINO or iBOT", ())
LAYOUTS = (
    OWN,
    Layout("torchreid, torchvision, timm or a fastreid backbone", _BACKBONE),
    Layout("TransReID", ((r"^base\.", "backbone."), (r"^bottleneck\.", "heads.bottleneck.0."), *_HEADS)),
    Layout("torchvision's MobileNetV2 of before 2020", ((r"^features\.18\.", "conv."), *_BACKBONE)),
    Layout(
        "torchvision's MobileNetV2",
        (
            (r"^features\.18\.", "conv."),
            (rf"{_FIRST}2\.", r"\1.4."),
            (rf"{_FIRST}1\.", r"\1.3."),
            (rf"{_LATER}3\.", r"\1.7."),
            (rf"{_LATER}2\.", r"\1.6."),
            (rf"{_LATER}1\.0\.", r"\1.3."),
            (rf"{_LATER}1\.1\.", r"\1.4."),
            (r"\.conv\.0\.([01])\.", r".conv.\1."),
            *_BACKBONE,
        ),
    ),
    Layout(
        "timm's MobileNetV2",
        (
            (r"^conv_stem\.", "features.0.0."),
            (r"^bn1\.", "features.0.1."),
            (r"^conv_head\.", "conv.0."),
            (r"^bn2\.", "conv.1."),
            *(
                (rf"^blocks\.{stage}\.{block}\.", f"features.{1 + before + block}.conv.")
                for stage, before in enumerate(accumulate((0, *_MOBILENETV2_BLOCKS[:-1])))
                for block in range(_MOBILENETV2_BLOCKS[stage])
            ),
            (rf"{_FIRST}conv_dw\.", r"\1.0."),
            (rf"{_FIRST}conv_pw\.", r"\1.3."),
            (r"\.conv_pw\.", ".0."),
            (r"\.bn1\.", ".1."),
            (r"\.conv_dw\.", ".3."),
            (r"\.bn2\.", ".4."),
            (r"\.conv_pwl\.", ".6."),
            (r"\.bn3\.", ".7."),
            *_BACKBONE,
        ),
    ),
    Layout(
        "timm's EfficientNet",
        (
            (r"^conv_stem\.", "stem.conv."),
            (r"^bn1\.", "stem.bn."),
            (r"^conv_head\.", "head.conv."),
            (r"^bn2\.", "head.conv_bn."),
            *((rf"^blocks\.{stage}\.", f"s{stage + 1}.") for stage in range(7)),
            *((rf"^(s\d)\.{block}\.", rf"\1.b{block + 1}.") for block in range(_EFFICIENTNET_BLOCKS)),
            (r"^(s1\.b\d+)\.conv_pw\.", r"\1.lin_proj."),
            (r"^(s1\.b\d+)\.bn2\.", r"\1.lin_proj_bn."),
            (r"^(s1\.b\d+)\.bn1\.", r"\1.dwise_bn."),
            (rf"{_BLOCK}conv_pw\.", r"\1.exp."),
            (rf"{_BLOCK}bn1\.", r"\1.exp_bn."),
            (rf"{_BLOCK}conv_dw\.", r"\1.dwise."),
            (rf"{_BLOCK}bn2\.", r"\1.dwise_bn."),
            (rf"{_BLOCK}se\.conv_reduce\.", r"\1.se.f_ex.0."),
            (rf"{_BLOCK}se\.conv_expand\.", r"\1.se.f_ex.2."),
            (rf"{_BLOCK}conv_pwl\.", r"\1.lin_proj."),
            (rf"{_BLOCK}bn3\.", r"\1.lin_proj_bn."),
            *_BACKBONE,
        ),
    ),
    Layout(
        "torchvision's EfficientNet",
        (
            (r"^features\.0\.0\.", "stem.conv."),
            (r"^features\.0\.1\.", "stem.bn."),
            (r"^features\.8\.0\.", "head.conv."),
            (r"^features\.8\.1\.", "head.conv_bn."),
            (r"^features\.1\.(\d+)\.block\.2\.", r"features.1.\1.block.3."),
            (r"^features\.1\.(\d+)\.block\.1\.", r"features.1.\1.block.2."),
            (r"^features\.1\.(\d+)\.block\.0\.", r"features.1.\1.block.1."),
            *((rf"^features\.(\d)\.{block}\.block\.", rf"s\1.b{block + 1}.") for block in range(_EFFICIENTNET_BLOCKS)),
            (rf"{_BLOCK}0\.0\.", r"\1.exp."),
            (rf"{_BLOCK}0\.1\.", r"\1.exp_bn."),
            (rf"{_BLOCK}1\.0\.", r"\1.dwise."),
            (rf"{_BLOCK}1\.1\.", r"\1.dwise_bn."),
            (rf"{_BLOCK}2\.fc1\.", r"\1.se.f_ex.0."),
            (rf"{_BLOCK}2\.fc2\.", r"\1.se.f_ex.2."),
            (rf"{_BLOCK}3\.0\.", r"\1.lin_proj."),
            (rf"{_BLOCK}3\.1\.", r"\1.lin_proj_bn."),
            *_BACKBONE,
        ),
    ),
    Layout(
        "SpCL, Cluster Contrast or the authors' ISE",
        _base(first_stage=3),
        "their network has no ReLU after its first normalisation, this one has",
    ),
    Layout("SpCL, Cluster Contrast or the authors' ISE, with the first ReLU", _base(first_stage=4)),
)

# fastreid's networks that a file may hold: build_NAME_backbone, DEPTH, FEAT_DIM, whether it has instance normalisation
NETWORKS = (
    *(("resnet", depth, width, ibn) for depth, width in (("18x", 512), ("34x", 512)) for ibn in (False, True)),
    *(("resnet", depth, 2048, ibn) for depth in ("50x", "101x") for ibn in (False, True)),
    *(("osnet", depth, width, ibn) for depth, width in (("x1_0", 512), ("x0_75", 384)) for ibn in (False, True)),
    *(("osnet", depth, width, ibn) for depth, width in (("x0_5", 256), ("x0_25", 128)) for ibn in (False, True)),
    *(("mobilenetv2", depth, 1280, False) for depth in ("1.0x", "0.75x", "0.5x", "0.35x", "0.25x", "0.1x")),
    *(("effnet", f"b{i}", width, False) for i, width in enumerate((1280, 1280, 1408, 1536, 1792, 2048))),
)
# vision transformers, by width and number of blocks
TRANSFORMERS = {(192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large"}


class Fit(NamedTuple):
    """How the weights of a file fit a model.

    Attributes:
        layout: whose names the file has: of the table, the one by which most weights fit.
        state: all of the file, by the names in a model here.
        missing: the model's names that the file lacks.
        reshaped: what is there in another shape, as "NAME is (16, 3, 7, 7) there and (64, 3, 7, 7) here".
        unused: the file's entries, by their names here, that the model has no place for.
        count, total: the model's weights that fit, and all of them; counters do not count.
    """

    layout: Layout
    state: dict
    missing: list
    reshaped: list
    unused: list
    count: int
    total: int

    @property
    def share(self) -> float:
        """Of the model's weights that fit, in [0, 1]."""
        return self.count / max(1, self.total)


def differences_of(fit: Fit, but: Collection[str] = ()) -> str:
    """In what a file does not fit, for an error: the first names, but for some that may be missing, and how many more."""
    differences = fit.reshaped + [f"{name} is not in it" for name in fit.missing if name not in but]
    more = len(differences) - _NAMED
    return ", ".join(differences[:_NAMED]) + (f" (and {more} more)" if more > 0 else "")


def state_dict_of(content: Any) -> dict:
    """name -> tensor of whatever a checkpoint file holds, without wrappers' prefixes; empty where there is none."""
    parts = content if isinstance(content, dict) else {}
    for state in (*(parts.get(key) for key in _STATE_KEYS), parts, *parts.values()):
        if isinstance(state, dict) and state and all(isinstance(v, (Tensor, np.ndarray)) for v in state.values()):
            return {_WRAPPED.sub("", str(name)): torch.as_tensor(value) for name, value in state.items()}
    return {}


def fit_weights(state: Mapping[str, Tensor], model: Mapping[str, Tensor], backbone: Optional[nn.Module] = None) -> Fit:
    """How a file's weights (:func:`state_dict_of`) fit a model's state dict, or a part of it, by the layout that fits best.

    A ``backbone`` with a method ``adapt_weights``, from and to a state dict by its own names, changes what it is given so that
    it fits, as a vision transformer's position embeddings have to be for other images.
    """
    fit = _best_fit(_renamed(state), model)
    if not hasattr(backbone, "adapt_weights"):
        return fit
    heads = {name: value for name, value in fit.state.items() if name.startswith("heads.")}
    own = {name.removeprefix("backbone."): value for name, value in fit.state.items() if name not in heads}
    return _fit(fit.layout, {**in_model(backbone.adapt_weights(own)), **heads}, model)


def _renamed(state: Mapping[str, Tensor]) -> list:
    """(layout, a file's weights by the names that it gives them) for every layout."""

    def rename(name: str, layout: Layout) -> str:
        for pattern, replacement in layout.renames:
            name = re.sub(pattern, replacement, name)
        return name

    return [(layout, {rename(name, layout): value for name, value in state.items()}) for layout in LAYOUTS]


def _best_fit(renamed: list, model: Mapping[str, Tensor]) -> Fit:
    return max((_fit(layout, state, model) for layout, state in renamed), key=lambda fit: fit.count)


def _fit(layout: Layout, state: dict, model: Mapping[str, Tensor]) -> Fit:
    wanted = [name for name in model if not name.endswith("num_batches_tracked")]
    missing = [name for name in wanted if name not in state]
    shapes = {name: (tuple(state[name].shape), tuple(model[name].shape)) for name in wanted if name in state}
    reshaped = [f"{name} is {there} there and {here} here" for name, (there, here) in shapes.items() if there != here]
    unused = [name for name in state if name not in model]
    return Fit(layout, state, missing, reshaped, unused, len(shapes) - len(reshaped), len(wanted))


def look_of(state: Mapping[str, Tensor]) -> str:
    """Which of fastreid's networks a file's weights are of, whose names they have, and the keys to set; for an error."""
    renamed = _renamed(state)
    best, looks = 0, _look_of_transformer(renamed)
    if looks:
        return looks
    for name, depth, width, ibn in NETWORKS:
        fit = _best_fit(renamed, _shapes_of(name, depth, ibn))
        if fit.share >= _OWN_SHARE and fit.count > best:  # a ResNet-18 is a part of a ResNet-34
            settings = {"NAME": f"build_{name}_backbone", "DEPTH": depth, "FEAT_DIM": width, "WITH_IBN": ibn}
            keys = " ".join(f"MODEL.BACKBONE.{key} {value}" for key, value in settings.items())
            looks = f"it looks like {name} {depth}{' with IBN' * ibn}, named as by {fit.layout.name}; set {keys}"
            best = fit.count
    first = next(iter(state), "none")
    return looks or f"its {len(state)} weights, {first} the first, look like no network known here ({HOWTO})"


def _look_of_transformer(renamed: list) -> str:
    """The vision transformer for people that a file's weights are of, and the keys to set; empty for any other file."""
    for layout, state in renamed:
        position, depth = state.get("backbone.pos_embed"), sum("attn.qkv.weight" in name for name in state)
        width = 0 if position is None else position.shape[-1]
        size = TRANSFORMERS.get((width, depth))
        if size is not None and "backbone.norm.weight" in state:
            stem = "_ics" if "backbone.patch_embed.conv.0.weight" in state else "_patch16_224"
            kind = "_pass" if "backbone.part_token1" in state else stem
            keys = f"MODEL.BACKBONE.NAME build_timm_backbone MODEL.BACKBONE.DEPTH vit_{size}{kind}"
            return f"it looks like a vision transformer, named as by {layout.name}; set {keys}"
    return ""


@lru_cache(maxsize=None)
def _shapes_of(name: str, depth: str, ibn: bool) -> dict:
    """name -> tensor without content of a backbone in a model."""
    cfg = get_cfg()
    backbone = cfg.MODEL.BACKBONE
    backbone.NAME, backbone.DEPTH, backbone.WITH_IBN, backbone.PRETRAIN = f"build_{name}_backbone", depth, ibn, False
    with torch.device("meta"):
        return in_model(build_backbone(cfg).state_dict())


def in_model(backbone: Mapping[str, Tensor]) -> dict:
    """A backbone's state dict by its names in a model."""
    return {f"backbone.{name}": value for name, value in backbone.items()}
