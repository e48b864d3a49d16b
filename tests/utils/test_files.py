"""Files whole or not at all, and what is said when there is no room."""

import os
import subprocess
import sys

import fresh_interpreter
import pytest
import torch
from helpers import CONFIGS, REPOSITORY

from ise_plugin.engine import checkpointing
from ise_plugin.engine.checkpointing import check_space
from ise_plugin.errors import UsageError
from ise_plugin.utils.files import (
    UnwritableFile,
    free_space,
    identical_files,
    remove_leftovers,
    replaced_folder,
    write_atomically,
    written_whole,
)


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UnwritableFile, match="cannot be written.*another place") as caught:
        write_atomically(str(tmp_path / "no" / "file"), b"x")
    assert isinstance(caught.value, UsageError) and isinstance(caught.value, OSError)


def test_copies_are_found_by_their_bytes(tmp_path):
    names = {}
    for name, content in {"a": b"one", "b": b"two", "c": b"one", "d": b"three", "e": b"one"}.items():
        names[name] = str(tmp_path / name)
        (tmp_path / name).write_bytes(content)
    gone = str(tmp_path / "gone")
    assert identical_files([*names.values(), gone, names["a"]]) == {names["c"]: names["a"], names["e"]: names["a"]}
    assert identical_files([gone]) == {}


def test_failed_write_leaves_the_old_file(tmp_path):
    (tmp_path / "x").write_text("old")
    with pytest.raises(KeyboardInterrupt), written_whole(str(tmp_path / "x")) as temporary:
        open(temporary, "w").write("half")
        raise KeyboardInterrupt
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def fill(path, own, **contents):
    with replaced_folder(str(path), own) as new:
        for name, content in contents.items():
            open(os.path.join(new, name), "w").write(content)


def test_a_folder_takes_the_place_of_an_older_one(tmp_path):
    (tmp_path / "link").symlink_to("folder")
    for content in ("old", "new"):
        fill(tmp_path / "link", {"a"}, a=content)
    assert (tmp_path / "folder/a").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["folder", "link"] and (tmp_path / "link").is_symlink()


def test_files_of_others_in_the_older_folder_stay_beside_it(tmp_path):
    fill(tmp_path / "folder", {"a"}, a="old", mine="kept")
    fill(tmp_path / "folder", {"a"}, a="new")
    (beside,) = set(os.listdir(tmp_path)) - {"folder"}
    assert os.listdir(tmp_path / "folder") == ["a"] and os.listdir(tmp_path / beside) == ["mine"]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    fill(tmp_path / "folder", {"a"}, a="old")
    rename = os.rename

    def fail_for_the_new_one(source, target):
        if source.endswith(".tmp"):
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_for_the_new_one)
    with pytest.raises(UnwritableFile, match="No space left"):
        fill(tmp_path / "folder", {"a"}, a="new")
    assert os.listdir(tmp_path) == ["folder"] and (tmp_path / "folder/a").read_text() == "old"


@pytest.mark.parametrize(
    "rename, write, settled",
    [
        ("replace", lambda path: write_atomically(str(path), b"x"), 1),
        ("rename", lambda path: fill(path, {"a"}, a="x"), 2),  # the file, and the folder's list of names
    ],
)
def test_content_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch, rename, write, settled):
    happened, sync, stock = [], os.fsync, getattr(os, rename)
    monkeypatch.setattr(os, "fsync", lambda handle: happened.append("settled") or sync(handle))
    monkeypatch.setattr(os, rename, lambda *names: happened.append("renamed") or stock(*names))
    write(tmp_path / "x")
    assert happened == [*["settled"] * settled, "renamed", "settled"]


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for process in (dead.pid, os.getpid()):
        (tmp_path / f"model.pth.{process}.tmp").write_bytes(b"")
    (tmp_path / "model.tmp").write_bytes(b"")
    (tmp_path / f"folder.{dead.pid}.tmp").mkdir()  # somebody's own
    remove_leftovers(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted(
        [f"model.pth.{os.getpid()}.tmp", "model.tmp", f"folder.{dead.pid}.tmp"]
    )


def test_free_space_is_what_the_system_says(tmp_path):
    status = os.statvfs(tmp_path)
    assert abs(free_space(str(tmp_path)) - status.f_bavail * status.f_frsize) < 2**30


def test_too_little_space_is_said_before_the_run(tmp_path, monkeypatch):
    model = torch.nn.Linear(1024, 256)
    optimizer = torch.optim.Adam(model.parameters())
    one = 3 * 4 * (1024 * 256 + 256)
    monkeypatch.setattr(checkpointing, "free_space", lambda _: 5 * one)
    check_space(str(tmp_path), model, optimizer, keep=2)
    with pytest.raises(UsageError, match="need 18 MiB and 15 MiB are free"):
        check_space(str(tmp_path), model, optimizer, keep=3)


def test_a_full_disk_ends_a_run_in_one_line_with_the_older_checkpoint_intact(datasets_folder, tmp_path):
    """A limit on the size of files is like a full disk: writing fails in the middle of a checkpoint."""
    config, run = CONFIGS / "ISE/synthetic_tiny.yml", tmp_path / "run"
    words = f"--config-file {config} OUTPUT_DIR {run} MODEL.DEVICE cpu DATASETS.TESTS () ISE.HOOKS ()".split()
    run.mkdir()
    (run / "model_0000.pth").write_bytes(b"older")
    limited = "import resource, runpy, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, (2**22, 2**22))\n"
    result = fresh_interpreter.run(
        "train_net.py",
        *words,
        code=f"{limited}runpy.run_path({str(REPOSITORY / 'tools/train_net.py')!r}, run_name='__main__')",
        environment={"FASTREID_DATASETS": str(datasets_folder)},
        warm=True,
    )
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert [line for line in result.stderr.splitlines() if line.startswith("error:")][0].count("cannot be written") == 1
    assert (run / "model_0000.pth").read_bytes() == b"older" and not list(run.glob("*.tmp"))
