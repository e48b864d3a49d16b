"""The training loader: same batches whatever the cache and the workers, shared between extraction and training."""

import multiprocessing
import os

import numpy as np
import pytest
import torch
from PIL import Image

from ise_plugin.data import TrainingLoader, loaders, read_training_images, samplers
from ise_plugin.errors import UsageError
from ise_plugin.utils import distributed


def make_loader(cfg, **changes):
    cfg = cfg.clone()
    cfg.defrost()
    for name, value in changes.items():
        cfg.DATALOADER[name] = value
    images = read_training_images(cfg.DATASETS.NAMES)
    return TrainingLoader(cfg, images), np.arange(len(images)) // 7, images


def all_batches(loader, labels):
    """Two rounds of extraction and training, as a run has them."""
    return [
        batch
        for seed in (3, 4)
        for kind in (loader.extraction(), loader.pseudo_labelled(labels, seed))
        for batch in kind
    ]


def same(first, second):
    assert len(first) == len(second) > 0
    for a, b in zip(first, second):
        assert a.keys() == b.keys() and a["img_paths"] == b["img_paths"]
        assert all(torch.equal(a[name], b[name]) for name in a if name != "img_paths")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_cached_and_uncached_loaders_give_equal_batches(tiny_cfg, tmp_path, cache, workers, on_device):
    options = {"NUM_WORKERS": workers, "AUGMENT_ON_DEVICE": on_device}
    plain, labels, _ = make_loader(tiny_cfg, **options)
    cached, _, _ = make_loader(tiny_cfg, CACHE=cache, CACHE_DIR=str(tmp_path / "cache"), **options)
    expected = all_batches(plain, labels)
    same(all_batches(cached, labels), expected)
    if cache == "disk":  # the next run finds what this one decoded
        same(
            all_batches(make_loader(tiny_cfg, CACHE=cache, CACHE_DIR=str(tmp_path / "cache"), **options)[0], labels),
            expected,
        )


@pytest.fixture
def start_method(request, monkeypatch):
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    monkeypatch.setattr(loaders, "available_cores", lambda: 2)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize("start_method, cache", [("spawn", "ram"), ("forkserver", "disk")], indirect=["start_method"])
def test_workers_that_are_not_forked_share_and_fill_the_cache(tiny_cfg, start_method, cache):
    plain, _, _ = make_loader(tiny_cfg, NUM_WORKERS=0)
    loader, _, images = make_loader(tiny_cfg, CACHE=cache, NUM_WORKERS=2)
    same(list(loader.extraction()), list(plain.extraction()))
    kept = loader._loader.dataset._train.cache
    assert len(loader._loader._iterator._workers) == 2
    assert all(kept.read(i, path) is not None for i, path in enumerate(images.paths))


def test_shared_memory_that_is_too_small_is_named_with_what_is_needed(tiny_cfg, monkeypatch):
    tiny_cfg.INPUT.SIZE_TEST = [128, 64]  # so that extraction has the larger batches
    plain, _, images = make_loader(tiny_cfg, NUM_WORKERS=0)
    batch = max(batch["images"].nbytes for batch in plain.extraction())
    needed = batch * (2 * 3 + 2)  # torch keeps two for each worker
    monkeypatch.setattr(loaders, "available_cores", lambda: 3)
    monkeypatch.setattr(loaders, "free_space", lambda folder: needed)
    make_loader(tiny_cfg, NUM_WORKERS=3)
    loaders.build_test_loader(tiny_cfg, tiny_cfg.DATASETS.TESTS[0])
    monkeypatch.setattr(loaders, "free_space", lambda folder: needed - 1)
    with pytest.raises(UsageError, match=f"need {-(-needed // 2**20)} MiB; .*shm-size.*NUM_WORKERS .3 in use"):
        make_loader(tiny_cfg, NUM_WORKERS=3)
    make_loader(tiny_cfg, NUM_WORKERS=0)


def test_shared_memory_is_named_before_an_evaluation_as_well(tiny_cfg, monkeypatch):
    tiny_cfg.DATALOADER.NUM_WORKERS = 1
    monkeypatch.setattr(loaders, "free_space", lambda folder: 0)
    with pytest.raises(UsageError, match="has 0 MiB free"):
        loaders.build_test_loader(tiny_cfg, tiny_cfg.DATASETS.TESTS[0])


def test_decoding_happens_once(tiny_cfg, monkeypatch):
    import ise_plugin.data.image_dataset as module

    opened, read = [], module.read_rgb
    monkeypatch.setattr(module, "read_rgb", lambda path, **options: opened.append(path) or read(path, **options))
    loader, labels, images = make_loader(tiny_cfg, CACHE="ram", NUM_WORKERS=0)
    all_batches(loader, labels)
    assert sorted(opened) == sorted(images.paths)


def test_a_changed_file_is_decoded_anew(tiny_cfg, tmp_path):
    loader, _, images = make_loader(tiny_cfg, CACHE="ram", NUM_WORKERS=0)
    before = next(iter(loader.extraction()))["images"]
    original = Image.open(images.paths[1]).copy()
    try:
        Image.new("RGB", original.size, (1, 2, 3)).save(images.paths[1])
        after = next(iter(loader.extraction()))["images"]
    finally:
        original.save(images.paths[1])
    assert not torch.equal(before[1], after[1]) and torch.equal(before[0], after[0])


def test_images_are_bytes_in_channels_last_layout(tiny_cfg):
    loader, labels, images = make_loader(tiny_cfg)
    for batch in (next(iter(loader.extraction())), next(iter(loader.pseudo_labelled(labels, 0)))):
        assert batch["images"].dtype == torch.uint8
        assert batch["images"].is_contiguous(memory_format=torch.channels_last)
    assert "erased" in batch and "offsets" not in batch


def test_extraction_has_a_batch_of_its_own(tiny_cfg):
    tiny_cfg.ISE.EXTRACTION.IMS_PER_BATCH = 40
    loader, _, images = make_loader(tiny_cfg)
    sizes = [len(batch["targets"]) for batch in loader.extraction()]
    assert sizes[:-1] == [40] * (len(images) // 40) and sum(sizes) == len(images)


def test_a_pass_can_be_repeated_and_another_begun_before_it_ends(tiny_cfg):
    loader, labels, _ = make_loader(tiny_cfg, NUM_WORKERS=1)
    training = loader.pseudo_labelled(labels, 1)
    expected = list(training)
    next(iter(training))
    next(iter(loader.extraction()))
    same(list(training), expected)
    assert len(training) == len(expected) == len(training.batch_sampler)


def test_the_global_random_numbers_are_not_touched(tiny_cfg):
    loader, labels, _ = make_loader(tiny_cfg, NUM_WORKERS=1)
    state = torch.get_rng_state()
    all_batches(loader, labels)
    assert torch.equal(state, torch.get_rng_state())


def test_sizes_that_the_picture_decides_cannot_be_cached(tiny_cfg):
    tiny_cfg.INPUT.SIZE_TEST = [32]
    with pytest.raises(UsageError, match="CACHE.*INPUT.SIZE_TEST"):
        make_loader(tiny_cfg, CACHE="ram")


def test_different_sizes_have_a_cache_each(tiny_cfg):
    tiny_cfg.INPUT.SIZE_TEST = [32, 16]
    loader, labels, _ = make_loader(tiny_cfg, CACHE="ram", NUM_WORKERS=0)
    shapes = {batch["images"].shape[2:] for batch in all_batches(loader, labels)}
    assert shapes == {torch.Size([32, 16]), torch.Size([64, 32])}


def test_the_file_lies_in_the_output_folder_unless_told_otherwise(tiny_cfg):
    make_loader(tiny_cfg, CACHE="disk")
    assert os.listdir(os.path.join(tiny_cfg.OUTPUT_DIR, "cache"))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("on_device", [False, True])
def test_shares_of_a_batch_are_the_batch_and_know_of_it(tiny_cfg, monkeypatch, workers, on_device):
    tiny_cfg.SOLVER.IMS_PER_BATCH, tiny_cfg.DATALOADER.NUM_INSTANCE, world = 4, 2, 5
    options = {"NUM_WORKERS": workers, "AUGMENT_ON_DEVICE": on_device}
    loader, labels, _ = make_loader(tiny_cfg, **options)
    expected = list(loader.pseudo_labelled(labels, 3))
    for module in (distributed, samplers):
        monkeypatch.setattr(module, "world_size", lambda: world)
    parts = []
    for process in range(world):  # the last has no image
        monkeypatch.setattr(samplers, "rank", lambda: process)
        parts.append(list(loader.pseudo_labelled(labels, 3)))
    for whole, *shares in zip(expected, *parts):
        for share in shares:
            known = share.pop("whole")
            assert torch.equal(known.targets, whole["targets"]) and known.counts == (1, 1, 1, 1, 0)
            assert share.keys() == whole.keys() and share["images"].dtype == whole["images"].dtype
        assert len(shares[-1]["images"]) == 0
        for name, value in whole.items():
            if name == "img_paths":
                assert sum((share[name] for share in shares), []) == value
            else:
                assert torch.equal(torch.cat([share[name] for share in shares]), value)
