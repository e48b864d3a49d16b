"""Distances around eps, against the dense matrix; and the map: which images, which points, where."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from clustering.references import random_embeddings

from ise_plugin.clustering import Jaccard, jaccard_distance
from ise_plugin.config import load_cfg
from ise_plugin.engine.labelling import Labelling
from ise_plugin.errors import UsageError
from ise_plugin.method import cluster_centroids, generate_support_samples
from ise_plugin.neighbors import exact
from ise_plugin.report import geometry
from ise_plugin.report.geometry import (
    GROUPS,
    IMAGES_PER_GROUP,
    arrange,
    choose_images,
    distance_histogram,
    map_of,
    placed,
)


def measured(count, dim=16, k1=12, k2=4, eps=0.5):
    """A labelling with distances."""
    features = random_embeddings(count, dim, noise=0.8)
    k1 = min(k1, count - 1)
    distances = Jaccard(k1, k2)(features, exact(features, k1))
    return Labelling(torch.as_tensor(features), np.full(count, -1), None, eps, distances=distances)


def test_counts_are_those_of_the_dense_matrix_when_everything_is_sampled():
    labelling = measured(120)
    identities = np.random.default_rng(0).integers(0, 10, 120).astype(str)
    found = distance_histogram(labelling, identities)
    dense = jaccard_distance(labelling.features, k1=12, k2=4)
    pairs = (dense < 1) & ~np.eye(120, dtype=bool)
    same = identities[:, None] == identities[None]
    for name, where in (("same", pairs & same), ("different", pairs & ~same)):
        expected = np.histogram(dense[where], found["edges"])[0]
        assert np.abs(np.array(found[name]) - expected).sum() <= 4  # rounding moves a pair over the edge of a bin
        assert expected.sum() > 100
    assert found["eps"] == 0.5 and "all" not in found


def test_without_identities_all_pairs_count_together_and_the_sample_is_the_seeds():
    labelling = measured(400, eps=None)
    found = distance_histogram(labelling, None)
    assert set(found) == {"edges", "eps", "all"} and found["eps"] is None
    assert found == distance_histogram(labelling, None)


def test_two_images_are_enough():
    assert sum(distance_histogram(measured(2, 4), None)["all"]) <= 2


def crowd_and_far_groups(far=6, near=GROUPS, images=20):
    """Groups 0..near-1 around one direction, the others each in a direction of their own."""
    generator = torch.Generator().manual_seed(0)
    means = torch.zeros(near + far, 40)
    means[:near, 0] = 1
    means[:near] += 0.1 * torch.randn(near, 40, generator=generator)
    means[near:] = torch.eye(40)[1 : far + 1]
    groups = np.repeat(np.arange(near + far), images)
    noise = 0.02 * torch.randn(len(groups), 40, generator=generator)
    return F.normalize(means[torch.from_numpy(groups)] + noise, dim=1), groups


def test_groups_that_lie_together_are_chosen():
    features, groups = crowd_and_far_groups()
    people = np.array([f"Drawn {g:02d}" for g in groups])
    for labels, identities in ((groups, None), (np.full(len(groups), -1), people)):
        images, of = choose_images(Labelling(features, labels), identities)
        assert set(groups[images]) == set(range(GROUPS)) == set(of)
        assert len(images) == GROUPS * IMAGES_PER_GROUP == len(set(images))
        assert all(len(set(groups[images[of == place]])) == 1 for place in range(GROUPS))


def test_wanted_groups_are_shown_in_their_order_and_unknown_ones_named():
    features, groups = crowd_and_far_groups()
    labelling, people = Labelling(features, groups), np.array([f"Drawn {g}" for g in groups])
    images, of = choose_images(labelling, people, ["Drawn 13", "Drawn 2"])
    assert set(groups[images[of == 0]]) == {13} and set(groups[images[of == 1]]) == {2}
    with pytest.raises(UsageError, match="MAP_IDENTITIES.*'Drawn 99'.*'Drawn 0'"):
        choose_images(labelling, people, ["Drawn 99"])


def test_outliers_are_no_group_and_small_groups_show_nothing():
    features, _ = crowd_and_far_groups(far=0, near=2, images=10)
    labels = np.array([-1] * 10 + [0] * 7 + [1] * 3)
    images, of = choose_images(Labelling(features, labels), None)
    assert images.tolist() == list(range(10, 17)) and set(of) == {0}
    images, of = choose_images(Labelling(features, np.full(20, -1)), None)
    assert len(images) == len(of) == 0


def test_points_are_samples_centroids_and_supports():
    features, groups = crowd_and_far_groups(far=2, near=2, images=5)
    labels = groups.copy()
    labels[3] = -1
    images = np.arange(10)
    points = map_of(Labelling(features, labels), images, groups[images], 2, degree=0.2)
    assert points["kind"] == ["real"] * 10 + ["centroid"] * 2 + ["support"] * 18
    assert points["outlier"] == [i == 3 for i in range(30)]
    assert points["group"] == [0] * 5 + [1] * 5 + [0, 1] + [0] * 8 + [1] * 10
    centroids = cluster_centroids(features, torch.from_numpy(labels))
    kept = np.delete(images, 3)
    supports, _ = generate_support_samples(features[kept], torch.from_numpy(labels[kept]), centroids, 2, 0.2)
    everything = torch.cat([features[:10], centroids[:2], supports])
    expected, found = torch.cdist(everything, everything), torch.cdist(*[torch.tensor(points["vectors"])] * 2)
    assert torch.allclose(found, expected, atol=2e-3)  # principal components of few points keep all distances


def test_without_clusters_or_neighbours_there_are_fewer_kinds():
    features, groups = crowd_and_far_groups(far=0, near=2, images=5)
    none = map_of(Labelling(features, np.full(10, -1)), np.arange(10), groups, 1, 0.2)
    assert set(none["kind"]) == {"real"} and all(none["outlier"])
    one = map_of(Labelling(features, np.zeros(10, np.int64)), np.arange(10), groups, 1, 0.2)
    assert set(one["kind"]) == {"real", "centroid"}
    off = map_of(Labelling(features, groups), np.arange(10), groups, 0, 0.2)
    assert set(off["kind"]) == {"real", "centroid"}


def test_places_are_the_same_every_time_and_neighbours_stay_together():
    features, groups = crowd_and_far_groups(far=4, near=0, images=12)
    vectors = features.tolist()
    places = arrange(vectors)
    assert places.shape == (48, 2) and np.array_equal(places, arrange(vectors))
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (groups[distance.argmin(axis=1)] == groups).mean() > 0.95


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_points_are_placed_without_tsne(count):
    assert arrange(np.eye(count).tolist()).shape == (count, 2)


def test_nothing_gives_no_map():
    assert placed({}) is None and placed({"vectors": []}) is None
    found = placed({"vectors": [[0.0, 1.0]], "kind": ["real"], "degree": 0.1})
    assert found == {"kind": ["real"], "degree": 0.1, "places": [[0.0, 1.0]]}


def test_a_method_whose_package_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(geometry.importlib.util, "find_spec", lambda name: None)
    for method, package in (("umap", "umap"), ("opentsne", "openTSNE")):
        with pytest.raises(UsageError, match=f"MAP_METHOD {method} needs the package {package}"):
            arrange(np.eye(20).tolist(), method)
    with pytest.raises(UsageError, match="MAP_METHOD must be one of.*'pca'"):
        arrange(np.eye(20).tolist(), "pca")


@pytest.mark.parametrize("method", geometry.METHODS)
def test_the_config_lets_every_method_in(method):
    assert load_cfg(None, ["ISE.REPORT.MAP_METHOD", method]).ISE.REPORT.MAP_METHOD == method
