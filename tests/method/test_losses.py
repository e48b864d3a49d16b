"""Both losses against loops over samples and clusters, and by gradcheck."""

import math

import pytest
import torch
import torch.nn.functional as F

from ise_plugin.method import label_preserving_loss, sample_extension_loss


def unit_rows(*shape, seed=0, dtype=torch.float64):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=-1)


def sample_extension_one_by_one(features, labels, centroids, temperature):
    total = 0.0
    for feature, label in zip(features, labels.tolist()):
        scores = [math.exp(float(feature @ c) / temperature) for c in centroids]
        total -= math.log(scores[label] / sum(scores))
    return total / len(features)


def label_preserving_one_by_one(features, supports, labels, support_labels, temperature):
    total = 0.0
    for feature, label in zip(features, labels.tolist()):
        scores = {}
        for support, support_label in zip(supports, support_labels.tolist()):
            scores.setdefault(support_label, []).append(math.exp(float(feature @ support) / temperature))
        positive = min(scores[label])
        negative = sum(max(values) for other, values in scores.items() if other != label)
        total -= math.log(positive / (positive + negative + 1e-6) + 1e-6)
    return total / len(features)


BATCHES = {
    "regular": ([0, 0, 0, 1, 1, 1, 2, 2, 2], 1),
    "two supports each": ([0, 0, 3, 3], 2),
    "a cluster drawn twice": ([5, 5, 1, 1, 5, 5, 2, 2], 1),
    "a short group": ([4, 4, 4, 0, 6, 6], 1),
    "one cluster": ([3, 3, 3], 1),
    "one sample": ([2], 3),
}


@pytest.mark.parametrize("labels, num_supports", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("temperature", [0.1, 0.6])
def test_label_preserving_loss_is_the_loop(labels, num_supports, temperature):
    labels = torch.tensor(labels)
    features, supports = unit_rows(len(labels), 10), unit_rows(len(labels) * num_supports, 10, seed=1)
    arguments = features, supports, labels, labels.repeat_interleave(num_supports), temperature
    assert float(label_preserving_loss(*arguments)) == pytest.approx(label_preserving_one_by_one(*arguments), rel=1e-9)


def test_label_preserving_loss_with_tied_supports_is_the_loop():
    labels = torch.tensor([0, 0, 1, 1])
    features, supports = unit_rows(4, 6), unit_rows(1, 6, seed=1).expand(4, 6)
    arguments = features, supports, labels, labels, 0.6
    assert float(label_preserving_loss(*arguments)) == pytest.approx(label_preserving_one_by_one(*arguments), rel=1e-9)


def test_supports_of_clusters_that_no_sample_has_count_as_negatives():
    features, supports = unit_rows(2, 6), unit_rows(4, 6, seed=1)
    arguments = features, supports, torch.tensor([0, 0]), torch.tensor([0, 0, 7, 8]), 0.6
    assert float(label_preserving_loss(*arguments)) == pytest.approx(label_preserving_one_by_one(*arguments), rel=1e-9)


@pytest.mark.parametrize("labels, num_supports", BATCHES.values(), ids=BATCHES.keys())
def test_label_preserving_gradient(labels, num_supports):
    labels = torch.tensor(labels)
    features = unit_rows(len(labels), 5).requires_grad_()
    supports = unit_rows(len(labels) * num_supports, 5, seed=1).requires_grad_()
    support_labels = labels.repeat_interleave(num_supports)
    assert torch.autograd.gradcheck(
        lambda f, s: label_preserving_loss(f, s, labels, support_labels), (features, supports)
    )


@pytest.mark.parametrize("labels", [[0, 0, 1, 4], [2], [3, 3, 3]])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_sample_extension_loss_is_the_loop(labels, temperature):
    labels = torch.tensor(labels)
    features, centroids = unit_rows(len(labels), 10), unit_rows(5, 10, seed=1)
    expected = sample_extension_one_by_one(features, labels, centroids, temperature)
    assert float(sample_extension_loss(features, labels, centroids, temperature)) == pytest.approx(expected, rel=1e-9)


def test_sample_extension_gradient_goes_into_features_alone():
    labels = torch.tensor([0, 1, 1])
    features, centroids = unit_rows(3, 5).requires_grad_(), unit_rows(4, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: sample_extension_loss(f, labels, centroids), (features,))
    sample_extension_loss(features, labels, centroids).backward()
    assert centroids.grad is None


def test_one_centroid_leaves_nothing_to_tell_apart():
    assert float(sample_extension_loss(unit_rows(3, 5), torch.zeros(3, dtype=torch.long), unit_rows(1, 5))) == 0.0


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperature_must_be_positive(temperature):
    features, labels = unit_rows(2, 4), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="temperature"):
        sample_extension_loss(features, labels, features, temperature)
    with pytest.raises(ValueError, match="temperature"):
        label_preserving_loss(features, features, labels, labels, temperature)


def test_label_preserving_loss_needs_support_samples():
    with pytest.raises(ValueError, match="supports"):
        label_preserving_loss(
            unit_rows(2, 4), unit_rows(2, 4)[:0], torch.tensor([0, 1]), torch.tensor([], dtype=torch.long)
        )


def test_the_temperatures_of_the_paper_are_the_defaults():
    features, others, labels = unit_rows(4, 6), unit_rows(4, 6, seed=1), torch.tensor([0, 0, 1, 1])
    expected = sample_extension_one_by_one(features, labels, others, 0.05)
    assert float(sample_extension_loss(features, labels, others)) == pytest.approx(expected, rel=1e-9)
    expected = label_preserving_one_by_one(features, others, labels, labels, 0.6)
    assert float(label_preserving_loss(features, others, labels, labels)) == pytest.approx(expected, rel=1e-9)
