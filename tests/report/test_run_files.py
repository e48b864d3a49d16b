"""Reading what runs leave: whole, resumed, repeated, broken, old."""

import json

import pytest
from report.conftest import CONFIG, STEPS, metrics_lines

from ise_plugin.config import flat
from ise_plugin.errors import UsageError
from ise_plugin.report.run_files import read_run


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


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path, exists):
    folder = tmp_path if exists else tmp_path / "nowhere"
    with pytest.raises(UsageError, match="OUTPUT_DIR") as caught:
        read_run(str(folder))
    assert "\n" not in str(caught.value)
