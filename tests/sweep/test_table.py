"""The table against numbers worked out by hand."""

import csv
import io
import json
import math

import pytest
import yaml
from sweep.conftest import BETA, METRICS

from ise_plugin.sweep import gather, write_tables
from ise_plugin.sweep.table import markdown


def test_means_and_deviations_by_hand(rows):
    # 60, 62, 64: mean 62, deviation sqrt((4 + 0 + 4) / 2) = 2; 70, 71: mean 70.5, deviation sqrt(0.5) = 0.70711
    first, second = rows
    assert first.spread("mAP") == (62.0, 2.0, 3)
    assert second.spread("mAP") == (70.5, pytest.approx(math.sqrt(0.5)), 2)
    # the last labelling's: 0.5, 0.6, 0.7
    assert first.spread("ARI") == (pytest.approx(0.6), pytest.approx(0.1), 3)
    assert first.spread("outliers").mean == 25.0 and first.spread("clusters").mean == 11.0
    assert first.spread("mINP").count == 0


def test_the_table_shows_spread_missing_runs_and_the_difference_from_the_first_row(rows):
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown(rows, METRICS).splitlines()]
    head, _, first, second = table
    assert head == [
        BETA,
        "runs",
        "mAP before training %",
        "mAP %",
        "rank-1 %",
        "clusters",
        "outliers %",
        "ARI",
        "mAP − first row",
    ]  # nobody knows the mINP
    assert first == ["0", "3", "20 ± 0", "62 ± 2", "72 ± 2", "11 ± 0", "25 ± 0", "0.6 ± 0.1", ""]
    assert second[:4] == ["0.1", "2 of 3", "20 ± 0", "70.5 ± 0.71"]
    assert second[-1] == "+8.5 ▲ exceeds the spread"  # 8.5 > 2 + 0.71


def test_files_hold_every_number(rows, tmp_path):
    files = write_tables(str(tmp_path / "t"), rows, METRICS, "ise-sweep --seeds 0 1 2")
    assert [name.removeprefix(str(tmp_path)) for name in files] == ["/t.md", "/t.csv", "/t.json"]
    assert (tmp_path / "t.md").read_text() == f"    ise-sweep --seeds 0 1 2\n\n{markdown(rows, METRICS)}\n"
    found = json.loads((tmp_path / "t.json").read_text())
    assert found["command"] == "ise-sweep --seeds 0 1 2"
    second = found["rows"][1]
    assert second["setting"] == {BETA: "0.1"} and second["seeds"] == [0, 1, 2] and list(second["runs"]) == ["0", "1"]
    assert [run["mAP"] for run in second["runs"].values()] == [70.0, 71.0]
    assert second["mean"]["mAP"] == 70.5 and second["deviation"]["mAP"] == pytest.approx(math.sqrt(0.5))
    assert second["mean"]["mINP"] is None and second["deviation"]["mINP"] is None
    lines = list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text())))
    assert [line[BETA] for line in lines] == ["0", "0.1"] and [line["runs"] for line in lines] == ["3", "2"]
    assert float(lines[1]["mAP"]) == 70.5 and float(lines[1]["mAP deviation"]) == math.sqrt(0.5)
    assert lines[0]["mINP"] == ""


def test_runs_that_are_not_done_or_of_other_keys_do_not_count(rows, tmp_path):
    settings = [row.setting for row in rows]
    folder = tmp_path / settings[0].jobs[0].folder
    (folder / "model_final.pth").unlink()
    other = tmp_path / settings[0].jobs[1].folder
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["SOLVER"]["MAX_EPOCH"] = 99
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    assert list(gather(settings, METRICS)[0].values) == [2]
