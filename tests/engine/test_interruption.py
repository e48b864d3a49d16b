"""SIGTERM and SIGINT: the step is finished, the run saved, the code conventional; a second one ends at once."""

import os
import signal
import time

import pytest
import torch
from fastreid.engine.hooks import HookBase
from fastreid.utils.env import seed_all_rng
from helpers import CONFIGS

from ise_plugin.config import load_cfg
from ise_plugin.engine import ISETrainer
from ise_plugin.engine import command as cli
from ise_plugin.engine import interruption as module
from ise_plugin.engine.checkpointing import load_checkpoint_file
from ise_plugin.engine.interruption import STOP, Interrupted, Interruption


class SendSignal(HookBase):
    """Sends this process a signal in the middle of a run."""

    def __init__(self, number, moment, iteration):
        self._number, self._moment, self._iteration = number, moment, iteration

    def _send(self, moment):
        if (moment, self.trainer.iter) == (self._moment, self._iteration):
            os.kill(os.getpid(), self._number)

    def before_epoch(self):
        self._send("epoch")

    def before_step(self):
        self._send("step")

    def after_epoch(self):
        self._send("end")


def trainer_of(folder, *options):
    options = ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(folder), "ISE.HOOKS", "()", *options]
    seed_all_rng(0)
    return ISETrainer(load_cfg(str(CONFIGS / "ISE/synthetic_tiny.yml"), options))


@pytest.fixture(scope="module")
def whole(datasets_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTREID_DATASETS", str(datasets_folder))
        trainer = trainer_of(folder)
        trainer.resume_or_load(resume=False)
        trainer.train()
    return load_checkpoint_file(str(folder / "model_final.pth"))["model"]


@pytest.mark.parametrize(
    "number, moment, iteration, checkpoint",
    [
        (signal.SIGTERM, "step", 1, "model_0000_000002.pth"),
        (signal.SIGINT, "step", 7, "model_0001_000004.pth"),
        (signal.SIGTERM, "epoch", 4, "model_0001_000000.pth"),
        (signal.SIGINT, "end", 4, "model_0000.pth"),
    ],
)
def test_a_signal_saves_and_the_resumed_run_ends_as_the_whole_one(
    whole, tiny_dataset, tmp_path, number, moment, iteration, checkpoint
):
    trainer = trainer_of(tmp_path / "run")
    trainer.resume_or_load(resume=False)
    hook = SendSignal(number, moment, iteration)
    trainer.register_hooks([hook])
    trainer._hooks.insert(0, trainer._hooks.pop())
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Interrupted) as caught:
        trainer.train()
    assert caught.value.exit_code == 128 + number and "--resume" in str(caught.value)
    assert (tmp_path / "run/last_checkpoint").read_text() == checkpoint
    assert handlers == [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]

    resumed = trainer_of(tmp_path / "run")
    resumed.resume_or_load(resume=True)
    resumed.train()
    weights = load_checkpoint_file(str(tmp_path / "run/model_final.pth"))["model"]
    assert all(torch.equal(weights[name], whole[name]) for name in whole)


def test_the_command_exits_with_the_signals_code(monkeypatch, capfd):
    def interrupted(*_, **__):
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(cli, "launch", interrupted)
    assert cli.main([]) == 143
    assert "SIGTERM" in capfd.readouterr().err


def test_a_second_signal_ends_the_process_at_once(monkeypatch):
    monkeypatch.setattr(module, "_ECHO_SECONDS", 3600)
    child = os.fork()
    if child == 0:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # an echo, as torchrun makes it
            interruption._when -= 3601
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGINT


def test_a_signal_for_another_process_is_left_alone():
    with Interruption() as interruption:
        interruption._process += 1  # as in a loader's worker
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.signal is None and interruption.agreed() != STOP


def test_work_that_may_be_left_is_left_where_the_signal_comes():
    with Interruption() as interruption:
        with pytest.raises(Interrupted), interruption.at_once():
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("went on")
        with pytest.raises(Interrupted), interruption.at_once():
            raise AssertionError("began")
        assert interruption.agreed() == STOP
