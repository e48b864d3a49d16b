"""CUHK03 from the images of the release and the protocol's files."""

import os

import miniatures
import pytest

from ise_plugin.data.datasets import CUHK03Detected, CUHK03Labeled


def named(items):
    return [(os.path.basename(path), identity, camera) for path, identity, camera in items]


@pytest.mark.parametrize("reader", [CUHK03Detected, CUHK03Labeled])
def test_the_protocols_file_says_which_images_are_for_what(tmp_path, reader):
    miniatures.cuhk03_release(tmp_path)
    data = reader(str(tmp_path))
    assert f"images_{reader.boxes}" in data.train[0][0]
    # cameras 0 and 1 are the first pair's, 2 and 3 the second's, ..., 8 and 9 the fifth's
    assert named(data.train) == [
        ("1_001_1_01.png", "cuhk03_1", "cuhk03_0"),
        ("1_001_2_06.png", "cuhk03_1", "cuhk03_1"),
        ("2_001_1_01.png", "cuhk03_3", "cuhk03_2"),
    ]
    assert named(data.query) == [("1_002_1_01.png", 2, 0), ("1_002_2_06.png", 2, 1)]
    assert named(data.gallery) == [("1_002_1_02.png", 2, 0), ("1_002_2_07.png", 2, 1), ("5_001_2_06.png", 4, 9)]


def test_the_ready_folders_come_first(tmp_path):
    miniatures.cuhk03_release(tmp_path)
    miniatures.cuhk03_ready(tmp_path)
    data = CUHK03Detected(str(tmp_path))
    assert named(data.query) == [("0002_c1_1.png", 2, 0), ("0002_c2_6.png", 2, 1)]


def test_an_image_that_was_not_taken_out_of_the_release_is_named(tmp_path):
    miniatures.cuhk03_release(tmp_path)
    (tmp_path / "cuhk03/images_detected/1_002_2_07.png").unlink()
    with pytest.raises(FileNotFoundError, match="1_002_2_07.png not found.*cuhk-03.mat"):
        CUHK03Detected(str(tmp_path))
