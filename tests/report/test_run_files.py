"""Reading what runs leave: whole, resumed, repeated, broken, old; and the troubles in their numbers, each at its limit."""

import json

import pytest
from report.conftest import CONFIG, STEPS, metrics_lines

from ise_plugin.config import flat
from ise_plugin.errors import UsageError
from ise_plugin.report.run_files import Run, find_troubles, read_run


def test_history_has_one_entry_per_epoch_with_everything_that_was_logged_in_it(make_run):
    run = read_run(str(make_run(lines=metrics_lines(3))))
    assert [entry["epoch"] for entry in run.history] == [1, 2, 3]
    assert run.values("clusters") == ([1, 2, 3], [10, 11, 12]) and run.last("total_loss") == 1
    assert run.epochs == run.epochs_done == 3 and run.problems == []
    assert run.config["ISE.ITERS_PER_EPOCH"] == STEPS and run.name == "run"


def test_an_epoch_that_has_only_begun_is_not_done(make_run):
    run = read_run(str(make_run(lines=metrics_lines(2)[:-1])))
    assert run.epochs_done == 1 and run.values("clusters")[0] == [1, 2]


def test_what_a_resumed_or_repeated_run_writes_again_counts(make_run):
    first, again = metrics_lines(3), metrics_lines(2)
    for line in again:
        line.update({"clusters": 99.0} if "clusters" in line else {})
    run = read_run(str(make_run(lines=first + again)))
    assert run.values("clusters") == ([1, 2], [99, 99])  # the third epoch was of the run before
    resumed = read_run(str(make_run("resumed", lines=first[:4] + again[2:])))
    assert resumed.values("clusters") == ([1, 2], [10, 99])


def test_values_that_are_no_numbers_are_left_out(make_run):
    run = read_run(str(make_run(lines=[{"iteration": 0, "clusters": float("nan"), "outliers": "many", "lr": 0.1}])))
    assert run.history == [{"epoch": 1, "iteration": 0, "lr": 0.1}]


def test_broken_files_are_named_and_the_rest_is_read(make_run):
    folder = make_run(lines=metrics_lines(1), results={"seconds": 1.0})
    with open(folder / "metrics.json", "a") as file:
        file.write('{"iteration": 4, "clu\nnonsense\n[1]\n')
    (folder / "report/run.json").write_text("{")
    (folder / "report/sheets.json").write_text('{"not": "a list"}')
    (folder / "config.yaml").write_text("a: [")
    run = read_run(str(folder))
    assert len(run.history) >= 1 and run.results == {"seconds": 1.0} and run.sheets == []
    text = "\n".join(run.problems)
    assert "3 lines of metrics.json" in text and all(n in text for n in ("run.json", "sheets.json", "config.yaml"))


def test_labellings_of_chosen_epochs_are_preferred_to_the_latest(make_run):
    full, latest = {"epoch": 1, "sizes": [3], "distances": {}}, {"epoch": 1, "sizes": [3]}
    folder = make_run(labelling_0001=full, latest=latest)
    assert read_run(str(folder)).labellings == {1: full}
    (folder / "report/latest.json").write_text(json.dumps({"epoch": 2, "sizes": [5]}))
    assert set(read_run(str(folder)).labellings) == {1, 2}


def test_facts_bring_their_own_configuration(make_run):
    folder = make_run(config=None, run={"config": "SOLVER:\n  MAX_EPOCH: 7\n"})
    assert read_run(str(folder)).epochs == 7


def test_flat_keys():
    assert flat({"A": {"B": 1, "C": {}}, "D": [2]}) == {"A.B": 1, "A.C": {}, "D": [2]}
    assert flat(CONFIG)["SOLVER.BASE_LR"] == 0.001


def test_a_log_that_cannot_be_opened_is_one_line(make_run):
    folder = make_run(results={})
    (folder / "metrics.json").mkdir()
    with pytest.raises(UsageError, match="metrics.json cannot be read .*; make it readable, or name another run"):
        read_run(str(folder))


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path, exists):
    folder = tmp_path if exists else tmp_path / "nowhere"
    with pytest.raises(UsageError, match="OUTPUT_DIR") as caught:
        read_run(str(folder))
    assert "\n" not in str(caught.value)


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


def advice(history, **config):
    return " ".join(find_troubles(Run("run", {"SOLVER.MAX_EPOCH": 10, **config}, history=history)).values())


EPS, AUTO_EPS = "ISE.PSEUDO_LABEL.EPS", {"ISE.PSEUDO_LABEL.EPS": "auto"}


def test_advice_fits_the_configuration():
    large, many = (
        epochs({"labels/largest_share": 0.5, "labels/eps": 0.55}),
        {"labels/outlier_share": 0.9, "labels/eps": 0.55},
    )
    assert "a smaller ISE.PSEUDO_LABEL.EPS (0.4 now), or" in advice(large, **{EPS: 0.4})
    assert f"{EPS} as a number, smaller than the 0.55 that was chosen" in advice(large, **AUTO_EPS)
    for clusterer, has_eps in (("mine.Optics", False), ("KMeans", False), ("Infomap", True)):
        assert (EPS in advice(large, **{EPS: 0.4, "ISE.PSEUDO_LABEL.CLUSTERER": clusterer})) == has_eps
    assert "a larger ISE.PSEUDO_LABEL.EPS" in advice(epochs(many), **{EPS: 0.4})
    pure, mixed = ({**many, "labels/estimated_purity": purity} for purity in (0.9, 0.4))
    assert f"{EPS} as a number, larger than the 0.55 that was chosen" in advice(epochs(pure), **AUTO_EPS)
    assert EPS not in advice(epochs(mixed), **AUTO_EPS) and "estimated purity 0.40" in advice(epochs(mixed), **AUTO_EPS)
    assert "MIN_SAMPLES below 4" in advice(epochs(many), **{EPS: 0.4, "ISE.PSEUDO_LABEL.MIN_SAMPLES": 4})
    assert "MIN_SAMPLES" not in advice(epochs(many), **{EPS: 0.4, "ISE.PSEUDO_LABEL.MIN_SAMPLES": 2})
    unsettled = epochs(*[{}] * 5, *[{"labels/stability": 0.5}] * 3)
    cosine = {"SOLVER.SCHED": "CosineAnnealingLR", "SOLVER.BASE_LR": 0.001}
    assert "SOLVER.STEPS" not in advice(unsettled, **cosine)
    assert "SOLVER.ETA_MIN_LR" in advice(epochs({"lr": 4e-6}), **cosine)


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


def test_a_run_without_the_reports_hook_has_its_results(make_run):
    folder = make_run(results={"final": {"mAP": 50.0}})
    (folder / "report").rmdir()
    assert read_run(str(folder)).metrics("final") == {"mAP": 50.0}
