"""Devices, seeds, and the output folder."""

import argparse

import pytest
import torch
from helpers import CONFIGS

from ise_plugin.engine import launch, resolve_device, setup
from ise_plugin.engine.start import named_setup_errors
from ise_plugin.errors import UsageError


def arguments(tmp_path, *opts):
    return argparse.Namespace(
        config_file=str(CONFIGS / "ISE/synthetic_tiny.yml"),
        opts=["OUTPUT_DIR", str(tmp_path / "out"), *opts],
        eval_only=False,
    )


@pytest.mark.parametrize(
    "cuda, mps, expected", [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu"), (True, False, "cuda")]
)
def test_auto_takes_cuda_then_apples_gpu_then_the_cpu(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert resolve_device("auto") == expected


@pytest.mark.parametrize("name", ["gpu", "cuda:99", ""])
def test_devices_that_are_not_there_are_named(name):
    with pytest.raises(UsageError, match="MODEL.DEVICE"):
        resolve_device(name)


def test_setup_says_which_device_and_saves_the_config(tmp_path):
    cfg = setup(arguments(tmp_path, "MODEL.DEVICE", "cpu"))
    log, saved = (tmp_path / "out/log.txt").read_text(), (tmp_path / "out/config.yaml").read_text()
    assert "Device: cpu" in log and cfg.is_frozen() and "EVAL_BEFORE_TRAIN: true" in saved


def test_training_lets_cudnn_choose_the_fastest_kernels(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    setup(arguments(tmp_path))
    assert torch.backends.cudnn.benchmark


def test_same_seed_same_numbers_and_a_negative_seed_is_from_the_clock(tmp_path):
    draws = []
    for seed in ("5", "5", "6"):
        setup(arguments(tmp_path, "SEED", seed))
        draws.append(torch.rand(1).item())
    assert draws[0] == draws[1] != draws[2]
    assert setup(arguments(tmp_path, "SEED", "-1")).SEED > 1_000_000


def test_output_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UsageError, match="OUTPUT_DIR"):
        setup(arguments(tmp_path))


@pytest.mark.parametrize("options", [{"num_gpus": 0}, {"num_gpus": 99}, {"num_machines": 0}])
def test_impossible_numbers_of_processes_are_refused(options):
    with pytest.raises(UsageError, match="num-gpus"):
        launch(lambda: None, **options)


def test_launch_runs_the_function():
    assert launch(lambda a, b: a + b, args=(1, 2)) == 3


def test_what_components_raise_is_one_line_and_files_and_memory_keep_their_errors():
    with pytest.raises(UsageError, match=r"no run can be set up .*\(KeyError: 'VIT-9'\)"), named_setup_errors():
        raise KeyError("VIT-9")
    with pytest.raises(FileNotFoundError), named_setup_errors():
        raise FileNotFoundError
