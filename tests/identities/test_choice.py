"""The weights kept without labels, and what a run on a folder leaves behind."""

import json
from collections import Counter
from html import unescape
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import ise_plugin.identities.choice as module
from ise_plugin.clustering import Jaccard, quality
from ise_plugin.config import load_cfg
from ise_plugin.engine.checkpointing import load_checkpoint_file
from ise_plugin.engine.labelling import Labelling
from ise_plugin.identities.choice import CHOSEN, IdentityChoice
from ise_plugin.identities.groups import read_csv
from ise_plugin.registry import NEIGHBOR_SEARCH
from ise_plugin.utils.weights import DamagedWeights


def grouped(spread, seed=0):
    """A labelling whose groups stand further apart the smaller the spread."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), 5)
    rows = np.eye(3, 8)[labels] + spread * random.standard_normal((15, 8))
    features = torch.from_numpy((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    neighbors = NEIGHBOR_SEARCH.get("exact")(features, 6)
    return Labelling(features, labels, None, 0.5, neighbors, Jaccard(6, 1)(features, neighbors))


class FakeTrainer:
    """One weight, which is the number of the epochs it was trained for."""

    def __init__(self, choice, epochs):
        self.max_epoch, self.epoch = epochs, 0
        self.model = torch.nn.Linear(1, 1, bias=False)
        choice.trainer = self

        self.choice = choice
        self.pseudo_labels = self
        self.images = SimpleNamespace(paths=["gone.jpg"] * 15, cameras=np.zeros(15, np.int64))
        self.told = []

    def go_through(self, spreads):
        self.spreads = spreads
        for self.epoch, _ in enumerate(spreads[:-1]):
            self.model.weight.data.fill_(self.epoch)
            self.choice.after_labelling(self.label())
        self.model.weight.data.fill_(self.max_epoch)

    def tell(self, event, argument):
        self.told.append((event, argument))

    def label(self):
        return grouped(self.spreads[int(self.model.weight)])


@pytest.fixture
def setting(tmp_path, monkeypatch):
    cfg = load_cfg(None, ["OUTPUT_DIR", str(tmp_path)])
    written = []
    monkeypatch.setattr(IdentityChoice, "_write", lambda self, *found: written.append(found))
    return cfg, tmp_path / CHOSEN, written


@pytest.mark.parametrize(
    "spreads, best", [([0.01, 0.5, 0.1, 0.3], 2), ([0.5, 0.4, 0.3, 0.1], 3), ([0.5, 0.1, 0.2, 0.3], 1)]
)
def test_the_weights_that_group_most_images_rightly_are_kept(setting, spreads, best, caplog):
    cfg, path, written = setting
    choice = IdentityChoice(cfg)
    trainer = FakeTrainer(choice, epochs=3)
    with caplog.at_level("INFO", logger="fastreid.ise"):
        trainer.go_through(spreads)
        choice.after_train()
    assert choice.chosen == best and load_checkpoint_file(str(path))["model"]["weight"].item() == best
    ((labelling, verdict),) = written
    assert f"epoch {best} of 3" in verdict.choice and verdict.choice[1:] in caplog.text
    assert torch.equal(labelling.features, grouped(spreads[best]).features)
    assert verdict.chosen == choice.states[best] and verdict.start == choice.states[0]
    assert trainer.told == [("after_choice", labelling)]
    assert trainer.model.weight.item() == 3  # the trainer keeps the last ones


def test_untrained_weights_are_never_chosen(setting):
    cfg, path, _ = setting
    choice = IdentityChoice(cfg)
    FakeTrainer(choice, epochs=1).go_through([0.01, 0.5])
    assert choice.chosen is None and not path.exists() and list(choice.states) == [0]


def test_weights_that_were_damaged_are_noticed(setting, caplog):
    cfg, path, _ = setting
    choice = IdentityChoice(cfg)
    FakeTrainer(choice, epochs=2).go_through([0.5, 0.1, 0.2])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedWeights, match="digest"):
        choice.after_train()
    resumed = IdentityChoice(cfg)
    resumed.load_state_dict(choice.state_dict())
    assert resumed.chosen is None and "chosen among the coming epochs" in caplog.text


@pytest.mark.parametrize("file_epoch, chosen", [(1, 1), (2, None), (None, None)])
def test_resumed_choice_trusts_the_file_only_if_it_holds_these_weights(setting, file_epoch, chosen):
    cfg, path, _ = setting
    if file_epoch is not None:
        torch.save({"model": {}, "epoch": file_epoch - 1}, path)
    choice = IdentityChoice(cfg)
    states = {0: (3, 0.5, 0.6, 0.1), 1: (3, 0.6, 0.6, 0.1)}
    choice.load_state_dict({"states": states, "chosen": 1})
    assert choice.chosen == chosen and choice.states == states
    choice.load_state_dict({"scores": {0: 0.1, 1: 0.2}, "chosen": 1})  # of a release before
    assert choice.chosen is None and choice.states == {}


def test_run_on_a_folder_leaves_identities_and_weights(folder_run):
    crops, output = folder_run
    rows = read_csv(str(output / "identities.csv"))
    assert [row.path for row in rows] == sorted(path.name for path in crops.iterdir())
    summary = json.loads((output / "identities.json").read_text())
    counts = Counter(row.cluster for row in rows)
    assert summary["images"] == len(rows) and summary["outliers"] == counts[-1]
    assert summary["identities"] == len(counts) - 1 >= 2
    assert (output / CHOSEN).is_file() and (output / "identities/page_0001.jpg").is_file()
    assert not list(output.glob("*.tmp"))
    chosen = summary["verdict"]["chosen"]
    assert chosen["groups"] == summary["identities"]
    # of confidences that have four decimals
    assert chosen["purity"] == pytest.approx(summary["estimated_purity"], abs=1.5e-4)
    assert summary["verdict"]["lines"][0] in (page := unescape((output / "report.html").read_text()))
    assert f"found by the weights of epoch {summary['epoch']}." in page
    assert summary["epoch"] == load_checkpoint_file(str(output / CHOSEN))["epoch"] + 1


def test_the_state_of_a_labelling_is_what_its_parts_say():
    labelling = grouped(0.3)
    labelling.labels = np.where(np.arange(15) < 3, -1, labelling.labels)
    state = module.state_of(labelling)
    structure = quality.structure_quality(labelling.labels, labelling.similarities)
    assert (state.groups, state.clustered) == (3, 12 / 15)
    assert state.purity == pytest.approx(np.average(labelling.purities, weights=[2, 5, 5]))
    assert state.separation == pytest.approx(structure["silhouette"] * 12 / 15, abs=1e-6)
    assert state.right == state.clustered * state.purity
    nobody = module.state_of(Labelling(labelling.features, np.full(15, -1)))
    assert (nobody.groups, nobody.clustered, nobody.right) == (0, 0, 0)


def test_images_that_are_no_crops_of_people_are_said_before_training(setting, tmp_path, caplog):
    choice = IdentityChoice(setting[0])
    trainer = FakeTrainer(choice, epochs=1)
    Image.new("RGB", (40, 20)).save(tmp_path / "wide.png")
    trainer.images.paths = [str(tmp_path / "wide.png")] * 15
    trainer.go_through([0.1, 0.1])
    assert "before training: 100% of the images are not taller than wide" in caplog.text


def test_cameras_have_names():
    names = ("Folder/c3", "Market1501/market1501_2")
    images = SimpleNamespace(cameras=np.array([1, -1, 0, 0]), camera_names=names)
    assert module._cameras_of(images) == ["Market1501/market1501_2", "", "c3", "c3"]
