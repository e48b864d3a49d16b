"""Files that run a program when they are unpickled: twenty kinds through the reader of weights, one through each of the doors
that lead to it, and numpy's kinds through the reader of embeddings."""

import functools
import io
import os
import pickle
import runpy
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from fastreid.modeling.backbones import build_backbone

from ise_plugin.config import load_cfg
from ise_plugin.engine.checkpointing import ISECheckpointer
from ise_plugin.errors import UsageError
from ise_plugin.inference.embeddings import read_embeddings
from ise_plugin.modeling.build import build_model
from ise_plugin.utils.weights import load_checkpoint_file


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *arguments):
        self._reduced = (function, arguments)

    def __reduce__(self):
        return self._reduced


def mkdir(target):
    return Call(os.mkdir, target)


def script(target):
    folder = Path(f"{target}_source")
    folder.mkdir(exist_ok=True)
    path = folder / "script.py"
    path.write_text(f"import os; os.mkdir({target!r})")
    return str(path)


def saved(content, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def legacy(content) -> bytes:
    return saved(content, _use_new_zipfile_serialization=False)


def object_array(target) -> np.ndarray:
    array = np.empty(1, object)
    array[0] = mkdir(target)
    return array


def npz(target) -> bytes:
    buffer = io.BytesIO()
    names = ("embeddings", "names", "lengths", "stamps", "fingerprint", "run")
    np.savez(buffer, **{name: object_array(target) for name in names})
    return buffer.getvalue()


def npy(target) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, object_array(target), allow_pickle=True)
    return buffer.getvalue()


def zip_of_pickle(target) -> bytes:
    """An archive like torch's, made by hand."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(mkdir(target), protocol=2))
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def by_hand(target) -> bytes:
    """Opcodes that no pickler writes: GLOBAL of text, and STOP after the call."""
    return b"cos\nmkdir\n(S'" + target.encode() + b"'\ntR."


# name -> (target folder) -> content of a file whose unpickling makes the folder
PAYLOADS = {
    "mkdir on top": lambda t: saved(mkdir(t)),
    "in the state dict": lambda t: saved({"model": {"a.weight": mkdir(t)}}),
    "as the state dict": lambda t: saved({"model": mkdir(t)}),
    "beside a state dict": lambda t: saved({"model": {}, "optimizer": mkdir(t)}),
    "eval": lambda t: saved({"model": Call(eval, f"__import__('os').mkdir({t!r})")}),
    "exec": lambda t: saved({"model": Call(exec, f"import os; os.mkdir({t!r})")}),
    "system": lambda t: saved({"model": Call(os.system, f"mkdir '{t}'")}),
    "popen": lambda t: saved({"model": Call(subprocess.check_call, ["mkdir", t])}),
    "run a path": lambda t: saved({"model": Call(runpy.run_path, script(t))}),
    "partial": lambda t: saved({"model": Call(functools.partial(os.mkdir, t))}),
    "copy of a folder": lambda t: saved({"model": Call(shutil.copytree, os.path.dirname(script(t)), t)}),
    "pickle in pickle": lambda t: saved({"model": Call(pickle.loads, pickle.dumps(mkdir(t)))}),
    "torch's own reader": lambda t: saved({"model": Call(torch.storage._load_from_bytes, legacy(mkdir(t)))}),
    "old format": lambda t: legacy({"model": mkdir(t)}),
    "plain pickle": lambda t: pickle.dumps({"model": mkdir(t)}),
    "plain pickle, protocol 0": lambda t: pickle.dumps({"model": mkdir(t)}, protocol=0),
    "opcodes by hand": by_hand,
    "archive by hand": zip_of_pickle,
    "numpy archive": npz,
    "numpy array": npy,
}


@pytest.fixture
def payload(request, tmp_path):
    """(file, the folder that appears when it is unpickled), the file proven to work."""
    target = tmp_path / "executed"
    path = tmp_path / "w.pth"
    path.write_bytes(PAYLOADS[request.param](str(target)))
    unpickle(path)
    assert target.exists(), "the payload does nothing: it proves nothing"
    shutil.rmtree(target)
    return path, target


def unpickle(path):
    """What a careless reader does."""
    for read in (
        lambda: torch.load(path, weights_only=False),
        lambda: pickle.loads(path.read_bytes()),
        lambda: _all_of(path),
    ):
        try:
            read()
        except Exception:
            continue


def _all_of(path):
    with np.load(path, allow_pickle=True) as file:
        [file[name] for name in file.files]


def refused(function, target):
    with pytest.raises(UsageError) as caught:
        function()
    assert not target.exists() and "\n" not in str(caught.value)


@pytest.mark.parametrize("payload", PAYLOADS, indirect=True)
def test_no_kind_is_executed_as_weights(payload):
    path, target = payload
    refused(lambda: load_checkpoint_file(str(path)), target)


# an object that torch's own reader of weights would not refuse with TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD
one_kind = pytest.mark.parametrize("payload", ["in the state dict"], indirect=True)


@one_kind
def test_as_weights_of_a_model(payload):
    path, target = payload
    refused(lambda: ISECheckpointer(torch.nn.Linear(2, 2)).load(str(path)), target)


@one_kind
def test_as_checkpoint_to_resume_from(payload, tmp_path):
    path, target = payload
    path.rename(tmp_path / "model_0003.pth")
    (tmp_path / "last_checkpoint").write_text("model_0003.pth")
    refused(lambda: ISECheckpointer(torch.nn.Linear(2, 2), str(tmp_path)).resume_or_load("", resume=True), target)


# the small ones of those that read a file; all others do it by the same function
BACKBONES = {"build_mobilenetv2_backbone": "1.0x", "build_osnet_backbone": "x0_25"}


@one_kind
@pytest.mark.parametrize("build", [build_backbone, build_model])
@pytest.mark.parametrize("name", BACKBONES)
def test_as_pretrained_weights(payload, monkeypatch, name, build):
    path, target = payload
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # stock fastreid would then unpickle them
    cfg = load_cfg(None, ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.PRETRAIN", "True", "DATASETS.NAMES", "('x',)"])
    cfg.MODEL.BACKBONE.PRETRAIN_PATH = str(path)
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.DEPTH = name, BACKBONES[name]
    refused(lambda: build(cfg), target)


@pytest.mark.parametrize("payload", ["numpy archive", "numpy array", "plain pickle"], indirect=True)
def test_as_embeddings(payload):
    path, target = payload
    refused(lambda: read_embeddings(str(path)), target)
