"""Runs as processes, of a program that stands for a training: what is started, how often, on what, and how it ends."""

import json
import os
import signal
import sys
import threading
import time

import pytest
from helpers import CONFIGS, HANG

from ise_plugin.sweep import Grid, run_jobs
from ise_plugin.sweep.jobs import last_error

TINY = str(CONFIGS / "ISE/synthetic_tiny.yml")
PROGRAM = r"""
import json, os, pathlib, signal, sys, time

mode, words = sys.argv[1], sys.argv[2:]
assert words[0] == "--config-file" and words[2] == "--resume", words
options = dict(zip(words[3::2], words[4::2]))
folder = pathlib.Path(options["OUTPUT_DIR"])
folder.mkdir(exist_ok=True)
(folder / "config.yaml").write_text(f"SEED: {options['SEED']}\n")
with open(folder / "starts", "a") as file:
    file.write("x")
if mode == "fails" and options["SEED"] == "1":
    print("a warning\nerror: the disk is full\n")
    sys.exit(2)
if mode == "killed":
    print("last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
if mode == "waits" and len((folder / "starts").read_text()) == 1:
    def save(*_):
        (folder / "saved").touch()
        sys.exit(130)
    signal.signal(signal.SIGTERM, save)
    (folder / "ready").touch()
    time.sleep(600)
cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
note = {"began": time.monotonic(), "threads": os.environ.get("OMP_NUM_THREADS"), "cores": cores}
if mode == "together":  # until all three are there
    while len(list(folder.parent.glob("*/starts"))) < 3:
        time.sleep(0.01)
(folder / "note.json").write_text(json.dumps(note))
(folder / "results.json").write_text('{"final": {"mAP": 12.345}}')
for name in ("model_0000", "model_best", "model_final"):
    (folder / f"{name}.pth").touch()
"""


@pytest.fixture
def sweep(tmp_path):
    """``sweep(mode, parallel)`` -> (failed, lines said); three seeds."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    jobs = list(Grid({"tiny": TINY}, seeds=[0, 1, 2]).settings(str(tmp_path / "out"))[0].jobs.values())

    def run(mode, parallel=1, **environment):
        said = []
        command = [sys.executable, str(program), mode]
        return run_jobs(jobs, command, parallel, environment, said.append), said

    run.folders = [tmp_path / "out/ISE_synthetic_tiny" / f"seed_{seed}" for seed in range(3)]
    run.starts = lambda: [len((f / "starts").read_text()) if f.exists() else 0 for f in run.folders]
    return run


def test_all_are_trained_once_and_lose_their_periodic_checkpoints(sweep):
    failed, said = sweep("trains")
    assert failed == {} and sweep.starts() == [1, 1, 1]
    left = {"model_best.pth", "model_final.pth"}
    assert all({path.name for path in folder.glob("*.pth")} == left for folder in sweep.folders)
    assert len(said) == 6 and said[0].endswith("seed_0: starts") and said[1].endswith("mAP 12.35")
    assert sweep("trains") == ({}, []) and sweep.starts() == [1, 1, 1]


def test_a_run_that_fails_is_named_and_the_others_go_on(sweep):
    failed, said = sweep("fails")
    assert failed == {str(sweep.folders[1]): "the disk is full"} and sweep.starts() == [1, 1, 1]
    assert [line for line in said if "exit code 2: the disk is full" in line and "seed_1.txt" in line]
    failed, said = sweep("trains")
    assert failed == {} and sweep.starts() == [1, 2, 1] and said[0].endswith("seed_1: goes on")


def test_a_run_that_a_signal_ends_is_named(sweep):
    failed, _ = sweep("killed")
    assert set(failed.values()) == {"ended by SIGKILL; last line: last words"}


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system binds no process to cores")
def test_runs_at_the_same_time_share_the_cores(sweep, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = os.sched_getaffinity(0)
    failed, _ = sweep("together", parallel=3)
    notes = [json.loads((folder / "note.json").read_text()) for folder in sweep.folders]
    assert failed == {} and os.sched_getaffinity(0) == before
    share = max(1, len(before) // 3)
    assert all(len(note["cores"]) == share and set(note["cores"]) <= before for note in notes)
    assert all(1 <= int(note["threads"]) <= share for note in notes)
    if len(before) >= 3:
        assert len({tuple(note["cores"]) for note in notes}) == 3


def test_threads_that_somebody_asked_for_stay(sweep):
    sweep("trains", OMP_NUM_THREADS="7")
    assert json.loads((sweep.folders[0] / "note.json").read_text())["threads"] == "7"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_runs_save_and_ends_the_sweep(sweep, number):
    def interrupt():
        end = time.monotonic() + HANG
        while not all((folder / "ready").exists() for folder in sweep.folders[:2]) and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        sweep("waits", parallel=2)
    thread.join()
    assert [(folder / "saved").exists() for folder in sweep.folders] == [True, True, False]
    assert sweep.starts() == [1, 1, 0] and [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert sweep("trains", parallel=2)[0] == {} and sweep.starts() == [2, 2, 1]


def test_a_run_that_another_process_trains_is_left_to_it(sweep):
    fcntl = pytest.importorskip("fcntl")
    sweep.folders[0].parent.mkdir(parents=True)
    with open(f"{sweep.folders[1]}.txt", "ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        failed, _ = sweep("trains")
    assert list(failed) == [str(sweep.folders[1])] and "another process" in failed[str(sweep.folders[1])]
    assert sweep.starts() == [1, 0, 1]


@pytest.mark.parametrize(
    "text, line", [("error: one\nerror: two\nlater\n\n", "two"), ("one\n  two  \n", "two"), ("", "")]
)
def test_the_last_error_of_a_log(tmp_path, text, line):
    (tmp_path / "log").write_text(text)
    assert last_error(str(tmp_path / "log")) == line


def test_a_long_log_is_read_from_its_end(tmp_path):
    (tmp_path / "log").write_text("error: early\n" + "x" * 50_000 + "\nerror: late\n")
    assert last_error(str(tmp_path / "log")) == "late"
