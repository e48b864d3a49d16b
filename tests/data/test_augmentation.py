"""The taken-apart transforms against fastreid's whole ones, and the device's version against their distribution."""

import math
import random

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from fastreid.data.transforms import ToTensor, build_transforms
from helpers import CONFIGS
from PIL import Image
from scipy import stats

from ise_plugin.config import get_cfg, load_cfg
from ise_plugin.data.augmentation import (
    BatchAugmentation,
    UniformErasing,
    batch_augmentation,
    split_transform,
    training_transform,
    uniform_numbers,
)
from ise_plugin.modeling.build import build_model
from ise_plugin.modeling.preprocessing import erase, flip_and_crop

SIZE = (24, 12)


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.INPUT.SIZE_TRAIN = cfg.INPUT.SIZE_TEST = list(SIZE)
    cfg.INPUT.FLIP.ENABLED = cfg.INPUT.PADDING.ENABLED = cfg.INPUT.REA.ENABLED = True
    cfg.INPUT.PADDING.SIZE = 3
    return cfg


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(256, size=(40, 20, 3), dtype=np.uint8))


def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def released_rectangle(height, width):
    """Random erasing as the released program has it, written from its description."""
    for _ in range(100):
        area = random.uniform(0.02, 0.4) * height * width
        aspect = random.uniform(0.3, 1 / 0.3)
        h, w = int(round(math.sqrt(area * aspect))), int(round(math.sqrt(area / aspect)))
        if h < height and w < width:
            return random.randint(0, height - h), random.randint(0, width - w), h, w
    return 0, 0, 0, 0


@pytest.mark.parametrize("rule, share", [("released", 0.204), ("fastreid", 0.164)])
@pytest.mark.parametrize("on_device", [False, True])
def test_rectangles_are_those_of_the_rule_wherever_they_are_drawn(rule, share, on_device):
    size, count = (128, 64), 6000
    cfg = load_cfg(
        str(CONFIGS / "Base-ISE.yml"), ["DATASETS.NAMES", "('x',)", "ISE.ERASING", rule, "INPUT.REA.PROB", "1"]
    )
    cfg.INPUT.SIZE_TRAIN = list(size)
    steps = split_transform(training_transform(cfg))
    seed_everything(3)
    if on_device:
        drawn = batch_augmentation(cfg, steps).draw(np.arange(count))["erased"]
    else:
        drawn = np.array([steps._rectangle(np.zeros((*size, 3), np.uint8)) for _ in range(count)])
    assert drawn[:, 2].min() > 0 and (drawn[:, :2] >= 0).all() and (drawn[:, :2] + drawn[:, 2:] <= size).all()
    assert (drawn[:, 2] * drawn[:, 3] / (size[0] * size[1])).mean() == pytest.approx(share, abs=0.005)
    expected = np.array([released_rectangle(*size) for _ in range(count)])
    alike = [stats.ks_2samp(drawn[:, field], expected[:, field]).pvalue > 1e-4 for field in range(4)]
    assert all(alike) == (rule == "released")


def test_half_of_the_images_are_erased_and_by_the_means_numbers():
    cfg = load_cfg(str(CONFIGS / "Base-ISE.yml"), ["DATASETS.NAMES", "('x',)", "MODEL.BACKBONE.PRETRAIN", "False"])
    cfg.MODEL.DEVICE, cfg.MODEL.BACKBONE.DEPTH, cfg.INPUT.SIZE_TRAIN = "cpu", "18x", [32, 16]
    steps = split_transform(training_transform(cfg))
    erased = batch_augmentation(cfg, steps).draw(np.arange(1000))["erased"]
    assert (erased[:, 2] > 0).mean() == pytest.approx(0.5, abs=0.05)
    images = torch.zeros(1000, 3, 32, 16, dtype=torch.uint8)
    prepared = build_model(cfg).preprocess_image({"images": images, "erased": torch.from_numpy(erased)})
    for image, (top, left, height, width) in zip(prepared, erased):
        filled = image[:, top : top + height, left : left + width].flatten(1)
        assert torch.allclose(filled, torch.tensor([[0.485], [0.456], [0.406]]), atol=1e-6)


@pytest.mark.parametrize("extra", [None, "CJ", "AFFINE", "AUGMIX", "RPT", "AUTOAUG"])
def test_the_parts_give_what_fastreids_transform_gives(cfg, picture, extra):
    if extra:
        cfg.INPUT[extra].ENABLED = True
    cfg.INPUT.REA.ENABLED = extra != "RPT"
    cfg.ISE.ERASING = "fastreid"
    whole = build_transforms(cfg, is_train=True)
    steps = split_transform(training_transform(cfg))
    value = torch.tensor(cfg.INPUT.REA.VALUE).view(1, 3, 1, 1)
    erased = 0
    for seed in range(20):
        seed_everything(seed)
        expected = whole(picture)
        seed_everything(seed)
        image, rectangle = steps.draw(steps.open(picture))
        image = image if torch.is_tensor(image) else torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
        assert torch.equal(erase(image[None], torch.tensor([rectangle]), value)[0], expected)
        erased += rectangle[2] > 0
    assert erased > 0 or extra in ("RPT",)


def test_parts_of_a_test_transform(cfg, picture):
    steps = split_transform(build_transforms(cfg, is_train=False))
    assert steps.size == SIZE and steps.change == () and steps.erasing is None and steps.finish is None
    assert np.array_equal(steps.draw(steps.open(picture))[0], np.asarray(picture.resize(SIZE[::-1], Image.BICUBIC)))


def test_transforms_of_other_shapes_stay_whole(picture):
    whole = T.Compose([ToTensor(), T.RandomErasing(p=1), T.RandomErasing(p=1)])
    assert split_transform(whole).finish is not None and split_transform(whole).size is None
    own = split_transform(lambda image: torch.full((3, 1, 1), float(image.width)))
    assert own.draw(own.open(picture))[0].flatten().tolist() == [20.0] * 3
    assert split_transform(T.Compose([T.Resize(8), ToTensor()])).size is None  # the width depends on the picture


def test_numbers_depend_on_their_seed_alone():
    together = uniform_numbers(np.array([7, 8, 2**32 - 1]), 5)
    assert np.array_equal(together[1:2], uniform_numbers(np.array([8]), 5))
    assert np.array_equal(together[:, :3], uniform_numbers(np.array([7, 8, 2**32 - 1]), 3))


def test_numbers_are_those_of_splitmix64():
    def slow(seed, count):
        mask = 2**64 - 1

        def mix(z):
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
            return z ^ (z >> 31)

        state = mix((seed + 0x9E3779B97F4A7C15) & mask)
        return [(mix((state + i * 0x9E3779B97F4A7C15) & mask) >> 11) / 2**53 for i in range(1, count + 1)]

    assert uniform_numbers(np.array([0, 12345]), 4).tolist() == [slow(0, 4), slow(12345, 4)]


def test_numbers_are_uniform_and_independent():
    numbers = uniform_numbers(np.arange(4000), 6)
    assert all(stats.kstest(column, "uniform").pvalue > 1e-4 for column in numbers.T)
    assert np.abs(np.corrcoef(numbers.T) - np.eye(6)).max() < 0.08
    assert abs(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]) < 0.08


def test_device_and_loader_draw_from_the_same_distribution(cfg):
    """Each decision is read off a picture whose pixels name their place."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    named = np.stack([rows + 100, columns + 100, np.full(SIZE, 50)], 2).astype(np.uint8)
    steps = split_transform(build_transforms(cfg, is_train=True))
    count = 3000
    seed_everything(0)
    on_loader = [steps.draw(named) for _ in range(count)]
    images = torch.from_numpy(np.stack([image for image, _ in on_loader])).permute(0, 3, 1, 2)
    plan = batch_augmentation(cfg, steps).draw(np.arange(count))
    moved = flip_and_crop(
        torch.from_numpy(named).permute(2, 0, 1).expand(count, -1, -1, -1),
        torch.from_numpy(plan["flipped"]),
        torch.from_numpy(plan["offsets"]),
    )
    for first, second in zip(read_off(images), read_off(moved)):
        assert stats.chi2_contingency(counts(first, second)).pvalue > 1e-4
    theirs, ours = np.array([r for _, r in on_loader]), plan["erased"]
    assert abs((theirs[:, 2] > 0).mean() - (ours[:, 2] > 0).mean()) < 0.05
    for field in range(4):
        assert stats.ks_2samp(theirs[theirs[:, 2] > 0, field], ours[ours[:, 2] > 0, field]).pvalue > 1e-4


def read_off(images):
    """Of images of named pixels: whether mirrored, and the place at the centre, from the left or the right."""
    centre = images[:, :, SIZE[0] // 2, SIZE[1] // 2].int()
    left = images[:, 1, SIZE[0] // 2, SIZE[1] // 2 - 1].int()
    flipped = left > centre[:, 1]
    return flipped.numpy(), centre[:, 0].numpy(), torch.where(flipped, 500 - centre[:, 1], centre[:, 1]).numpy()


def counts(first, second):
    values = np.unique(np.concatenate([first, second]))
    return [[(sample == v).sum() for v in values] for sample in (first, second)]


def test_flip_and_crop_are_pils():
    rng = np.random.default_rng(1)
    pixels = rng.integers(256, size=(40, *SIZE, 3), dtype=np.uint8)
    plan = BatchAugmentation(SIZE, flip=0.5, padding=4).draw(np.arange(40))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    moved = flip_and_crop(images, torch.from_numpy(plan["flipped"]), torch.from_numpy(plan["offsets"]))
    assert moved.dtype == torch.uint8 and moved.is_contiguous(memory_format=torch.channels_last)
    for image, result, flipped, (top, left) in zip(pixels, moved, plan["flipped"], plan["offsets"]):
        picture = T.functional.pad(Image.fromarray(image), 4)
        picture = T.functional.crop(picture, int(top) + 4, int(left) + 4, *SIZE)
        picture = T.functional.hflip(picture) if flipped else picture
        assert np.array_equal(np.asarray(picture), result.permute(1, 2, 0).numpy())


def test_nothing_asked_for_changes_nothing():
    plan = BatchAugmentation(SIZE).draw(np.arange(5))
    assert not plan["flipped"].any() and not plan["offsets"].any() and not plan["erased"].any()


@pytest.mark.parametrize("kind", [T.RandomErasing, UniformErasing])
def test_rectangles_that_never_fit_erase_nothing(kind):
    erasing = kind(1.0, value=0)
    erasing.scale, erasing.ratio = (0.9, 1.0), (50.0, 60.0)
    assert not BatchAugmentation(SIZE, erasing=erasing).draw(np.arange(50))["erased"].any()
    assert torch.equal(erasing(torch.ones(3, *SIZE)), torch.ones(3, *SIZE))
    steps = split_transform(T.Compose([ToTensor(), erasing]))
    assert steps.draw(np.zeros((*SIZE, 3), np.uint8))[1] == (0, 0, 0, 0)


@pytest.mark.parametrize("change, named", [("CJ", "RandomApply"), ("AUTOAUG", "no such version"), ("MODE", "reflect")])
def test_what_the_device_cannot_do_is_left_to_the_loader_with_the_reason(cfg, caplog, change, named):
    if change == "MODE":
        cfg.INPUT.PADDING.MODE = "reflect"
    else:
        cfg.INPUT[change].ENABLED = True
    assert batch_augmentation(cfg, split_transform(build_transforms(cfg, is_train=True))) is None
    assert "AUGMENT_ON_DEVICE" in caplog.text and named in caplog.text
