"""Finding and checking the pictures of a folder."""

import logging
import os

import pytest
from PIL import Image

from ise_plugin.data.image_files import check_images, find_images
from ise_plugin.errors import UsageError

STRANGE = [
    "with space.jpg",
    "quo'te\".png",
    "line\nbreak.jpg",
    "人.webp",
    "UPPER.JPEG",
    "$(touch x).bmp",
    "=1+1.jpg",
    "-n.png",
]


def save(path, colour=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"JPG": "JPEG"}.get(path.suffix[1:].upper(), path.suffix[1:].upper())
    Image.new("RGB", (8, 8), (colour % 256, colour // 256, 0)).save(path, kind)


def test_any_depth_and_any_name(tmp_path):
    names = STRANGE + ["a/b/c/d.jpg", "a/x.png"]
    for i, name in enumerate(names):
        save(tmp_path / name, i)
    assert find_images(str(tmp_path)) == sorted(names)
    assert check_images(str(tmp_path), sorted(names), 0.0, "KEY").names == sorted(names)


def test_names_that_are_no_text(tmp_path):
    save(tmp_path / "a.jpg")
    os.rename(os.fsencode(tmp_path / "a.jpg"), os.fsencode(tmp_path) + b"/\xff\xfe.jpg")
    assert find_images(str(tmp_path)) == [os.fsdecode(b"\xff\xfe.jpg")]
    assert len(check_images(str(tmp_path), find_images(str(tmp_path)), 0.0, "KEY").names) == 1


def test_other_and_hidden_files_are_counted(tmp_path, caplog):
    for name in ("a.jpg", "._a.jpg", "sub/.hidden/b.jpg"):
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("")
    with caplog.at_level(logging.INFO, logger="fastreid.ise"):
        assert find_images(str(tmp_path)) == ["a.jpg"]
    assert "2 files are not pictures" in caplog.text and "1 x .txt" in caplog.text and "1 x hidden" in caplog.text


def test_loops_of_links_end(tmp_path, caplog):
    save(tmp_path / "in/a.jpg")
    (tmp_path / "in/loop").symlink_to(tmp_path)
    (tmp_path / "in/self").symlink_to(tmp_path / "in/self")
    assert find_images(str(tmp_path)) == ["in/a.jpg"]
    assert "already read" in caplog.text


def test_linked_folder_is_followed_once(tmp_path):
    save(tmp_path / "elsewhere/a.jpg")
    (tmp_path / "root").mkdir()
    for name in ("one", "two"):
        (tmp_path / "root" / name).symlink_to(tmp_path / "elsewhere")
    assert find_images(str(tmp_path / "root")) == ["one/a.jpg"]


@pytest.mark.parametrize("make, words", [(lambda p: None, "is not a folder"), (lambda p: p.mkdir(), "no picture in")])
def test_missing_and_empty_folder(tmp_path, make, words):
    make(tmp_path / "crops")
    with pytest.raises(UsageError, match=words):
        find_images(str(tmp_path / "crops"))


def test_bad_files_are_named_and_left_out(tmp_path, caplog):
    for i in range(20):
        save(tmp_path / f"{i:02d}.jpg", i)
    (tmp_path / "07.jpg").write_bytes(b"")
    found = check_images(str(tmp_path), find_images(str(tmp_path)), 0.05, "KEY")
    assert len(found.names) == 19 and "07.jpg" not in found.names
    assert [p.reason for p in found.problems] == ["the file is empty"] and "07.jpg (the file is empty)" in caplog.text
    with pytest.raises(UsageError, match=r"1 of 20 images.*KEY 0\.01.*07\.jpg"):
        check_images(str(tmp_path), find_images(str(tmp_path)), 0.01, "KEY")


def test_nothing_readable_at_all(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(UsageError, match="1 of 1 images"):
        check_images(str(tmp_path), ["a.jpg"], 1.0, "KEY")


def test_equal_files_are_kept_and_counted(tmp_path, caplog):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        save(tmp_path / name)
    save(tmp_path / "other.jpg", 200)
    found = check_images(str(tmp_path), find_images(str(tmp_path)), 0.0, "KEY")
    assert len(found.names) == 4 and found.duplicates == 2 and "2 images are the same" in caplog.text
