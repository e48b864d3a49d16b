"""SIGTERM and SIGINT: the step is finished, the run saved, the code conventional; a second one ends at once."""

import json
import os
import signal
import time

import fresh_interpreter
import pytest
import torch
from fastreid.engine.hooks import HookBase
from fastreid.utils.env import seed_all_rng
from helpers import CONFIGS, REPOSITORY

from ise_plugin.config import load_cfg
from ise_plugin.engine import ISETrainer
from ise_plugin.engine import interruption as module
from ise_plugin.engine.checkpointing import load_checkpoint_file
from ise_plugin.engine.interruption import STOP, Interrupted, Interruption


class SendSignal(HookBase):
    """Sends this process a signal before a step."""

    def __init__(self, number, iteration):
        self._number, self._iteration = number, iteration

    def before_step(self):
        if self.trainer.iter == self._iteration:
            os.kill(os.getpid(), self._number)


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
    "number, iteration, checkpoint",
    [(signal.SIGTERM, 1, "model_0000_000002.pth"), (signal.SIGINT, 7, "model_0001_000004.pth")],
)
def test_a_signal_saves_and_the_resumed_run_ends_as_the_whole_one(
    whole, tiny_dataset, tmp_path, number, iteration, checkpoint
):
    trainer = trainer_of(tmp_path / "run")
    trainer.resume_or_load(resume=False)
    trainer.register_hooks([SendSignal(number, iteration)])
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


# a trainer of the user's own, in a copy of tools/train_net.py
SIGNALLED = '''
class Signalled(ISETrainer):
    """Sends its whole process group a signal at the network's second pass of a kind, as a terminal or Slurm would."""

    @classmethod
    def build_model(cls, cfg):
        model, passes = super().build_model(cfg), []
        moment, number = os.environ.get("MOMENT", "never 0").split()

        def note(backbone, images):
            has_trained = "training" in passes
            passes.append("training" if backbone.training else "evaluation" if has_trained else "extraction")
            if passes[-1] == moment and passes.count(moment) == 2:
                subprocess.run(["kill", f"-{number}", "--", f"-{os.getpgrp()}"])  # not by the workers' parent

        model.backbone.register_forward_pre_hook(note)
        return model


'''
OPTIONS = """
    MODEL.DEVICE cpu ISE.HOOKS () ISE.EVAL_BEFORE_TRAIN False ISE.EXTRACTION.IMS_PER_BATCH 16
    TEST.IMS_PER_BATCH 16 TEST.EVAL_PERIOD 1 DATALOADER.NUM_WORKERS 2
""".split()


@pytest.fixture(scope="module")
def command(datasets_folder, tmp_path_factory):
    """``command(folder, *options, **environment)``: a run with the signalled trainer, in a process group of its own."""
    lines = (REPOSITORY / "tools/train_net.py").read_text()
    script = tmp_path_factory.mktemp("script") / "train_net.py"
    own = lines.replace("ISETrainer(cfg)", "Signalled(cfg)").replace(
        "import sys", "import os\nimport subprocess\nimport sys"
    )
    script.write_text(own.replace("def train(", SIGNALLED.lstrip() + "def train("))

    def run(folder, *options, **environment):
        words = [script, "--config-file", CONFIGS / "ISE/synthetic_tiny.yml", "OUTPUT_DIR", folder, *OPTIONS, *options]
        environment = {"FASTREID_DATASETS": str(datasets_folder), **environment}
        return fresh_interpreter.run(*words, environment=environment, new_session=True, warm=True)

    return run


def outcome(folder):
    """(results without the seconds, weights) of a finished run."""
    results = json.loads((folder / "results.json").read_text())
    del results["seconds"]
    return results, load_checkpoint_file(str(folder / "model_final.pth"))["model"]


@pytest.fixture(scope="module")
def undisturbed(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    result = command(folder)
    assert result.returncode == 0, result.stderr
    return outcome(folder)


@pytest.mark.parametrize(
    "moment, number, checkpoint",
    [
        ("extraction", signal.SIGINT, "model_0000_000000.pth"),
        ("training", signal.SIGTERM, "model_0000_000002.pth"),
        ("evaluation", signal.SIGTERM, "model_0000.pth"),
    ],
)
def test_a_signal_to_the_whole_group_leaves_the_workers_and_the_run_goes_on(
    command, undisturbed, tmp_path, moment, number, checkpoint
):
    result = command(tmp_path / "run", MOMENT=f"{moment} {number:d}")
    assert result.returncode == 128 + number and result.stderr.splitlines()[-1].endswith("go on with --resume")
    assert (tmp_path / "run/last_checkpoint").read_text() == checkpoint
    result = command(tmp_path / "run", "--resume")
    assert result.returncode == 0, result.stderr
    results, weights = outcome(tmp_path / "run")
    assert results == undisturbed[0] and all(torch.equal(weights[name], undisturbed[1][name]) for name in weights)


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
