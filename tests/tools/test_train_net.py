"""The command as a user types it, in a process of its own."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from helpers import CONFIGS, REPOSITORY

from ise_plugin.engine.checkpointing import load_checkpoint_file
from ise_plugin.engine.cli import main

TOOL = str(REPOSITORY / "tools" / "train_net.py")


def run(datasets, *arguments, **environment):
    return subprocess.run(
        [sys.executable, TOOL, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "FASTREID_DATASETS": str(datasets), **environment},
    )


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


def test_evaluating_the_final_checkpoint_gives_what_training_printed(one_epoch, datasets_folder, tmp_path):
    output_dir, _ = one_epoch
    result = run(
        datasets_folder, *opts(tmp_path / "eval", "--eval-only"), "MODEL.WEIGHTS", output_dir / "model_final.pth"
    )
    assert result.returncode == 0, result.stderr
    final = json.loads((output_dir / "results.json").read_text())["final"]
    assert json.loads((tmp_path / "eval/evaluation.json").read_text()) == final


def test_resume_goes_on_after_the_last_epoch(one_epoch, datasets_folder, tmp_path):
    output_dir, _ = one_epoch
    before = json.loads((output_dir / "results.json").read_text())
    result = run(datasets_folder, *opts(output_dir, "--resume"), "SOLVER.MAX_EPOCH", 2)
    assert result.returncode == 0 and "Starting training from epoch 1" in result.stdout
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
    "useless eps": (["ISE.PSEUDO_LABEL.EPS", "0.001"], "Set ISE.PSEUDO_LABEL.EPS among these"),
    "too many GPUs": (["--num-gpus", "64"], "--num-gpus 64"),
    "evaluation without weights": (["--eval-only"], "MODEL.WEIGHTS"),
}


@pytest.mark.parametrize("arguments, word", MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_get_one_line_and_exit_code_2(tiny_dataset, tmp_path, capfd, arguments, word):
    flags = arguments if arguments[0].startswith("--") else []
    keys = [] if flags else arguments
    code = main([*map(str, opts(tmp_path / "run", *flags)), "ISE.EVAL_BEFORE_TRAIN", "False", *keys])
    out, err = capfd.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert code == 2 and len(errors) == 1 and word in errors[0], err
    assert "Traceback" not in out + err
    assert not list(tmp_path.rglob("*.pth"))


def test_exit_code_of_the_process_is_2(datasets_folder, tmp_path):
    result = run(datasets_folder, *opts(tmp_path / "run"), "SEEDS", "1")
    assert result.returncode == 2 and result.stderr.splitlines()[-1].startswith(
        "error: command line: unknown key SEEDS"
    )
    assert "Traceback" not in result.stderr and not (tmp_path / "run").exists()


def test_traceback_is_there_for_who_asks(tmp_path, capfd):
    code = main([*map(str, opts(tmp_path / "run", "--traceback")), "SEEDS", "1"])
    err = capfd.readouterr().err
    assert code == 2 and "Traceback" in err and "nearest valid key is SEED" in err


def test_unreadable_image_is_named(datasets_folder, tmp_path):
    copy = tmp_path / "datasets"
    shutil.copytree(datasets_folder, copy)
    victim = sorted((copy / "synthetic_persons_tiny/bounding_box_train").iterdir())[5]
    victim.write_bytes(victim.read_bytes()[:100])
    result = run(copy, *opts(tmp_path / "run"), "ISE.EVAL_BEFORE_TRAIN", "False")
    assert result.returncode == 2 and f"image {victim} cannot be read" in result.stderr.splitlines()[-1]


# A network without statistics of the batch, which are those of one process's share, and plain gradient descent, which
# does not blow a rounding up to a step as Adam does. At eps 0.5 with k2 6 some distances lie by construction.
SAME_FOR_ANY_NUMBER_OF_PROCESSES = """
    MODEL.BACKBONE.NAME build_resnet_backbone MODEL.BACKBONE.DEPTH 18x MODEL.BACKBONE.FEAT_DIM 512
    MODEL.BACKBONE.PRETRAIN False MODEL.BACKBONE.NORM FrozenBN MODEL.HEADS.WITH_BNNECK False
    SOLVER.OPT SGD SOLVER.BASE_LR 0.001 ISE.PSEUDO_LABEL.EPS 0.47 SOLVER.CHECKPOINT_PERIOD 1
""".split()


def test_two_processes_label_and_learn_as_one(datasets_folder, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    result = run(datasets_folder, *opts(one), *SAME_FOR_ANY_NUMBER_OF_PROCESSES, OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", TOOL]
    result = subprocess.run(
        [*command, *map(str, opts(two)), *SAME_FOR_ANY_NUMBER_OF_PROCESSES],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "FASTREID_DATASETS": str(datasets_folder), "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    for name in ("model_0000.pth", "model_final.pth"):
        a, b = load_checkpoint_file(str(one / name)), load_checkpoint_file(str(two / name))
        assert a["pseudo_labels"]["labels"].max() >= 3
        assert torch.equal(a["pseudo_labels"]["labels"], b["pseudo_labels"]["labels"])
        assert torch.allclose(a["pseudo_labels"]["centroids"], b["pseudo_labels"]["centroids"], atol=1e-4)
        assert all(torch.allclose(a["model"][key], b["model"][key], atol=1e-5) for key in a["model"])
    results = [json.loads((folder / "results.json").read_text()) for folder in (one, two)]
    for part in ("initial", "final"):
        assert results[0][part]["mAP"] == pytest.approx(results[1][part]["mAP"], abs=0.01)
