"""What a checkpoint holds of a run beside its network."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ise_plugin.config import get_cfg
from ise_plugin.engine.resume import random_state, run_state, set_random_state, take_run_state
from ise_plugin.errors import UsageError


def make_trainer(lost=(False, False)):
    stand_ins = SimpleNamespace(lost=torch.tensor(lost))
    images = type("Images", (list,), {"stand_ins": stand_ins})(lost)
    return SimpleNamespace(cfg=get_cfg(), images=images, model=torch.nn.Linear(2, 2), iters_per_epoch=10)


def draws():
    return random.random(), np.random.normal(), np.random.normal(), torch.rand(3).tolist()


def test_generators_go_on_where_they_were(tmp_path):
    np.random.normal()  # the second of a pair is kept in the state
    torch.save(random_state(), tmp_path / "s.pth")
    expected = draws()
    draws()
    set_random_state(torch.load(tmp_path / "s.pth", weights_only=True))
    assert draws() == expected


def test_epoch_step_and_lost_images_are_taken_up():
    state = run_state(make_trainer(lost=(False, True)), epoch=2, step=7)
    trainer = make_trainer()
    take_run_state(trainer, state)
    assert (trainer.start_epoch, trainer.start_step) == (3, 7)
    assert trainer.images.stand_ins.lost.tolist() == [False, True] and trainer.random_at_start is not None
    take_run_state(trainer, {**state, "step": 0})
    assert trainer.random_at_start is None  # the epoch's seed decides


def test_a_checkpoint_of_fastreid_goes_on_after_its_epoch():
    trainer = make_trainer()
    take_run_state(trainer, {"epoch": 4, "metric": 1.0})
    assert (trainer.start_epoch, trainer.start_step) == (5, 0)


def test_an_epoch_that_has_become_shorter_is_refused():
    with pytest.raises(UsageError, match="step 11.*ISE.ITERS_PER_EPOCH is 10"):
        take_run_state(make_trainer(), run_state(make_trainer(), 0, 11))


def test_other_settings_are_named(caplog):
    state = run_state(make_trainer(), 0, 0)
    trainer = make_trainer()
    trainer.cfg.SOLVER.BASE_LR, trainer.cfg.OUTPUT_DIR = 0.5, "elsewhere"
    take_run_state(trainer, state)
    assert f"SOLVER.BASE_LR {get_cfg().SOLVER.BASE_LR} -> 0.5" in caplog.text and "OUTPUT_DIR" not in caplog.text
    caplog.clear()
    take_run_state(make_trainer(), state)
    assert not caplog.text


def test_another_number_of_processes_is_said(caplog):
    state = run_state(make_trainer(), 0, 3)
    trainer = make_trainer()
    take_run_state(trainer, {**state, "processes": state["processes"] * 2})
    assert "of 2 process(es) and there are 1" in caplog.text and trainer.random_at_start is None
