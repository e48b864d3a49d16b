"""The wheel: every package and config is in it, its commands start, and it needs nothing of the checkout."""

import configparser
import shutil
import subprocess
import sys
import zipfile

import fresh_interpreter
import pytest
from helpers import REPOSITORY


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds what a wheel made from this checkout installs."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("ise_plugin", "tools", "configs"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(source)], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "installed")
    return folder / "installed"


def test_every_file_of_the_package_is_in_the_wheel(installed):
    def files(folder):
        return {p.relative_to(folder) for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts}

    package = installed / "ise_plugin"
    own = {p for p in files(package) if p.parts[0] not in ("configs", "tools")}
    assert own == files(REPOSITORY / "ise_plugin")
    assert files(package / "configs") == files(REPOSITORY / "configs")
    assert files(package / "tools") == {
        p.relative_to(REPOSITORY / "tools") for p in (REPOSITORY / "tools").glob("*.py")
    }


def test_commands_of_the_wheel_find_its_configs_from_anywhere(installed, tmp_path, monkeypatch):
    points = configparser.ConfigParser()
    points.read(next(installed.glob("*.dist-info")) / "entry_points.txt")
    assert {
        f"ise-{name}"
        for name in ("train", "crops", "embed", "index", "search", "export", "identities", "report", "sweep", "video")
    } == {*points["console_scripts"]}
    program = "import importlib, sys; sys.path.insert(0, sys.argv[1])\n"
    for target in points["console_scripts"].values():
        module, function = target.split(":")
        program += f"assert callable(importlib.import_module({module!r}).{function})\n"
    program += "from ise_plugin.config import load_cfg, resolve_config_file\n"
    program += "assert load_cfg('ISE/folder.yml').DATASETS.NAMES == ('Folder',)\n"
    program += "print(resolve_config_file('ISE/folder.yml'))"
    monkeypatch.chdir(tmp_path)
    said = fresh_interpreter.run("-c", installed, code=program)
    assert said.stdout.strip() == str(installed / "ise_plugin/configs/ISE/folder.yml")
