"""Crops cut out of frames by MOT files, as a user types it, and the table that Folder reads."""

import csv

import numpy as np
import pytest
from helpers import load_tool
from PIL import Image

from ise_plugin.config import get_cfg
from ise_plugin.data import mot, read_training_images

SIZE = (80, 60)


def draw(folder, rows, frames=4, file="gt/gt.txt"):
    """Frames of noise in which every box has a colour of its track; rows: (frame, track, left, top, width, height)."""
    (folder / "img1").mkdir(parents=True)
    random = np.random.default_rng(0)
    for frame in range(1, frames + 1):
        pixels = random.integers(0, 60, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
        for at, track, left, top, width, height in rows:
            if at == frame:
                pixels[max(top, 0) : top + height, max(left, 0) : left + width] = (200, 20 * track, 0)
        Image.fromarray(pixels).save(folder / "img1" / f"{frame:06d}.png")
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(",".join(map(str, row)) + ",1,-1,-1,-1\n" for row in rows))
    return path


ROWS = [(1, 3, 5, 5, 12, 30), (2, 3, 8, 5, 12, 30), (4, 3, 11, 5, 12, 30), (2, 9, 70, -6, 20, 40)]


@pytest.fixture
def sequences(tmp_path):
    for name in ("cam1-noon", "cam2-noon", "cam1-dusk"):
        draw(tmp_path / name, ROWS)
    return sorted(tmp_path.iterdir())


def crops(*arguments):
    assert load_tool("crops").main([str(a) for a in arguments]) == 0


def test_crops_hold_the_boxes_and_train_as_a_folder(sequences, tmp_path):
    out = tmp_path / "out"
    crops(*sequences, "--output", out, "--camera", r"cam(\d)")
    sizes = {p.name: Image.open(p).size for p in (out / "cam1-dusk").glob("*.jpg")}
    assert sizes == {**{f"0003_{f:06d}.jpg": (12, 30) for f in (1, 2, 4)}, "0009_000002.jpg": (10, 34)}
    for name, green in (("0003_000004.jpg", 60), ("0009_000002.jpg", 180)):
        inside = np.asarray(Image.open(out / "cam1-dusk" / name), int)[2:-2, 2:-2]
        assert np.abs(inside - [200, green, 0]).max() < 30
    cfg = get_cfg()
    cfg.DATASETS.FOLDER.ROOT, cfg.DATASETS.FOLDER.CAMERA_CSV = str(out), str(out / "sightings.csv")
    images = read_training_images(("Folder",), cfg=cfg)
    assert images.camera_names == ("Folder/1", "Folder/2") and len(images.track_names) == 6
    where = {path.removeprefix(f"{out}/"): i for i, path in enumerate(images.paths)}
    first, last = where["cam1-noon/0003_000001.jpg"], where["cam1-noon/0003_000004.jpg"]
    assert images.tracks[first] == images.tracks[last] != images.tracks[where["cam1-dusk/0003_000001.jpg"]]
    assert images.times[last] - images.times[first] == 3 and (images.cameras >= 0).all()


def test_what_was_cut_is_not_cut_again_unless_it_changed(sequences, tmp_path, monkeypatch):
    out, cut = tmp_path / "out", []
    read = mot.read_rgb
    monkeypatch.setattr(mot, "read_rgb", lambda path: cut.append(path) or read(path))
    crops(*sequences[:2], "--output", out)
    assert len(cut) == 6
    crops(*sequences, "--output", out)
    assert len(cut) == 9
    before = (out / "sightings.csv").read_bytes()
    rows = sequences[0] / "gt/gt.txt"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[1:]))
    crops(sequences[0], "--output", out)
    assert len(cut) == 11 and not (out / sequences[0].name / "0003_000001.jpg").exists()
    after = (out / "sightings.csv").read_bytes()
    assert len(after.splitlines()) == len(before.splitlines()) - 1 == 12


def test_an_interrupted_sequence_leaves_nothing(sequences, tmp_path, monkeypatch):
    def stop(path):
        raise KeyboardInterrupt

    left = tmp_path / f"out/{sequences[0].name}.123.tmp"  # by a call that was killed
    left.mkdir(parents=True)
    (left / "0001_000001.jpg").touch()
    monkeypatch.setattr(mot, "read_rgb", stop)
    with pytest.raises(KeyboardInterrupt):
        mot.cut_crops([str(sequences[0])], str(tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_detections_have_no_track_and_results_may_lie_elsewhere(tmp_path):
    draw(tmp_path / "a", [])
    (tmp_path / "results").mkdir()
    (tmp_path / "results/a.txt").write_text(
        "2,-1,5,5,12,30,0.7,-1,-1,-1\n2,-1,30,5,12,30,0.9,-1,-1,-1\n3,-1,5,5,9,30\n"
    )
    crops(tmp_path / "a", "--output", tmp_path / "out", "--rows", tmp_path / "results/{}.txt", "--every", 2)
    with open(tmp_path / "out/sightings.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["camera"], row["sequence"], row["track"], row["frame"]) for row in rows] == [("a", "a", "", "2")] * 2
    assert all((tmp_path / "out" / row["path"]).is_file() for row in rows) and rows[0]["path"] != rows[1]["path"]


def test_bad_rows_and_frames_are_named_and_left_out(tmp_path, caplog):
    rows = draw(tmp_path / "a", ROWS)
    (tmp_path / "a/img1/000001.png").write_bytes(b"")
    bad = ["2,3,1,1,12,30", "x,y", "2,4,0,0,-5,9", "2,5,nan,0,5,9", "2.5,6,0,0,5,9", "7,3,0,0,9,9", "2,8,900,0,9,9"]
    passed_over = ["3,1,5,5,12,30,0,1,1.0", "3,2,5,5,12,30,1,3,1.0"]
    rows.write_text(rows.read_text() + "\n".join(bad + passed_over))
    crops(tmp_path / "a", "--output", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out/a").glob("*.jpg")) == [f"0003_{f:06d}.jpg" for f in (2, 4)] + [
        "0009_000002.jpg"
    ]
    for words in (
        "5 rows are no frame, track and box, or a track once more in a frame, line 5 for one",
        "2 rows are of no person",
        "1 rows are of frames that are not there, line 10 for one",
        "1 boxes are less than 4 pixels within their frame, line 11 for one",
        "1 rows are of frames that cannot be read, line 1 (",
        "000001.png: the file is empty) for one",
    ):
        assert words in caplog.text, words


def test_mistakes_get_one_line_and_write_nothing(sequences, tmp_path, capsys):
    (tmp_path / "other/cam1-noon").mkdir(parents=True)
    for arguments, words in (
        ((tmp_path, "--output", tmp_path / "out"), "has no frames"),
        ((sequences[0], "--output", tmp_path / "out", "--rows", "det/det.txt"), "cannot be read"),
        ((sequences[0], sequences[0], "--output", tmp_path / "out"), "2 sequences are called cam1-dusk"),
        ((sequences[0], "--output", tmp_path / "out", "--camera", "x(.)"), "does not fit the sequence cam1-dusk"),
        ((sequences[0], "--output", tmp_path / "out", "--camera", "cam"), "no regular expression with a group"),
        ((sequences[0], "--output", tmp_path), "holds no crops"),
        ((sequences[1], "--output", tmp_path / "other"), "holds no crops"),
        ((sequences[0], "--output", tmp_path / "out", "--every", 9), "gives no crop"),
        ((sequences[0], "--output", tmp_path / "out", "--every", 0), "give 1 or more"),
    ):
        assert load_tool("crops").main([str(a) for a in arguments]) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("error: ") and words in said, said
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
