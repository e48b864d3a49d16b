"""The guard against labels that have collapsed."""

from types import SimpleNamespace

import numpy as np
import pytest

from ise_plugin.config import get_cfg
from ise_plugin.engine.collapse import CollapseGuard, describe_collapse
from ise_plugin.engine.labelling import Labelling
from ise_plugin.errors import UsageError

GOOD = np.arange(100) // 10
ONE_CLUSTER = np.array([0] * 81 + [1] * 19)
OUTLIERS = np.array([-1] * 99 + [0])


def make(labellings=3):
    cfg = get_cfg()
    cfg.ISE.COLLAPSE.LABELLINGS = labellings
    hook = SimpleNamespace(observers=[], trainer=SimpleNamespace(epoch=0))
    return CollapseGuard(cfg, hook), hook


def watch(hook, labels, epoch):
    hook.trainer.epoch = epoch
    for observe in hook.observers:
        observe(Labelling(None, labels, None, 0.5))


@pytest.mark.parametrize(
    "labels, found", [(GOOD, False), (ONE_CLUSTER, True), (OUTLIERS, True), (np.array([0] * 80 + [1] * 20), False)]
)
def test_what_counts_as_collapsed(labels, found):
    assert (describe_collapse(labels, 0.8, 0.98) is not None) == found


@pytest.mark.parametrize(
    "labels, words", [(ONE_CLUSTER, ["81 of 100", "smaller"]), (OUTLIERS, ["99 of 100", "larger"])]
)
def test_so_many_in_a_row_end_the_run_with_advice(labels, words):
    _, hook = make()
    for epoch, given in enumerate([labels, labels, GOOD, labels, labels]):
        watch(hook, given, epoch)
    with pytest.raises(UsageError) as caught:
        watch(hook, labels, 5)
    assert all(word in str(caught.value) for word in [*words, "ISE.PSEUDO_LABEL.EPS", "ISE.COLLAPSE"])


def test_a_resumed_run_counts_on_and_a_repeated_labelling_counts_once():
    guard, hook = make()
    watch(hook, OUTLIERS, 0)
    watch(hook, OUTLIERS, 1)
    other, other_hook = make()
    other.load_state_dict(guard.state_dict())
    watch(other_hook, OUTLIERS, 1)
    with pytest.raises(UsageError):
        watch(other_hook, OUTLIERS, 2)


def test_switched_off_it_watches_nothing():
    assert make(labellings=0)[1].observers == []
