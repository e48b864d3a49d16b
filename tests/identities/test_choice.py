"""The weights kept without labels, and what a run on a folder leaves behind."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import ise_plugin.identities.choice as module
from ise_plugin.engine.checkpointing import load_checkpoint_file
from ise_plugin.engine.labelling import Labelling
from ise_plugin.identities.choice import CHOSEN, IdentityChoice
from ise_plugin.identities.groups import read_csv
from ise_plugin.utils.weights import DamagedWeights


def grouped(spread, seed=0):
    """A labelling whose groups stand further apart the smaller the spread."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), 5)
    rows = np.eye(3, 8)[labels] + spread * random.standard_normal((15, 8))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Labelling(torch.from_numpy(rows.astype(np.float32)), labels, None, 0.5)


class FakeTrainer:
    """One weight, which is the number of the epochs it was trained for."""

    def __init__(self, choice, epochs):
        self.max_epoch, self.epoch = epochs, 0
        self.model = torch.nn.Linear(1, 1, bias=False)
        choice.trainer = self

        self.choice = choice
        self.pseudo_labels = self

    def go_through(self, spreads):
        self.spreads = spreads
        for self.epoch, _ in enumerate(spreads[:-1]):
            self.model.weight.data.fill_(self.epoch)
            self.choice.after_labelling(self.label())
        self.model.weight.data.fill_(self.max_epoch)

    def label(self):
        return grouped(self.spreads[int(self.model.weight)])


@pytest.fixture
def setting(tmp_path, monkeypatch):
    cfg = SimpleNamespace(OUTPUT_DIR=str(tmp_path))
    written = []
    monkeypatch.setattr(IdentityChoice, "_write", lambda self, labelling: written.append(labelling))
    return cfg, tmp_path / CHOSEN, written


@pytest.mark.parametrize(
    "spreads, best", [([0.01, 0.5, 0.1, 0.3], 2), ([0.5, 0.4, 0.3, 0.1], 3), ([0.5, 0.1, 0.2, 0.3], 1)]
)
def test_the_weights_whose_groups_stand_furthest_apart_are_kept(setting, spreads, best, caplog):
    cfg, path, written = setting
    choice = IdentityChoice(cfg)
    trainer = FakeTrainer(choice, epochs=3)
    with caplog.at_level("INFO", logger="fastreid.ise"):
        trainer.go_through(spreads)
        choice.after_train()
    assert choice.chosen == best and load_checkpoint_file(str(path))["model"]["weight"].item() == best
    assert f"weights of epoch {best} of 3" in caplog.text
    assert torch.equal(written[0].features, grouped(spreads[best]).features)
    assert trainer.model.weight.item() == 3  # the trainer keeps the last ones


def test_untrained_weights_are_never_chosen(setting):
    cfg, path, _ = setting
    choice = IdentityChoice(cfg)
    FakeTrainer(choice, epochs=1).go_through([0.01, 0.5])
    assert choice.chosen is None and not path.exists() and list(choice.scores) == [0]


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
    choice.load_state_dict({"scores": {0: 0.1, 1: 0.2}, "chosen": 1})
    assert choice.chosen == chosen and choice.scores == {0: 0.1, 1: 0.2}


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
    assert summary["epoch"] == load_checkpoint_file(str(output / CHOSEN))["epoch"] + 1


def test_cameras_have_names(folder_run):
    assert module._camera_name("Folder/c3") == "c3" and module._camera_name("Folder/unknown") == ""
    assert module._camera_name("Market1501/market1501_2") == "Market1501/market1501_2"
