"""Paths and small helpers that several tests share."""

import importlib.util
import multiprocessing
import multiprocessing.forkserver
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

REPOSITORY = Path(__file__).parents[1]
CONFIGS = REPOSITORY / "configs"
PROJECTS = REPOSITORY / "projects"
RECORDINGS = Path(__file__).parent / "data" / "conformance"

# a wait of this many seconds is a hang, however busy the machine; below pytest's own limit in setup.cfg
HANG = 900

# a run of seconds on the CPU
FOLDER_RUN_OPTIONS = """
    MODEL.DEVICE cpu INPUT.SIZE_TRAIN [64,32] INPUT.SIZE_TEST [64,32] ISE.PSEUDO_LABEL.K1 10 ISE.ITERS_PER_EPOCH 4
    DATALOADER.NUM_INSTANCE 4 DATALOADER.NUM_WORKERS 0 SOLVER.IMS_PER_BATCH 16 SOLVER.MAX_EPOCH 2 SOLVER.STEPS [1]
    SOLVER.CHECKPOINT_PERIOD 1 ISE.REPORT.PICTURES False
""".split()

# the same for configs of projects, whose data set is the tiny one
PROJECT_RUN_OPTIONS = [
    *FOLDER_RUN_OPTIONS,
    *"DATASETS.NAMES ('SyntheticPersonsTiny',) DATASETS.TESTS ('SyntheticPersonsTiny',)".split(),
    *"ISE.ITERS_PER_EPOCH 2 ISE.APPEARANCE.WEIGHT 0 ISE.APPEARANCE.SCENES 0 ISE.EVAL_BEFORE_TRAIN False".split(),
    *"DATALOADER.CACHE none ISE.HOOKS () ISE.CHECKPOINT_SECONDS 0".split(),
]

# name of the builder without build_..._backbone, depth, channels, further keys
BACKBONES = [
    ("resnet", "18x", 512, {}),
    ("resnet", "34x", 512, {}),
    ("resnet", "50x", 2048, {}),
    ("resnet", "101x", 2048, {}),
    ("resnet", "50x", 2048, {"WITH_IBN": True}),
    ("resnet", "50x", 2048, {"WITH_SE": True}),
    ("resnet", "50x", 2048, {"WITH_NL": True}),
    ("resnest", "50x", 2048, {}),
    ("resnext", "101x", 2048, {"WITH_IBN": True}),
    ("osnet", "x1_0", 512, {}),
    ("mobilenetv2", "1.0x", 1280, {}),
    ("mobilenetv3", "Large", 1280, {}),
    ("shufflenetv2", "1.0x", 1024, {}),
    ("repvgg", "A0", 1280, {}),
    ("regnet", "400y", 440, {}),
    ("regnet", "200x", 368, {}),
    ("effnet", "b0", 1280, {}),
    ("vit", "small", 768, {"STRIDE_SIZE": (16, 16)}),
]


def forkserver():
    """A context whose processes start with everything imported: a server does that once for all tests.

    They have the environment that the server was started in, not that of the test.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["distributed_workers", "reliability_runs", "ledger_helpers"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")]))
        multiprocessing.forkserver.ensure_running()
    return context


def backbone_cfg(name, depth, channels, keys):
    from ise_plugin.config import load_cfg  # late: tests of the bare package do without fastreid

    cfg = load_cfg(str(CONFIGS / "Base-ISE.yml"), ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.PRETRAIN", "False"])
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.DEPTH, cfg.MODEL.BACKBONE.FEAT_DIM = (
        f"build_{name}_backbone",
        depth,
        channels,
    )
    for key, value in keys.items():
        cfg.MODEL.BACKBONE[key] = value
    cfg.INPUT.SIZE_TRAIN = cfg.INPUT.SIZE_TEST = [128, 64]
    return cfg


def load_tool(name):
    """The module tools/NAME.py, as it is where a user starts it."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_project(path):
    """The module projects/PATH, as ISE.IMPORT makes it."""
    from ise_plugin.utils.imports import import_file  # late: tests of the bare package do without fastreid

    return import_file(str(PROJECTS / path), "load_project")


def train_project(config, output_dir, *options):
    """A run of a few steps on the tiny data set from projects/CONFIG; returns the trainer."""
    from fastreid.utils.env import seed_all_rng

    from ise_plugin.config import load_cfg
    from ise_plugin.engine import ISETrainer

    cfg = load_cfg(str(PROJECTS / config), [*PROJECT_RUN_OPTIONS, "OUTPUT_DIR", str(output_dir), *options])
    seed_all_rng(cfg.SEED)
    trainer = ISETrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return trainer


class Reads(TorchDispatchMode):
    """Notes the operations whose result the host has to wait for."""

    names = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "bincount", "equal"}

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.note(function.__name__.split(".")[0], args, kwargs or {})
        return function(*args, **(kwargs or {}))

    def note(self, name, args, kwargs):
        by_mask = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in self.names or by_mask:
            self.seen.add(name)


class MetaReads(Reads):
    """The same where ``meta`` stands for a device: only its tensors are waited for; copies to it that the host waits for, and
    operations on tensors of both places, are noted as well."""

    def note(self, name, args, kwargs):
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        places = {tensor.device.type for tensor in tensors}
        copied = name == "copy_" or (name == "_to_copy" and torch.device(kwargs.get("device") or "cpu").type == "meta")
        if "meta" in places:
            super().note(name, args, kwargs)
        if copied and "cpu" in places and not kwargs.get("non_blocking", args[2:] == (True,)):
            self.seen.add(f"blocking {name}")
        if not copied and "meta" in places and any(t.device.type == "cpu" and t.ndim for t in tensors):
            self.seen.add(f"{name} of both devices")


class MetaAutocast(TorchFunctionMode):
    """``torch.autocast`` for ``meta``, for which torch has none: convolutions and products in the lower precision."""

    lower = (torch.nn.functional.linear, torch.conv2d, torch.matmul, torch.Tensor.matmul)
    current = None

    def __init__(self, device_type, dtype=None, enabled=True):
        super().__init__()
        self.dtype, self.before = dtype if enabled else None, []

    def __enter__(self):
        self.before.append(MetaAutocast.current)
        MetaAutocast.current = self.dtype
        return super().__enter__()

    def __exit__(self, *error):
        MetaAutocast.current = self.before.pop()
        return super().__exit__(*error)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        cast = MetaAutocast.current is not None and function in self.lower
        args = tree_map_only(torch.Tensor, lambda t: t.to(MetaAutocast.current), args) if cast else args
        return function(*args, **(kwargs or {}))


class Launches(TorchDispatchMode):
    """Counts the operations that give a device something to do: all but views, bare allocations and marks for the profiler.

    Attributes:
        count: {name: how often}.
        copied: bytes written by operations that only copy, such as cat, clone and copy_.
    """

    copies = {"cat", "stack", "clone", "copy_", "_foreach_copy_", "slice_backward"}

    def __init__(self):
        super().__init__()
        self.count = Counter()
        self.copied = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        name = function.__name__.split(".")[0]
        if not (function.is_view or "empty" in name or function.namespace == "profiler"):
            self.count[name] += 1
        if name in self.copies and isinstance(output, torch.Tensor):
            self.copied += output.numel() * output.element_size()
        return output


def retrieval_of(paths: list, distances: np.ndarray, identities: np.ndarray, cameras: np.ndarray):
    """What an evaluation of these distances (Q, G) would have known."""
    from ise_plugin.clustering.retrieval import RankingMeter  # late: tests of the bare package do without fastreid
    from ise_plugin.engine.evaluation import Retrieval

    count, distances = len(distances), torch.from_numpy(distances)
    meter = RankingMeter(identities[count:], cameras[count:])
    meter.add(distances, identities[:count], cameras[:count])
    found = meter.result()
    precisions = found.average_precision
    return Retrieval("Drawn", paths, identities, cameras, precisions, lambda block: distances[block], found.cmc)
