import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_persons import (
    DatasetExistsError,
    count_images,
    draw_planned,
    folder_name,
    make_plan,
    write_dataset,
    writer,
)


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "tiny"
    return write_dataset(root, "tiny", workers=1, progress=False)


def test_files_are_those_of_the_plan(written):
    plan = make_plan("tiny")
    names = set(contents(written.path))
    assert names == {f"{i.folder}/{i.name}" for i in plan} | {"synthetic_persons.json"}
    assert written.counts == count_images(plan) and not written.reused


def test_pictures_are_jpeg_of_market_size(written):
    for path in list((written.path / "query").iterdir())[:5]:
        with Image.open(path) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (64, 128), "RGB")


def test_the_stamp_says_what_was_written(written):
    stamp = json.loads((written.path / "synthetic_persons.json").read_text())
    assert (stamp["size"], stamp["seed"], stamp["cameras"]) == ("tiny", 0, 6)
    assert stamp["counts"]["train"] == len(list((written.path / "bounding_box_train").iterdir()))
    assert stamp["generator_version"] == writer.GENERATOR_VERSION


def test_bytes_do_not_depend_on_the_number_of_workers(written, tmp_path):
    again = write_dataset(tmp_path / "again", "tiny", workers=2, progress=False)
    assert contents(again.path) == contents(written.path)


def test_bytes_do_not_depend_on_the_order(written):
    for item in make_plan("tiny")[::-17]:
        assert draw_planned(item) == (written.path / item.folder / item.name).read_bytes()


def test_another_seed_gives_other_pictures():
    item = make_plan("tiny", seed=0)[0]
    assert draw_planned(item, seed=0) != draw_planned(item, seed=1)


def test_pictures_of_one_walk_differ(written):
    item = next(i for i in make_plan("tiny") if i.count > 1 and i.index == 0)
    follower = next(i for i in make_plan("tiny") if (i.pid, i.camera, i.index) == (item.pid, item.camera, 1))
    assert draw_planned(item) != draw_planned(follower)


def test_a_person_stays_more_alike_than_others_do(written):
    """Mean colour of the middle of the crop, same camera: the same walk is nearer than another identity, mostly."""
    items = [i for i in make_plan("tiny") if i.folder == "bounding_box_train"]

    def middle_colour(item):
        return np.asarray(Image.open(written.path / item.folder / item.name), dtype=float)[30:60, 22:42].mean((0, 1))

    middle = {(i.pid, i.camera, i.index): middle_colour(i) for i in items}
    wins = []
    for key, value in middle.items():
        same = [np.linalg.norm(value - v) for k, v in middle.items() if k[:2] == key[:2] and k != key]
        other = [np.linalg.norm(value - v) for k, v in middle.items() if k[1] == key[1] and k[0] != key[0]]
        if same and other:
            wins.append(np.median(same) < np.median(other))
    assert np.mean(wins) > 0.8


def test_a_finished_data_set_is_reused(written, monkeypatch):
    before = {p: p.stat().st_mtime_ns for p in written.path.rglob("*")}
    monkeypatch.setattr(writer, "draw_planned", lambda *a, **k: pytest.fail("drew again"))
    again = write_dataset(written.path, "tiny", workers=1)
    assert again.reused and again.counts == written.counts
    assert {p: p.stat().st_mtime_ns for p in written.path.rglob("*")} == before


@pytest.mark.parametrize(
    "parameters, named",
    [
        ({"seed": 1}, "seed 0, not 1"),
        ({"cameras": 3}, "cameras 6, not 3"),
        ({"strength": 2.0}, "strength 1.0, not 2.0"),
    ],
)
def test_other_parameters_are_refused_in_one_line(written, parameters, named):
    before = contents(written.path)
    with pytest.raises(DatasetExistsError, match=named) as caught:
        write_dataset(written.path, "tiny", workers=1, **parameters)
    assert "\n" not in str(caught.value) and "--output" in str(caught.value)
    assert contents(written.path) == before


def test_stamps_without_a_strength_are_of_standard_cameras(written, tmp_path):
    shutil.copytree(written.path, tmp_path / "tiny")
    stamp = json.loads((tmp_path / "tiny/synthetic_persons.json").read_text())
    del stamp["camera_strength"]
    (tmp_path / "tiny/synthetic_persons.json").write_text(json.dumps(stamp))
    assert write_dataset(tmp_path / "tiny", "tiny", workers=1).reused


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(DatasetExistsError, match="not a finished"):
        write_dataset(tmp_path, "tiny", workers=1)
    assert contents(tmp_path) == {"keep.txt": b"mine"}


@pytest.mark.parametrize("stamp", ["not json", "[]", "{}"])
def test_a_damaged_stamp_is_refused(tmp_path, stamp):
    (tmp_path / "synthetic_persons.json").write_text(stamp)
    with pytest.raises(DatasetExistsError):
        write_dataset(tmp_path, "tiny", workers=1)


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch, interruption):
    drawn = []

    def fail_late(*arguments, **_options):
        drawn.append(arguments)
        if len(drawn) > 5:
            raise interruption
        return b"x"

    monkeypatch.setattr(writer, "draw_planned", fail_late)
    with pytest.raises(interruption):
        write_dataset(tmp_path / "tiny", "tiny", workers=1, progress=False)
    assert len(drawn) == 6
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "parameters, named",
    [
        ({"size": "huge"}, "huge"),
        ({"cameras": 9}, "9"),
        ({"workers": 0}, "0"),
        ({"seed": -4}, "-4"),
        ({"strength": 0.5}, "0.5"),
    ],
)
def test_unusable_arguments_write_nothing(tmp_path, parameters, named):
    with pytest.raises(ValueError, match=named):
        write_dataset(tmp_path / "out", **{"size": "tiny", **parameters})
    assert list(tmp_path.iterdir()) == []


def test_folder_names():
    assert Path("root", folder_name("demo")) == Path("root/synthetic_persons_demo")


def test_two_writers_at_once_end_with_one_data_set(written, tmp_path, monkeypatch):
    output = tmp_path / "tiny"
    original = writer._write_images

    def beaten(*arguments):
        original(*arguments)
        if not output.exists():
            shutil.copytree(written.path, output)

    monkeypatch.setattr(writer, "_write_images", beaten)
    result = write_dataset(output, "tiny", workers=1, progress=False)
    assert result.reused
    assert list(tmp_path.iterdir()) == [output]
    assert contents(output) == contents(written.path)
