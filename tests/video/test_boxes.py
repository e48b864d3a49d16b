"""Boxes from the files of detectors and trackers, and the frames that they belong to."""

import json

import numpy as np
import pytest
from PIL import Image

from ise_plugin.errors import UsageError
from ise_plugin.video.boxes import Found, flaw_counter, inside, read_boxes_of
from ise_plugin.video.recordings import Recording

SIZE = (96, 160)
# frame from 0, left, top, width, height, score, track
ROWS = [(0, 8, 10, 20, 60, 0.5, 3), (0, 80, 12, 16, 48, 0.75, 4), (2, 10, 10, 20, 60, 1.0, 3)]


@pytest.fixture
def recording(monkeypatch):
    """One of 5 frames, whose file nobody opens."""
    found = Recording("cam1.mp4")
    monkeypatch.setattr(found, "count", lambda: 5)
    return found


def mot(path, first, tracks=True, rows=ROWS):
    lines = [f"{f + first},{t if tracks else -1},{x},{y},{w},{h},{s},-1,-1,-1\n" for f, x, y, w, h, s, t in rows]
    path.write_text("".join(lines))


def coco(path, first):
    images = [{"id": 70 + f, "file_name": f"cam1/{f + first:06d}.jpg"} for f in range(3)]
    images += [{"id": 99, "file_name": "cam2/000001.jpg"}]  # of another recording
    found = [
        {"image_id": 70 + f, "bbox": [x, y, w, h], "score": s, "track_id": t, "category_id": 7}
        for f, x, y, w, h, s, t in ROWS
    ]
    others = [{**found[0], "category_id": 8}, {**found[0], "image_id": 99}]
    kinds = [{"id": 7, "name": "person"}, {"id": 8, "name": "car"}]
    path.write_text(json.dumps({"images": images, "annotations": found + others, "categories": kinds}))


def results(path, first):
    content = [{"image_id": f + first, "bbox": [x, y, w, h], "score": s, "track_id": t} for f, x, y, w, h, s, t in ROWS]
    path.write_text(json.dumps(content))


def yolo(path, first):
    path.mkdir()
    for f, x, y, w, h, s, t in ROWS:
        shares = (x + w / 2) / 160, (y + h / 2) / 96, w / 160, h / 96
        with open(path / f"cam1_{f + first}.txt", "a") as file:
            print(0, *shares, s, t, file=file)
            print(2, *shares, s, t, file=file)  # a car
    (path / "cam2_1.txt").write_text("0 0.5 0.5 0.1 0.1 0.9\n")


@pytest.mark.parametrize("write, name", [(mot, "b.txt"), (coco, "b.json"), (results, "b.json"), (yolo, "labels")])
@pytest.mark.parametrize("first, said", [(0, None), (1, 1)])
def test_every_kind_of_file_tells_the_same(tmp_path, recording, write, name, first, said):
    write(tmp_path / name, first)
    boxes = read_boxes_of(recording, str(tmp_path / name), said)
    assert boxes.tracked
    for number in range(1, 6):
        found, expected = boxes.of(number, SIZE), [row for row in ROWS if row[0] == number - 1]
        assert found.corners.shape == (len(expected), 4)
        if expected:
            order = np.argsort(found.tracks)
            corners = [(x, y, x + w, y + h) for _, x, y, w, h, _, _ in expected]
            np.testing.assert_allclose(found.corners[order], corners, atol=1e-3)
            np.testing.assert_allclose(found.scores[order], [row[5] for row in expected])
            assert found.tracks[order].tolist() == [row[6] for row in expected]


def test_the_first_frame_is_asked_for_and_never_guessed(tmp_path, recording):
    mot(tmp_path / "b.txt", 1)
    with pytest.raises(UsageError, match="has frames 1 to 3, cam1 has 5; .*--first-frame 0 or --first-frame 1"):
        read_boxes_of(recording, str(tmp_path / "{}.txt").replace("{}", "b"))
    for first, numbers in ((0, [2, 2, 4]), (1, [1, 1, 3])):
        assert read_boxes_of(recording, str(tmp_path / "b.txt"), first).frames.tolist() == numbers
    mot(tmp_path / "b.txt", 1, rows=[*ROWS, (4, 10, 10, 20, 60, 1.0, 3)])  # the last of five is called 5
    assert read_boxes_of(recording, str(tmp_path / "b.txt")).frames.tolist() == [1, 1, 3, 5]


def test_names_of_pictures_tell_their_frames(tmp_path):
    folder = tmp_path / "cam1"
    folder.mkdir()
    for number in (3, 5, 7):
        Image.new("RGB", (160, 96)).save(folder / f"{number:03d}.png")
    mot(tmp_path / "b.txt", 3, rows=[ROWS[0], ROWS[2]])
    recording = Recording(str(folder))
    assert read_boxes_of(recording, str(tmp_path / "b.txt")).frames.tolist() == [3, 5]
    mot(tmp_path / "b.txt", 0)  # counted instead: the first and the third picture
    assert read_boxes_of(recording, str(tmp_path / "b.txt")).frames.tolist() == [3, 3, 7]


def test_boxes_without_tracks_and_scores_that_are_none(tmp_path, recording):
    mot(tmp_path / "b.txt", 0, tracks=False, rows=[row[:5] + (-1, 0) for row in ROWS])
    boxes = read_boxes_of(recording, str(tmp_path / "b.txt"))
    assert not boxes.tracked and boxes.of(1, SIZE).scores.tolist() == [1, 1]


def test_files_that_are_none_get_one_line(tmp_path, recording):
    (tmp_path / "a.txt").write_text("hello\n")
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.json").write_text('{"images": []}')
    (tmp_path / "d").mkdir()
    for name, words in (
        ("a.txt", "has no box of a person"),
        ("b.json", "is no COCO file"),
        ("c.json", "no 'annotations'"),
        ("d", "has no box of a person"),
        ("none.txt", "cannot be read"),
    ):
        with pytest.raises(UsageError, match=words) as caught:
            read_boxes_of(recording, str(tmp_path / name))
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_boxes_outside_are_clipped_or_left_out_and_counted():
    corners = np.array([[-5, 10, 20, 90], [30, 10, 50, 90], [158, 10, 190, 90], [200, 10, 220, 50]], np.float32)
    flaws = flaw_counter()
    found = inside(Found(corners, np.ones(4, np.float32), np.arange(4)), SIZE, 4, flaws)
    assert found.tracks.tolist() == [0, 1]
    np.testing.assert_array_equal(found.corners, [[0, 10, 20, 90], [30, 10, 50, 90]])
    assert dict(flaws) == {"boxes outside the frame": 2, "boxes partly outside, clipped": 1}
    empty = Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    assert len(inside(empty, SIZE, 4, flaws).scores) == 0
