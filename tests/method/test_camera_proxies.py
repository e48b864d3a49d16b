"""Camera proxies against loops over the published equations, in float64, and the cases in which there are few or none."""

import math

import pytest
import torch
import torch.nn.functional as F

from ise_plugin.method import (
    cluster_centroids,
    inter_camera_loss,
    intra_camera_loss,
    number_proxies,
    sample_extension_loss,
)

TEMPERATURE = 0.07
# clusters 0..4 by cameras 0..3: cluster 3 has one camera, cluster 4 one image of a known camera; outliers and unknown cameras
LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 4, -1, -1])
CAMERAS = torch.tensor([0, 0, 1, 3, 2, 1, -1, 0, 1, 2, 3, 1, 1, -1, 2, -1, 0, -1])
PAIRS = [(0, 0), (0, 1), (0, 3), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (2, 3), (3, 1), (4, 2)]


def unit(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, 8, generator=generator, dtype=torch.float64), dim=1)


def batch(labels=LABELS, cameras=CAMERAS):
    """(embeddings of the clustered images, their proxies, the proxies, labels and cameras of these)."""
    pairs, numbers = number_proxies(labels, cameras)
    return unit(len(labels))[labels >= 0].requires_grad_(), numbers[labels >= 0], unit(len(pairs), 1), *pairs.unbind(1)


def slow_intra(features, own, proxies, proxy_cameras):
    by_camera = {}
    for f, j in zip(features, own.tolist()):
        if j < 0:
            continue
        camera = proxy_cameras[j].item()
        rivals = [p for p, c in zip(proxies, proxy_cameras.tolist()) if c == camera]
        total = sum(torch.exp(f @ p / TEMPERATURE) for p in rivals)
        by_camera.setdefault(camera, []).append(-torch.log(torch.exp(f @ proxies[j] / TEMPERATURE) / total))
    return sum(sum(losses) / len(losses) for losses in by_camera.values()) / len(by_camera)


def slow_inter(features, own, proxies, proxy_labels, negatives):
    result = 0.0
    for f, j in zip(features, own.tolist()):
        if j < 0:
            continue
        scores = [torch.exp(f @ p / TEMPERATURE) for p in proxies]
        same = [q for q in range(len(proxies)) if proxy_labels[q] == proxy_labels[j] and q != j]
        other = [scores[q] for q in range(len(proxies)) if proxy_labels[q] != proxy_labels[j]]
        hardest = sorted(other, key=lambda score: score.item(), reverse=True)[:negatives]
        total = sum(scores[q] for q in same) + sum(hardest)
        result += sum(-torch.log(scores[q] / total) for q in same) / max(1, len(same))
    return result / len(features)


def value_and_gradient(loss, features):
    (gradient,) = torch.autograd.grad(loss, features, retain_graph=True)
    return loss.detach(), gradient


def assert_same(actual, expected, features):
    for a, b in zip(value_and_gradient(actual, features), value_and_gradient(expected, features)):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_a_proxy_is_a_cluster_and_a_camera_that_is_known():
    pairs, numbers = number_proxies(LABELS, CAMERAS)
    assert [tuple(pair) for pair in pairs.tolist()] == PAIRS
    known = [(y, c) if y >= 0 and c >= 0 else None for y, c in zip(LABELS.tolist(), CAMERAS.tolist())]
    assert numbers.tolist() == [-1 if pair is None else PAIRS.index(pair) for pair in known]


def test_within_cameras_it_is_the_published_loss():
    features, own, proxies, _, cameras = batch()
    actual = intra_camera_loss(features @ proxies.t() / TEMPERATURE, own, cameras)
    assert_same(actual, slow_intra(features, own, proxies, cameras), features)


@pytest.mark.parametrize("negatives", [1, 3, 50])
def test_across_cameras_it_is_the_published_loss(negatives):
    features, own, proxies, labels, _ = batch()
    actual = inter_camera_loss(features @ proxies.t() / TEMPERATURE, own, labels, negatives)
    assert_same(actual, slow_inter(features, own, proxies, labels, negatives), features)


def test_every_camera_counts_the_same_however_many_images_it_has():
    logits = torch.zeros(5, 3)  # two proxies of camera 0, one of camera 1: an image of it has no rival
    loss = intra_camera_loss(logits, torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 0, 1]))
    assert loss.item() == pytest.approx(math.log(2) / 2)


def test_one_camera_is_cluster_contrast_over_its_proxies():
    labels = LABELS.clamp(min=0)
    features, own, proxies, proxy_labels, cameras = batch(labels, torch.zeros_like(labels))
    logits = features @ proxies.t() / TEMPERATURE
    expected = sample_extension_loss(features, labels, proxies, TEMPERATURE)
    assert_same(intra_camera_loss(logits, own, cameras), expected, features)
    loss, gradient = value_and_gradient(inter_camera_loss(logits, own, proxy_labels), features)
    assert loss == 0 and gradient.abs().max() == 0


def test_one_cluster_has_no_negatives():
    features, own, proxies, labels, cameras = batch(torch.zeros(6, dtype=torch.int64), torch.tensor([0, 0, 1, 1, 2, 2]))
    logits = features @ proxies.t() / TEMPERATURE
    assert intra_camera_loss(logits, own, cameras).item() == pytest.approx(0, abs=1e-12)
    assert_same(inter_camera_loss(logits, own, labels), slow_inter(features, own, proxies, labels, 50), features)


@pytest.mark.parametrize(
    "cameras", [torch.full_like(CAMERAS, -1), CAMERAS], ids=["no proxy at all", "none in the batch"]
)
def test_images_of_unknown_cameras_have_no_loss_and_no_gradient(cameras):
    features, own, proxies, proxy_labels, proxy_cameras = batch(cameras=cameras)
    own, logits = torch.full_like(own, -1), features @ proxies.t() / TEMPERATURE
    for loss in intra_camera_loss(logits, own, proxy_cameras), inter_camera_loss(logits, own, proxy_labels):
        value, gradient = value_and_gradient(loss, features)
        assert value == 0 and torch.equal(gradient, torch.zeros_like(features))


def test_names_of_cameras_do_not_matter():
    names = torch.tensor([2, 3, 0, 1])
    losses = []
    for cameras in CAMERAS, torch.where(CAMERAS < 0, -1, names[CAMERAS]):
        pairs, numbers = number_proxies(LABELS, cameras)
        proxies, own = cluster_centroids(unit(len(LABELS)), numbers), numbers[LABELS >= 0]
        logits = unit(len(LABELS))[LABELS >= 0] @ proxies.t() / TEMPERATURE
        losses.append([intra_camera_loss(logits, own, pairs[:, 1]), inter_camera_loss(logits, own, pairs[:, 0], 3)])
    assert torch.allclose(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-6)
