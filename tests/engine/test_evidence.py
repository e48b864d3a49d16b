"""What of cameras, tracks and times a run uses."""

import logging

import numpy as np
import pytest
from PIL import Image

from ise_plugin.config import load_cfg
from ise_plugin.data import TrainingImages
from ise_plugin.engine.evidence import cameras_are_seen, use_evidence
from ise_plugin.errors import UsageError


@pytest.fixture
def images(tmp_path):
    """60 pictures by three cameras, each with a colour of its own at the edges; five tracks of images one after another."""
    random, paths, cameras = np.random.default_rng(0), [], np.repeat(np.arange(3), 20)
    for i, camera in enumerate(cameras):
        values = random.integers(0, 255, (32, 16, 3)).astype(float)
        values[:, [0, 1, -2, -1]] = values[:, [0, 1, -2, -1]] * 0.5 + 40 * camera
        paths.append(str(tmp_path / f"{i:03d}.png"))
        Image.fromarray(values.astype(np.uint8)).save(paths[-1])
    names, tracks = ("a", "b", "c"), np.arange(60) // 12
    return TrainingImages(tuple(paths), cameras, names, tracks, tuple("vwxyz"), np.arange(60.0))


def cfg_of(evidence, *opts):
    return load_cfg("Base-ISE.yml", ("ISE.EVIDENCE", evidence, *opts))


def test_auto_uses_what_the_data_give_and_says_so(images, caplog):
    with caplog.at_level(logging.INFO):
        cfg, used = use_evidence(cfg_of("auto"), images)
    assert "ISE.EVIDENCE auto: this run uses cameras, tracks, times" in caplog.text
    assert cfg.ISE.PSEUDO_LABEL.DISTANCE == "CameraJaccard"
    assert cfg.MODEL.LOSSES.NAME == ("ISELoss", "CameraProxyLoss")
    assert np.array_equal(used.tracks, images.tracks) and np.array_equal(used.times, images.times)


def test_by_default_nothing_is_used(images):
    before = cfg_of("none")
    cfg, used = use_evidence(before, images)
    assert cfg is before and load_cfg().ISE.EVIDENCE == "none"
    assert (used.tracks == -1).all() and np.isnan(used.times).all() and used.track_names == ()
    assert np.array_equal(used.cameras, images.cameras)  # batches take images of several cameras, as in the paper


def test_only_what_is_named_is_used(images):
    cfg, used = use_evidence(cfg_of("tracks"), images)
    assert cfg.ISE.PSEUDO_LABEL.DISTANCE == "Jaccard"
    assert np.array_equal(used.tracks, images.tracks) and np.isnan(used.times).all()
    with pytest.raises(
        UsageError, match="ISE.EVIDENCE must be auto, none, or some of cameras,tracks,times, not 'camera'"
    ):
        cfg_of("camera")


def test_a_distance_and_losses_of_the_users_own_stay(images):
    own = cfg_of("auto", "ISE.PSEUDO_LABEL.DISTANCE", "my.Distance", "MODEL.LOSSES.NAME", "('CameraProxyLoss',)")
    cfg, _ = use_evidence(own, images)
    assert cfg.ISE.PSEUDO_LABEL.DISTANCE == "my.Distance" and cfg.MODEL.LOSSES.NAME == ("CameraProxyLoss",)


def test_cameras_that_the_pictures_do_not_show_are_doubted(images, caplog):
    shuffled = np.random.default_rng(1).permutation(images.cameras)
    wrong = TrainingImages(images.paths, shuffled, images.camera_names, images.tracks, images.track_names, images.times)
    assert cameras_are_seen(images.paths, images.cameras) and not cameras_are_seen(wrong.paths, shuffled)
    with caplog.at_level(logging.INFO):
        cfg, _ = use_evidence(cfg_of("auto"), wrong)
    assert "no cameras (they explain no more of the colours at the edges" in caplog.text
    assert cfg.ISE.PSEUDO_LABEL.DISTANCE == "Jaccard" and cfg.MODEL.LOSSES.NAME == ("ISELoss",)
    assert use_evidence(cfg_of("cameras"), wrong)[0].ISE.PSEUDO_LABEL.DISTANCE == "CameraJaccard"


def test_what_is_unknown_is_not_used(images, caplog):
    unknown = np.full(60, -1)
    bare = TrainingImages(images.paths, unknown, (), unknown, (), np.full(60, np.nan))
    with caplog.at_level(logging.INFO):
        cfg, _ = use_evidence(cfg_of("auto"), bare)
    said = "no cameras (fewer than two are known), no tracks (none are known), no times (of tracks, none are known)"
    assert said in caplog.text and cfg.ISE.PSEUDO_LABEL.DISTANCE == "Jaccard"
    assert not cameras_are_seen(images.paths, unknown)
