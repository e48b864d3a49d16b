"""Which boxes become crops."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from ise_plugin.video.boxes import Found, flaw_counter
from ise_plugin.video.crop_filter import CropFilter, CropRules, covered, sharpness

RULES = CropRules(min_height=40, min_gap=1.0, burst=2)


@pytest.fixture
def image():
    blocks = np.random.default_rng(0).integers(0, 255, (16, 27, 3), dtype=np.uint8)  # of six pixels, as clothes have
    return np.ascontiguousarray(blocks.repeat(6, 0).repeat(6, 1)[:, :160])


def boxes(*corners, tracks=None):
    tracks = np.arange(len(corners)) if tracks is None else np.array(tracks)
    return Found(np.array(corners, np.float32).reshape(-1, 4), np.ones(len(corners), np.float32), tracks)


def test_the_pixels_of_a_box(image):
    (place, crop), *none = CropFilter(RULES, flaw_counter()).choose(image, boxes((10, 20, 30, 80)), 0.0)
    assert place == 0 and not none
    np.testing.assert_array_equal(np.asarray(crop), image[20:80, 10:30])


@pytest.mark.parametrize(
    "corners, reason",
    [
        ([(10, 20, 30, 50)], "too small"),
        ([(0, 20, 30, 80)], "cut off by the frame"),
        ([(100, 20, 159, 80)], "cut off by the frame"),
        ([(10, 36, 30, 96)], "cut off by the frame"),
        ([(10, 20, 30, 80), (15, 15, 60, 85)], "behind or before somebody else"),
    ],
)
def test_what_is_left_out_is_counted_by_its_reason(image, corners, reason):
    flaws = flaw_counter()
    taken = CropFilter(RULES, flaws).choose(image, boxes(*corners), 0.0)
    assert [place for place, _ in taken] == list(range(1, len(corners))) and dict(flaws) == {f"crops {reason}": 1}


def test_blurred_crops_and_those_without_a_track_are_left_out(image):
    blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(6)))
    flaws = flaw_counter()
    assert CropFilter(RULES, flaws).choose(blurred, boxes((10, 20, 30, 80)), 0.0) == []
    assert dict(flaws) == {"crops blurred": 1}
    assert CropFilter(RULES, flaws).choose(image, boxes((10, 20, 30, 80), tracks=[-1]), 0.0) == []
    assert sharpness(Image.new("L", (30, 60), 90)) == 0


def test_sharpness_falls_with_blur_and_not_with_contrast(image):
    picture = Image.fromarray(image[:64, :32])
    values = [sharpness(picture.filter(ImageFilter.GaussianBlur(radius))) for radius in (0, 1, 2, 4)]
    assert values == sorted(values, reverse=True) and values[0] > 10 * values[-1]
    assert sharpness(picture.point(lambda value: value // 2)) == pytest.approx(values[0], rel=0.05)


def test_a_track_gives_few_crops_and_none_like_the_one_before(image):
    flaws = flaw_counter()
    chooser, rolled, times = CropFilter(RULES, flaws), image, []
    for step in range(100):
        rolled = np.roll(rolled, 37, axis=1)
        times += [step / 10] * len(chooser.choose(rolled, boxes((10, 20, 30, 80)), step / 10))
    assert times == [0.0, 1.0, 3.0, 5.0, 9.0]  # the gap is 1 s for two crops, 2 s for two more, then 4 s
    same = CropFilter(RULES, flaws)
    assert len(same.choose(image, boxes((10, 20, 30, 80)), 0.0)) == 1
    assert same.choose(image, boxes((10, 20, 30, 80)), 2.0) == [] and flaws["crops like the crop before"] == 1


def test_covered_share_against_pixels():
    random = np.random.default_rng(1)
    corners = random.integers(0, 40, (6, 2, 2))
    corners = np.concatenate([corners.min(1), corners.max(1) + 5], 1).astype(np.float32)
    masks = np.zeros((6, 60, 60), bool)
    for mask, (left, top, right, bottom) in zip(masks, corners.astype(int)):
        mask[top:bottom, left:right] = True
    for place in range(6):
        shares = [(masks[place] & masks[i]).sum() / masks[place].sum() for i in range(6) if i != place]
        assert covered(corners, place) == pytest.approx(max(shares))
    assert covered(corners[:1], 0) == 0
