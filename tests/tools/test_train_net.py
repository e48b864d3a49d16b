"""The command as a user types it, in a process of its own."""

import json
import os
import shutil
import subprocess
import sys

import fresh_interpreter
import pytest
import torch
from helpers import CONFIGS, HANG, REPOSITORY, load_tool

from ise_plugin.engine.checkpointing import load_checkpoint_file

TOOL = str(REPOSITORY / "tools" / "train_net.py")
main = load_tool("train_net").main


def run(datasets, *arguments, processes=({},), **environment):
    environment = {"FASTREID_DATASETS": str(datasets), **environment}
    return fresh_interpreter.run(TOOL, *arguments, environment=environment, processes=processes, warm=True)


def opts(output_dir, *more):
    return ["--config-file", CONFIGS / "ISE/synthetic_tiny.yml", *more, "OUTPUT_DIR", output_dir, "MODEL.DEVICE", "cpu"]


@pytest.fixture(scope="module")
def one_epoch(datasets_folder, tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("cli") / "run"
    result = run(datasets_folder, *opts(output_dir), "SOLVER.MAX_EPOCH", 1)
    assert result.returncode == 0, result.stderr
    return output_dir, result


def test_one_epoch_prints_a_table_of_before_and_after(one_epoch):
    output_dir, result = one_epoch
    results = json.loads((output_dir / "results.json").read_text())
    table = result.stdout[result.stdout.rindex("Results, also in") :]
    for row in ("initial", "final"):
        assert any(line.startswith(f"| {row} ") and f"{results[row]['mAP']:.2f}" in line for line in table.splitlines())
    assert (output_dir / "log.txt").exists() and (output_dir / "config.yaml").exists()


def run_here(*arguments):
    """The command in this process: its exit code."""
    return main([str(argument) for argument in arguments])


def test_evaluating_the_final_checkpoint_gives_what_training_printed(one_epoch, tiny_dataset, tmp_path):
    output_dir, _ = one_epoch
    weights = output_dir / "model_final.pth"
    assert run_here(*opts(tmp_path / "eval", "--eval-only"), "MODEL.WEIGHTS", weights) == 0
    final = json.loads((output_dir / "results.json").read_text())["final"]
    assert json.loads((tmp_path / "eval/evaluation.json").read_text()) == final


def test_a_finished_run_keeps_its_config(one_epoch, tiny_dataset, capfd):
    output_dir, _ = one_epoch
    before = (output_dir / "config.yaml").read_bytes()
    assert run_here(*opts(output_dir), "SEED", 7) == 2
    assert "holds a finished run" in capfd.readouterr().err and (output_dir / "config.yaml").read_bytes() == before


def test_resume_goes_on_after_the_last_epoch(one_epoch, tiny_dataset, capfd):
    output_dir, _ = one_epoch
    before = json.loads((output_dir / "results.json").read_text())
    assert run_here(*opts(output_dir, "--resume"), "SOLVER.MAX_EPOCH", 2) == 0
    assert "Starting training from epoch 2" in capfd.readouterr().out
    after = json.loads((output_dir / "results.json").read_text())
    assert after["initial"] == before["initial"] and after["seconds"] > before["seconds"]


MISTAKES = {
    "no data": (["DATASETS.NAMES", "('Market1501',)"], "FASTREID_DATASETS"),
    "unknown key": (["ISE.PSEUDO_LABEL.EPSILON", "0.4"], "ISE.PSEUDO_LABEL.EPS"),
    "mistyped value": (["SOLVER.MAX_EPOCH", "many"], "SOLVER.MAX_EPOCH"),
    "batch of broken groups": (["SOLVER.IMS_PER_BATCH", "18"], "DATALOADER.NUM_INSTANCE"),
    "negative eps": (["ISE.PSEUDO_LABEL.EPS", "-0.5"], "ISE.PSEUDO_LABEL.EPS"),
    "no neighbours": (["ISE.SUPPORT.NUM_NEIGHBORS", "0"], "ISE.SUPPORT.NUM_NEIGHBORS"),
    "missing weights": (["MODEL.WEIGHTS", "nowhere.pth"], "nowhere.pth"),
    "useless eps": (["ISE.PSEUDO_LABEL.EPS", "0.001"], " among these: larger"),
    "too many GPUs": (["--num-gpus", "64"], "--num-gpus 64"),
    "evaluation without weights": (["--eval-only"], "MODEL.WEIGHTS"),
}


@pytest.mark.parametrize("arguments, word", MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_get_one_line_and_exit_code_2(tiny_dataset, tmp_path, capfd, arguments, word):
    flags = arguments if arguments[0].startswith("--") else []
    keys = [] if flags else arguments
    code = run_here(*opts(tmp_path / "run", *flags), "ISE.EVAL_BEFORE_TRAIN", "False", *keys)
    out, err = capfd.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert code == 2 and len(errors) == 1 and word in errors[0], err
    assert "Traceback" not in out + err
    assert not list(tmp_path.rglob("*.pth"))


def test_without_fastreid_one_line_says_how_to_install_it():
    program = "import importlib.util as util, runpy\nfind_spec = util.find_spec\n"
    program += "util.find_spec = lambda name, *rest: None if name == 'fastreid' else find_spec(name, *rest)\n"
    program += f"runpy.run_path({TOOL!r}, run_name='__main__')"
    words = [sys.executable, "-W", "ignore", "-c", program]
    result = subprocess.run(words, capture_output=True, text=True, timeout=HANG)
    command = "pip install --no-deps fastreid==1.4.0"
    assert result.returncode == 1
    assert result.stderr == f"error: fastreid is not installed; install it with: {command}\n"


def test_exit_code_of_the_process_is_2(datasets_folder, tmp_path):
    result = run(datasets_folder, *opts(tmp_path / "run"), "SEEDS", "1")
    assert result.returncode == 2 and result.stderr.splitlines()[-1].startswith(
        "error: command line: unknown key SEEDS"
    )
    assert "Traceback" not in result.stderr and not (tmp_path / "run").exists()


def test_traceback_is_there_for_who_asks(tmp_path, capfd):
    code = run_here(*opts(tmp_path / "run", "--traceback"), "SEEDS", "1")
    err = capfd.readouterr().err
    assert code == 2 and "Traceback" in err and "nearest valid key is SEED" in err


def test_unreadable_image_is_named(datasets_folder, tmp_path, monkeypatch, capfd):
    copy = tmp_path / "datasets"
    shutil.copytree(datasets_folder, copy)
    victim = sorted((copy / "synthetic_persons_tiny/bounding_box_train").iterdir())[5]
    victim.write_bytes(victim.read_bytes()[:100])
    monkeypatch.setenv("FASTREID_DATASETS", str(copy))
    assert run_here(*opts(tmp_path / "run"), "ISE.EVAL_BEFORE_TRAIN", "False") == 2
    assert f"image {victim} cannot be read" in capfd.readouterr().err.splitlines()[-1]


# Plain gradient descent in small steps: within four of 0.001 a rounding of 1e-7 grows to 0.04, and labels made after
# training would hang on it, so one labelling serves both epochs. Its eps lies in a gap of the distances, 0.0018 from the
# nearest one. Groups of 8 are half a batch: two in one process, one for each two of four. Still a share of the batch is
# convolved by other kernels than the whole, and in eight steps their rounding grows to 3e-4 (CPU with AVX2).
SAME_FOR_ANY_NUMBER_OF_PROCESSES = """
    MODEL.BACKBONE.NAME build_resnet_backbone MODEL.BACKBONE.DEPTH 18x MODEL.BACKBONE.FEAT_DIM 512
    MODEL.BACKBONE.PRETRAIN False SOLVER.AMP.ENABLED False ISE.BN_GROUP_SIZE 8
    SOLVER.OPT SGD SOLVER.BASE_LR 0.00001 ISE.PSEUDO_LABEL.EPS 0.3968 ISE.PSEUDO_LABEL.PERIOD 2
    SOLVER.CHECKPOINT_PERIOD 1
""".split()
ROUNDING = 1e-3


@pytest.fixture(scope="module")
def one_process(datasets_folder, tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("one") / "run"
    result = run(datasets_folder, *opts(output_dir), *SAME_FOR_ANY_NUMBER_OF_PROCESSES, OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr
    return output_dir


@pytest.mark.parametrize("world", [4])
def test_any_number_of_processes_labels_and_learns_as_one(datasets_folder, one_process, tmp_path, world):
    one, several = one_process, tmp_path / "several"
    words = [*opts(several), *SAME_FOR_ANY_NUMBER_OF_PROCESSES]
    result = run(datasets_folder, *words, processes=fresh_interpreter.as_of_torchrun(world), OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr
    for name in ("model_0000.pth", "model_final.pth"):
        a, b = load_checkpoint_file(str(one / name)), load_checkpoint_file(str(several / name))
        assert a["pseudo_labels"]["labels"].max() >= 3
        assert torch.equal(a["pseudo_labels"]["labels"], b["pseudo_labels"]["labels"])
        assert torch.allclose(a["pseudo_labels"]["centroids"], b["pseudo_labels"]["centroids"], atol=ROUNDING)
        assert all(torch.allclose(a["model"][key], b["model"][key], atol=ROUNDING) for key in a["model"])
    results = [json.loads((folder / "results.json").read_text()) for folder in (one, several)]
    for part in ("initial", "final"):
        assert results[0][part]["mAP"] == pytest.approx(results[1][part]["mAP"], abs=0.01)
    assert {path.name for path in several.rglob("log.txt*")} == {"log.txt"}  # the first process alone writes


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def torchrun(datasets, world, *arguments, restarts=0):
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}"]
    return subprocess.run(
        [*command, f"--max-restarts={restarts}", TOOL, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=HANG,
        env={**os.environ, "FASTREID_DATASETS": str(datasets), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )


# three epochs; the second process is killed in the second, and in the third when it has been started again
KILLED = "SOLVER.MAX_EPOCH 3 SOLVER.CHECKPOINT_PERIOD 1 ISE.HOOKS ('EpochSummary','faulty_hooks.KillProcess1')".split()


def test_torchrun_restarts_from_the_last_checkpoint_of_this_run_and_ends_when_it_gives_up(
    tiny_dataset, tmp_path, capfd
):
    output_dir = tmp_path / "run"
    output_dir.mkdir()
    (output_dir / "last_checkpoint").write_text("model_of_an_older_run.pth")
    result = torchrun(tiny_dataset, 2, *opts(output_dir), *KILLED, restarts=1)
    log = (output_dir / "log.txt").read_text()
    assert "is of an older run" in log and "Starting training from epoch 1" in log
    assert "torchrun started the run again (attempt 2)" in log and "Starting training from epoch 2" in log
    processes = [int(path.name.split("_")[1]) for path in output_dir.glob("process_*")]
    assert result.returncode != 0 and len(processes) == 4 and not any(map(is_alive, processes))
    assert result.stderr.count("\nerror: ") <= 2 and not (output_dir / "model_final.pth").exists()
    assert run_here(*opts(output_dir, "--resume"), *KILLED) == 0  # with one process
    assert "Starting training from epoch 3" in capfd.readouterr().out
    assert set(json.loads((output_dir / "results.json").read_text())) >= {"initial", "final"}
