"""ATRW: queries of the challenge's two kinds, and what its evaluation leaves out."""

import os

import miniatures
from miniatures import ATRW_TEST

from ise_plugin.data import read_training_images
from ise_plugin.data.datasets import ATRW, ATRWCrossCamera, ATRWSingleCamera


def left_out_by_the_challenge(one, other):
    """Whether the published rule passes over a match: the same camera at most three frames away."""
    (_, entity, _, (*camera, frame)), (_, of_other, _, (*other_camera, other_frame)) = one, other
    return entity == of_other and camera == other_camera and abs(frame - other_frame) <= 3


def test_runs_leave_out_what_the_challenge_leaves_out(tmp_path):
    miniatures.atrw(tmp_path)
    told = {name: row for name, *_ in ATRW_TEST for row in ATRW_TEST if row[0] == name}
    data = ATRW(str(tmp_path))
    assert len(data.query) == len(data.gallery) == 6  # each of them is a query to all; junk takes no part
    for path, entity, run in data.query:
        for other, of_other, other_run in data.gallery:
            rows = told[os.path.basename(path)], told[os.path.basename(other)]
            assert (entity == of_other and run == other_run) == left_out_by_the_challenge(*rows)


def test_queries_are_of_entities_that_one_camera_saw_or_several(tmp_path):
    miniatures.atrw(tmp_path)
    single, cross = ATRWSingleCamera(str(tmp_path)), ATRWCrossCamera(str(tmp_path))
    assert {entity for _, entity, _ in single.query} == {2} and {entity for _, entity, _ in cross.query} == {1}
    assert single.gallery == cross.gallery


def test_cameras_of_training_images_are_unknown_also_those_of_test_images(tmp_path, monkeypatch):
    miniatures.atrw(tmp_path)
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    images = read_training_images(("ATRW",), combine_all=True)
    assert len(images) == 3 + 6 + 6 and set(images.cameras) == {-1}


def test_the_truth_is_found_where_the_evaluations_archive_puts_it(tmp_path):
    miniatures.atrw(tmp_path)
    place = tmp_path / "ATRW/eval_script/ATRWEvalScript-main/annotations"
    place.mkdir(parents=True)
    (tmp_path / "ATRW/gt_test_plain.json").rename(place / "gt_test_plain.json")
    assert len(ATRW(str(tmp_path)).gallery) == 6
