"""Views: which pictures are of which image, when they take its place, and what stays the image's own."""

import logging
import os
from collections import Counter

import numpy as np
import pytest
import torch
from miniatures import draw_all
from PIL import Image

from ise_plugin.data import TrainingLoader, image_dataset, read_training_images
from ise_plugin.data.views import Views, find_views
from ise_plugin.engine import ISETrainer
from ise_plugin.errors import UsageError

IMAGES = ["data/cam1/0001.jpg", "data/cam1/0002.jpg", "data/cam2/0001.jpg", "data/cam2/0003.v1.png"]


@pytest.fixture
def root(tmp_path):
    return tmp_path / "views"


def found(root, images=IMAGES):
    return [[os.path.relpath(path, root) for path in paths] for paths in find_views(str(root), images)]


def test_a_folder_of_views_has_its_images_name_after_the_folders_that_make_it_the_only_one(root):
    draw_all(root, "0002/b.jpg", "0002/a.png", "cam2/0001/x.jpg", "data/cam1/0001/x.jpg", "0003.v1/x.webp")
    assert found(root) == [
        ["data/cam1/0001/x.jpg"],
        ["0002/a.png", "0002/b.jpg"],
        ["cam2/0001/x.jpg"],
        ["0003.v1/x.webp"],
    ]


def test_what_is_of_no_image_or_of_several_is_counted_and_left_out(root, caplog):
    draw_all(
        root, "0002/a.jpg", "0001/a.jpg", "0001/b.jpg", "0009/a.jpg", "am1/0002/a.jpg", "loose.jpg", "0002/.hidden.jpg"
    )
    (root / "0002/notes.txt").write_text("no picture")
    with caplog.at_level(logging.INFO):
        assert found(root) == [[], ["0002/a.jpg"], [], []]
    said = caplog.text
    assert "3 of 6 pictures in" in said and "are for no training image, 0009/a.jpg for one" in said
    assert "2 of 6 pictures in" in said and "0001/a.jpg fits data/cam1/0001.jpg and data/cam2/0001.jpg" in said
    assert "2 files are not pictures by their names" in said


def test_an_image_that_is_listed_twice_has_its_views_twice(root):
    draw_all(root, "0002/a.jpg")
    assert found(root, ["x/0002.jpg", "x/0002.jpg"]) == [["0002/a.jpg"]] * 2


def test_unreadable_views_are_named_and_left_out(root, caplog):
    draw_all(root, "0002/a.jpg")
    (root / "0002/b.jpg").write_bytes(b"no picture")
    assert found(root)[1] == ["0002/a.jpg"]
    assert "left out" in caplog.text and "0002/b.jpg" in caplog.text


def broken(root):
    (root / "0002").mkdir(parents=True)
    (root / "0002/a.jpg").write_bytes(b"no picture")


REFUSED = [
    (lambda root: None, "DATASETS.VIEWS.ROOT: .*views is not a folder"),
    (lambda root: root.mkdir(), "DATASETS.VIEWS.ROOT: no picture in"),
    (lambda root: draw_all(root, "0009/a.jpg"), "DATASETS.VIEWS.ROOT: none of 1 pictures in .* folders like 0001/"),
    (broken, "1 of 1 images cannot be used, which are all"),
]


@pytest.mark.parametrize("make, message", REFUSED)
def test_folders_without_a_usable_view_are_refused(root, make, message):
    make(root)
    with pytest.raises(UsageError, match=message):
        found(root)


def test_training_images_are_no_views(root):
    draw_all(root, "0002.jpg", "0002/a.jpg")
    with pytest.raises(UsageError, match="0002.jpg is a training image itself"):
        found(root, [str(root / "0002.jpg")])


def test_each_view_alike_takes_the_place_of_its_image_as_often_as_was_asked_for():
    seeds = np.arange(6000)

    def drawn(of_images, prob, index):
        return Counter(Views(of_images, prob).draw(np.full(6000, index), seeds).tolist())

    three = [[], ["a", "b", "c"], ["d"]]
    assert Views(three, 0.3).paths == ("a", "b", "c", "d") and drawn(three, 0.3, 0) == {-1: 6000}
    found = drawn(three, 0.3, 1)
    assert set(found) == {-1, 0, 1, 2}
    for view, share in {-1: 0.7, 0: 0.1, 1: 0.1, 2: 0.1}.items():  # within four standard deviations
        assert abs(found[view] / 6000 - share) < 4 * np.sqrt(share * (1 - share) / 6000)
    assert drawn(three, 1.0, 2) == {3: 6000} and drawn(three, 0.0, 2) == {-1: 6000}


def test_a_draw_depends_on_image_and_seed_alone():
    views, seeds = Views([["a", "b"]] * 50, 0.5), np.arange(50) ** 3
    together = views.draw(np.arange(50), seeds)
    assert [int(views.draw(np.array([i]), seeds[[i]])[0]) for i in range(50)] == together.tolist()


# ---- in a run ----

VIEWS_OF_IMAGE = 3  # the number of an image modulo this is how many it has


@pytest.fixture
def cfg(tiny_cfg, tmp_path):
    """The tiny drawn persons with views of one colour each: red tells the image, green the view."""
    paths = read_training_images(tiny_cfg.DATASETS.NAMES).paths
    for index, path in enumerate(paths):
        folder = tmp_path / "views" / os.path.basename(path)[:-4]
        for view in range(index % VIEWS_OF_IMAGE):
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 20), (index, 100 + view, 255)).save(folder / f"{view}.png")
    tiny_cfg.DATASETS.VIEWS.ROOT = str(tmp_path / "views")
    tiny_cfg.DATALOADER.AUGMENT_ON_DEVICE = True  # the pixels of a batch are then those of the files
    return tiny_cfg


def batches(cfg, prob=0.5, first=0, **changes):
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.VIEWS.PROB = prob
    for name, value in changes.items():
        cfg.DATALOADER[name] = value
    images = read_training_images(cfg.DATASETS.NAMES, cfg=cfg)
    loader = TrainingLoader(cfg, images)
    return list(loader.extraction()), list(loader.pseudo_labelled(np.arange(len(images)) // 7, 5).after(first)), images


def without_views(cfg):
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.VIEWS.ROOT = ""
    return batches(cfg)


def same(first, second, but=()):
    assert len(first) == len(second) > 0
    for a, b in zip(first, second):
        assert a.keys() == b.keys() and a["img_paths"] == b["img_paths"]
        assert all(torch.equal(a[name], b[name]) for name in a if name not in ("img_paths", *but))


def views_in(batch, paths):
    """Of each image of a batch the number of the view that it shows, None: the image itself."""
    shown = []
    for pixels, path in zip(batch["images"], batch["img_paths"]):
        red, green, blue = pixels.reshape(3, -1).T[0].tolist()
        of_one_colour = pixels.reshape(3, -1).float().std(1).max() == 0
        assert not of_one_colour or (paths[red], blue) == (path, 255)
        shown.append(green - 100 if of_one_colour else None)
    return shown


def test_a_view_has_label_camera_and_index_of_its_image_and_is_never_clustered(cfg):
    extracted, trained, images = batches(cfg, prob=1.0)
    plain_extracted, plain_trained, _ = without_views(cfg)
    same(extracted, plain_extracted)
    same(trained, plain_trained, but=("images",))  # flips, crops and rectangles too
    seen = set()
    for batch in trained:
        for path, view in zip(batch["img_paths"], views_in(batch, images.paths)):
            count = images.paths.index(path) % VIEWS_OF_IMAGE
            assert view in (range(count) if count else (None,))
            seen.add((count, view))
    assert seen == {(0, None), (1, 0), (2, 0), (2, 1)}


def test_images_take_turns_with_their_views(cfg):
    _, trained, images = batches(cfg)
    shown = [view for batch in trained for view in views_in(batch, images.paths)]
    assert 0.15 < np.mean([view is not None for view in shown]) < 0.55  # two thirds have views, half the time


def test_with_probability_0_the_run_is_that_without_views(cfg):
    for with_them, without in zip(batches(cfg, prob=0.0)[:2], without_views(cfg)[:2]):
        same(with_them, without)


@pytest.mark.parametrize("changes", [{"NUM_WORKERS": 2}, {"CACHE": "ram", "NUM_WORKERS": 2}, {"CACHE": "disk"}])
def test_workers_caches_and_resuming_change_no_batch(cfg, changes):
    extracted, trained, _ = batches(cfg)
    again, resumed, _ = batches(cfg, first=2, **changes)
    same(again, extracted)
    same(resumed, trained[2:])


def test_a_cached_view_is_decoded_once(cfg, monkeypatch):
    read = Counter()
    stock = image_dataset.read_rgb
    monkeypatch.setattr(image_dataset, "read_rgb", lambda path: read.update([path]) or stock(path))
    cfg.DATALOADER.CACHE = "ram"
    cfg.DATASETS.VIEWS.PROB = 1.0
    images = read_training_images(cfg.DATASETS.NAMES, cfg=cfg)
    loader = TrainingLoader(cfg, images)
    for _ in range(2):
        list(loader.pseudo_labelled(np.arange(len(images)) // 7, 5))
    assert set(read) & set(images.views.paths) and set(read.values()) == {1}


def test_a_view_that_is_lost_during_the_run_is_said_once_and_the_image_taken(cfg, caplog):
    cfg.DATASETS.VIEWS.PROB = 1.0
    images = read_training_images(cfg.DATASETS.NAMES, cfg=cfg)
    loader = TrainingLoader(cfg, images)
    for path in images.views.paths:
        os.remove(path)
    trained = list(loader.pseudo_labelled(np.arange(len(images)) // 7, 5))
    same(trained, without_views(cfg)[1])
    drawn = images.views.lost.nonzero().ravel().tolist()
    assert drawn and caplog.text.count("was lost during the run") == len(drawn)
    assert all(images.views.paths[view] in caplog.text for view in drawn)


def test_a_run_trains_on_views_from_the_config_alone(cfg, caplog):
    cfg.SOLVER.MAX_EPOCH, cfg.ISE.ITERS_PER_EPOCH = 1, 1
    cfg.DATASETS.TESTS, cfg.ISE.HOOKS = (), ()
    count = len(read_training_images(cfg.DATASETS.NAMES).paths)
    with caplog.at_level(logging.INFO):
        trainer = ISETrainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
    views = sum(i % VIEWS_OF_IMAGE for i in range(count))
    with_views = sum(i % VIEWS_OF_IMAGE > 0 for i in range(count))
    assert f"{views} views of {with_views} of {count} training images" in caplog.text
    assert os.path.isfile(os.path.join(cfg.OUTPUT_DIR, "model_final.pth"))
