"""What neighbours are searched by: weights over the epochs, scenes taken out, and what a checkpoint brings back."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ise_plugin.config import get_cfg
from ise_plugin.engine.labelling import extract_embeddings
from ise_plugin.engine.search_vectors import SearchVectors
from ise_plugin.modeling.build import build_model
from ise_plugin.modeling.scenes import without_scenes


def unit(count, dimensions, seed):
    return F.normalize(torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed)), dim=1)


def vectors(cameras=None, **settings):
    cfg = get_cfg()
    cfg.ISE.APPEARANCE.update(settings)
    cfg.ISE.CAMERAS.CENTER = cameras is not None
    return SearchVectors(cfg, cameras)


def seen(made, appearance, scenes=None):
    scenes = torch.zeros(len(appearance), dtype=torch.int64) if scenes is None else scenes
    made.load_state_dict({"appearance": appearance.half(), "scenes": scenes})
    return made


def test_by_default_embeddings_are_searched_as_they_are_and_nothing_is_looked_at():
    made, features = vectors(), unit(5, 4, 0)
    assert made.complete and not made.used and made.state_dict() == {}
    assert made.of(features, 0) is features


@pytest.mark.parametrize("epoch, weight", [(0, 0.9), (1, 0.7), (2, 0.5), (3, 0.3), (4, 0.1), (9, 0.1)])
def test_cosines_are_weighted_means_and_the_weight_falls_with_the_epochs(epoch, weight):
    features, appearance = unit(6, 4, 0), unit(6, 5, 1)
    rows = seen(vectors(WEIGHT=0.9, FINAL_WEIGHT=0.1, EPOCHS=5), appearance).of(features, epoch)
    expected = (1 - weight) * features @ features.T + weight * appearance @ appearance.T
    torch.testing.assert_close(rows @ rows.T, expected, atol=2e-3, rtol=0)


def test_one_epoch_has_the_first_weight():
    features, appearance = unit(6, 4, 0), unit(6, 5, 1)
    rows = seen(vectors(WEIGHT=1.0, EPOCHS=1), appearance).of(features, 0)
    torch.testing.assert_close(rows @ rows.T, appearance @ appearance.T, atol=2e-3, rtol=0)


def test_the_mean_of_a_scene_is_taken_out_of_the_embeddings():
    features, scenes = unit(40, 8, 0), torch.arange(40) % 3
    rows = seen(vectors(SCENES=3), unit(40, 5, 1), scenes).of(features, 0)
    center = features - features.mean(0)
    for row, feature, scene in zip(rows, center, scenes):
        members = torch.stack([f for f, s in zip(center, scenes) if s == scene])
        spread = sum((member - members.mean(0)).norm() ** 2 for member in members) / len(members)
        share = min(1.0, spread / (sum(f.norm() ** 2 for f in center) / 40)) ** 2
        expected = feature - share * members.mean(0)
        torch.testing.assert_close(row, expected / expected.norm())


def test_the_mean_of_a_camera_is_taken_out_and_unknown_cameras_lose_that_of_all():
    features, cameras = unit(60, 8, 0), np.arange(60) % 4 - 1
    made = vectors(cameras)
    rows = made.of(features, 0)
    assert made.complete and not made.used
    center, spread = (features - features.mean(0)).double(), []
    for camera in range(3):
        own = center[cameras == camera]
        spread.append(sum((row - own.mean(0)).norm() ** 2 for row in own) / len(own))
    total = sum(row.norm() ** 2 for row in center) / 60
    for row, feature, camera in zip(rows, center, cameras):
        mean = 0 if camera < 0 else min(1.0, spread[camera] / total) ** 2 * center[cameras == camera].mean(0)
        torch.testing.assert_close(row, F.normalize(feature - mean, dim=0).float())


def test_where_cameras_and_scenes_are_taken_out_scenes_are_for_unknown_cameras():
    features, scenes = unit(90, 8, 0), torch.arange(90) % 3
    cameras = np.where(np.arange(90) < 40, np.arange(90) % 2, -1)
    both = seen(vectors(cameras, SCENES=3), unit(90, 5, 1), scenes).of(features, 0)
    places = torch.where(torch.from_numpy(cameras) >= 0, torch.from_numpy(cameras), 2 + scenes)
    torch.testing.assert_close(both, without_scenes(features, places), rtol=0, atol=0)


@pytest.mark.parametrize("cameras", [np.zeros(40, np.int64), np.full(40, -1), np.arange(40) // 39 - 1])
def test_with_fewer_than_two_known_cameras_nothing_is_taken_out(cameras):
    features = unit(40, 8, 0)
    assert vectors(cameras).of(features, 0) is features


def test_somebody_who_is_a_scene_of_his_own_stays_together():
    """Scene 1 is one person; what its images have in common is that person."""
    features = unit(200, 32, 0)
    features[160:] = F.normalize(features[160:] * 0.4 + features[160], dim=1)
    rows = seen(vectors(SCENES=2), unit(200, 5, 1), (torch.arange(200) >= 160).long()).of(features, 0)
    own, others = rows[160:] @ rows[160:].T, rows[160:] @ rows[:160].T
    assert own.fill_diagonal_(1).min() > others.max()


def test_a_small_scene_has_the_mean_of_all_images():
    features, scenes = unit(30, 8, 0), torch.tensor([0] * 29 + [1])
    rows = seen(vectors(SCENES=2), unit(30, 5, 1), scenes).of(features, 0)
    expected = features[29] - features.mean(0)
    torch.testing.assert_close(rows[29], expected / expected.norm())


def test_images_that_are_all_alike_keep_their_embedding():
    features = unit(1, 8, 0).expand(20, 8)
    rows = seen(vectors(SCENES=1), unit(20, 5, 1)).of(features, 0)
    torch.testing.assert_close(rows, features)


def test_what_was_seen_comes_back_from_a_checkpoint(tiny_cfg):
    tiny_cfg.ISE.APPEARANCE.update({"WEIGHT": 0.5, "SCENES": 2})
    model, first = build_model(tiny_cfg), SearchVectors(tiny_cfg)
    images = torch.rand(130, 3, 64, 32, generator=torch.Generator().manual_seed(0)) * 255
    images[::2, :, :, :8] = 0  # every second one beside a black wall
    assert not first.complete
    embeddings = extract_embeddings(model, first.watched(model, [{"images": images[:70]}, {"images": images[70:]}]))
    assert first.complete and model.training and len(embeddings) == 130
    scenes = first.state_dict()["scenes"]
    assert scenes[0] != scenes[1] and all((scenes[parity::2] == scenes[parity]).all() for parity in (0, 1))
    again, features = SearchVectors(tiny_cfg), unit(130, 4, 2)
    again.load_state_dict(first.state_dict())
    assert again.complete and torch.equal(again.of(features, 1), first.of(features, 1))
