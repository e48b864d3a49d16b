"""What all tests share: the plug-in is imported first (it makes fastreid importable), and one small drawn data set."""

import ise_plugin  # noqa: F401  isort:skip

import importlib
import logging

import pytest
import torch
from fastreid.utils.env import seed_all_rng
from helpers import CONFIGS, FOLDER_RUN_OPTIONS
from hypothesis import settings
from synthetic_persons import write_dataset

from ise_plugin.config import load_cfg

settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items):
    """Tests that need GPUs say so where there are none; ``make gpu-check`` runs them."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for marker, needed in (("cuda", 1), ("nccl", 2)):
        for item in items:
            if gpus < needed and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=f"CUDA GPUs needed: {needed}, found by PyTorch: {gpus}"))


@pytest.fixture(autouse=True)
def log_of_one_test():
    """fastreid's setup_logger stops propagation, which pytest's caplog needs, and holds on to the stdout of one test."""

    def reset():
        logger = logging.getLogger("fastreid")
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(logging.INFO)
        logger.propagate = True

    reset()
    yield
    reset()


@pytest.fixture(autouse=True)
def allocator_stays_as_it_is(monkeypatch):
    """The setting holds for the whole process; its own test makes it in another one."""
    setup_module = importlib.import_module("ise_plugin.engine.start")  # the package exports a function of that name
    monkeypatch.setattr(setup_module, "keep_freed_memory", lambda: True)


@pytest.fixture(scope="session")
def datasets_folder(tmp_path_factory):
    """A folder of data sets that holds the tiny SyntheticPersons."""
    folder = tmp_path_factory.mktemp("datasets")
    write_dataset(folder / "synthetic_persons_tiny", size="tiny", workers=1, progress=False)
    return folder


@pytest.fixture
def tiny_dataset(datasets_folder, monkeypatch):
    """The tiny SyntheticPersons where the readers look for it; returns the folder that holds it."""
    monkeypatch.setenv("FASTREID_DATASETS", str(datasets_folder))
    return datasets_folder


@pytest.fixture
def tiny_cfg(tiny_dataset, tmp_path):
    """Configuration of a run of seconds on the CPU."""
    return load_cfg(
        str(CONFIGS / "ISE" / "synthetic_tiny.yml"), ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / "run")]
    )


@pytest.fixture(scope="session")
def folder_run(datasets_folder, tmp_path_factory):
    """(crops, output): the tiny training images as a folder without labels, and the output of a run of two epochs on them."""
    from ise_plugin.engine import ISETrainer  # late: tests of the bare package do without fastreid

    crops = datasets_folder / "synthetic_persons_tiny/bounding_box_train"
    output = tmp_path_factory.mktemp("folder_run") / "run"
    cfg = load_cfg(
        str(CONFIGS / "ISE" / "folder.yml"),
        [
            *FOLDER_RUN_OPTIONS,
            "DATASETS.FOLDER.ROOT",
            str(crops),
            "OUTPUT_DIR",
            str(output),
            "ISE.REPORT.PICTURES",
            "True",
        ],
    )
    output.mkdir()
    (output / "config.yaml").write_text(cfg.dump())
    seed_all_rng(cfg.SEED)
    trainer = ISETrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return crops, output
