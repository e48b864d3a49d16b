"""What a view shows and hides, checked on colours that nothing else in the picture has."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic_persons import Placement, Pose, draw_figure, sample_identity
from synthetic_persons.people import Bag, Garment

RED, BLUE, GREEN, YELLOW, GREY = (200, 20, 20), (20, 20, 200), (20, 200, 20), (200, 200, 20), (120, 120, 120)
FRONT, RIGHT, BACK, LEFT = 0, 90, 180, 270
PLACE = Placement((64, 128), (32.0, 120.0), 110.0)


@pytest.fixture
def person():
    """Somebody in grey without a bag or a print."""
    garment = Garment("t-shirt", "plain", GREY, GREY)
    return replace(
        sample_identity(0, 2),
        skin=YELLOW,
        hair_style="short",
        hair_colour=(10, 10, 10),
        upper=garment,
        lower=replace(garment, kind="trousers"),
        inner_colour=GREY,
        print_shape="none",
        back_print=False,
        shoes=GREY,
        bag=Bag("none", GREY, 1),
        build=1.0,
        stride=1.0,
    )


def figure(person, view, phase=0.1, place=PLACE):
    return np.asarray(draw_figure(person, Pose(view, phase), place, np.random.default_rng(0))).astype(int)


def count(pixels, colour):
    """Opaque pixels whose channels stand to each other as the colour's do, whatever the shading."""
    rgb, alpha = pixels[..., :3], pixels[..., 3]
    high, low = np.array(colour) > 100, np.array(colour) <= 100
    return int(((rgb[..., high].min(-1) > 1.8 * rgb[..., low].max(-1)) & (alpha > 200)).sum())


def test_a_print_on_the_chest_is_not_seen_from_behind(person):
    printed = replace(person, print_shape="block", print_colour=RED)
    assert count(figure(printed, FRONT), RED) > 60
    assert count(figure(printed, BACK), RED) == 0
    assert count(figure(replace(printed, back_print=True), BACK), RED) > 60


def test_a_backpack_shows_from_behind_and_from_the_side(person):
    packed = replace(person, bag=Bag("backpack", BLUE, 1))
    behind, side, front = (count(figure(packed, view), BLUE) for view in (BACK, RIGHT, FRONT))
    assert behind > 250
    assert side > 100
    assert 0 < front < behind / 3  # only its straps


def test_the_backpack_hangs_where_the_person_does_not_look(person):
    packed = replace(person, bag=Bag("backpack", BLUE, 1))
    for view, expected in ((RIGHT, -1), (LEFT, 1)):
        pixels = figure(packed, view)
        blue = (pixels[..., 2] > 1.8 * pixels[..., 0]) & (pixels[..., 3] > 200)
        assert np.sign(np.nonzero(blue)[1].mean() - PLACE.foot[0]) == expected


def test_the_face_turns_away(person):
    from_front, from_behind = (figure(person, view)[8:26] for view in (FRONT, BACK))
    assert count(from_front, YELLOW) > 2 * count(from_behind, YELLOW)


@pytest.mark.parametrize("side, seen_from", [(1, LEFT), (-1, RIGHT)])
def test_a_shoulder_bag_shows_from_its_own_side(person, side, seen_from):
    carrying = replace(person, bag=Bag("shoulder bag", GREEN, side))
    own, other = (count(figure(carrying, view)[55:], GREEN) for view in (seen_from, (seen_from + 180) % 360))
    assert own > 40
    assert own > 2 * other


def test_sides_are_mirrored(person):
    right, left = figure(person, RIGHT)[..., 3] > 128, figure(person, LEFT, phase=0.6)[..., 3] > 128
    mirrored = left[:, ::-1]
    overlap = (right & mirrored).sum() / (right | mirrored).sum()
    assert overlap > 0.85


def test_legs_swing_with_the_gait(person):
    def feet_width(phase):
        return np.ptp(np.nonzero(figure(person, RIGHT, phase)[105:, :, 3] > 128)[1])

    assert feet_width(0.25) > feet_width(0.0) + 8


def test_the_figure_has_the_height_it_was_given(person):
    rows = np.nonzero((figure(person, FRONT)[..., 3] > 128).any(axis=1))[0]
    assert np.ptp(rows) == pytest.approx(PLACE.height, rel=0.08)


def test_outside_the_body_it_is_transparent(person):
    alpha = figure(person, FRONT)[..., 3]
    assert (alpha[:, :4] == 0).all() and (alpha[:, -4:] == 0).all()
    assert 0.1 < (alpha > 0).mean() < 0.5


@pytest.mark.parametrize("pattern", ["hoops", "pinstripes", "checks", "two-tone", "contrast sleeves", "dots"])
def test_patterns_bring_in_the_second_colour(person, pattern):
    plain = count(figure(person, FRONT), RED)
    shirt = Garment("long sleeves", pattern, GREY, RED)
    assert plain == 0
    assert count(figure(replace(person, upper=shirt), FRONT), RED) > 20


@pytest.mark.parametrize("view", range(0, 360, 45))
def test_every_person_can_be_drawn_from_everywhere(view):
    for number in range(40):
        pixels = figure(sample_identity(1, number), view, phase=number / 40)
        assert pixels.shape == (128, 64, 4)
        assert (pixels[..., 3] > 128).sum() > 700
