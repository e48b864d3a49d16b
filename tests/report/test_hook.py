"""The hook in a whole run: what it logs, keeps and writes; that it changes nothing and can end nothing."""

import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fastreid.engine.hooks import HookBase
from fastreid.utils.env import seed_all_rng
from helpers import CONFIGS

import ise_plugin.report.hook as module
from ise_plugin.clustering import quality, similarity_to_centroids
from ise_plugin.clustering.constraints import Constraints, Cut
from ise_plugin.config import load_cfg
from ise_plugin.engine import ISETrainer
from ise_plugin.engine.checkpointing import load_checkpoint_file
from ise_plugin.engine.labelling import Labelling
from ise_plugin.errors import UsageError
from ise_plugin.report import geometry
from ise_plugin.report.hook import RunReport
from ise_plugin.report.page import build_page, write_report
from ise_plugin.report.run_files import read_run

CONFIG_FILE = str(CONFIGS / "ISE/synthetic_tiny.yml")


def make_cfg(output_dir, *opts):
    given = ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(output_dir), "SOLVER.CHECKPOINT_PERIOD", "1"]
    return load_cfg(CONFIG_FILE, [*given, "ISE.REPORT.PICTURES", "True", *map(str, opts)])


def train(cfg, resume=False, hooks=()):
    seed_all_rng(cfg.SEED)
    trainer = ISETrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.register_hooks(list(hooks))
    trainer.train()
    return trainer


class RecordLabels(HookBase):
    """Every labelling."""

    def __init__(self):
        self.seen = []

    def after_labelling(self, labelling):
        self.seen.append(labelling)


@pytest.fixture(scope="module")
def finished_run(datasets_folder, tmp_path_factory):
    """A run of three epochs, its folder, and its labellings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTREID_DATASETS", str(datasets_folder))
        folder = tmp_path_factory.mktemp("report") / "run"
        cfg = make_cfg(folder, "SOLVER.MAX_EPOCH", 3, "TEST.EVAL_PERIOD", 1, "ISE.REPORT.KEEP_EMBEDDINGS", "(1, -1)")
        seed_all_rng(cfg.SEED)
        trainer = ISETrainer(cfg)
        record = RecordLabels()
        trainer.register_hooks([record])
        trainer.train()
        yield folder, trainer, record.seen


def test_quality_of_every_labelling_is_in_the_log(finished_run):
    folder, trainer, labellings = finished_run
    history = read_run(str(folder)).history
    identities = np.array([os.path.basename(path).split("_")[0] for path in trainer.images.paths])
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    for entry, labelling in zip(history, labellings):
        expected = quality.identity_quality(labelling.labels, identities)
        similarities = similarity_to_centroids(labelling.features, labelling.labels)
        expected |= quality.structure_quality(labelling.labels, similarities, labelling.previous)
        assert entry["clusters"] == expected.pop("clusters") and len(expected) >= 17
        assert {name: entry[f"labels/{name}"] for name in expected} == pytest.approx(expected)
    assert "labels/stability" not in history[0] and "labels/stability" in history[1]


def test_metrics_and_times_of_every_epoch_are_in_the_log(finished_run):
    run = read_run(str(finished_run[0]))
    for name in ("mAP", "Rank-1", "total_loss", "training_time", "evaluation_time", "extraction_time", "report_time"):
        epochs, values = run.values(name)
        assert epochs == [1, 2, 3] and all(value >= 0 for value in values), name
    assert run.values("mAP")[1][-1] == pytest.approx(run.results["final"]["mAP"])


def test_tensorboard_has_the_quality_as_well(finished_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished_run[0]))
    events.Reload()
    assert {"labels/ari", "labels/silhouette", "clusters", "mAP"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("labels/ari")) == 3


def test_report_shows_the_run(finished_run):
    page = (finished_run[0] / "report.html").read_text()
    run = read_run(str(finished_run[0]))
    assert "finished, 3 epochs" in page and f"{run.results['final']['mAP']:.1f}<small> %" in page
    assert run.facts["identities"] == 12 and run.facts["images"] == 150 and run.facts["problems"] == []
    assert [epoch for epoch in run.labellings] == [1, 2, 3]
    assert all({"sizes", "distances", "map"} <= set(labelling) for labelling in run.labellings.values())
    assert ["reliability" in labelling for labelling in run.labellings.values()] == [False, False, True]
    assert 0 <= run.labellings[3]["reliability"]["error"] < 1
    assert len({tuple(labelling["map"]["images"]) for labelling in run.labellings.values()}) == 1
    assert set(run.retrieval["SyntheticPersonsTiny"]) == {"before", "after"}
    for part in ("Purest clusters", "CMC, ", "Epoch 3", "Ranked, ", "Errors of the labels", "Reliability of"):
        assert part in page
    assert len(page) < 5_000_000


def test_rebuilding_gives_the_same_page(finished_run):
    folder = finished_run[0]
    before = (folder / "report.html").read_text()
    assert write_report(str(folder)) == str(folder / "report.html")
    assert (folder / "report.html").read_text() == before


def test_cameras_of_every_labelling_are_in_the_log_and_those_of_the_last_on_the_page(finished_run):
    folder, trainer, labellings = finished_run
    run, cameras = read_run(str(folder)), trainer.images.cameras
    for entry, labelling in zip(run.history, labellings):
        spread = quality.camera_spread(labelling.labels, cameras)
        logged = [entry.get(f"labels/one_camera{end}") for end in ("", "_by_chance", "_true")]
        people = [{c for p, c in zip(trainer.images.paths, cameras) if name_of(p) == n} for n in names_of(trainer)]
        true = np.mean([len(seen) == 1 for seen in people])
        assert logged == pytest.approx([spread.one_camera, spread.one_camera_by_chance, true])
    assert run.evidence["epoch"] == 3 and run.evidence["names"] == list("012345")
    assert run.evidence["cameras"]["joined"] == spread.joined.tolist() and "constraints" not in run.evidence
    page = (folder / "report.html").read_text()
    assert "Cameras, epoch 3" in page and "Clusters in one camera" in page and "Tracks, epoch" not in page


def name_of(path):
    return os.path.basename(path).split("_")[0]


def names_of(trainer):
    return {name_of(path) for path in trainer.images.paths}


def report_on(folder, labels, cameras, constraints):
    """What is kept and logged of one labelling."""
    logged, images = {}, len(labels)
    report = RunReport(make_cfg(folder))
    report.trainer = SimpleNamespace(
        epoch=1,
        images=SimpleNamespace(cameras=cameras, camera_names=("D/a", "D/b"), tracks=np.arange(images) // 2),
        storage=SimpleNamespace(put_scalars=lambda smoothing_hint, **found: logged.update(found)),
    )
    report._keep_evidence(Labelling(torch.zeros(images, 2), labels, constraints=constraints))
    (folder / "metrics.json").touch()
    assert not report._problems
    return read_run(str(folder)).evidence, logged


def test_constraints_of_tracks_are_shown_with_what_the_labels_violate(tmp_path):
    units, apart = np.arange(6) // 2, np.array([[0, 1], [1, 2]])
    constraints = Constraints(units, units, apart, 0.5, (Cut(1, 3.0, 0.1), Cut(1, 5.0, 0.2)), np.array([[0, 5]]))
    evidence, logged = report_on(tmp_path, np.array([0, 0, 0, 0, 1, 1]), np.zeros(6, np.int64), constraints)
    expected = {"tracks": 3, "apart": 2, "violated": 1, "cut": 1, "given_up": 1, "weight": 0.5}
    assert evidence == {"epoch": 2, "constraints": expected}  # one camera: nothing to say of cameras
    assert logged == {"labels/violated": 1}


def test_without_a_cluster_or_a_second_camera_nothing_is_said_of_cameras(tmp_path):
    one, unknown = np.zeros(6, np.int64), np.full(6, -1)
    for cameras in (one, unknown, np.r_[unknown[:5], 1]):
        assert report_on(tmp_path, one, cameras, None) == ({}, {})
    evidence, logged = report_on(tmp_path, unknown, np.arange(6) % 2, None)
    assert logged == {} and evidence["cameras"]["clustered"] == [0, 0]
    assert "–" in build_page(read_run(str(tmp_path)))


def test_embeddings_are_kept_for_the_epochs_asked_for(finished_run):
    folder, trainer, labellings = finished_run
    assert sorted(p.name for p in folder.glob("embeddings_*")) == ["embeddings_0001.npz", "embeddings_0003.npz"]
    with np.load(folder / "embeddings_0003.npz") as kept:
        assert np.array_equal(kept["features"], labellings[2].features.numpy())
        assert np.array_equal(kept["labels"], labellings[2].labels)
        assert kept["paths"].tolist() == list(trainer.images.paths) and len(np.unique(kept["identities"])) == 12


def test_a_run_without_reports_learns_the_same(finished_run, tiny_dataset, tmp_path):
    cfg = make_cfg(
        tmp_path / "off",
        "SOLVER.MAX_EPOCH",
        3,
        "TEST.EVAL_PERIOD",
        1,
        "ISE.HOOKS",
        "()",
        "DATASETS.TESTS",
        "()",
    )
    train(cfg)
    assert not (tmp_path / "off/report.html").exists() and not (tmp_path / "off/report").exists()
    first, second = (
        load_checkpoint_file(str(f / "model_final.pth"))["model"] for f in (finished_run[0], tmp_path / "off")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


class Interrupted(Exception):
    pass


class Stop(HookBase):
    def after_epoch(self):
        raise Interrupted


def test_an_interrupted_run_has_a_report_and_a_resumed_one_goes_on_with_it(tiny_dataset, tmp_path, caplog):
    cfg = make_cfg(tmp_path / "run", "SOLVER.MAX_EPOCH", 2, "DATASETS.TESTS", "()")
    with pytest.raises(Interrupted):
        train(cfg, hooks=[Stop()])
    page = (tmp_path / "run/report.html").read_text()
    assert "epoch 1 of 2 done; running or interrupted" in page and "DATASETS.TESTS is empty" in page
    images = read_run(str(tmp_path / "run")).labellings[1]["map"]["images"]
    train(cfg, resume=True)
    run = read_run(str(tmp_path / "run"))
    assert "finished, 2 epochs" in (tmp_path / "run/report.html").read_text()
    assert set(run.labellings) == {1, 2} and run.labellings[2]["map"]["images"] == images
    assert "labels/stability" in run.history[1]


def test_a_fresh_run_clears_away_what_the_one_before_left(tiny_dataset, tmp_path):
    folder = tmp_path / "run/report"
    folder.mkdir(parents=True)
    (folder / "my notes.txt").touch()
    (folder / "labelling_0009.json").write_text('{"epoch": 9, "sizes": [1]}')
    train(make_cfg(tmp_path / "run", "SOLVER.MAX_EPOCH", 1, "DATASETS.TESTS", "()", "ISE.REPORT.PICTURES", False))
    assert sorted(os.listdir(folder)) == ["evidence.json", "my notes.txt", "run.json"]


def fail(*arguments, **options):
    raise RuntimeError("it broke\nbadly")


def test_failures_are_warnings_and_never_the_end(tiny_dataset, tmp_path, monkeypatch, caplog):
    stages = {
        "read_true_identities": "learn identities",
        "distance_histogram": "keep labelling",
        "sheets_of": "keep sheets",
        "retrieval_rows": "keep retrieval",
    }
    for name in stages:
        monkeypatch.setattr(geometry if name == "distance_histogram" else module, name, fail)
    train(make_cfg(tmp_path / "run", "SOLVER.MAX_EPOCH", 1))
    assert (tmp_path / "run/model_final.pth").exists()
    warnings = [r.message for r in caplog.records if "the report is incomplete" in r.message]
    page = (tmp_path / "run/report.html").read_text()
    assert len(warnings) == len(stages)  # once each, though there were two evaluations
    for stage in stages.values():
        text = f"{stage}: RuntimeError: it broke badly"
        assert f"the report is incomplete ({text}); training goes on" in warnings and text in page


def test_a_page_that_cannot_be_built_or_written_is_a_warning(tiny_dataset, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "write_atomically", fail)
    train(make_cfg(tmp_path / "run", "SOLVER.MAX_EPOCH", 1, "DATASETS.TESTS", "()"))
    assert (tmp_path / "run/model_final.pth").exists() and not (tmp_path / "run/report.html").exists()
    assert "(write page: RuntimeError: it broke badly); training goes on" in caplog.text


def test_without_matplotlib_numbers_remain(tiny_dataset, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    train(make_cfg(tmp_path / "run", "SOLVER.MAX_EPOCH", 1, "DATASETS.TESTS", "()"))
    assert "pip install matplotlib" in caplog.text
    page = (tmp_path / "run/report.html").read_text()
    assert "pip install matplotlib" in page and "<svg" not in page and "Clusters" in page


def test_without_identities_nothing_is_compared(tiny_dataset, tmp_path):
    train(make_cfg(tmp_path / "run", "SOLVER.MAX_EPOCH", 1, "DATASETS.TESTS", "()", "ISE.REPORT.IDENTITIES", False))
    run = read_run(str(tmp_path / "run"))
    assert "labels/ari" not in run.history[0] and "labels/silhouette" in run.history[0]
    page = (tmp_path / "run/report.html").read_text()
    assert (
        "not known: no comparison" in page and "Safest clusters" in page and "clusters of the first labelling" in page
    )


def test_troubles_are_said_once_until_they_have_gone(tmp_path, caplog, monkeypatch):
    report = RunReport(make_cfg(tmp_path))
    (tmp_path / "metrics.json").touch()
    for epoch, found in enumerate([{"a": "trouble a"}, {"a": "trouble a"}, {}, {"a": "trouble a", "b": "trouble b"}]):
        monkeypatch.setattr(module, "find_troubles", lambda run: found)
        report.trainer = SimpleNamespace(epoch=epoch)
        report.after_epoch()
    said = [r.message for r in caplog.records if "trouble" in r.message]
    assert said[0] == "epoch 1: trouble a" and sorted(said[1:]) == ["epoch 4: trouble a", "epoch 4: trouble b"]


@pytest.mark.parametrize("value", ["(0,)", "('last',)", "(1.5,)"])
def test_epochs_to_keep_are_checked(value):
    with pytest.raises(UsageError, match="ISE.REPORT.KEEP_EMBEDDINGS must be epochs from 1"):
        load_cfg(None, ["ISE.REPORT.KEEP_EMBEDDINGS", value])
