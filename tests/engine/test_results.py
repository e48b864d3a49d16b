"""results.json and the table."""

import json

from ise_plugin.engine.results import Results


def metrics(value):
    return {
        "Rank-1": value,
        "Rank-5": value + 1,
        "Rank-10": value + 2,
        "mAP": value + 3,
        "mINP": value + 4,
        "metric": value + 5,
        "dataset": "X",
    }


def test_file_has_initial_final_best_and_seconds(tmp_path):
    results = Results(str(tmp_path))
    results.record_initial(metrics(1.0))
    assert results.record(metrics(10.0), 15.0, epoch=0) is True
    assert results.record(metrics(30.0), 35.0, epoch=1) is True
    assert results.record(metrics(20.0), 25.0, epoch=2) is False
    results.seconds = 12.345
    results.write()
    content = json.loads((tmp_path / "results.json").read_text())
    expected = lambda v: {"mAP": v + 3, "mINP": v + 4, "Rank-1": v, "Rank-5": v + 1, "Rank-10": v + 2}  # noqa: E731
    assert content == {
        "initial": expected(1.0),
        "final": expected(20.0),
        "best": {**expected(30.0), "epoch": 2},
        "seconds": 12.3,
    }


def test_what_was_not_measured_is_left_out(tmp_path):
    results = Results(str(tmp_path))
    results.write()
    assert json.loads((tmp_path / "results.json").read_text()) == {"seconds": 0.0}
    assert results.table() == ""


def test_several_test_sets_are_kept_apart(tmp_path):
    results = Results(str(tmp_path))
    results.record({"A": metrics(1.0), "B": metrics(2.0)}, 6.0, epoch=0)
    assert results.final["B"]["mAP"] == 5.0 and results.best["epoch"] == 1
    table = results.table()
    assert "final, A" in table and "best (epoch 1), B" in table and "5.00" in table


def test_state_restores_what_a_resumed_run_needs(tmp_path):
    first, second = Results(str(tmp_path)), Results(str(tmp_path))
    first.record_initial(metrics(1.0))
    first.record(metrics(10.0), 15.0, epoch=3)
    first.seconds = 7.0
    second.load_state_dict(first.state_dict())
    assert vars(second) == vars(first)
    assert second.record(metrics(9.0), 14.0, epoch=4) is False


def test_other_ranks_write_nothing(tmp_path):
    Results(str(tmp_path), save_to_disk=False).write()
    assert list(tmp_path.iterdir()) == []
