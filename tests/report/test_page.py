"""The page: what it shows, what it says of what is missing, and that nothing in it runs or leaves the file."""

import json

import numpy as np
import pytest
from report.conftest import CONFIG, metrics_lines

from ise_plugin.report import figures
from ise_plugin.report.page import build_page
from ise_plugin.report.run_files import read_run
from ise_plugin.report.sheets import sheets_of

RESULTS = {
    "initial": {"mAP": 20.0, "Rank-1": 30.0, "mINP": 5.0},
    "final": {"mAP": 70.5, "Rank-1": 80.0, "mINP": 50.0},
    "seconds": 125.0,
}
MAP = {
    "kind": ["real"] * 10 + ["centroid"],
    "group": [0] * 5 + [1] * 5 + [0],
    "outlier": [False] * 11,
    "degree": 0.1,
}
LABELLING = {
    "epoch": 1,
    "sizes": [5, 6, 7],
    "distances": {"edges": [0, 0.5, 1], "eps": 0.4, "same": [3, 0], "different": [0, 9]},
    "reliability": {"stated": [0.05, 0.93], "true": [0.1, 0.9], "counts": [700, 300], "error": 0.044},
    "map": {**MAP, "places": np.random.default_rng(0).random((11, 2)).tolist()},
}
FACTS = {
    "images": 150,
    "identities": 12,
    "command": "python tools/train_net.py",
    "base": "Base-ISE.yml",
    "differs": [["SOLVER.MAX_EPOCH", "70", "3"]],
    "environment": [["torch", "2.13.0"]],
    "problems": [],
}
HOSTILE = "<script>alert(1)</script>'\" onerror=alert(2) {{ 7 * 7 }} \udcff x=.png"


def page_of(folder) -> str:
    return build_page(read_run(str(folder)))


@pytest.fixture
def whole_run(make_run, image_files):
    paths = image_files(12)
    sheets = sheets_of(paths, np.repeat([0, 1], 6), np.array(list("aaaaaabbbbba")), np.ones(2))
    picture = {"src": sheets[0]["rows"][0]["images"][0]["src"], "name": "q.png", "mark": "✓", "good": True}
    rows = [{"title": "average precision 50%", "query": picture, "images": [picture, {**picture, "good": False}]}]
    retrieval = {"Drawn": {"before": {"cmc": [0.3, 0.5]}, "after": {"cmc": [0.8, 0.9], "rows": rows}}}
    lines = metrics_lines(3, **{"mAP": 70.5, "Rank-1": 80.0})
    return make_run(
        lines=lines, results=RESULTS, run=FACTS, labelling_0001=LABELLING, sheets=sheets, retrieval=retrieval
    )


def test_a_whole_run_shows_everything(whole_run, read_page):
    markup = page_of(whole_run)
    page = read_page(markup)
    assert page.stays_alone()
    assert "finished, 3 epochs · Drawn · 150 training images" in page.text
    assert "70.5 % from 20.0 (+50.5)" in page.text and "for 12 identities" in page.text and "2 min 5 s" in page.text
    # seven curves, sizes, distances, reliability, a map with four marks in its legend, CMC
    assert page.tags.count("svg") - 4 == page.tags.count("figure") == 12
    assert "1000 pairs of an image and one near; calibration error (ECE) 0.044" in page.text
    for word in ("eps 0.4", "support sample", "Purest clusters", "average precision 50%", "SOLVER.", "torch"):
        assert word in page.text
    assert "is not known" not in page.text and "No " not in page.text


def test_the_same_files_give_the_same_page(whole_run):
    assert page_of(whole_run) == page_of(whole_run)


def test_right_and_wrong_differ_in_border_and_in_symbol(whole_run, read_page):
    markup = page_of(whole_run)
    looks = [value for tag, name, value in read_page(markup).attributes if (tag, name) == ("li", "class")]
    assert {"good", "bad"} <= set(looks)
    assert "dashed" in markup.split(".pictures .bad .frame")[1][:60]


def test_a_verdict_is_shown_and_a_damaged_one_left_out(make_run, read_page):
    folder = make_run(lines=metrics_lines(1))
    verdict = {"lines": ["<b>People.</b>"], "rows": [["groups", "23", "42"], ["odd"]]}
    (folder / "identities.json").write_text(json.dumps({"epoch": 2, "verdict": verdict}))
    text = read_page(page_of(folder)).text
    assert "<b>People.</b>" in text and "untrained chosen groups 23 42 odd" in text
    for damaged in ({"verdict": []}, {"verdict": {"lines": None}}, [], {}):
        (folder / "identities.json").write_text(json.dumps(damaged))
        assert "untrained" not in read_page(page_of(folder)).text


def test_hostile_names_are_shown_and_not_run(make_run, image_files, read_page, tmp_path):
    name = HOSTILE.replace("/", "")
    sheets = sheets_of(image_files(2, [name, "b.png"]), np.array([0, 0]), np.array(["a", "b"]), np.ones(2))
    facts = {**FACTS, "command": HOSTILE, "differs": [[HOSTILE, HOSTILE, HOSTILE]], "problems": [HOSTILE]}
    config = {**CONFIG, "OUTPUT_DIR": HOSTILE, HOSTILE: HOSTILE, "DATASETS": {"NAMES": [HOSTILE], "TESTS": [HOSTILE]}}
    rows = [
        {"title": HOSTILE, "images": [{"src": "javascript:alert(3)", "name": HOSTILE, "mark": HOSTILE, "good": True}]}
    ]
    retrieval = {HOSTILE: {"after": {"cmc": [0.5, 0.6], "rows": rows}}}
    drawn = HOSTILE.replace("\udcff", "")  # matplotlib draws text alone
    lines = metrics_lines(2, **{f"loss_{drawn}": 1.0, f"{HOSTILE}/mAP": 50.0})
    run = make_run(name="<b>run", config=config, lines=lines, run=facts, sheets=sheets, retrieval=retrieval)
    markup = page_of(run)
    page = read_page(markup)
    assert page.stays_alone() and "<b>run" not in markup and "javascript:" not in markup
    assert page.text.count("<script>alert(1)") >= 8  # shown as it is written


def test_the_browser_is_told_to_fetch_and_run_nothing(whole_run, read_page):
    policy = [v for tag, name, v in read_page(page_of(whole_run)).attributes if name == "content" and "src" in v]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


CAMERAS = {"images": [9, 1500], "clustered": [1.0, 0.5], "alone": [0.25, float("nan")]}
CAMERAS |= {"joined": [[4, 2], [2, 3]], "joined_by_chance": [[5.0, 8.0], [8.0, 5.0]]}
HELD = {"tracks": 1234, "apart": 50, "violated": 0, "cut": 3, "given_up": 2, "weight": 1.0}


def test_what_labels_do_with_cameras_and_tracks_is_a_table_each(make_run, read_page):
    evidence = {"epoch": 2, "names": ["left", HOSTILE], "cameras": CAMERAS, "true": CAMERAS, "constraints": HELD}
    page = read_page(page_of(make_run(evidence=evidence, lines=metrics_lines(2))))
    assert page.stays_alone() and "left 9 100% 25% 25%" in page.text
    assert "1,500 50% – – 2 / 8.0 2" in page.text  # the pair, chance, people
    assert [v for _, name, v in page.attributes if name == "style" and "missed" in v] == ["--missed: 16%"]  # of 22
    assert "Tracks, epoch 2 tracks pairs apart violated tracks cut links given up 1,234 50 0 3 2 hard" in page.text


MISSING = {
    "nothing but a config": ({}, ["nothing was logged", "No epoch has been logged", "No evaluation yet"]),
    "no test set": (
        {"lines": metrics_lines(3), "config": {**CONFIG, "DATASETS": {"NAMES": ["Drawn"], "TESTS": []}}},
        ["finished, 3 epochs", "DATASETS.TESTS is empty"],
    ),
    "no evaluation before": (
        {"lines": metrics_lines(3), "results": {"final": {"mAP": 50.0}}},
        ["50.0 % before training: not known", "ISE.EVAL_BEFORE_TRAIN is False"],
    ),
    "no identities": (
        {"lines": metrics_lines(3), "run": {"images": 9, "identities": 0}},
        ["identities of the training"],
    ),
    "interrupted": ({"lines": metrics_lines(2)}, ["epoch 2 of 3 done; running or interrupted"]),
    "one epoch": (
        {"lines": metrics_lines(1), "config": {**CONFIG, "SOLVER": {"MAX_EPOCH": 1}}},
        ["finished, 1 epoch", "Clusters 10"],
    ),
    "no clusters": (
        {"lines": [{"iteration": 0, "clusters": 0.0, "outliers": 9.0}], "latest": {"epoch": 1, "sizes": []}},
        ["No clusters were found", "No map", "No clusters to show"],
    ),
    "recorded before there were reports": ({"lines": metrics_lines(3)}, ["Recorded without RunReport"]),
    "several test sets": (
        {"lines": metrics_lines(3), "results": {"final": {"A": {"mAP": 40.0}, "B": {"mAP": 60.0}}}},
        ["40.0 %"],
    ),
}


@pytest.mark.parametrize("files, words", MISSING.values(), ids=MISSING)
def test_what_is_missing_is_named(make_run, read_page, files, words):
    page = read_page(page_of(make_run(**files)))
    assert page.stays_alone()
    assert [word for word in words if word not in page.text] == []


def test_troubles_are_listed_at_the_top(make_run, read_page):
    lines = metrics_lines(3)
    lines[-2]["clusters"], lines[-2]["labels/outlier_share"] = 3.0, 0.9
    text = read_page(page_of(make_run(lines=lines, run={**FACTS, "problems": ["map: no space left"]}))).text
    assert "clusters fell from 11 to 3" in text and "90% of the images are outliers" in text and "no space left" in text


def test_the_last_labelling_of_an_interrupted_run_gets_its_map(make_run, read_page):
    latest = {"epoch": 2, "sizes": [4], "map": {**MAP, "vectors": np.random.default_rng(1).random((11, 5)).tolist()}}
    run = read_run(str(make_run(lines=metrics_lines(2), labelling_0001=LABELLING, latest=latest)))
    page = read_page(build_page(run))
    assert "Epoch 1" in page.text and "Epoch 2" in page.text
    assert "Epoch 2" not in read_page(build_page(run, arrange_last=False)).text  # it would cost time in every epoch


@pytest.mark.parametrize("reason", ["switched off", "not installed"])
def test_without_pictures_numbers_and_tables_remain(make_run, whole_run, read_page, monkeypatch, reason):
    if reason == "switched off":
        config = {**CONFIG, "ISE": {"ITERS_PER_EPOCH": 4, "REPORT": {"PICTURES": False}}}
        whole_run = make_run("off", lines=metrics_lines(3), results=RESULTS, config=config, run=FACTS)
    else:
        monkeypatch.setattr(figures, "available", lambda: False)
    page = read_page(page_of(whole_run))
    assert not {"svg", "img"} & set(page.tags)
    assert ("PICTURES is False" if reason == "switched off" else "pip install matplotlib") in page.text
    assert "70.5 %" in page.text and page.tags.count("tr") > 3 and "Full configuration" in page.text


def test_a_page_does_not_grow_with_the_number_of_epochs_without_bound(make_run):
    config = {**CONFIG, "SOLVER": {"MAX_EPOCH": 300, "BASE_LR": 0.001}}
    size = len(page_of(make_run(lines=metrics_lines(300), config=config)).encode())
    assert size < 1_000_000


def test_pieces_of_other_shapes_are_no_catastrophe(make_run):
    folder = make_run(lines=metrics_lines(1), sheets=[], retrieval={"Drawn": {}}, latest={"epoch": 1})
    assert "No clusters" in page_of(folder)
    (folder / "report/latest.json").write_text(json.dumps(["no dictionary"]))
    assert "latest.json" in page_of(folder)
