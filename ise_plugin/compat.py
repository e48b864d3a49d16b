"""Repairs the faults of stock fastreid 1.4.0 that keep it from running on today's Python and PyTorch.

This is the one place that assigns into foreign modules. Every patch is a function that names the fault it repairs and
does nothing where the fault is absent. :func:`prepare_import` runs those that must happen before fastreid is imported,
:func:`prepare` those as well that change fastreid once it is there; :mod:`ise_plugin._imports` calls both. Faults that
a subclass can avoid (data loaders, launcher, checkpoint files, evaluator) are not patched but avoided, in
``ise_plugin.engine`` and ``ise_plugin.data``.
"""

import collections
import collections.abc
import importlib
import importlib.util
import inspect
import os
import random
import re
import sys
import types
import warnings

import torch

from ._imports import require_fastreid
from .utils.weights import fetch_weights, load_checkpoint_file

# What torchvision/_meta_registrations.py refers to whether or not its compiled extension was loaded.
_TORCHVISION_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
# Input channels up to which oneDNN overruns its buffers, see subsample_before_pointwise_convolutions.
MOST_OVERRUN_CHANNELS = 16
_torchvision_fragments = []  # a library that is garbage-collected takes its schemas along
# Of the draw of VehicleID's galleries; the same in every run, so that runs can be compared.
_VEHICLEID_SEED = 0


def prepare_import() -> None:
    """Makes ``import fastreid`` work; ModuleNotFoundError where it is not installed. Safe to call more than once."""
    require_fastreid()
    supply_collections_names()
    supply_torch_six()
    pass_over_missing_extensions()
    declare_torchvision_operators()


def prepare() -> None:
    """:func:`prepare_import`, imports fastreid and repairs what would fail later. Safe to call more than once."""
    prepare_import()
    switch_off_contiguous_parameters()
    resolve_regnet_configs()
    translate_random_affine()
    subsample_before_pointwise_convolutions()
    read_backbone_weights_safely()
    read_labels_from_file_names_alone()
    draw_vehicleid_galleries_by_a_seed()


def supply_collections_names() -> None:
    """``from collections import Mapping`` fails: the name moved to ``collections.abc``, and Python 3.10 removed the old one."""
    if not hasattr(collections, "Mapping"):
        collections.Mapping = collections.abc.Mapping


def supply_torch_six() -> None:
    """``from torch._six import ...`` fails: PyTorch 1.13 was the last release with it. Older fastreid takes more names."""
    if importlib.util.find_spec("torch._six") is None:
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader("torch._six", loader=None))
        module.string_classes, module.int_classes, module.container_abcs = (str, bytes), int, collections.abc
        sys.modules["torch._six"] = module


def pass_over_missing_extensions() -> None:
    """Every import warns that Cython extensions are missing, which only ``make`` inside site-packages could build.

    What they would compute, numpy computes to the same numbers; nobody has to act.
    """
    warnings.filterwarnings("ignore", "Cython (rank|roc) evaluation", UserWarning)


def declare_torchvision_operators() -> None:
    """``import torchvision`` fails with "operator torchvision::nms does not exist" beside a CPU-only torch.

    The wheel's compiled extension needs CUDA libraries; when it cannot be loaded, torchvision still registers shape
    functions for its operators. Declaring the schemas is enough: re-identification calls none of them.
    """
    for _ in range(len(_TORCHVISION_SCHEMAS) + 1):
        try:
            importlib.import_module("torchvision")
            return
        except RuntimeError as error:
            missing = [name for name in _TORCHVISION_SCHEMAS if f"torchvision::{name} does not exist" in str(error)]
            if not missing:
                raise
            fragment = torch.library.Library("torchvision", "FRAGMENT")
            fragment.define(_TORCHVISION_SCHEMAS[missing[0]])
            _torchvision_fragments.append(fragment)
            for name in [m for m in sys.modules if m == "torchvision" or m.startswith("torchvision.")]:
                del sys.modules[name]  # a half-imported package would be returned by the next import
    raise ImportError("torchvision's operators stay undeclared; install the torchvision that matches torch")


def switch_off_contiguous_parameters() -> None:
    """``build_optimizer(contiguous=True)``, the default, silently learns nothing.

    Its flat gradient buffer must keep the gradients as views; since PyTorch 2.0 ``zero_grad`` sets gradients to None, so
    the optimiser goes on reading a buffer of zeros. The default becomes False; who asks for True gets what stock fastreid does.
    """
    build_optimizer = importlib.import_module("fastreid.solver.build").build_optimizer
    default = inspect.signature(build_optimizer).parameters["contiguous"].default
    if default is True and build_optimizer.__defaults__ == (True,):
        build_optimizer.__defaults__ = (False,)


def resolve_regnet_configs() -> None:
    """RegNet and EfficientNet open their YAML files relative to the current folder, so they fail outside a fastreid clone.

    They also merge into one global node, so a network keeps settings of the one built before it (squeeze-and-excitation
    of a RegNetY in a RegNetX). The node merges files by a function that resolves the path and starts from the defaults.
    """
    node = importlib.import_module("fastreid.modeling.backbones.regnet.config").cfg
    if "merge_from_file" in vars(node):
        return
    package_parent = os.path.dirname(os.path.dirname(importlib.import_module("fastreid").__file__))
    defaults, stock = node.clone(), node.merge_from_file

    def merge_from_file(cfg_filename: str) -> None:
        in_package = os.path.join(package_parent, cfg_filename)
        node.merge_from_other_cfg(defaults)
        stock(in_package if os.path.isfile(in_package) else cfg_filename)

    object.__setattr__(node, "merge_from_file", merge_from_file)  # yacs takes plain assignment for a configuration key


def tell_local_process_group(group) -> None:
    """fastreid takes a process's number on its machine from a global that only its own, CUDA-only launcher sets.

    It is the group of this machine's processes; None when there is none any more.
    """
    importlib.import_module("fastreid.utils.comm")._LOCAL_PROCESS_GROUP = group


def translate_random_affine() -> None:
    """``INPUT.AFFINE.ENABLED`` passes ``resample`` and ``fillcolor`` to ``RandomAffine``; torchvision 0.13 removed both."""
    build = importlib.import_module("fastreid.data.transforms.build")
    current = build.T.RandomAffine
    if "resample" in inspect.signature(current.__init__).parameters:
        return

    class RandomAffine(current):
        def __init__(self, degrees, resample=None, fillcolor=0, **options):
            # resample=False meant nearest neighbour, which is torchvision's default to this day
            super().__init__(degrees, fill=fillcolor, **options)

    build.T = types.SimpleNamespace(**{**vars(build.T), "RandomAffine": RandomAffine})


def subsample_before_pointwise_convolutions() -> None:
    """Training RepVGG on a CPU corrupts the heap; the process crashes then, or much later, anywhere.

    Its first block has a 1 x 1 convolution with stride 2 over the 3 channels of the image, and oneDNN (seen with PyTorch
    2.13) writes past its buffers in the gradient of such a weight, for 3 to 16 channels and even image sizes. The same
    convolution with stride 1 over every second pixel gives the same result.
    """
    repvgg = importlib.import_module("fastreid.modeling.backbones.repvgg")
    stock = repvgg.conv_bn
    if getattr(stock, "subsamples", False):
        return

    def conv_bn(norm_type, in_channels, out_channels, kernel_size, stride, padding, groups=1):
        branch = stock(norm_type, in_channels, out_channels, kernel_size, stride, padding, groups)
        if kernel_size == 1 and stride > 1 and padding == 0:
            subsample_before(branch.conv)
        return branch

    conv_bn.subsamples = True
    repvgg.conv_bn = conv_bn


def subsample_before(conv: torch.nn.Conv2d) -> None:
    """Gives a 1 x 1 convolution without padding stride 1, over the pixels that its stride would have taken; in place."""
    down, across = conv.stride
    conv.stride = (1, 1)
    conv.register_forward_pre_hook(lambda _module, inputs: (inputs[0][:, :, ::down, ::across],))


def read_backbone_weights_safely() -> None:
    """Backbones read pretrained weights by plain ``torch.load``, which unpickles anything with PyTorch < 2.6 or
    ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD``; they download at once, without a digest, with a package that may be missing.

    In their modules ``torch.load`` becomes :func:`ise_plugin.utils.weights.load_checkpoint_file`, and the downloads
    :func:`ise_plugin.utils.weights.fetch_weights`.
    """
    package = importlib.import_module("fastreid.modeling.backbones")
    safe = _SafeTorch("torch")
    for name, module in list(sys.modules.items()):
        if not name.startswith(package.__name__ + ".") or getattr(module, "torch", None) is not torch:
            continue
        module.torch = safe
        if hasattr(module, "init_pretrained_weights"):
            module.init_pretrained_weights = _fetching(module, module.init_pretrained_weights)
        if hasattr(module, "load_state_dict_from_url"):
            module.load_state_dict_from_url = _load_state_dict_from_url


def _load_state_dict_from_url(url: str, **_options):
    """In place of ``torch.hub.load_state_dict_from_url``."""
    return load_checkpoint_file(fetch_weights(url))


class _SafeTorch(types.ModuleType):
    """torch, with other ways to read files."""

    hub = types.SimpleNamespace(load_state_dict_from_url=_load_state_dict_from_url)

    @staticmethod
    def load(path: str, map_location=None):
        return load_checkpoint_file(path)

    def __getattr__(self, name: str):
        return getattr(torch, name)


def _fetching(module: types.ModuleType, stock):
    """A backbone's ``init_pretrained_weights``: of (key), or OSNet's of (model, key), whose file has a name of its own."""
    with_model = "model" in inspect.signature(stock).parameters

    def init_pretrained_weights(*arguments):
        key = arguments[-1]
        path = fetch_weights(module.model_urls[key], f"{key}_imagenet.pth" if with_model else None)
        content = load_checkpoint_file(path)
        content = content.get("model_state", content)  # RegNet's and EfficientNet's files hold the optimiser as well
        if not with_model:
            return content
        own = arguments[0].state_dict()
        found = {name.removeprefix("module."): value for name, value in content.items()}
        own.update({name: value for name, value in found.items() if name in own and own[name].shape == value.shape})
        return own

    return init_pretrained_weights


def read_labels_from_file_names_alone() -> None:
    """Readers search the whole path for identity and camera, so a folder above that looks like a name (``run_1_c2/``) gives
    all images one identity and one camera, silently. They search the name of the file."""
    for name in ("market1501", "dukemtmcreid", "veri"):
        module = importlib.import_module(f"fastreid.data.datasets.{name}")
        module.re = types.SimpleNamespace(compile=_OfFileName)


class _OfFileName:
    """A regular expression searched in the last part of a path."""

    def __init__(self, text: str):
        self._pattern = re.compile(text)

    def search(self, path: str):
        return self._pattern.search(os.path.basename(path))


def draw_vehicleid_galleries_by_a_seed() -> None:
    """VehicleID's reader draws the gallery, one image of each identity, from the global generator whenever it is read.

    Two evaluations of a run then rank different galleries, and reading training images moves all later random numbers. The
    draw gets a generator of its own, with the same seed every time.
    """
    module = importlib.import_module("fastreid.data.datasets.vehicleid")
    module.random = types.SimpleNamespace(shuffle=lambda items: random.Random(_VEHICLEID_SEED).shuffle(items))
