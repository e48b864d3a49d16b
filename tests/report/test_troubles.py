"""Each warning on its own, at its limit, and with the key to try."""

import pytest

from ise_plugin.report.run_files import Run
from ise_plugin.report.troubles import find_troubles


def epochs(*values, **constant):
    return [{"epoch": i + 1, **constant, **entry} for i, entry in enumerate(values)]


def troubles(history, max_epoch, base_lr=None):
    return find_troubles(Run("run", {"SOLVER.MAX_EPOCH": max_epoch, "SOLVER.BASE_LR": base_lr}, history=history))


def test_a_run_that_goes_well_needs_no_advice():
    good = {"labels/largest_share": 0.2, "labels/outlier_share": 0.6, "labels/stability": 0.9, "lr": 0.001}
    assert troubles(epochs({"clusters": 100}, {"clusters": 50}, **good), 4, base_lr=0.1) == {}
    assert troubles([], 4) == {} and troubles([{"epoch": 1}], 4) == {}


@pytest.mark.parametrize(
    "history, kind, key",
    [
        (epochs({"clusters": 100}, {"clusters": 49}), "collapse", "ISE.PSEUDO_LABEL.EPS"),
        (epochs({"labels/largest_share": 0.21}), "one large cluster", "ISE.PSEUDO_LABEL.EPS"),
        (epochs({"labels/outlier_share": 0.61}), "many outliers", "ISE.PSEUDO_LABEL.EPS"),
        (epochs(*[{}] * 5, *[{"labels/stability": 0.5}] * 3), "labels do not settle", "SOLVER.BASE_LR"),
        (epochs({"lr": 4e-6}), "learning rate spent", "SOLVER.STEPS"),
    ],
)
def test_each_trouble_is_named_with_a_key(history, kind, key):
    found = troubles(history, 10, base_lr=0.001)
    assert list(found) == [kind] and key in found[kind] and "\n" not in found[kind]


def test_clusters_are_compared_with_the_labelling_before_even_if_epochs_lie_between():
    assert "collapse" in troubles(epochs({"clusters": 100}, {}, {"clusters": 40}), 10)
    assert troubles(epochs({"clusters": 100}, {"clusters": 40}, {}), 10) == {}  # said an epoch ago


def test_labels_may_change_in_the_first_half_and_now_and_then():
    changing = [{"labels/stability": 0.5}] * 5
    assert troubles(epochs(*changing), 10) == {}
    assert (
        troubles(epochs(*changing, {"labels/stability": 0.5}, {"labels/stability": 0.7}, {"labels/stability": 0.5}), 10)
        == {}
    )


def test_a_spent_learning_rate_does_not_matter_in_the_last_epoch():
    assert troubles(epochs({"lr": 1e-9}), 1, base_lr=0.001) == {}
    assert troubles(epochs({"lr": 1e-9}), 2) == {}  # nothing to compare with
