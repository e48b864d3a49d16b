"""Images on the device: normalised, erased, moved, the caller's tensors left alone."""

import pytest
import torch

from ise_plugin.modeling.preprocessing import erase, flip_and_crop, prepare_images

MEAN = torch.tensor([120.0, 110.0, 100.0]).view(1, 3, 1, 1)
STD = torch.tensor([60.0, 50.0, 40.0]).view(1, 3, 1, 1)
VALUE = torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1)


@pytest.fixture
def images():
    return torch.randint(256, (4, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_plain_images_are_normalised(images, dtype):
    images = images.to(dtype)
    before = images.clone()
    prepared = prepare_images({"images": images}, MEAN, STD, VALUE)
    assert torch.equal(prepared, (images.float() - MEAN) / STD) and prepared.dtype == torch.float32
    assert prepared.is_contiguous(memory_format=torch.channels_last) and torch.equal(images, before)


def test_erased_rectangles_have_the_colour_to_its_last_digit(images):
    rectangles = torch.tensor([[1, 2, 3, 2], [0, 0, 0, 0], [0, 0, 6, 5], [5, 4, 1, 1]])
    prepared = prepare_images({"images": images, "erased": rectangles}, MEAN, STD, VALUE)
    expected = images.float()
    for image, (top, left, height, width) in zip(expected, rectangles):
        image[:, top : top + height, left : left + width] = VALUE[0]
    assert torch.equal(prepared, (expected - MEAN) / STD)
    assert prepared.is_contiguous(memory_format=torch.channels_last)


def test_windows_outside_are_black_and_mirrors_come_after_the_crop(images):
    flipped = torch.tensor([False, True, True, False])
    offsets = torch.tensor([[0, 0], [0, 0], [-2, 1], [20, 0]])
    moved = flip_and_crop(images.contiguous(memory_format=torch.channels_last), flipped, offsets)
    assert torch.equal(moved[0], images[0]) and torch.equal(moved[1], images[1].flip(2))
    assert not moved[3].any()
    by_hand = torch.zeros_like(images[2])
    by_hand[:, 2:, :4] = images[2][:, :4, 1:]
    assert torch.equal(moved[2], by_hand.flip(2))


def test_an_empty_rectangle_erases_nothing(images):
    assert torch.equal(erase(images, torch.zeros(4, 4, dtype=torch.int64), torch.tensor(9, dtype=torch.uint8)), images)
