"""The command with a real training, which is killed on the way; the same command finishes the table."""

import json
import os
from pathlib import Path

import pytest
import yaml
from helpers import CONFIGS, load_tool

main = load_tool("sweep").main
K = "ISE.SUPPORT.NUM_NEIGHBORS"
HOOK = """
import os, pathlib, signal
from fastreid.engine.hooks import HookBase

class KillOnce(HookBase):
    def __init__(self, cfg):
        self.neighbors, self.killed = cfg.ISE.SUPPORT.NUM_NEIGHBORS, pathlib.Path(cfg.OUTPUT_DIR, "killed")

    def before_step(self):
        if self.trainer.epoch == 1 and self.neighbors == 2 and not self.killed.exists():
            self.killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def grid(tiny_dataset, tmp_path, monkeypatch):
    """The words of a sweep of one run, which is killed in its second epoch the first time."""
    (tmp_path / "kill_once.py").write_text(HOOK)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    keys = "SOLVER.CHECKPOINT_PERIOD 1 ISE.ITERS_PER_EPOCH 2 ISE.REPORT.PICTURES False ISE.EVAL_BEFORE_TRAIN False"
    words = f"{keys} MODEL.DEVICE cpu TEST.EVAL_PERIOD 0".split()
    content = {
        "config": str(CONFIGS / "ISE/synthetic_tiny.yml"),
        "keys": {**dict(zip(words[0::2], words[1::2])), "ISE.HOOKS": "('RunReport', 'kill_once.KillOnce')"},
        "axes": {K: [2]},
    }
    (tmp_path / "one.yml").write_text(yaml.safe_dump(content))
    return ["--grid", str(tmp_path / "one.yml"), "--output", str(tmp_path / "out")]


def test_a_sweep_goes_on_after_a_kill(grid, tmp_path, capfd):
    assert main([*grid, "--dry-run"]) == 0
    assert "1 runs: 1 to do\nno run is done yet" in capfd.readouterr().out and not (tmp_path / "out").exists()

    assert main(grid) == 1
    out, err = capfd.readouterr()
    assert "no run is done yet" in out and err.startswith("failed: ") and "ended by SIGKILL" in err

    assert main(grid) == 0
    out, err = capfd.readouterr()
    run = tmp_path / "out/ISE_synthetic_tiny,SUPPORT.NUM_NEIGHBORS=2/seed_0"
    assert out.startswith("1 runs: 1 half done\n") and f"{run}: goes on" in out and not err
    assert "Starting training from epoch 2" in Path(f"{run}.txt").read_text()
    content = json.loads((tmp_path / "out/one.json").read_text())
    numbers = content["rows"][0]["runs"]["0"]
    assert content["command"].startswith("ise-sweep --grid ")
    assert numbers["mAP"] == json.loads((run / "results.json").read_text())["final"]["mAP"]
    assert numbers["ARI"] == [json.loads(x) for x in (run / "metrics.json").read_text().splitlines()][-2]["labels/ari"]
    assert (tmp_path / "out/one.md").read_text().split("\n\n")[1].strip() in out
    assert (tmp_path / "out/one.png").exists()


def test_a_folder_of_other_keys_ends_it_before_anything_starts(grid, tmp_path, capfd):
    folder = tmp_path / "out/ISE_synthetic_tiny,SUPPORT.NUM_NEIGHBORS=2/seed_0"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("SEED: 0\nSOLVER: {MAX_EPOCH: 7}\n")
    assert main(grid) == 2
    assert "SOLVER.MAX_EPOCH is 7, not 2" in capfd.readouterr().err
    assert [path.name for path in folder.parent.parent.rglob("*.txt")] == []


def test_no_jobs_are_refused(grid, capfd):
    assert main([*grid, "--jobs", "0"]) == 2 and "--jobs" in capfd.readouterr().err
