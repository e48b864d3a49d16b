import numpy as np
import pytest
from PIL import Image
from synthetic_persons import draw_background, draw_person, make_cameras, sample_identity
from synthetic_persons.cameras import CASTS, GAMMAS, SATURATIONS, photograph, sample_view
from synthetic_persons.scenes import SCENE_KINDS, scene


def test_every_camera_has_its_own_scene():
    cameras = make_cameras(0)
    assert [c.number for c in cameras] == [1, 2, 3, 4, 5, 6]
    assert {c.scene for c in cameras} == set(SCENE_KINDS)


def test_fewer_cameras_are_the_first_of_them():
    assert make_cameras(4, 3) == make_cameras(4)[:3]


def test_another_seed_has_other_cameras():
    assert make_cameras(0) == make_cameras(0)
    assert make_cameras(0) != make_cameras(1)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_camera_counts_out_of_range_are_named(count):
    with pytest.raises(ValueError, match=str(count)):
        make_cameras(0, count)


def test_strength_multiplies_what_colours_differ_by_in_decibels():
    standard, strong = make_cameras(3), make_cameras(3, strength=4.0)
    for trait, dealt in (("gain", CASTS), ("gamma", GAMMAS), ("saturation", SATURATIONS)):
        before, after = (np.array([getattr(c, trait) for c in cameras]) for cameras in (standard, strong))
        assert sorted(before.tolist()) == sorted(np.array(dealt).tolist())  # to the bit
        np.testing.assert_allclose(np.log(after), 4 * np.log(before), atol=1e-12)
    assert [c.texture for c in standard] == [0.0] * 6 and [c.texture for c in strong] == [0.9375] * 6
    same = dict(gain=0, gamma=0, saturation=0, texture=0)
    assert [{**vars(c), **same} for c in standard] == [{**vars(c), **same} for c in strong]


@pytest.mark.parametrize("strength", [0.5, -1.0, float("nan"), float("inf")])
def test_strengths_out_of_range_are_named(strength):
    with pytest.raises(ValueError, match=f"strength.*{strength}"):
        make_cameras(0, strength=strength)


def test_strong_cameras_have_a_pattern_of_their_own_over_the_scene():
    plain, half, other = (
        np.asarray(scene(0, number, "plaza", texture)).astype(int) for number, texture in ((1, 0.0), (1, 0.5), (2, 0.5))
    )
    pattern = np.asarray(scene(0, 1, "plaza", 1.0)).astype(int)
    assert len(np.unique(pattern.reshape(-1, 3), axis=0)) == 3  # neither grating, one, both
    assert np.abs(half - (plain + pattern) / 2).max() <= 1
    assert np.abs(half - other).mean() > 10


def test_unknown_scene_is_named():
    with pytest.raises(ValueError, match="moon"):
        scene(0, 1, "moon")


def test_cameras_differ_in_colour_far_more_than_their_own_pictures():
    """Mean colours of crops: the spread between cameras against the spread of a camera's mean (a one-way F ratio)."""
    means = np.array(
        [
            [
                np.asarray(draw_person(sample_identity(0, n), camera, 40.0 * n, np.random.default_rng(n))).mean(
                    axis=(0, 1)
                )
                for n in range(12)
            ]
            for camera in make_cameras(0)
        ]
    )
    between = 12 * means.mean(axis=1).var(axis=0, ddof=1)
    within = means.var(axis=1, ddof=1).mean(axis=0)
    assert (between / within > 5).all()


def test_gain_gamma_and_saturation_do_what_they_say():
    camera = make_cameras(0)[0]
    grey = Image.new("RGB", (64, 128), (128, 128, 128))
    neutral = dict(gain=(1.2, 1.0, 0.8), gamma=1.0, saturation=1.0, blur=0.0, noise=0.0, resolution=1.0)
    warm = np.asarray(photograph(grey, type(camera)(**{**vars(camera), **neutral}), np.random.default_rng(0)))
    assert warm[0, 0].tolist() == [154, 128, 102]  # 128 * 1.2 = 153.6, 128 * 0.8 = 102.4
    dark = dict(neutral, gain=(1.0, 1.0, 1.0), gamma=2.0)
    dark = np.asarray(photograph(grey, type(camera)(**{**vars(camera), **dark}), np.random.default_rng(0)))
    assert dark[0, 0].tolist() == [64, 64, 64]  # 255 * (128 / 255) ** 2 = 64.25
    red = Image.new("RGB", (64, 128), (240, 0, 0))
    pale = dict(neutral, gain=(1.0, 1.0, 1.0), saturation=0.0)
    pale = np.asarray(photograph(red, type(camera)(**{**vars(camera), **pale}), np.random.default_rng(0)))
    assert pale[0, 0].tolist() == [80, 80, 80]


def test_noise_has_the_stated_size():
    camera = make_cameras(0)[0]
    plain = type(camera)(**{**vars(camera), "noise": 5.0, "blur": 0.0, "resolution": 1.0})
    grey = Image.new("RGB", (64, 128), (128, 128, 128))
    assert np.asarray(photograph(grey, plain, np.random.default_rng(0))).std(axis=(0, 1)) == pytest.approx(
        5.0, rel=0.05
    )


def test_cameras_prefer_a_view_but_see_all():
    camera, rng = make_cameras(0)[0], np.random.default_rng(0)
    views = np.array([sample_view(camera, rng) for _ in range(2000)])
    away = np.abs((views - camera.favourite_view + 180) % 360 - 180)
    assert (views >= 0).all() and (views < 360).all()
    assert (away < 45).mean() > 0.45  # a quarter if there were no favourite
    assert (away > 135).mean() > 0.05


def test_crops_have_the_size_of_market_1501():
    rng = np.random.default_rng(0)
    camera = make_cameras(0)[2]
    for image in (draw_person(sample_identity(0, 3), camera, 0.0, rng), draw_background(camera, rng)):
        assert image.size == (64, 128) and image.mode == "RGB"


def test_a_crop_depends_on_its_stream_only():
    camera, who = make_cameras(0)[1], sample_identity(0, 5)
    first, second, other = (
        np.asarray(draw_person(who, camera, 90.0, np.random.default_rng(s), phase=0.3)) for s in (1, 1, 2)
    )
    assert (first == second).all()
    assert (first != other).any()
