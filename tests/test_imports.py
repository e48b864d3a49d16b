"""Components are registered whatever is imported first, what needs no fastreid does without, and old names lead on."""

import importlib
import subprocess
import sys

import fresh_interpreter
import pytest
from helpers import HANG

import ise_plugin
from ise_plugin import _imports

REGISTERED = """
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from ise_plugin.modeling import ISE
import ise_plugin.engine
from ise_plugin.registry import HOOK
assert META_ARCH_REGISTRY.get("ISE") is ISE and DATASET_REGISTRY.get("Folder")
assert {"RunReport", "IdentityChoice", "DBSCANPseudoLabelHook"} <= set(HOOK._obj_map)
import sys
assert not {"timm", "infomap", "safetensors", "huggingface_hub"} & set(sys.modules), "extras are imported when they are asked for"
print("registered")
"""


@pytest.mark.parametrize(
    "first",
    [
        "import ise_plugin, fastreid.data.build",
        "import fastreid, ise_plugin",
        "from ise_plugin.modeling import ISE",
        "import ise_plugin.config",
        "import ise_plugin.data.image_dataset",  # as a worker process does that unpickles one
        "import ise_plugin.identities.choice",
        "import ise_plugin.report.sheets",
        "from ise_plugin import Embedder, get_cfg",
    ],
)
def test_components_are_registered_whatever_comes_first(first):
    result = fresh_interpreter.run(code=first + REGISTERED)
    assert result.stdout.split() == ["registered"], result.stderr


def test_what_needs_no_fastreid_imports_none():
    code = """
import sys, ise_plugin
import ise_plugin.data.reading, ise_plugin.utils.command_line
print([name for name in ("torch", "fastreid") if name in sys.modules])
from ise_plugin.clustering import generate_pseudo_labels
from ise_plugin.method import ClusterMemory
print([name for name in ("fastreid", "torchvision", "tensorboard") if name in sys.modules])
"""
    words = [sys.executable, "-W", "ignore", "-c", code]
    result = subprocess.run(words, capture_output=True, text=True, timeout=HANG)
    assert result.stdout.split("\n") == ["[]", "[]", ""], result.stderr


def test_attributes_are_imported_when_they_are_asked_for():
    from ise_plugin.data.samplers import CrossCameraBatchSampler

    assert ise_plugin.data.CrossCameraBatchSampler is CrossCameraBatchSampler
    assert ise_plugin.inference is importlib.import_module("ise_plugin.inference")
    for package in (ise_plugin, ise_plugin.data):
        with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
            package.nothing


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """(file of a module, what happens to it), watched."""
    happened = []
    watcher = _imports._Watcher("watched_module", lambda: happened.append("before"), lambda: happened.append("after"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [watcher, *sys.meta_path])
    monkeypatch.delitem(sys.modules, "watched_module", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path / "watched_module.py", happened
    assert watcher not in sys.meta_path


def test_an_import_that_fails_is_watched_again(watched):
    path, happened = watched
    path.write_text("1 / 0")
    with pytest.raises(ZeroDivisionError):
        importlib.import_module("watched_module")
    assert happened == ["before"]
    path.write_text("value = 7")
    assert importlib.import_module("watched_module").value == 7 and happened == ["before", "before", "after"]


def test_looking_for_a_module_without_importing_it_does_nothing(watched):
    path, happened = watched
    assert importlib.util.find_spec("watched_module") is None
    path.write_text("")
    importlib.invalidate_caches()
    assert importlib.util.find_spec("watched_module").origin == str(path) and not happened
    importlib.import_module("watched_module")
    assert happened == ["before", "after"]


@pytest.mark.parametrize("old, new", [*_imports.MOVED.items(), ("search.index", "inference.index")])
def test_modules_are_found_under_their_old_names(old, new, monkeypatch):
    old, new = f"ise_plugin.{old}", f"ise_plugin.{new}"
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=f"^{old} is now {new};") as caught:
        found = importlib.import_module(old)
    assert found is importlib.import_module(new) and found.__name__ == new == found.__spec__.name
    assert "importlib" not in caught[-1].filename or caught[-1].filename == importlib.__file__


def test_the_warning_names_the_line_that_imports():
    result = subprocess.run(
        [sys.executable, "-c", "from ise_plugin.search.index import SearchIndex\nprint(SearchIndex.__module__)"],
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert result.stdout.strip() == "ise_plugin.inference.index"
    assert "<string>:1: DeprecationWarning: ise_plugin.search is now ise_plugin.inference" in result.stderr
