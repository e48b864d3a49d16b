"""Each published layout in miniature, read by the reader that a config names."""

import random
import re

import miniatures
import numpy as np
import pytest
from helpers import CONFIGS
from miniatures import VEHICLEID_LISTS, VERIWILD_LISTS, draw, write

from ise_plugin.config import load_cfg
from ise_plugin.data import read_evaluation_images, read_training_images
from ise_plugin.errors import UsageError

# config -> miniature, training images, their cameras; test set -> queries, gallery, identities and cameras in both
SETS = {
    "duke_r50": (miniatures.duke, 3, 2, {"DukeMTMC": (1, 3, 2, 2)}),
    "msmt17_r50": (miniatures.msmt17, 3, 3, {"MSMT17V1": (1, 2, 2, 2)}),
    "cuhk03_r50": (miniatures.cuhk03_ready, 3, 2, {"CUHK03Detected": (2, 3, 2, 2)}),
    "veri_r50": (miniatures.veri, 2, 2, {"VeRi": (1, 2, 2, 2)}),
    "vehicleid_r50": (
        miniatures.vehicleid,
        3,
        0,
        {
            "SmallVehicleID": (2 * 3, 2, 2, 2 * 4),  # a camera for every image: none is the query's
            "MediumVehicleID": (3 * 3, 3, 3, 3 * 4),
            "LargeVehicleID": (4 * 3, 4, 4, 4 * 4),
        },
    ),
    "veriwild_r50": (
        miniatures.veriwild,
        3,
        2,
        {"SmallVeRiWild": (1, 2, 1, 3), "MediumVeRiWild": (2, 4, 2, 4), "LargeVeRiWild": (3, 6, 3, 5)},
    ),
    "personx_r50": (miniatures.personx, 3, 2, {"PersonX": (1, 2, 2, 2)}),
    "atrw_r50": (miniatures.atrw, 3, 0, {"ATRWSingleCamera": (2, 6, 2, 5), "ATRWCrossCamera": (4, 6, 2, 5)}),
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    return tmp_path


def counts(name):
    items, num_query = read_evaluation_images(name)
    _, identities, cameras = zip(*items)
    return num_query, len(items) - num_query, len(set(identities)), len(set(cameras))


@pytest.mark.parametrize("config", SETS)
def test_configs_read_their_layout(root, config):
    layout, images, cameras, tests = SETS[config]
    layout(root)
    cfg = load_cfg(str(CONFIGS / f"ISE/{config}.yml"))
    found = read_training_images(cfg.DATASETS.NAMES, cfg=cfg)
    assert (len(found), len(set(found.cameras[found.cameras >= 0]))) == (images, cameras)
    assert {name: counts(name) for name in cfg.DATASETS.TESTS} == tests


def test_the_versions_and_boxes_that_configs_do_not_name(root):
    miniatures.msmt17_v2(root)
    miniatures.cuhk03_ready(root)
    assert len(read_training_images(("MSMT17V2",))) == 3 and counts("MSMT17V2") == (1, 2, 2, 2)
    assert len(read_training_images(("CUHK03Labeled",))) == 4 and counts("CUHK03Labeled") == (2, 3, 2, 2)


@pytest.mark.parametrize("name, identities", [("VehicleID", "13164"), ("SmallVehicleID", "800")])
def test_the_gallery_of_vehicleid_is_an_image_of_each_identity_by_one_draw(root, name, identities):
    miniatures.vehicleid(root)
    items, num_query = read_evaluation_images(name)
    gallery = [identity for _, identity, _ in items[num_query:]]
    assert sorted(gallery) == list(range(1, VEHICLEID_LISTS[identities] + 1))
    random.seed(5)  # of no influence, and not moved
    before = random.getstate()
    assert read_evaluation_images(name) == (items, num_query) and random.getstate() == before
    lines = (root / f"vehicleid/train_test_split/test_list_{identities}.txt").read_text().split("\n")[:-1]
    random.Random(0).shuffle(lines)  # the draw that the documents name
    drawn = {line.split()[1]: line.split()[0] for line in reversed(lines)}
    assert {str(who): path[-11:-4] for path, who, _ in items[num_query:]} == drawn


def test_queries_of_veriwild_are_by_other_cameras_than_its_gallery(root):
    miniatures.veriwild(root)
    items, num_query = read_evaluation_images("VeRiWild")
    assert num_query == VERIWILD_LISTS["10000"]
    for (_, identity, camera), v in zip(items[:num_query], range(11, 14)):
        assert (identity, camera) == (v, v)
        assert {c for _, who, c in items[num_query:] if who == v} == {v + 1, v + 2}


UNEXPECTED = {
    "DukeMTMC": (miniatures.duke, lambda root: draw(root / "DukeMTMC-reID/query/cover.jpg")),
    "VehicleID": (
        miniatures.vehicleid,
        lambda root: write(root / "vehicleid/train_test_split/train_list.txt", "0000001 7", ""),
    ),
    "VeRiWild": (
        miniatures.veriwild,
        lambda root: write(root / "VERI-Wild/train_test_split/train_list.txt", "00009/000099.jpg"),
    ),
    "ATRW": (miniatures.atrw, lambda root: write(root / "ATRW/gt_test_plain.json", "{")),
}


@pytest.mark.parametrize("name", UNEXPECTED)
def test_lists_and_names_that_are_not_as_published_are_refused_in_a_line(root, name):
    layout, spoil = UNEXPECTED[name]
    layout(root)
    spoil(root)
    with pytest.raises(UsageError, match=f"data set {name} cannot be read: .* is not as expected"):
        read_training_images((name,))


@pytest.mark.parametrize("name", ["PersonX", "CUHK03Detected", "ATRW"])
def test_a_missing_folder_is_named_with_what_is_wanted(root, name):
    with pytest.raises(UsageError, match=rf"{re.escape(str(root))}/\S+ not found: {name} wants .*(train|atrw)"):
        read_training_images((name,))


def test_what_is_no_image_of_the_layout_is_passed_over(root):
    miniatures.personx(root)
    write(root / "PersonX/bounding_box_train/Thumbs.db")
    write(root / "PersonX/bounding_box_train/-1_c3s1_1_01.jpg")
    images = read_training_images(("PersonX",))
    assert len(images) == 3 and images.camera_names == ("PersonX/personx_10", "PersonX/personx_2")
    assert np.array_equal(images.cameras, [0, 1, 1])
