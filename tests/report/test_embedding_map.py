"""The map: which images, which points, where."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ise_plugin.config import load_cfg
from ise_plugin.errors import UsageError
from ise_plugin.method import cluster_centroids, generate_support_samples
from ise_plugin.report import embedding_map
from ise_plugin.report.embedding_map import GROUPS, IMAGES_PER_GROUP, arrange, choose_images, map_of, placed


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
    images, names = choose_images(features, groups)
    assert sorted(map(int, names)) == list(range(GROUPS))
    assert len(images) == GROUPS * IMAGES_PER_GROUP == len(set(images))
    assert [str(g) for g in groups[images][::IMAGES_PER_GROUP]] == names


def test_wanted_groups_are_shown_in_their_order_and_unknown_ones_named():
    features, groups = crowd_and_far_groups()
    people = np.array([f"Drawn {g}" for g in groups])
    images, names = choose_images(features, people, ["Drawn 13", "Drawn 2"])
    assert names == ["Drawn 13", "Drawn 2"] and set(groups[images[:IMAGES_PER_GROUP]]) == {13}
    with pytest.raises(UsageError, match="MAP_IDENTITIES.*'Drawn 99'.*'Drawn 0'"):
        choose_images(features, people, ["Drawn 99"])


def test_outliers_are_no_group_and_small_groups_show_nothing():
    features, _ = crowd_and_far_groups(far=0, near=2, images=10)
    labels = np.array([-1] * 10 + [0] * 7 + [1] * 3)
    images, names = choose_images(features, labels)
    assert names == ["0"] and len(images) == 7
    images, names = choose_images(features, np.full(20, -1))
    assert len(images) == 0 and names == []


def test_points_are_samples_centroids_and_supports():
    features, groups = crowd_and_far_groups(far=2, near=2, images=5)
    labels = groups.copy()
    labels[3] = -1
    images = np.arange(10)
    points = map_of(features, labels, images, groups[images], 2, degree=0.2)
    kinds = np.array(points["kind"])
    assert kinds.tolist() == ["real"] * 10 + ["centroid"] * 2 + ["support"] * 18
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
    none = map_of(features, np.full(10, -1), np.arange(10), groups, 1, 0.2)
    assert set(none["kind"]) == {"real"} and all(none["outlier"])
    one = map_of(features, np.zeros(10, np.int64), np.arange(10), groups, 1, 0.2)
    assert set(one["kind"]) == {"real", "centroid"}
    off = map_of(features, groups, np.arange(10), groups, 0, 0.2)
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
    monkeypatch.setattr(embedding_map.importlib.util, "find_spec", lambda name: None)
    for method, package in (("umap", "umap"), ("opentsne", "openTSNE")):
        with pytest.raises(UsageError, match=f"MAP_METHOD {method} needs the package {package}"):
            arrange(np.eye(20).tolist(), method)
    with pytest.raises(UsageError, match="MAP_METHOD must be one of.*'pca'"):
        arrange(np.eye(20).tolist(), "pca")


@pytest.mark.parametrize("method", embedding_map.METHODS)
def test_the_config_lets_every_method_in(method):
    assert load_cfg(None, ["ISE.REPORT.MAP_METHOD", method]).ISE.REPORT.MAP_METHOD == method
