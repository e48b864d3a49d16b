"""What is noted of a run before it trains: command, environment, configuration, and who is on the training images."""

import os
import platform
import shlex
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Optional, Sequence

import numpy as np
import torch
from fastreid.data.datasets import DATASET_REGISTRY

from .. import __version__
from ..config import flat, get_cfg, load_base_cfg
from ..data.image_sets import ROOT_VARIABLE, datasets_root
from ..utils.distributed import world_size

# Keys that say where and how often, not what was trained.
_NOT_IN_DIFFERENCES = ("OUTPUT_DIR", "ISE.REPORT.")
_PACKAGES = ("fastreid", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "faiss-cpu", "matplotlib")
# A reader without identities gives all its images one name; one identity would also make every measure trivial.
_FEWEST_IDENTITIES = 2
# Readers that know none and are slow to ask.
_WITHOUT_IDENTITIES = ("Folder",)


def run_facts(cfg, config_file: Optional[str] = None) -> dict:
    """Command, environment, configuration, and its differences from the base that ``config_file`` goes back to."""
    name, base = load_base_cfg(config_file) if config_file else ("the defaults", get_cfg())
    ours, theirs = flat(cfg), flat(base)
    differs = [
        [key, str(theirs.get(key, "")), str(value)]
        for key, value in sorted(ours.items())
        if theirs.get(key) != value and not key.startswith(_NOT_IN_DIFFERENCES)
    ]
    return {
        "command": _command(cfg),
        "base": os.path.basename(name),
        "differs": differs,
        "environment": _environment(cfg),
        "config": cfg.dump(),
    }


def _command(cfg) -> str:
    """What was typed, with the seed and the folder of the data sets that were in force."""
    words = ["python", *sys.argv]
    if ["SEED", str(cfg.SEED)] not in [words[i : i + 2] for i in range(len(words))]:
        words += ["SEED", str(cfg.SEED)]
    root = os.environ.get(ROOT_VARIABLE)
    return (f"{ROOT_VARIABLE}={shlex.quote(root)} " if root else "") + shlex.join(words)


def _environment(cfg) -> list:
    device = torch.device(cfg.MODEL.DEVICE) if cfg.MODEL.DEVICE != "auto" else torch.device("cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    rows = [
        ["seed", str(cfg.SEED)],
        ["device", f"{cfg.MODEL.DEVICE}, {name}, {torch.get_num_threads()} threads, {world_size()} process(es)"],
        ["system", platform.platform()],
        ["Python", platform.python_version()],
        ["ise_plugin", __version__],
    ]
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            rows.append([package, version(package)])
    return rows


def read_true_identities(names: Sequence[str], paths: Sequence[str], combine_all: bool = False) -> Optional[np.ndarray]:
    """Who is on N training images, as the data sets' readers say. For the report: nothing that trains may call this.

    Training reads its images without identities (:func:`ise_plugin.data.read_training_images`); this reads the data
    sets of these registered names again, to study how well the pseudo labels fit.

    Returns:
        (N,), text, the name of the data set in front; None where not every image, or no two identities are known.
    """
    if any(name in _WITHOUT_IDENTITIES for name in names):
        return None
    identities = {}
    for name in names:
        data = DATASET_REGISTRY.get(name)(root=datasets_root(), combineall=combine_all)
        identities.update((path, f"{name} {identity}") for path, identity, _camera in data.train)
    if any(path not in identities for path in paths):
        return None
    found = np.array([identities[path] for path in paths])
    return found if len(np.unique(found)) >= _FEWEST_IDENTITIES else None
