"""The order of hooks, hooks named in the config, and what hooks are told."""

import json
import logging
import re

import numpy as np
import pytest
from fastreid.engine.hooks import HookBase

from ise_plugin.config import load_cfg
from ise_plugin.engine import ISETrainer
from ise_plugin.engine.hooks import ORDER, OWN, in_order, states_of
from ise_plugin.engine.interruption import Interrupted
from ise_plugin.errors import UsageError
from ise_plugin.registry import HOOK


class Listener(HookBase):
    """A hook as a user writes one: nothing of the package but fastreid's base class."""

    def __init__(self, cfg):
        self.cfg = cfg
        self.heard = []

    def after_labelling(self, labelling):
        self.heard.append(("labelling", self.trainer.epoch, labelling.clusters))

    def after_evaluation(self, evaluation):
        self.heard.append(("evaluation", evaluation.epochs_done, evaluation.metrics["mAP"]))

    def state_dict(self):
        return {"heard": len(self.heard)}

    def load_state_dict(self, state):
        self.resumed_with = state["heard"]


class WithArguments(HookBase):
    def __init__(self, factor):
        self.factor = factor

    @classmethod
    def from_config(cls, cfg):
        return {"factor": cfg.ISE.OWN.WithArguments.FACTOR}


class NotHere(HookBase):
    @classmethod
    def from_config(cls, cfg):
        return None


def names_of(trainer):
    return [type(hook).__name__ for hook in trainer._hooks]


def with_hooks(cfg, *names):
    cfg = cfg.clone()
    cfg.defrost()
    cfg.ISE.HOOKS = names
    return cfg


def test_hooks_run_in_the_order_of_the_list_whatever_the_config_says(tiny_cfg):
    forwards, backwards = ("RunReport", "EpochSummary"), ("EpochSummary", "RunReport")
    first, second = (names_of(ISETrainer(with_hooks(tiny_cfg, *names))) for names in (forwards, backwards))
    assert first == second and first[-1] == "EpochSummary"
    assert (
        first.index("WriteLosses")
        < first.index("Evaluate")
        < first.index("WriteResults")
        < first.index("SaveCheckpoint")
    )
    assert first.index("WriteMetrics") < first.index("RunReport") < first.index("CollapseGuard")


def test_unnamed_hooks_keep_their_order_between_evaluation_and_saving():
    given = {name: name for name in ("mine", "EpochSummary", "SaveCheckpoint", "yours", "SeedEpoch", "Evaluate")}
    expected = ["SeedEpoch", "Evaluate", "mine", "yours", "SaveCheckpoint", "EpochSummary"]
    assert in_order({**given, "PreciseBN": False, "absent": None}) == expected
    assert len(set(ORDER)) == len(ORDER) and OWN in ORDER


def test_a_hook_of_another_module_is_switched_on_from_the_config_alone(tiny_cfg):
    cfg = with_hooks(tiny_cfg, f"{__name__}.Listener")
    trainer = ISETrainer(cfg)
    trainer.train()
    heard = next(hook for hook in trainer._hooks if isinstance(hook, Listener)).heard
    assert [told[:2] for told in heard] == [("evaluation", 0), ("labelling", 0), ("labelling", 1), ("evaluation", 2)]
    assert (heard[0][2], heard[3][2]) == (trainer.results.initial["mAP"], trainer.results.final["mAP"])
    assert min(clusters for kind, _, clusters in heard if kind == "labelling") >= 2
    resumed = ISETrainer(cfg)
    resumed.resume_or_load(resume=True)
    assert next(hook for hook in resumed._hooks if isinstance(hook, Listener)).resumed_with == 4


def test_a_hook_takes_its_own_settings_and_may_stay_out(tiny_cfg, tmp_path):
    HOOK._obj_map.update(WithArguments=WithArguments, NotHere=NotHere)
    try:
        path = tmp_path / "own.yml"
        path.write_text(tiny_cfg.dump() + "\n")
        options = ["ISE.HOOKS", "('WithArguments', 'NotHere')", "ISE.OWN.WithArguments.FACTOR", "2.5"]
        trainer = ISETrainer(load_cfg(str(path), options))
    finally:
        del HOOK._obj_map["WithArguments"], HOOK._obj_map["NotHere"]
    assert next(hook for hook in trainer._hooks if isinstance(hook, WithArguments)).factor == 2.5
    assert "NotHere" not in names_of(trainer)


@pytest.mark.parametrize("name, words", [("RunReprot", "RunReport"), ("no_such_module.Hook", "no_such_module")])
def test_an_unknown_hook_is_refused_with_what_there_is(tiny_cfg, name, words):
    with pytest.raises(UsageError, match=f"ISE.HOOKS.*{name}.*") as caught:
        ISETrainer(with_hooks(tiny_cfg, name))
    assert words in str(caught.value)


class Stop(HookBase):
    """Asks the run to save and end after a step, as a signal does."""

    def __init__(self, iteration):
        self._iteration = iteration

    def before_step(self):
        if self.trainer.iter == self._iteration:
            self.trainer.interruption.signal = 15


class Losses(HookBase):
    """Every loss of a run, for the means."""

    def __init__(self):
        self.values = {}

    def before_train(self):
        self._write, self.trainer.step._store = self.trainer.step._store, self._note

    def _note(self, iterations, names, values, data_times):
        self.values.update(zip(iterations, values.sum(1)))
        self._write(iterations, names, values, data_times)


def history_of(folder, steps):
    """Epoch -> the last value of everything in metrics.json."""
    found = {}
    for line in map(json.loads, (folder / "metrics.json").read_text().splitlines()):
        found.setdefault(line["iteration"] // steps + 1, {}).update(line)
    return found


def test_an_epoch_that_is_resumed_inside_has_logged_what_a_whole_one_has(tiny_cfg, tmp_path, caplog):
    """Cut twice: after its first step, and after one more."""
    cfg, steps, losses = tiny_cfg.clone(), tiny_cfg.ISE.ITERS_PER_EPOCH, Losses()
    cfg.defrost()
    cfg.ISE.REPORT.PICTURES = False
    caplog.set_level(logging.INFO, logger="fastreid.ise")
    cfg.OUTPUT_DIR = str(tmp_path / "whole")
    trainer = ISETrainer(cfg)
    trainer.register_hooks([losses])
    trainer.train()
    cfg.OUTPUT_DIR = str(tmp_path / "cut")
    for done in (1, 2):
        trainer = ISETrainer(cfg)
        trainer.resume_or_load(resume=done > 1)
        trainer.register_hooks([Stop(steps + done - 1)])
        with pytest.raises(Interrupted):
            trainer.train()
    resumed = ISETrainer(cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.start_step == done
    caplog.clear()
    resumed.train()
    whole, cut = (history_of(tmp_path / name, steps) for name in ("whole", "cut"))
    same = [name for name in whole[2] if not name.endswith("time")]
    assert {"clusters", "outliers", "labels/stability", "total_loss", "loss_se", "lr", "degree", "mAP"} <= set(same)
    assert {name: cut[2].get(name) for name in same} == {name: whole[2][name] for name in same}
    assert whole[2].keys() == cut[2].keys()
    said = [record.getMessage() for record in caplog.records]
    (line,) = [text for text in said if text.startswith("epoch 2/2 |")]
    mean = np.mean([losses.values[iteration] for iteration in range(steps, 2 * steps)])
    assert f"{cut[2]['clusters']:.0f} clusters" in line and f"| loss {mean:.3f} (" in line
    numbered = [text for text in said if re.match(r"epoch \d+/2, step ", text)]
    assert numbered and all(text.startswith(f"epoch 2/2, step {steps}/{steps}: ") for text in numbered)
    assert sum(" left" in text for text in said) == 1


def test_states_are_kept_by_name():
    class Named(HookBase):
        state_name = "short"

        def state_dict(self):
            return {}

    named, listener = Named(), Listener(None)
    assert states_of([named, listener, HookBase()]) == {"short": named, "Listener": listener}


@pytest.mark.parametrize(
    "key, value, hooks",
    [
        ("ISE.REPORT.ENABLED", "False", ("EpochSummary",)),
        ("ISE.IDENTITIES.ENABLED", "True", ("RunReport", "EpochSummary", "IdentityChoice")),
    ],
)
def test_switches_of_an_earlier_release_still_work(key, value, hooks, caplog):
    with caplog.at_level(logging.WARNING, logger="fastreid.ise"):
        assert load_cfg(None, ["DATASETS.NAMES", "('x',)", key, value]).ISE.HOOKS == hooks
    assert f"{key} is a key of an earlier release" in caplog.text
    caplog.clear()
    as_before = {"ISE.REPORT.ENABLED": "True", "ISE.IDENTITIES.ENABLED": "False"}[key]
    with caplog.at_level(logging.WARNING, logger="fastreid.ise"):
        assert load_cfg(None, ["DATASETS.NAMES", "('x',)", key, as_before]).ISE.HOOKS == ("RunReport", "EpochSummary")
    assert not caplog.records
