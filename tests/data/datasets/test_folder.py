"""A folder as a data set: what is known of images from three sources, identities for evaluation only, bad files and settings."""

import csv
import logging

import numpy as np
import pytest
from PIL import Image

from ise_plugin.config import get_cfg
from ise_plugin.data import read_evaluation_images, read_training_images
from ise_plugin.errors import UsageError

NAMES = ["c1/x_p2_3.jpg", "c1/y_p7_1.jpg", "c2/deep/er/z_p2_9.png", "c3/w_p1_4.jpg"]


def save(path, colour=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 16), (colour, 0, 0)).save(path)


@pytest.fixture
def crops(tmp_path):
    for i, name in enumerate(NAMES):
        save(tmp_path / "crops" / name, i)
    return tmp_path / "crops"


def cfg_of(root, **settings):
    cfg = get_cfg()
    cfg.DATASETS.FOLDER.ROOT = str(root)
    for key, value in settings.items():
        cfg.DATASETS.FOLDER[key] = value
    return cfg


def read(cfg):
    return read_training_images(("Folder",), cfg=cfg)


def cameras(images):
    return [images.camera_names[c].removeprefix("Folder/") if c >= 0 else None for c in images.cameras]


def tracks(images):
    return [images.track_names[t].removeprefix("Folder/") if t >= 0 else None for t in images.tracks]


def table(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_without_a_rule_nothing_is_known(crops, caplog):
    with caplog.at_level(logging.INFO, logger="fastreid.ise"):
        images = read(cfg_of(crops))
    assert images.paths == tuple(str(crops / name) for name in NAMES)
    assert images.cameras.tolist() == images.tracks.tolist() == [-1] * 4 and np.isnan(images.times).all()
    assert "nothing is known of cameras, tracks and times" in caplog.text


@pytest.mark.parametrize("pattern", [r"_p(\d)_", r"(?P<other>c\d)/.*_p(?P<camera>\d)_"])
def test_cameras_by_regular_expression(crops, pattern):
    assert cameras(read(cfg_of(crops, CAMERA_REGEX=pattern))) == ["2", "7", "2", "1"]


def test_cameras_by_sub_folder(crops):
    assert cameras(read(cfg_of(crops, CAMERA_FOLDERS=True))) == ["c1", "c1", "c2", "c3"]


def test_cameras_by_csv(crops, tmp_path):
    with open(tmp_path / "cams.csv", "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerows([["note", "camera", "path"], *(["", f"k{i}", name] for i, name in enumerate(NAMES))])
    assert cameras(read(cfg_of(crops, CAMERA_CSV=str(tmp_path / "cams.csv")))) == ["k0", "k1", "k2", "k3"]


def test_paths_without_a_camera_stay_unknown(crops, caplog):
    save(crops / "stray.jpg", 9)
    images = read(cfg_of(crops, CAMERA_FOLDERS=True))
    assert cameras(images) == ["c1", "c1", "c2", "c3", None] and images.camera_names == (
        "Folder/c1",
        "Folder/c2",
        "Folder/c3",
    )
    assert "1 of 5 paths have no camera" in caplog.text and "stray.jpg" in caplog.text


@pytest.mark.parametrize("unit", ["frame", "time"])
def test_tracks_and_times_by_regular_expression(crops, unit):
    pattern = rf"(?P<camera>c\d)/.*_(?P<track>p\d)_(?P<{unit}>\d)\.(jpg|png)"
    images = read(cfg_of(crops, CAMERA_REGEX=pattern))
    assert (cameras(images), tracks(images)) == (
        ["c1", "c1", "c2", "c3"],
        ["p2 by Folder/c1", "p7", "p2 by Folder/c2", "p1"],
    )
    assert images.times.tolist() == [3, 1, 9, 4]


def test_a_first_group_of_another_name_is_the_camera(crops):
    images = read(cfg_of(crops, CAMERA_REGEX=r"(?P<other>c\d)/.*_p(?P<track>\d)_"))
    assert cameras(images) == ["c1", "c1", "c2", "c3"] and tracks(images)[1] == "7"
    images = read(cfg_of(crops, CAMERA_REGEX=r"_p(?P<track>\d)_\d\.(jpg|png)"))
    assert cameras(images) == [None] * 4 and tracks(images) == ["2", "7", "2", "1"]


def test_rules_complement_one_another(crops, tmp_path, caplog):
    rows = f"path,track,time\n{NAMES[0]},t,1.5\n{NAMES[1]},t,2.25\n{NAMES[3]},,7\n"
    images = read(cfg_of(crops, CAMERA_FOLDERS=True, CAMERA_CSV=table(tmp_path / "t.csv", rows)))
    assert (cameras(images), tracks(images)) == (["c1", "c1", "c2", "c3"], ["t", "t", None, None])
    np.testing.assert_array_equal(images.times, [1.5, 2.25, np.nan, 7])
    assert "contradict" not in caplog.text and "2 of 4 paths have no track by the rules, c2/deep/er/z" in caplog.text


def test_rules_that_contradict_one_another_are_told_of(crops, tmp_path, caplog):
    rows = f"path,camera,track\n{NAMES[0]},c1,t\n{NAMES[1]},c9,t\n"
    images = read(cfg_of(crops, CAMERA_FOLDERS=True, CAMERA_CSV=table(tmp_path / "t.csv", rows)))
    assert (cameras(images), tracks(images)) == (["c1", None, "c2", "c3"], ["t", "t", None, None])
    assert "1 images are told of differently by two rules, c1/y_p7_1.jpg: camera 'c9' by" in caplog.text


def test_flaws_of_a_table_are_told_and_passed_over(crops, tmp_path, caplog):
    labelled(tmp_path / "q", {"anna": ["1.jpg"]})
    rows = f"path,camera,frame\n{NAMES[0]},c1,late\n{NAMES[1]},c1,5\n{NAMES[1]},c2,6\ngone.jpg,c1,1\nanna/1.jpg,c1,1\n"
    cfg = cfg_of(crops, QUERY=str(tmp_path / "q"), CAMERA_CSV=table(tmp_path / "t {odd}.csv", rows))
    images = read(cfg)
    assert cameras(images) == ["c1", "c2", None, None]
    np.testing.assert_array_equal(images.times, [np.nan, 6, np.nan, np.nan])
    for words in (
        "t {odd}.csv: 1 rows are for no file, gone.jpg for one; they are passed over",
        "t {odd}.csv: 1 rows are for a path once more, c1/y_p7_1.jpg for one; the last row of a path counts",
        "1 times are no numbers, c1/x_p2_3.jpg: 'late' for one; they are unknown",
    ):
        assert words in caplog.text


def test_one_camera_for_all_is_doubted_with_three_examples(crops, caplog):
    assert cameras(read(cfg_of(crops, CAMERA_REGEX=r"(c)\d"))) == ["c"] * 4
    said = next(record.message for record in caplog.records if "one camera" in record.message)
    assert (
        record_examples(said) == [NAMES[0], NAMES[1], NAMES[3]] and "CAMERA_REGEX gives one camera, c, for all" in said
    )


def record_examples(text):
    return [name for name in NAMES if name in text]


MISTAKES = {
    "two units": ({"CAMERA_REGEX": r"_p(?P<time>\d)_(?P<frame>\d)"}, "CAMERA_REGEX tells frame and time"),
    "broken expression": ({"CAMERA_REGEX": "(c"}, "no regular expression"),
    "no group": ({"CAMERA_REGEX": r"c\d"}, "has no group"),
    "fits nothing": (
        {"CAMERA_REGEX": r"camera(\d)"},
        rf"fits none of 4 paths, such as {NAMES[0]}, {NAMES[1]}, {NAMES[3]};",
    ),
    "no such csv": ({"CAMERA_CSV": "nowhere.csv"}, "nowhere.csv cannot be read"),
    "no folder": ({"ROOT": ""}, "DATASETS.FOLDER.ROOT is empty"),
    "no such folder": ({"ROOT": "nowhere"}, "nowhere is not a folder"),
}


@pytest.mark.parametrize("settings, words", MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_get_one_line(crops, settings, words):
    with pytest.raises(UsageError, match=words) as caught:
        read(cfg_of(crops, **settings))
    assert "\n" not in str(caught.value)


def test_csv_without_its_columns(crops, tmp_path):
    (tmp_path / "cams.csv").write_text("file,cam\na,b\n")
    with pytest.raises(UsageError, match="columns path and camera, track, frame or time"):
        read(cfg_of(crops, CAMERA_CSV=str(tmp_path / "cams.csv")))


def test_bad_files_up_to_the_share(crops):
    (crops / "broken.jpg").write_bytes(b"")
    assert len(read(cfg_of(crops, MAX_BAD_SHARE=0.2))) == 4
    with pytest.raises(UsageError, match=r"1 of 5 images.*MAX_BAD_SHARE 0\.05.*broken\.jpg"):
        read(cfg_of(crops))


def test_lost_files_are_stood_in_for_within_the_share(crops):
    stand_ins = read(cfg_of(crops, MAX_BAD_SHARE=0.25)).stand_ins

    def gone(index):
        raise FileNotFoundError(2, "No such file")

    with pytest.raises(UsageError, match="MAX_BAD_SHARE"):
        stand_ins.read(0, gone)
    assert stand_ins.lost.sum() == 2


def test_benchmarks_have_no_stand_ins(tiny_dataset):
    assert read_training_images(("SyntheticPersonsTiny",), cfg=get_cfg()).stand_ins is None


def labelled(folder, people):
    for person, names in people.items():
        for i, name in enumerate(names):
            save(folder / person / name, i)


def test_query_and_gallery_share_identities_and_cameras(crops, tmp_path):
    labelled(tmp_path / "q", {"anna": ["c2_1.jpg"], "bob": ["c1_1.jpg"]})
    labelled(tmp_path / "g", {"bob": ["c2_1.jpg"], "carl": ["c9_1.jpg"], "anna": ["c1_1.jpg"]})
    cfg = cfg_of(crops, QUERY=str(tmp_path / "q"), GALLERY=str(tmp_path / "g"), CAMERA_REGEX=r"c(\d)")
    items, num_query = read_evaluation_images("Folder", cfg)
    assert num_query == 2
    person = {path.split("/")[-2]: set() for path, _, _ in items}
    camera = {path.split("/c")[-1][0]: set() for path, _, _ in items}
    for path, identity, number in items:
        person[path.split("/")[-2]].add(identity)
        camera[path.split("/c")[-1][0]].add(number)
    for numbers in (person, camera):
        assert all(len(found) == 1 for found in numbers.values())
        assert len(set.union(*numbers.values())) == 3


def test_without_cameras_no_match_is_passed_over(crops, tmp_path):
    labelled(tmp_path / "q", {"anna": ["1.jpg"]})
    labelled(tmp_path / "g", {"anna": ["1.jpg"], "bob": ["1.jpg"]})
    cfg = cfg_of(crops, QUERY=str(tmp_path / "q"), GALLERY=str(tmp_path / "g"))
    items, num_query = read_evaluation_images("Folder", cfg)
    assert {camera for _, _, camera in items[:num_query]}.isdisjoint({camera for _, _, camera in items[num_query:]})


def test_images_of_unknown_camera_are_no_matches_by_the_querys_camera(crops, tmp_path):
    labelled(tmp_path / "q", {"anna": ["c1_1.jpg", "1.jpg"]})
    labelled(tmp_path / "g", {"anna": ["1.jpg", "c1_1.jpg"]})
    cfg = cfg_of(crops, QUERY=str(tmp_path / "q"), GALLERY=str(tmp_path / "g"), CAMERA_REGEX=r"c(\d)_")
    items, _ = read_evaluation_images("Folder", cfg)
    numbers = [camera for _, _, camera in items]  # unknown, c1, unknown, c1
    assert numbers[1] == numbers[3] and len(set(numbers)) == 3


def test_cameras_by_sub_folder_lie_below_the_identity(crops, tmp_path):
    labelled(tmp_path / "q", {"anna": ["c1/1.jpg", "c2/1.jpg"]})
    labelled(tmp_path / "g", {"anna": ["c2/1.jpg"]})
    cfg = cfg_of(crops, QUERY=str(tmp_path / "q"), GALLERY=str(tmp_path / "g"), CAMERA_FOLDERS=True)
    items, _ = read_evaluation_images("Folder", cfg)
    assert [camera for _, _, camera in items] == [items[0][2], items[1][2], items[1][2]]


def test_labelled_image_without_identity(crops, tmp_path):
    save(tmp_path / "q" / "1.jpg")
    with pytest.raises(UsageError, match="1.jpg is in no sub-folder"):
        read_evaluation_images("Folder", cfg_of(crops, QUERY=str(tmp_path / "q")))


def test_evaluation_without_labelled_images(crops):
    with pytest.raises(UsageError, match="no query images.*DATASETS.FOLDER.QUERY"):
        read_evaluation_images("Folder", cfg_of(crops))


def test_labelled_images_play_no_part_in_training(crops, tmp_path):
    labelled(tmp_path / "q", {"anna": ["1.jpg"]})
    with_labels = read(cfg_of(crops, QUERY=str(tmp_path / "q"), GALLERY=str(tmp_path / "q")))
    assert with_labels.paths == read(cfg_of(crops)).paths
    assert np.array_equal(with_labels.cameras, read(cfg_of(crops)).cameras)
