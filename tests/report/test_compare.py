"""Several runs: which belong together, means and spread, and differences that exceed it."""

import math
import statistics

import pytest
from report.conftest import CONFIG, metrics_lines

from ise_plugin.report.compare import (
    Spread,
    build_comparison,
    comparison_text,
    difference,
    grouped,
    mean_curve,
)
from ise_plugin.report.run_files import read_run

FIRST, SECOND = (70.0, 72.0, 74.0), (80.0, 81.0)


def config(seed, eps):
    return {**CONFIG, "SEED": seed, "OUTPUT_DIR": f"logs/{seed}", "PSEUDO_LABEL": {"EPS": eps}}


@pytest.fixture
def runs(make_run):
    made = [(f"a{i}", mean_ap, config(i, 0.4)) for i, mean_ap in enumerate(FIRST)]
    made += [(f"b{i}", mean_ap, config(i, 0.5)) for i, mean_ap in enumerate(SECOND)]
    folders = [
        make_run(name, lines=metrics_lines(3), results={"final": {"mAP": value}, "seconds": 60.0}, config=cfg)
        for name, value, cfg in made
    ]
    return [read_run(str(folder)) for folder in folders]


def test_runs_that_differ_in_their_seed_belong_together(runs):
    groups = grouped([runs[0], runs[3], runs[1], runs[4], runs[2]])
    assert [[run.name for run in group.runs] for group in groups] == [["a0", "a1", "a2"], ["b0", "b1"]]
    assert [group.title for group in groups] == ["PSEUDO_LABEL.EPS 0.4", "PSEUDO_LABEL.EPS 0.5"]


def test_a_key_that_an_older_run_does_not_have_makes_no_difference(make_run):
    new = make_run("new", lines=metrics_lines(1), config={**config(1, 0.4), "ADDED": 1})
    old = make_run("old", lines=metrics_lines(1), config=config(0, 0.4))
    assert len(grouped([read_run(str(old)), read_run(str(new))])) == 1


def test_hooks_make_another_setting_unless_they_only_watch(make_run):
    hooks = ["RunReport", "EpochSummary"], [], ["my_module.Mine", "RunReport"]
    folders = [make_run(f"r{i}", config={**config(0, 0.4), "ISE": {"HOOKS": names}}) for i, names in enumerate(hooks)]
    groups = grouped([read_run(str(folder)) for folder in folders])
    assert [[run.name for run in group.runs] for group in groups] == [["r0", "r1"], ["r2"]]


def test_means_and_deviations(runs):
    first, second = grouped(runs)
    spread = first.spread("final", "mAP")
    assert spread == (72.0, pytest.approx(statistics.stdev(FIRST)), 3)
    assert str(spread) == "72 ± 2" and str(first.spread("final", "nothing")) == "–"
    assert math.isnan(grouped(runs[:1])[0].spread("final", "mAP").deviation)
    assert second.spread("log", "labels/outlier_share", 100).mean == pytest.approx(10)


@pytest.mark.parametrize(
    "first, second, expected",
    [
        (Spread(70, 1, 3), Spread(73.1, 2, 3), "+3.1 ▲ exceeds the spread"),
        (Spread(70, 1, 3), Spread(73, 2, 3), "+3 within the spread"),
        (Spread(73.1, 2, 3), Spread(70, 1, 3), "-3.1 ▲ exceeds the spread"),
        (Spread(70, math.nan, 1), Spread(90, 1, 3), "+20 (one run: spread unknown)"),
        (Spread(70, 1, 3), Spread(math.nan, math.nan, 0), ""),
    ],
)
def test_a_difference_exceeds_the_spread_when_the_intervals_do_not_touch(first, second, expected):
    assert difference(first, second) == expected


def test_the_table_names_runs_means_and_differences(runs):
    text = comparison_text(grouped(runs))
    row = next(line for line in text.splitlines() if line.startswith("| mAP %"))
    assert "72 ± 2" in row and "80.5 ± 0.71" in row and "+8.5 ▲ exceeds the spread" in row
    row = next(line for line in text.splitlines() if line.startswith("| clusters"))
    assert "+0 within the spread" in row
    assert "A (3 runs)" in text and "a0" in text and "rank-1" not in text


def test_the_page_stands_alone_and_has_table_and_curves(runs, read_page):
    page = read_page(build_comparison(runs))
    assert page.stays_alone() and page.tags.count("svg") == 3  # ARI, clusters, outliers
    assert "5 runs, 2 settings" in page.text and "+8.5 ▲ exceeds the spread" in page.text


def test_clusters_in_one_camera_are_compared(make_run):
    made = [("none", "none", 0.45), ("auto", "auto", 0.05)]
    folders = [
        make_run(name, lines=metrics_lines(2, **{"labels/one_camera": share}), config={**CONFIG, "EVIDENCE": evidence})
        for name, evidence, share in made
    ]
    text = comparison_text(grouped([read_run(str(folder)) for folder in folders]))
    row = next(line for line in text.splitlines() if line.startswith("| one-camera clusters %"))
    assert "| 45 " in row and "| 5 " in row and "-40" in row


def test_hostile_names_and_problems_are_only_shown(make_run, read_page):
    folder = make_run("<img src=x onerror=alert(1)>", lines=metrics_lines(1), config={**CONFIG, "X": "<script>"})
    (folder / "report/run.json").write_text("<script>")
    other = make_run("other", lines=metrics_lines(1), config={**CONFIG, "X": "y"})
    page = read_page(build_comparison([read_run(str(folder)), read_run(str(other))]))
    assert page.stays_alone() and "X <script>" in page.text and "run.json cannot be read" in page.text


def test_curves_are_means_over_common_epochs():
    assert mean_curve([([1, 2, 3], [1.0, 2.0, 3.0]), ([2, 3], [4.0, 5.0]), ([], [])]) == ([2, 3], [3.0, 4.0])
    assert mean_curve([([], [])]) == ([], [])
