"""Colours and textures in stripes, against loops over pixels; blocks of a network; what fusing does to blocks."""

import colorsys
import math

import numpy as np
import pytest
import torch
from torch import nn

from ise_plugin.modeling.appearance import (
    STRIPES,
    AppearanceDescriptor,
    blocks_of,
    colors,
    fused,
    half_whitened,
    stripe_means,
)
from ise_plugin.modeling.build import build_model


def images(count, height=24, width=10, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 255


def slow_histogram(image):
    """(STRIPES * 128,) of one (3, H, W), pixel by pixel."""
    _, height, width = image.shape
    sums = np.zeros((STRIPES, 8, 4, 4))
    for y in range(height):
        for x in range(width):
            hue, saturation, value = colorsys.rgb_to_hsv(*(image[:, y, x].tolist()[c] / 255 for c in range(3)))
            weight = math.exp(-(((x - (width - 1) / 2) / (0.28 * width)) ** 2))
            levels = [min(int(part * n), n - 1) for part, n in ((hue, 8), (saturation, 4), (value, 4))]
            sums[(y * STRIPES // height, *levels)] += weight
    return np.sqrt(sums / sums.sum((1, 2, 3), keepdims=True)).reshape(-1)


def test_colours_are_the_histograms_of_a_loop_over_pixels():
    batch = images(3)
    found, _ = colors(batch)
    for row, image in zip(found, batch):
        np.testing.assert_allclose(row.numpy(), slow_histogram(image), atol=1e-3)


def test_colours_of_light_are_taken_out_of_the_second_histogram():
    dim = images(2) * 0.3
    lit = dim * torch.tensor([1.5, 1.0, 0.7]).view(1, 3, 1, 1)
    plain, gray = zip(colors(dim), colors(lit))
    assert (plain[0] - plain[1]).abs().max() > 0.1
    # a pixel on the edge of a bin may fall to either side of it
    assert ((gray[0] - gray[1]).abs() > 0.05).float().mean() < 0.01


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255)])
def test_an_image_of_one_colour_has_one_bin_in_every_stripe(color):
    flat = torch.tensor(color, dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, 16, 8)
    for histogram in colors(flat):
        assert histogram.view(STRIPES, -1).max(1).values.tolist() == pytest.approx([1.0] * STRIPES)


def test_stripe_means_are_those_of_rows():
    feature_map = images(2, height=16, width=5)
    expected = [
        [feature_map[b, c, 2 * s : 2 * s + 2].mean() for c in range(3) for s in range(STRIPES)] for b in range(2)
    ]
    torch.testing.assert_close(stripe_means(feature_map), torch.tensor(expected))


def test_many_channels_are_mixed_into_fewer_that_keep_similarities():
    few = torch.randn(20, 300, STRIPES, 2, generator=torch.Generator().manual_seed(0))
    mixed = stripe_means(few)
    assert mixed.shape == (20, 128 * STRIPES)
    exact = few.mean(3).flatten(1)
    distances = torch.cdist(mixed, mixed), torch.cdist(exact, exact)
    off = ~torch.eye(20, dtype=torch.bool)
    assert (distances[0][off] / distances[1][off]).std() < 0.1


def test_fused_cosines_are_the_means_of_the_blocks_cosines():
    blocks = [torch.randn(30, 12), 100 * torch.randn(30, 7)]
    parts = [half_whitened(block) for block in blocks]
    whole = fused(blocks)
    torch.testing.assert_close(whole @ whole.T, sum(part @ part.T for part in parts) / 2)


def test_half_whitening_takes_the_square_root_of_the_spread_out():
    data = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([16.0, 4.0, 1.0])
    data = data @ torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))[0] + 7
    center = data - data.mean(0)
    axes, scales, _ = np.linalg.svd(center.numpy(), full_matrices=False)
    expected = axes * np.sqrt(scales)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose((half_whitened(data) @ half_whitened(data).T).numpy(), expected @ expected.T, atol=1e-3)


def test_images_that_are_all_alike_have_no_appearance_and_no_error():
    assert torch.isfinite(fused([torch.ones(5, 4), torch.ones(5, 2)])).all()


def test_blocks_are_found_inside_containers_in_order():
    first, second, third = nn.Conv2d(3, 3, 1), nn.Linear(2, 2), nn.ReLU()
    network = nn.ModuleDict({"a": nn.Sequential(first, nn.ModuleList([second])), "b": third})
    assert blocks_of(network) == [first, second, third]


def test_textures_are_the_last_maps_of_their_strides(tiny_cfg):
    tiny_cfg.merge_from_list(["INPUT.SIZE_TRAIN", [128, 64], "INPUT.SIZE_TEST", [128, 64]])
    model = build_model(tiny_cfg).eval()
    seen = {}
    for number, block in enumerate(blocks_of(model.backbone)):
        block.register_forward_hook(lambda _m, _i, output, number=number: seen.__setitem__(number, output))
    batch = {"images": images(2, 128, 64)}
    with AppearanceDescriptor(model) as describe:
        model(batch)
        found = describe(batch["images"])
    for block, rows in zip(found[2:], (16, 8)):
        last = [output for output in seen.values() if output.shape[2] == rows][-1]
        torch.testing.assert_close(block, stripe_means(last))
    assert len(found) == 4


def test_a_network_without_maps_has_colours_alone():
    class Tokens(nn.Module):
        device = torch.device("cpu")

        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 10, 4))

        def forward(self, batch):
            return self.backbone(batch["images"])

    model = Tokens()
    with AppearanceDescriptor(model) as describe:
        model({"images": images(2)})
        assert len(describe(images(2))) == 2
