"""What groups follow instead of people."""

import numpy as np
import pytest
from PIL import Image

from ise_plugin.clustering.quality import purity
from ise_plugin.identities import signs as module
from ise_plugin.identities.signs import gather_signs


def draw(folder, edges, middles, size=(40, 80)):
    """Pictures whose edges and middles have these grey values; their paths."""
    random, paths = np.random.default_rng(0), []
    for i, (edge, middle) in enumerate(zip(edges, middles)):
        values = np.full((size[1], size[0], 3), edge, float)
        values[:, size[0] // 5 : -(size[0] // 5)] = middle
        values += random.normal(0, 10, values.shape)
        paths.append(str(folder / f"{i:03d}.png"))
        Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(paths[-1])
    return paths


@pytest.fixture
def crops(tmp_path):
    """120 pictures of 30 people (middles) before 4 backgrounds (edges), one for each camera."""
    random = np.random.default_rng(1)
    people, cameras = np.repeat(np.arange(30), 4), np.tile(np.arange(4), 30)
    return draw(tmp_path, 60 * cameras, random.integers(0, 255, 30)[people]), people, cameras


def test_groups_that_are_people_raise_no_suspicion(crops):
    paths, people, cameras = crops
    found = gather_signs(paths, people, cameras)
    assert found.suspicions(0) == {} and found.middle > 0.9 and found.edge < 0.1 and found.tall == 1
    assert found.camera == 0.25  # every person once by every camera
    assert gather_signs(paths, people, cameras) == found


def test_groups_that_are_cameras_are_called_so(crops):
    paths, people, cameras = crops
    found = gather_signs(paths, cameras, cameras)
    assert found.camera == 1 and 0.25 < found.camera_chance < 0.4 and found.edge > 0.9 and abs(found.middle) < 0.1
    assert list(found.suspicions(0)) == ["cameras", "backgrounds"]
    assert all("MODEL.BACKBONE.PRETRAIN_PATH" in text for text in found.suspicions(0).values())
    assert all("ISE.APPEARANCE.SCENES 32" in text for text in found.suspicions(0).values())
    assert not any("SCENES" in text for text in found.suspicions(32).values())
    assert "100% of a group's images are by one camera" in found.suspicions(0)["cameras"]
    unknown = gather_signs(paths, cameras, np.zeros(120, np.int64))
    assert unknown.camera is None and list(unknown.suspicions(0)) == ["backgrounds"]


def test_images_of_unknown_camera_raise_no_suspicion(crops):
    paths, people, cameras = crops
    known = np.where(people < 15, cameras, -1)  # half of the people
    assert gather_signs(paths, people, known).camera == 0.25
    for few in (np.full(120, -1), np.where(cameras == 0, 0, -1)):
        assert gather_signs(paths, cameras, few).camera is None
    outliers = np.where(people < 15, -1, people)
    assert gather_signs(paths, outliers, known).camera is None


def test_wide_images_are_no_crops_of_people(tmp_path):
    paths = draw(tmp_path, [0, 9, 0, 9], [9, 0, 9, 0], size=(60, 40))
    found = gather_signs([*paths, "gone.jpg"], np.array([0, 0, 1, 1, 1]), np.zeros(5, np.int64)).suspicions(0)
    assert "100% of the images are not taller than wide" in found["no crops of people"]
    assert "DATASETS.FOLDER.ROOT" in found["no crops of people"]
    nothing = gather_signs(["gone.jpg"] * 4, np.zeros(4, np.int64), np.zeros(4, np.int64))
    assert (nothing.edge, nothing.middle, nothing.suspicions(0)) == (0, 0, {})


def test_a_part_of_every_group_is_looked_at_and_no_more_than_a_second_takes(crops, monkeypatch):
    paths, people, cameras = crops
    monkeypatch.setattr(module, "_MOST_IMAGES", 20)
    monkeypatch.setattr(module, "_MOST_OF_A_GROUP", 3)
    seen, small_pictures = [], module.small_pictures
    monkeypatch.setattr(module, "small_pictures", lambda paths: seen.append(paths) or small_pictures(paths))
    for labels in (people, cameras):
        gather_signs(paths, labels, cameras)
    of_people, of_cameras = ([labels[paths.index(p)] for p in one] for one, labels in zip(seen, (people, cameras)))
    assert len(set(seen[0])) == 20 and sorted(np.bincount(of_people)[np.unique(of_people)]) == [2] + [3] * 6
    assert sorted(set(of_people)) != list(range(7)) and np.bincount(of_cameras).tolist() == [3, 3, 3, 3]


def test_largest_share():
    groups, cameras = np.array([0, 0, 0, 2, 2]), np.array([1, 1, 5, 3, 4])
    assert purity(groups, cameras) == 3 / 5
    assert purity(groups, groups) == 1
