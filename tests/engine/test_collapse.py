"""The guard against labels that have collapsed."""

from types import SimpleNamespace

import numpy as np
import pytest

from ise_plugin.engine.collapse import CollapseGuard, describe_collapse
from ise_plugin.engine.labelling import Labelling
from ise_plugin.errors import UsageError

GOOD = np.arange(100) // 10
ONE_CLUSTER = np.array([0] * 81 + [1] * 19)
OUTLIERS = np.array([-1] * 99 + [0])


def make(labellings=3):
    guard = CollapseGuard(labellings, max_cluster_share=0.8, max_outlier_share=0.98)
    guard.trainer = SimpleNamespace(epoch=0)
    return guard


def watch(guard, labels, epoch):
    guard.trainer.epoch = epoch
    guard.after_labelling(Labelling(None, labels, None, 0.5))


@pytest.mark.parametrize(
    "labels, found", [(GOOD, False), (ONE_CLUSTER, True), (OUTLIERS, True), (np.array([0] * 80 + [1] * 20), False)]
)
def test_what_counts_as_collapsed(labels, found):
    assert (describe_collapse(labels, 0.8, 0.98) is not None) == found


@pytest.mark.parametrize(
    "labels, words", [(ONE_CLUSTER, ["81 of 100", "smaller"]), (OUTLIERS, ["99 of 100", "larger"])]
)
def test_so_many_in_a_row_end_the_run_with_advice(labels, words):
    guard = make()
    for epoch, given in enumerate([labels, labels, GOOD, labels, labels]):
        watch(guard, given, epoch)
    with pytest.raises(UsageError) as caught:
        watch(guard, labels, 5)
    assert all(word in str(caught.value) for word in [*words, "ISE.PSEUDO_LABEL.EPS", "ISE.COLLAPSE"])


def test_a_resumed_run_counts_on_and_a_repeated_labelling_counts_once():
    guard, other = make(), make()
    watch(guard, OUTLIERS, 0)
    watch(guard, OUTLIERS, 1)
    other.load_state_dict(guard.state_dict())
    watch(other, OUTLIERS, 1)
    with pytest.raises(UsageError):
        watch(other, OUTLIERS, 2)


@pytest.mark.parametrize("labels", [ONE_CLUSTER, OUTLIERS])
def test_no_eps_is_advised_where_there_is_none(labels):
    assert "EPS" in describe_collapse(labels, 0.8, 0.98)[1]
    advice = describe_collapse(labels, 0.8, 0.98, has_eps=False)[1]
    assert "EPS" not in advice and advice.startswith("Set a smaller ")


def test_a_clusterer_without_eps_is_watched_as_well():
    guard = make(labellings=1)
    guard.trainer = SimpleNamespace(epoch=0)
    with pytest.raises(UsageError) as caught:
        guard.after_labelling(Labelling(None, OUTLIERS))
    assert "(eps was" not in str(caught.value)
