"""What is noted of a run; identities come from the readers, for the report alone."""

import ast
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset
from helpers import CONFIGS

import ise_plugin
from ise_plugin.config import load_cfg
from ise_plugin.data import read_training_images
from ise_plugin.report.facts import read_true_identities, run_facts

CONFIG_FILE = str(CONFIGS / "ISE/synthetic_tiny.yml")


@pytest.fixture
def reader(monkeypatch):
    def register(items):
        class Given(ImageDataset):
            def __init__(self, root="", **options):
                super().__init__(items, [], [], **options)

        monkeypatch.setitem(DATASET_REGISTRY._obj_map, "Given", Given)

    return register


def test_identities_are_those_in_the_file_names(tiny_dataset):
    paths = read_training_images(["SyntheticPersonsTiny"]).paths
    found = read_true_identities(["SyntheticPersonsTiny"], paths)
    expected = [Path(path).name.split("_")[0] for path in paths]
    assert len(np.unique(found)) == 12 == len(set(zip(found, expected)))


def test_the_order_is_that_of_the_paths_asked_for(reader):
    reader([("b.jpg", "x", 0), ("a.jpg", "y", 0), ("c.jpg", "y", 0)])
    assert read_true_identities(["Given"], ["c.jpg", "b.jpg"]).tolist() == ["Given y", "Given x"]


@pytest.mark.parametrize("names, paths", [(["unknown"] * 3, "abc"), (["x", "y", "z"], "abd")])
def test_what_is_not_known_is_none(reader, names, paths):
    reader([(path, name, 0) for path, name in zip("abc", names)])
    assert read_true_identities(["Given"], list(paths)) is None


def test_nothing_but_the_report_asks_for_identities():
    package = Path(ise_plugin.__file__).parent
    users = set()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in getattr(node, "names", []) if isinstance(alias, ast.alias)]
            if isinstance(node, (ast.Import, ast.ImportFrom)) and "read_true_identities" in names:
                users.add(file.relative_to(package).as_posix())
    assert users == {"report/hook.py"}


def test_facts_name_what_differs_from_the_base_file(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["tools/train_net.py", "--config-file", "a b.yml"])
    monkeypatch.setenv("FASTREID_DATASETS", "/my data")
    cfg = load_cfg(CONFIG_FILE, ["OUTPUT_DIR", str(tmp_path), "SEED", "7"])
    facts = run_facts(cfg, CONFIG_FILE)
    differs = {key: (base, own) for key, base, own in facts["differs"]}
    assert facts["base"] == "Base-ISE.yml" and differs["SOLVER.MAX_EPOCH"] == (str(load_cfg().SOLVER.MAX_EPOCH), "2")
    assert differs["SEED"] == ("0", "7") and "OUTPUT_DIR" not in differs and "MODEL.META_ARCHITECTURE" not in differs
    assert run_facts(cfg)["base"] == "the defaults" and "MODEL.META_ARCHITECTURE" in str(run_facts(cfg)["differs"])
    command = "FASTREID_DATASETS='/my data' python tools/train_net.py --config-file 'a b.yml' SEED 7"
    assert facts["command"] == command
    assert json.loads(json.dumps(facts)) == facts and ["seed", "7"] in facts["environment"]
