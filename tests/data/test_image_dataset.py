"""Single images: reading, labels, seeds, and files that cannot be read."""

import random

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from fastreid.data.transforms import ToTensor
from PIL import Image

from ise_plugin.data.image_dataset import ImageDataset
from ise_plugin.data.workers import UserErrorLoader
from ise_plugin.errors import UsageError

TEST_TRANSFORM = T.Compose([T.Resize([16, 8]), ToTensor()])
TRAIN_TRANSFORM = T.Compose([T.RandomCrop([16, 8]), T.RandomHorizontalFlip(), ToTensor(), T.RandomErasing(p=0.9)])


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)
    names = []
    for i in range(4):
        names.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(rng.integers(256, size=(32, 16, 3), dtype=np.uint8)).save(names[-1])
    return names


def test_item_by_index(paths):
    dataset = ImageDataset(paths, TEST_TRANSFORM, targets=[5, 6, 7, 8], cameras=[0, 1, 0, 1])
    item = dataset[3]
    assert (item["targets"], item["camids"], item["img_paths"]) == (8, 1, paths[3]) and len(dataset) == 4
    assert dataset.__getitems__([2, 0])["indices"].tolist() == [2, 0]
    expected = torch.from_numpy(np.asarray(Image.open(paths[3]).resize((8, 16), Image.BILINEAR))).permute(2, 0, 1)
    assert item["images"].shape == (3, 16, 8) and torch.equal(item["images"], expected)


def test_item_without_identity_and_camera(paths):
    item = ImageDataset(paths, TEST_TRANSFORM)[0]
    assert (item["targets"], item["camids"]) == (-1, 0)


def test_item_with_pseudo_label_and_seed(paths):
    dataset = ImageDataset(paths, TRAIN_TRANSFORM, targets=[5, 6, 7, 8])
    first, again, other = dataset[1, 2, 77], dataset[1, 2, 77], dataset[1, 2, 78]
    assert first["targets"] == 2
    assert torch.equal(first["images"], again["images"]) and not torch.equal(first["images"], other["images"])


def test_seeds_leave_the_generators_outside_alone(paths):
    dataset = ImageDataset(paths, TRAIN_TRANSFORM)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    dataset[0, 0, 5]
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


@pytest.mark.parametrize("workers", [1, 3])
def test_images_do_not_depend_on_the_number_of_workers(paths, workers):
    dataset = ImageDataset(paths, TRAIN_TRANSFORM)
    batches = [[(i % 4, i % 2, 100 + i) for i in range(start, start + 3)] for start in range(0, 12, 3)]
    expected = [torch.stack([dataset[key]["images"] for key in batch]) for batch in batches]
    loaded = [batch["images"] for batch in UserErrorLoader(dataset, batch_sampler=batches, num_workers=workers)]
    assert all(torch.equal(a, b) for a, b in zip(loaded, expected)) and len(loaded) == 4


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_images_of_any_mode_have_three_channels(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new("RGB", (16, 32), (200, 200, 200)).convert(mode).save(path)
    image = ImageDataset([str(path)], TEST_TRANSFORM)[0]["images"]
    assert image.shape == (3, 16, 8) and 150 < float(image.float().mean()) <= 255


@pytest.mark.parametrize("content", [b"", b"no image", None, "truncated"])
@pytest.mark.parametrize("workers", [0, 1])
def test_image_that_cannot_be_read_is_named(tmp_path, paths, content, workers):
    broken = tmp_path / "broken file.png"
    if content == "truncated":
        content = open(paths[0], "rb").read()[:200]
    if content is not None:
        broken.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        list(UserErrorLoader(ImageDataset([paths[0], str(broken)], TEST_TRANSFORM), num_workers=workers))
    assert str(caught.value).startswith(f"image {broken} cannot be read") and "\n" not in str(caught.value)
