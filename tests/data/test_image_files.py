"""The pictures of a folder: found, checked, refused where too many are unusable, and replaced where they are lost."""

import logging
import os
import re

import pytest
import torch
from PIL import Image

from ise_plugin.data.image_files import StandIns, check_images, check_share, find_images, warn_of_input_size
from ise_plugin.data.reading import ReadFile, UnreadableImage
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
    assert check_images(str(tmp_path), sorted(names), 0.0, "KEY") == sorted(names)


def test_names_that_are_no_text(tmp_path):
    save(tmp_path / "a.jpg")
    os.rename(os.fsencode(tmp_path / "a.jpg"), os.fsencode(tmp_path) + b"/\xff\xfe.jpg")
    assert find_images(str(tmp_path)) == [os.fsdecode(b"\xff\xfe.jpg")]
    assert len(check_images(str(tmp_path), find_images(str(tmp_path)), 0.0, "KEY")) == 1


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
    assert len(found) == 19 and "07.jpg" not in found
    assert caplog.text.count("left out: ") == 1 and "07.jpg (the file is empty)" in caplog.text
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
    assert len(found) == 4 and "2 images are the same" in caplog.text and ".jpg = " in caplog.text


KEY = "DATASETS.FOLDER.MAX_BAD_SHARE"


def problems(count):
    return [ReadFile(f"{i}.jpg", reason="truncated") for i in range(count)]


@pytest.mark.parametrize("bad, total, share", [(0, 10, 0.0), (5, 100, 0.05), (1, 2, 0.5), (0, 0, 0.0)])
def test_few_may_be_unusable(bad, total, share):
    check_share(problems(bad), total, share, KEY)


@pytest.mark.parametrize("bad, total, share", [(1, 10, 0.0), (6, 100, 0.05), (2, 2, 1.0)])
def test_too_many_are_listed(bad, total, share):
    with pytest.raises(UsageError) as caught:
        check_share(problems(bad), total, share, KEY)
    message = str(caught.value)
    assert f"{bad} of {total} images cannot be used" in message and "0.jpg (truncated)" in message
    assert (KEY in message) != ("which are all" in message) == (bad == total)
    assert ("and 1 more" in message) == (bad == 6) and "\n" not in message


def reader(lost, error=UnreadableImage("gone")):
    def read(index):
        if index in lost:
            raise error
        return index

    return read


@pytest.mark.parametrize("error", [UnreadableImage("gone"), FileNotFoundError(2, "No such file")])
def test_the_next_one_is_taken_and_every_loss_is_told_once(caplog, error):
    stand_ins = StandIns([f"{i}.jpg" for i in range(6)], 0.9, KEY)
    lost = {1, 2, 5}
    for _ in range(2):
        assert [stand_ins.read(i, reader(lost, error)) for i in range(6)] == [0, 3, 3, 3, 4, 0]
    assert stand_ins.lost.nonzero().flatten().tolist() == [1, 2, 5]
    assert [r.message.split()[1] for r in caplog.records] == ["1.jpg", "2.jpg", "5.jpg"]


def test_lost_files_are_not_tried_again():
    stand_ins, tried = StandIns(["a", "b"], 1.0, KEY), []

    def read(index):
        tried.append(index)
        if index == 0:
            raise UnreadableImage("gone")
        return index

    assert [stand_ins.read(0, read), stand_ins.read(0, read)] == [1, 1] and tried == [0, 1, 1]


def test_too_many_losses_end_the_run():
    stand_ins = StandIns([f"{i}.jpg" for i in range(40)], 0.05, KEY)
    lost = {0, 1, 2}
    assert stand_ins.read(1, reader(lost)) == 3  # two of forty
    with pytest.raises(UsageError, match="3 of 40.*0.jpg"):
        stand_ins.read(0, reader(lost))


class Sharing(torch.utils.data.Dataset):
    def __init__(self, stand_ins):
        self.stand_ins = stand_ins

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.stand_ins.read(index, reader({2}))


def test_workers_tell_one_another():
    stand_ins = StandIns([f"{i}.jpg" for i in range(8)], 0.5, KEY)
    loader = torch.utils.data.DataLoader(Sharing(stand_ins), batch_size=4, num_workers=2)
    assert torch.cat(list(loader)).tolist() == [0, 1, 3, 3, 4, 5, 6, 7]
    assert stand_ins.lost.nonzero().flatten().tolist() == [2]


@pytest.mark.parametrize(
    "image, size, words",  # (height, width)
    [
        ((128, 64), (384, 192), "128 x 64 .*INPUT.SIZE_TRAIN 384 x 192, which enlarges them 3.0 times"),
        ((120, 160), (128, 64), "120 x 160 .*128 x 64, which squeezes them 2.7 times; crop"),
        ((64, 128), (64, 128), ""),
        ((128, 64), (256, 128), ""),
        ((64, 64), (128, 64), ""),
        ((800, 400), (128, 64), ""),
        ((40, 160), (256,), ""),  # the shorter side alone is set: nothing is squeezed
    ],
)
def test_images_far_from_the_networks_input_are_told_of_once(tmp_path, caplog, image, size, words):
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    for path in paths:
        Image.new("RGB", image[::-1]).save(path)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    warn_of_input_size([*paths, str(tmp_path / "bad.png")], size, "INPUT.SIZE_TRAIN")
    assert len(caplog.messages) == bool(words) and re.search(words, caplog.text)


def test_of_no_readable_image_nothing_is_said_about_size(tmp_path, caplog):
    warn_of_input_size([], (128, 64), "INPUT.SIZE_TRAIN")
    warn_of_input_size([str(tmp_path / "gone.png")], (128, 64), "INPUT.SIZE_TRAIN")
    assert not caplog.messages
