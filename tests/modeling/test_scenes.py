"""Scenes: found by what is beside the person, and how many there are."""

import numpy as np
import pytest
import torch

from ise_plugin.modeling.scenes import find_scenes, surroundings


def images(count, height, width, seed):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 255


def test_scenes_are_found_by_what_is_beside_the_person_whoever_it_is():
    persons, walls = images(180, 32, 20, seed=1), images(3, 32, 1, seed=2)
    crops = persons.clone()
    for number in range(180):
        crops[number, :, :, :3] = crops[number, :, :, -3:] = walls[number % 3]
    scenes = find_scenes(surroundings(crops), 3, seed=0)
    assert scenes.dtype == np.int64 and len(set(scenes)) == 3
    assert all(len(set(scenes[wall::3])) == 1 for wall in range(3))


@pytest.mark.parametrize("count, expected", [(1, 1), (119, 1), (120, 2), (600, 4)])
def test_few_images_have_few_scenes(count, expected):
    block = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    assert len(set(find_scenes(block, 4, seed=0))) == expected
