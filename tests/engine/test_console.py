"""What the console shows."""

import io
import logging
import sys

import pytest
from fastreid.utils.events import EventStorage

from ise_plugin.engine import console
from ise_plugin.engine.console import RESULT, StepWriter, WithProgress, epoch_line, set_verbosity
from ise_plugin.utils import parallel as _parallel


@pytest.fixture(autouse=True)
def bars_as_before(monkeypatch):
    monkeypatch.setattr(_parallel, "silent", False)


@pytest.mark.parametrize(
    "verbosity, said",
    [("quiet", "result warning"), ("normal", "info result warning"), ("verbose", "debug info result warning")],
)
def test_verbosity_is_of_the_console_and_the_file_has_everything(tmp_path, monkeypatch, verbosity, said):
    console, logger = io.StringIO(), logging.getLogger("fastreid")
    with open(tmp_path / "log.txt", "w") as file:
        monkeypatch.setattr(logger, "handlers", [logging.StreamHandler(console), logging.StreamHandler(file)])
        monkeypatch.setattr(logger, "level", logging.DEBUG)
        set_verbosity(verbosity)
        for level in (logging.DEBUG, logging.INFO, RESULT, logging.WARNING):
            logger.log(level, logging.getLevelName(level).lower())
    assert console.getvalue().split() == said.split()
    assert (tmp_path / "log.txt").read_text().split() == "debug info result warning".split()


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Loader(list):
    dataset = "the images"


def test_a_loader_with_progress_is_that_loader(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    loader = WithProgress(Loader([1, 2, 3]), "extraction")
    assert list(loader) == list(loader) == [1, 2, 3] and len(loader) == 3 and loader.dataset == "the images"
    assert sys.stderr.getvalue() == ""  # no terminal, no bar


@pytest.mark.parametrize("quiet", [False, True])
def test_bars_are_for_terminals_and_not_for_quiet_runs(monkeypatch, quiet):
    monkeypatch.setattr(sys, "stderr", Terminal())
    set_verbosity("quiet" if quiet else "normal")
    with console.bar(2, "training", "steps") as bar:
        bar.delay = 0
        bar.update()
        bar.refresh()
    assert ("training" in sys.stderr.getvalue()) != quiet


def test_a_whole_epoch_in_one_line():
    latest = {
        "clusters": 150.0,
        "outliers": 25.0,
        "labels/stability": 0.912,
        "total_loss": 3.2109,
        "loss_se": 3.0,
        "loss_lp": 0.2109,
        "degree": 0.12345,
        "mAP": 10.0,
    }
    line = epoch_line(3, 10, latest, {"mAP": 71.26, "Rank-1": 80.0}, 2500, seconds=61.26, left=3725.4)
    assert line == (
        "epoch 3/10 | 150 clusters, 1.0% outliers | labels as before 0.91 | loss 3.211 (se 3.000, lp 0.211) | "
        "degree 0.123 | mAP 71.3 % | 61.3 s, 1:02:05 left"
    )


@pytest.mark.parametrize(
    "epoch, outliers, purity, words",
    [
        (1, 10, 0.853, "0.85 (a start to learn from)"),
        (1, 10, 0.65, "0.65 (a weak start)"),
        (1, 80, 0.9, "0.90 (a weak start)"),
        (1, 10, 0.4, "0.40 (too mixed to learn from)"),
        (2, 10, 0.4, "0.40"),
    ],
)
def test_the_first_line_says_whether_this_start_can_work(epoch, outliers, purity, words):
    latest = {"clusters": 9.0, "outliers": outliers, "labels/estimated_purity": purity}
    line = epoch_line(epoch, 2, latest, {}, 100, seconds=1.0, left=0.0)
    assert f"| estimated purity {words} |" in line


def test_a_line_of_the_log_counts_from_1_and_smooths(caplog):
    with caplog.at_level(logging.INFO, logger="fastreid.ise"), EventStorage(0) as storage:
        for step in range(31):
            storage.iter = step
            storage.put_scalars(total_loss=100.0 if step < 12 else 2.0, time=0.25)
            storage.put_scalar("lr", 3.5e-4, smoothing_hint=False)
        StepWriter(epochs=4, steps=20).write()
    assert caplog.messages == ["epoch 2/4, step 11/20: total_loss 2, lr 3.50e-04, 0.2500 s a step"]


def test_what_is_not_known_is_left_out_of_the_line():
    assert epoch_line(1, 1, {}, {}, 0, seconds=0.0, left=0.0) == "epoch 1/1 | 0.0 s, 0:00:00 left"
    assert epoch_line(1, 1, {}, {}, 0, seconds=1.0, left=None) == "epoch 1/1 | 1.0 s"
    assert "| A/mAP 50.0 % |" in epoch_line(1, 2, {"total_loss": 1.0}, {"A/mAP": 50.0}, 9, 1.0, 1.0)
