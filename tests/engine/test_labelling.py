"""The hook: labels, memory, loader; and clusterings that cannot be trained on."""

import dataclasses
import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastreid.config import CfgNode
from sklearn.metrics import adjusted_rand_score

import ise_plugin.engine.labelling as module
from ise_plugin.clustering import CameraJaccard, Jaccard, generate_pseudo_labels, jaccard_distance
from ise_plugin.clustering.purity import REACH, estimate_purities
from ise_plugin.engine.labelling import DBSCANPseudoLabelHook, Labelling, extract_embeddings
from ise_plugin.engine.trainer import ISETrainer
from ise_plugin.errors import UsageError
from ise_plugin.method import cluster_centroids, number_proxies
from ise_plugin.neighbors import exact, search_by_camera
from ise_plugin.utils.logs import log_once
from ise_plugin.utils.weights import load_checkpoint_file


@pytest.fixture
def trainer(tiny_cfg):
    tiny_cfg.ISE.HOOKS = ()
    trainer = ISETrainer(tiny_cfg)
    trainer.epoch = trainer.iter = 0
    trainer.storage = FakeStorage()
    return trainer


class FakeStorage:
    def __init__(self):
        self.scalars = {}

    def put_scalars(self, smoothing_hint=True, **scalars):
        self.scalars.update(scalars)


def blobs(n, centers, spread, seed=0):
    g = torch.Generator().manual_seed(seed)
    means = F.normalize(torch.randn(centers, 32, generator=g), dim=1)
    return F.normalize(
        means.repeat_interleave(-(-n // centers), 0)[:n] + spread * torch.randn(n, 32, generator=g), dim=1
    )


def set_up(trainer, **settings):
    """The trainer's labelling hook with other values of ISE.PSEUDO_LABEL."""
    cfg = trainer.cfg.clone()
    cfg.defrost()
    cfg.ISE.PSEUDO_LABEL.update(settings)
    trainer.pseudo_labels = DBSCANPseudoLabelHook(cfg)
    trainer.pseudo_labels.trainer = trainer
    return trainer.pseudo_labels


def give_embeddings(monkeypatch, embeddings):
    monkeypatch.setattr(module, "extract_embeddings", lambda *_: embeddings)


def test_labels_memory_and_loader_come_from_the_embeddings(trainer):
    hook, cfg = trainer.pseudo_labels, trainer.cfg.ISE.PSEUDO_LABEL
    hook.before_epoch()
    features = extract_embeddings(trainer.model, hook._loader.extraction())
    expected = generate_pseudo_labels(features, eps=cfg.EPS, min_samples=cfg.MIN_SAMPLES, k1=cfg.K1, k2=cfg.K2)
    assert np.array_equal(hook.labels, expected)
    centroids = cluster_centroids(features, torch.from_numpy(expected))
    assert torch.allclose(trainer.model.heads.memory.centroids, centroids, atol=1e-6)
    assert trainer.storage.scalars["clusters"] == expected.max() + 1
    hook.before_epoch()  # the extraction above took over the workers
    paths = dict(zip(trainer.images.paths, expected))
    for batch in trainer.data_loader:
        assert [paths[p] for p in batch["img_paths"]] == batch["targets"].tolist()
        assert batch["images"].shape == (16, 3, 64, 32)


def test_extraction_computes_in_float32_and_not_in_tf32_unless_asked(trainer, monkeypatch):
    monkeypatch.setattr(trainer.step, "precision", torch.bfloat16)
    seen = []
    trainer.model.backbone.register_forward_hook(
        lambda m, i, o: seen.append((o.dtype, torch.backends.cudnn.conv.fp32_precision == "ieee"))
    )
    batch = {"images": torch.zeros(2, 3, 64, 32)}
    for mixed in (False, True):
        trainer.pseudo_labels.cfg = cfg = trainer.cfg.clone()
        cfg.defrost()
        cfg.ISE.EXTRACTION.AMP = mixed
        trainer.pseudo_labels._extract([batch])
    assert seen == [(torch.float32, True), (torch.bfloat16, False)]


def test_extraction_leaves_the_model_in_training(trainer):
    trainer.pseudo_labels.before_epoch()
    assert trainer.model.training


@pytest.mark.parametrize(
    "period, relabelled", [(1, [True, True, True]), (2, [True, False, True]), (9, [True, False, False])]
)
def test_period_says_when_to_label_anew(trainer, monkeypatch, period, relabelled):
    calls = []
    hook = set_up(trainer, PERIOD=period)
    n = len(trainer.images)
    monkeypatch.setattr(module, "extract_embeddings", lambda *_: calls.append(trainer.epoch) or blobs(n, 10, 0.05))
    for trainer.epoch in range(3):
        hook.before_epoch()
    assert calls == [epoch for epoch, done in enumerate(relabelled) if done]


@pytest.mark.parametrize("embeddings", ["one cluster", "no cluster"])
def test_first_clustering_that_is_of_no_use_gives_advice(trainer, monkeypatch, embeddings):
    n = len(trainer.images)
    give_embeddings(monkeypatch, blobs(n, 1, 0.001) if embeddings == "one cluster" else blobs(n, n, 0.0))
    if embeddings == "one cluster":
        set_up(trainer, EPS=0.999)
    with pytest.raises(UsageError) as caught:
        trainer.pseudo_labels.before_epoch()
    message = str(caught.value)
    count = 1 if embeddings == "one cluster" else 0
    assert f"found {count} cluster" in message and "outliers" in message and "ISE.PSEUDO_LABEL.EPS" in message
    assert "50%: " in message and "\n" not in message


def test_advice_names_an_eps_that_works(trainer, monkeypatch):
    give_embeddings(monkeypatch, blobs(len(trainer.images), 12, 0.12))
    with pytest.raises(UsageError) as caught:
        set_up(trainer, EPS=0.001).before_epoch()
    set_up(trainer, EPS=float(str(caught.value).split("50%: ")[1].split(",")[0]) + 0.001).before_epoch()
    assert trainer.pseudo_labels.labels.max() >= 1


def test_later_clustering_that_is_of_no_use_keeps_the_last_labels(trainer, monkeypatch, caplog):
    n = len(trainer.images)
    hook = trainer.pseudo_labels
    give_embeddings(monkeypatch, blobs(n, 10, 0.05))
    hook.before_epoch()
    labels = hook.labels.copy()
    later = blobs(n, n, 0.0)
    give_embeddings(monkeypatch, later)
    trainer.epoch = 1
    with caplog.at_level(logging.WARNING, logger="fastreid.ise"):
        hook.before_epoch()
    assert "keeping the last usable labels" in caplog.text
    assert np.array_equal(hook.labels, labels)
    assert torch.allclose(
        trainer.model.heads.memory.centroids, cluster_centroids(later, torch.from_numpy(labels)), atol=1e-6
    )


def test_small_batches_are_announced_once(trainer, monkeypatch, caplog):
    give_embeddings(monkeypatch, blobs(len(trainer.images), 3, 0.05))
    set_up(trainer, EPS=0.9)
    with caplog.at_level(logging.WARNING, logger="fastreid.ise"):
        for trainer.epoch in range(3):
            trainer.pseudo_labels.before_epoch()
    warnings = [r.message for r in caplog.records]
    assert len(warnings) == 1 and "IMS_PER_BATCH 16: batches have 12 images" in warnings[0]
    assert all(len(batch["targets"]) == 12 for batch in trainer.data_loader)


@pytest.mark.parametrize("mode", ["hard", "soft", "off"])
def test_tracks_of_the_images_are_constraints_of_the_labels(trainer, monkeypatch, mode):
    n = len(trainer.images)
    tracks, times = np.repeat(np.arange(n), 2)[:n], np.zeros(n)  # all seen by camera 0 at once
    known = {"cameras": np.zeros(n, np.int64), "tracks": tracks, "times": times, "track_names": tuple(map(str, tracks))}
    trainer.images = dataclasses.replace(trainer.images, **known)
    hook = set_up(trainer)
    hook.cfg.ISE.TRACKS.MODE, hook.cfg.ISE.TRACKS.WEIGHT = mode, 0.05
    give_embeddings(monkeypatch, blobs(n, 8, 0.02))
    labelling = hook.label()
    if mode == "off":
        assert labelling.constraints is None
        return
    assert labelling.constraints.weight == (1 if mode == "hard" else 0.05)
    assert len(labelling.constraints.apart) == n // 2 * (n // 2 - 1) // 2
    assert (labelling.constraints.violated(labelling.labels) == 0) == (mode == "hard")


def test_too_few_images_for_the_neighbours_asked_for(trainer, monkeypatch):
    give_embeddings(monkeypatch, blobs(8, 2, 0.05))
    with pytest.raises(UsageError, match="8 training images.* 10"):
        trainer.pseudo_labels.before_epoch()


@pytest.mark.parametrize(
    "key, name, known",
    [("CLUSTERER", "KMean", "DBSCAN"), ("SEARCH", "nearest", "exact"), ("DISTANCE", "jacard", "Jaccard")],
)
def test_unknown_components_are_named_before_anything_is_trained(trainer, key, name, known):
    with pytest.raises(UsageError, match=f"{key}.*{name}.*{known}"):
        set_up(trainer, **{key: name})


@pytest.mark.parametrize("distance", ["Jaccard", "Cosine", "Euclidean"])
@pytest.mark.parametrize("clusterer", ["HDBSCAN", "Agglomerative", "KMeans", "SelfPacedDBSCAN"])
def test_every_clusterer_labels_with_every_distance(trainer, monkeypatch, caplog, clusterer, distance):
    n = len(trainer.images)
    give_embeddings(monkeypatch, blobs(n, 8, 0.02))
    hook = set_up(trainer, CLUSTERER=clusterer, DISTANCE=distance, KMEANS=CfgNode({"NUM_CLUSTERS": 8}))
    with caplog.at_level(logging.INFO, logger="fastreid.ise"):
        labelling = hook.label()
    assert adjusted_rand_score(np.repeat(np.arange(8), -(-n // 8))[:n], labelling.labels) > 0.5
    assert labelling.labels.dtype == np.int64 and labelling.purities.shape == (labelling.clusters,)
    has_eps = clusterer in ("Agglomerative", "SelfPacedDBSCAN")
    assert labelling.eps == (trainer.cfg.ISE.PSEUDO_LABEL.EPS if has_eps else None)
    summary = getattr(hook._clusterer, "summary_", None)
    assert (summary is None) == (clusterer == "Agglomerative") and (summary or "") in caplog.text


def test_more_clusters_than_images_and_no_clusters_without_eps_are_one_line(trainer, monkeypatch):
    n = len(trainer.images)
    give_embeddings(monkeypatch, blobs(n, n, 0.0))
    with pytest.raises(UsageError, match=rf"{n} training images cannot be clustered: .* 500 clusters of {n} images"):
        set_up(trainer, CLUSTERER="KMeans").before_epoch()
    with pytest.raises(UsageError, match="found 1 cluster.*Set ISE.PSEUDO_LABEL.CLUSTERER or its keys") as caught:
        set_up(trainer, CLUSTERER="KMeans", KMEANS=CfgNode({"NUM_CLUSTERS": 1})).before_epoch()
    assert "EPS" not in str(caught.value)


def test_the_state_of_a_clusterer_is_resumed(trainer, monkeypatch, tmp_path):
    give_embeddings(monkeypatch, blobs(len(trainer.images), 10, 0.3))
    hook = set_up(trainer, CLUSTERER="SelfPacedDBSCAN", EPS=0.6)
    hook.before_epoch()
    bound = hook._clusterer.state_dict()
    assert 0 < bound["alpha"] <= 1 and hook.state_dict()["clusterer"] == bound
    resumed = set_up(trainer, CLUSTERER="SelfPacedDBSCAN", EPS=0.6)
    torch.save(hook.state_dict(), tmp_path / "state.pth")
    resumed.load_state_dict(load_checkpoint_file(str(tmp_path / "state.pth")))
    assert resumed._clusterer.state_dict() == bound
    plain = set_up(trainer)  # with a clusterer that keeps nothing
    plain.load_state_dict(hook.state_dict())
    assert "clusterer" not in plain.state_dict()


def test_a_labelling_carries_what_was_computed_for_it(trainer, monkeypatch):
    features = blobs(len(trainer.images), 10, 0.05)
    give_embeddings(monkeypatch, features)
    labelling, cfg = trainer.pseudo_labels.label(), trainer.cfg.ISE.PSEUDO_LABEL
    assert labelling.features is features and labelling.previous is None and labelling.eps == cfg.EPS
    similarities, indices = labelling.neighbors
    order = np.argsort(-(features @ features.T).numpy(), axis=1)[:, : cfg.K1]
    assert (indices[:, 0] == np.arange(len(features))).all() and similarities.shape == (len(features), cfg.K1)
    assert np.mean(np.sort(indices) == np.sort(order)) > 0.99
    near = np.nonzero(jaccard_distance(features, cfg.K1, cfg.K2) <= cfg.EPS)
    assert np.array_equal(labelling.graph.tocoo().coords, near)
    assert torch.equal(labelling.centroids, cluster_centroids(features, torch.from_numpy(labelling.labels)))
    own = (features @ labelling.centroids.T).numpy()
    assert np.allclose(labelling.similarities.own, own[np.arange(len(own)), labelling.labels], atol=1e-6)
    assert labelling.similarities is labelling.similarities


def test_a_hook_of_ones_own_assigns_the_labels_and_the_rest_follows(trainer, monkeypatch):
    class Halves(DBSCANPseudoLabelHook):
        def assign(self, features, parts):
            self.given = features, set(parts)
            return np.arange(len(features)) % 2

    hook = trainer.pseudo_labels = Halves(trainer.cfg)
    hook.trainer = trainer
    embeddings = blobs(len(trainer.images), 12, 0.05)
    give_embeddings(monkeypatch, embeddings)
    told = []
    trainer.tell = lambda event, labelling: told.append(labelling)
    hook.before_epoch()
    halves = torch.arange(len(trainer.images)) % 2
    assert hook.given[0] is embeddings and hook.given[1] == {"neighbors", "distances"}
    assert hook.labels.tolist() == halves.tolist()
    torch.testing.assert_close(trainer.model.heads.memory.centroids, cluster_centroids(embeddings, halves))
    assert told[0].graph is None and told[0].eps is None and ((told[0].purities > 0) & (told[0].purities < 1)).all()


def test_a_distance_that_wants_cameras_is_given_them_and_finds_its_neighbours(trainer, monkeypatch):
    features = blobs(len(trainer.images), 10, 0.05)
    give_embeddings(monkeypatch, features)
    hook, cameras = set_up(trainer, DISTANCE="CameraJaccard"), trainer.images.cameras
    assert len(set(cameras)) > 1
    labelling, distance = hook.label(), CameraJaccard()
    expected = distance(features, distance.find_neighbors(exact, features, cameras), cameras)
    assert (labelling.distances.weights != expected.weights).nnz == 0
    assert np.array_equal(labelling.neighbors[1], search_by_camera(exact, features, cameras, 5, 20)[1])


def test_purities_are_estimated_from_the_distances_however_the_labels_were_made(monkeypatch):
    features, labels = blobs(60, 6, 0.05), np.repeat(np.arange(6), 10)
    neighbors = exact(features, 30)
    distances = Jaccard(30, 6)(features, neighbors)
    expected = estimate_purities(labels, distances.within(REACH))
    assert np.array_equal(Labelling(features, labels, distances=distances).purities, expected)
    assert np.allclose(Labelling(features, labels).purities, expected)  # by a hook of one's own, that clusters nothing
    monkeypatch.setattr(module, "_MOST_FOR_ALL_PAIRS", 59)
    large = Labelling(features, labels, graph=distances.within(0.3), distances=distances)
    assert np.array_equal(large.purities, estimate_purities(labels, large.graph))
    few = Labelling(features[:4], np.array([0, 0, 1, 1]))
    assert few.purities.shape == (2,)


def test_a_labelling_without_clusters_has_no_centroids():
    labelling = Labelling(blobs(4, 4, 0.0), np.full(4, -1))
    assert (labelling.clusters, labelling.outliers, labelling.centroids.shape) == (0, 4, (0, 32))


def test_embeddings_stay_on_the_device_they_were_made_on():
    class Somewhere(torch.nn.Module):
        def forward(self, batch):
            return torch.empty(batch, 8, device="meta")

    assert extract_embeddings(Somewhere(), [3, 2]).device.type == "meta"


@pytest.fixture
def proxy_trainer(tiny_cfg):
    tiny_cfg.ISE.HOOKS, tiny_cfg.MODEL.LOSSES.NAME = (), ("ISELoss", "CameraProxyLoss")
    trainer = ISETrainer(tiny_cfg)
    trainer.epoch = trainer.iter = 0
    trainer.storage = FakeStorage()
    return trainer


def test_camera_proxies_are_the_means_of_clusters_and_cameras(proxy_trainer, monkeypatch):
    features = blobs(len(proxy_trainer.images), 10, 0.05)
    give_embeddings(monkeypatch, features)
    proxy_trainer.pseudo_labels.before_epoch()
    labels, memory = proxy_trainer.pseudo_labels.labels, proxy_trainer.model.heads.memories["CameraProxyMemory"]
    seen = {(y, c) for y, c in zip(labels.tolist(), proxy_trainer.images.cameras.tolist()) if y >= 0}
    assert [tuple(pair) for pair in memory.pairs.tolist()] == sorted(seen)
    for (label, camera), proxy in zip(sorted(seen), memory.proxies):
        members = torch.from_numpy((labels == label) & (proxy_trainer.images.cameras == camera))
        assert torch.allclose(proxy, F.normalize(features[members].mean(0), dim=0), atol=1e-6)


def test_without_known_cameras_there_are_no_proxies_and_it_is_said(proxy_trainer, monkeypatch, caplog):
    unknown = np.full(len(proxy_trainer.images), -1)
    proxy_trainer.images = dataclasses.replace(proxy_trainer.images, cameras=unknown)
    give_embeddings(monkeypatch, blobs(len(unknown), 10, 0.05))
    log_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="fastreid.ise"):
        proxy_trainer.pseudo_labels.before_epoch()
    assert "no clustered image has a known camera" in caplog.text
    assert proxy_trainer.model.heads.memories["CameraProxyMemory"].proxies.shape == (0, 32)


def test_camera_proxies_of_other_cameras_are_not_taken_from_a_checkpoint(proxy_trainer, monkeypatch):
    hook, count = proxy_trainer.pseudo_labels, len(proxy_trainer.images)
    give_embeddings(monkeypatch, blobs(count, 10, 0.05))
    hook.before_epoch()
    state = hook.state_dict()
    pairs, _ = number_proxies(state["labels"], torch.from_numpy(proxy_trainer.images.cameras))
    assert torch.equal(state["memories"]["CameraProxyMemory"]["pairs"], pairs)
    proxy_trainer.images = dataclasses.replace(proxy_trainer.images, cameras=np.zeros(count, np.int64))
    resumed = set_up(proxy_trainer, PERIOD=2)
    proxy_trainer.epoch = 1
    resumed.load_state_dict(state)
    with pytest.raises(UsageError, match="camera proxies.*resume with"):
        resumed.before_epoch()
