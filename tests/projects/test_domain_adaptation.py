"""A labelled source beside an unlabelled target: labels, neighbours and batches by hand, and a few steps from the configs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import REPOSITORY, load_project, train_project

from ise_plugin.errors import UsageError
from ise_plugin.neighbors.exact_search import exact
from ise_plugin.utils.distributed import WholeBatch


@pytest.fixture(scope="module")
def adaptation():
    return load_project("DomainAdaptation/domain_adaptation.py")


def test_source_classes_come_first_and_target_clusters_after_them(adaptation):
    identities = np.array([2, -1, 0, -1, -1, 1, -1, 2])
    labels = np.array([0, 4, -1, -1, 1, 0, 4, 3])  # what a clustering says of source images is passed over
    assert adaptation.unified_labels(identities, labels).tolist() == [2, 4, 0, -1, 3, 1, 4, 2]


@pytest.mark.parametrize(
    "identities, labels, expected",
    [
        ([0, 1, 0], [-1, -1, -1], [0, 1, 0]),  # all labelled: supervised
        ([-1, -1, -1], [1, -1, 0], [1, -1, 0]),  # nothing labelled: as clustered
        ([0, -1, -1], [0, -1, -1], [0, -1, -1]),  # outliers alone
    ],
)
def test_one_domain_alone(adaptation, identities, labels, expected):
    found = adaptation.unified_labels(np.array(identities), np.array(labels))
    assert found.tolist() == expected and found.dtype == np.int64


def test_neighbours_are_those_of_the_own_domain(adaptation):
    features = torch.nn.functional.normalize(torch.randn(20, 6, generator=torch.Generator().manual_seed(0)))
    features[10] = features[3]  # the nearest of all, but of the other domain
    domains = np.arange(20) % 2 == 0
    similarities, indices = adaptation.neighbors_within(exact, features, 4, domains)
    every = (features @ features.t()).numpy()
    every[domains[:, None] != domains] = -np.inf
    assert np.array_equal(indices, np.argsort(-every, axis=1)[:, :4])
    assert np.allclose(similarities, np.sort(every, axis=1)[:, ::-1][:, :4], atol=1e-6)
    with pytest.raises(UsageError, match="a domain has 10 images, fewer than ISE.PSEUDO_LABEL.K1 11"):
        adaptation.neighbors_within(exact, features, 11, domains)


def batches(adaptation, **options):
    """40 images of 5 persons in the source, 40 of 5 clusters and 8 outliers in the target, in turn."""
    labels = np.repeat(np.arange(10), 8)
    labels = np.concatenate([labels, np.full(8, -1)])
    cameras = np.concatenate([np.arange(40) % 2, 2 + np.arange(48) % 2])
    order = np.random.default_rng(0).permutation(88)
    names = ("S/0", "S/1", "T/0", "T/1")
    settings = {"source": ("S",), "num_instances": 4, "batch_size": 16, "num_batches": 30, "seed": 3, **options}
    sampler = adaptation.SourceTargetBatchSampler(labels[order], cameras[order], names, **settings)
    return labels[order], cameras[order], [[index for index, *_ in batch] for batch in sampler]


def test_batches_are_half_source_half_target(adaptation):
    labels, cameras, drawn = batches(adaptation)
    assert len(drawn) == 30
    for batch in drawn:
        assert (cameras[batch[:8]] < 2).all() and (cameras[batch[8:]] >= 2).all()
        groups = labels[batch].reshape(4, 4)
        assert (groups == groups[:, :1]).all() and (groups >= 0).all() and len(set(groups[:, 0])) == 4


def test_outliers_of_the_target_are_drawn_where_a_memory_has_them(adaptation):
    labels, cameras, drawn = batches(adaptation, with_outliers=True)
    source, target = np.array(drawn)[:, :8], np.array(drawn)[:, 8:]
    assert (labels[source] >= 0).all() and (cameras[source] < 2).all() and (cameras[target] >= 2).all()
    assert set(target.ravel()) == set(np.flatnonzero(cameras >= 2))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 12}, "must be a multiple of twice"),
        ({"source": ("S", "T")}, "images of both domains"),
        ({"source": ("U",)}, "images of both domains"),
    ],
)
def test_impossible_batches_are_refused(adaptation, options, message):
    with pytest.raises(UsageError, match=message):
        batches(adaptation, **options)


@pytest.fixture
def two_domains(adaptation, tiny_dataset, tmp_path, monkeypatch):
    """The tiny data set as target, and the same people as source; options of a run that names both."""
    (tmp_path / "data/source").mkdir(parents=True)
    for folder in ("data", "data/source"):
        (tmp_path / folder / "synthetic_persons_tiny").symlink_to(tiny_dataset / "synthetic_persons_tiny")
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "data"))
    monkeypatch.setattr(adaptation.SyntheticSource, "size", "tiny")
    return ["DATASETS.NAMES", "('SyntheticSource', 'SyntheticPersonsTiny')", "DATASETS.TESTS", "()"]


def truth(paths):
    return np.array([int(os.path.basename(path)[:4]) for path in paths])


def test_supervised_training_on_the_source(two_domains, tmp_path):
    options = ["DATASETS.NAMES", "('SyntheticSource',)", "DATASETS.TESTS", "()"]
    trainer = train_project("DomainAdaptation/configs/adapt_source.yml", tmp_path / "run", *options)
    labels, people = trainer.pseudo_labels.labels, truth(trainer.images.paths)
    assert (labels >= 0).all() and len(set(zip(labels, people))) == len(set(labels)) == len(set(people)) == 12


def test_joint_training(two_domains, tmp_path):
    trainer = train_project("DomainAdaptation/configs/synthetic.yml", tmp_path / "run", *two_domains)
    paths, labels = trainer.images.paths, trainer.pseudo_labels.labels
    source = np.array(["/source/" in path for path in paths])
    assert source.sum() == len(paths) / 2 and set(labels[source]) == set(range(12))
    assert len(set(zip(labels[source], truth(paths)[source]))) == 12
    clusters = set(labels[~source]) - {-1}
    assert clusters == set(range(12, 12 + len(clusters))) and clusters
    losses = [value for value, _ in trainer.storage.history("loss_unified").values()]
    assert len(losses) == 4 and np.isfinite(losses).all()
    # the unified memory: classes of the source, clusters of the target, outliers of the target
    memory, first = trainer.step.model.heads.memories["HybridMemory"], torch.tensor([0])
    rows = memory.instances.clone()
    means = memory(rows[:1], WholeBatch(torch.from_numpy(labels[:1]), (1,), first))["class_means"]
    assert len(means) == 12 + len(clusters) + (labels == -1).sum()
    for label in range(12 + len(clusters)):
        assert torch.allclose(means[label], rows[labels == label].mean(0), atol=1e-6)
    for batch in trainer.step.data_loader.batch_sampler:
        assert source[[index for index, *_ in batch]].tolist() == [True] * 8 + [False] * 8


class FakeRuns:
    """Stands for subprocess.run: notes the commands, fails at those that have ``fails`` in them."""

    def __init__(self, fails=None):
        self.commands, self._fails = [], fails

    def __call__(self, command):
        self.commands.append(command)
        output = Path(command[-1])
        output.mkdir(parents=True, exist_ok=True)
        code = 3 if self._fails and self._fails in " ".join(command) else 0
        if code == 0:
            (output / "model_final.pth").touch()
        return subprocess.CompletedProcess(command, code)


def test_one_command_trains_on_the_source_and_then_on_the_target(tmp_path, monkeypatch):
    script, runs = load_project("DomainAdaptation/adapt.py"), FakeRuns()
    monkeypatch.setattr(subprocess, "run", runs)
    assert script.main(["--output", str(tmp_path), "SEED", "5"]) == 0
    source, target = (str(tmp_path / name) for name in ("source", "target"))
    project = REPOSITORY / "projects" / "DomainAdaptation/configs"
    begin = [sys.executable, str(REPOSITORY / "tools/train_net.py"), "--config-file"]
    weights = ["MODEL.WEIGHTS", f"{source}/model_final.pth"]
    assert runs.commands == [
        [*begin, str(project / "adapt_source.yml"), "SEED", "5", "OUTPUT_DIR", source],
        [*begin, str(project / "adapt_target.yml"), "SEED", "5", *weights, "OUTPUT_DIR", target],
    ]


def test_a_failed_source_ends_the_command_and_a_finished_one_is_not_trained_again(tmp_path, monkeypatch):
    script, failing = load_project("DomainAdaptation/adapt.py"), FakeRuns("adapt_source")
    monkeypatch.setattr(subprocess, "run", failing)
    assert script.main(["--output", str(tmp_path)]) == 3 and len(failing.commands) == 1
    (tmp_path / "source/model_final.pth").touch()
    resumed = FakeRuns()
    monkeypatch.setattr(subprocess, "run", resumed)
    assert script.main(["--output", str(tmp_path), "--resume"]) == 0
    (only,) = resumed.commands
    assert "--resume" in only and "adapt_target" in " ".join(only)
