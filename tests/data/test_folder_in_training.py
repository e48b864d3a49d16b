"""A run on a folder: files that vanish, labelled images for evaluation, resuming, too few images, bad settings."""

import json
import os
import shutil

import pytest
from fastreid.engine.hooks import HookBase
from fastreid.utils.env import seed_all_rng
from helpers import CONFIGS, FOLDER_RUN_OPTIONS
from PIL import Image

from ise_plugin.config import load_cfg
from ise_plugin.engine import ISETrainer
from ise_plugin.errors import UsageError
from ise_plugin.identities.groups import read_csv


def trainer_on(crops, output, *opts):
    cfg = load_cfg(
        str(CONFIGS / "ISE/folder.yml"),
        ["DATASETS.FOLDER.ROOT", str(crops), "OUTPUT_DIR", str(output), *FOLDER_RUN_OPTIONS, *opts],
    )
    seed_all_rng(cfg.SEED)
    trainer = ISETrainer(cfg)
    trainer.resume_or_load(resume=False)
    return trainer


@pytest.fixture
def crops(datasets_folder, tmp_path):
    shutil.copytree(datasets_folder / "synthetic_persons_tiny/bounding_box_train", tmp_path / "crops")
    return tmp_path / "crops"


# the method alone: pictures' colours and textures, and their scenes, take longer than all else here
METHOD_ALONE = "ISE.APPEARANCE.WEIGHT 0 ISE.APPEARANCE.SCENES 0".split()


class Remove(HookBase):
    """Files vanish after the first epoch."""

    def __init__(self, paths):
        self._paths = paths

    def after_epoch(self):
        for path in self._paths:
            path.unlink(missing_ok=True)


def test_a_few_files_may_vanish(crops, tmp_path, caplog):
    gone = sorted(crops.iterdir())[3:10:3]
    trainer = trainer_on(crops, tmp_path / "run", *METHOD_ALONE)
    trainer.register_hooks([Remove(gone)])
    trainer.train()
    rows = read_csv(str(tmp_path / "run/identities.csv"))
    assert len(rows) == 147 and not {row.path for row in rows} & {path.name for path in gone}
    assert json.loads((tmp_path / "run/identities.json").read_text())["lost_during_the_run"] == 3
    assert all(caplog.text.count(f"{path} was lost") == 1 for path in gone)


def test_many_files_may_not(crops, tmp_path):
    trainer = trainer_on(crops, tmp_path / "run", *METHOD_ALONE)
    trainer.register_hooks([Remove(sorted(crops.iterdir())[:9])])
    with pytest.raises(UsageError, match="8 of 150 images.*MAX_BAD_SHARE"):
        trainer.train()


def test_same_seed_same_identities(folder_run, tmp_path):
    crops, output = folder_run
    trainer_on(crops, tmp_path / "again").train()
    files = ["identities.csv", "identities.json", "identities/page_0001.jpg"]
    assert all((tmp_path / "again" / f).read_bytes() == (output / f).read_bytes() for f in files)


def test_labelled_images_are_evaluated_and_change_nothing_else(folder_run, tmp_path, datasets_folder):
    crops, output = folder_run
    for part, folder in (("query", "q"), ("bounding_box_test", "g")):
        for path in (datasets_folder / "synthetic_persons_tiny" / part).iterdir():
            if path.suffix == ".jpg" and path.name[:4] not in ("0000", "-1_c"):
                os.makedirs(tmp_path / folder / path.name[:4], exist_ok=True)
                shutil.copy(path, tmp_path / folder / path.name[:4])
    labelled = ["DATASETS.FOLDER.QUERY", str(tmp_path / "q"), "DATASETS.FOLDER.GALLERY", str(tmp_path / "g")]
    trainer_on(crops, tmp_path / "with", *labelled, "DATASETS.TESTS", "('Folder',)").train()
    assert 0 < json.loads((tmp_path / "with/results.json").read_text())["final"]["mAP"] <= 100
    assert (tmp_path / "with/identities.csv").read_bytes() == (output / "identities.csv").read_bytes()


@pytest.mark.parametrize("count", [1, 3, 9])
def test_too_few_images(tmp_path, count):
    (tmp_path / "crops").mkdir()
    for i in range(count):
        Image.new("RGB", (8, 16), (20 * i, 0, 0)).save(tmp_path / f"crops/{i}.jpg")
    with pytest.raises(UsageError, match=f"^{count} training images are too few for ISE.PSEUDO_LABEL.K1"):
        trainer_on(tmp_path / "crops", tmp_path / "run")


def labelled(folder, identities):
    for identity in identities:
        (folder / identity).mkdir(parents=True)
        Image.new("RGB", (8, 16)).save(folder / identity / "a.jpg")
    return str(folder)


@pytest.mark.parametrize(
    "query, gallery, words",
    [
        ((), "ab", "no query images; .*DATASETS.FOLDER.QUERY"),
        ("ab", "cd", "no query has an image of the same identity by another camera"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused_before_training(crops, tmp_path, query, gallery, words):
    options = ["DATASETS.FOLDER.GALLERY", labelled(tmp_path / "g", gallery), "DATASETS.TESTS", "('Folder',)"]
    if query:
        options += ["DATASETS.FOLDER.QUERY", labelled(tmp_path / "q", query)]
    with pytest.raises(UsageError, match=words):
        trainer_on(crops, tmp_path / "run", *options)


def test_a_gallery_smaller_than_the_ranks_is_evaluated(crops, tmp_path):
    options = ["DATASETS.FOLDER.GALLERY", labelled(tmp_path / "g", "ab")]
    options += ["DATASETS.FOLDER.QUERY", labelled(tmp_path / "q", "a"), "DATASETS.TESTS", "('Folder',)"]
    trainer_on(crops, tmp_path / "run", *options, *METHOD_ALONE, "SOLVER.MAX_EPOCH", "1").train()
    assert json.loads((tmp_path / "run/results.json").read_text())["final"]["Rank-10"] == 100


def test_what_the_run_writes_is_no_training_image(crops, caplog):
    first = trainer_on(crops, crops / "out").images.paths
    (crops / "out/identities").mkdir()
    Image.new("RGB", (8, 16)).save(crops / "out/identities/page_0001.jpg")
    assert trainer_on(crops, crops / "out").images.paths == first
    assert "out is where this run writes; left out" in caplog.text


def test_crops_far_from_the_input_are_told_of_at_the_start(crops, tmp_path, caplog):
    trainer_on(crops, tmp_path / "run", "INPUT.SIZE_TRAIN", "[384,192]")
    assert caplog.text.count("INPUT.SIZE_TRAIN 384 x 192, which enlarges them 3.0 times") == 1
