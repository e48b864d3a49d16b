"""Support samples and the progressive degree against loops and by gradcheck."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ise_plugin.method import DEGREE_SCHEDULES, generate_support_samples, progressive_degree


def unit_rows(*shape, seed=0, dtype=torch.float32):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=-1)


def supports_one_by_one(features, labels, centroids, num_neighbors, degree):
    supports, support_labels = [], []
    for feature, label in zip(features, labels.tolist()):
        others = [m for m in range(len(centroids)) if m != label]
        others.sort(key=lambda m: -float(feature @ centroids[m]))
        for neighbor in others[:num_neighbors]:
            extended = feature + degree * (centroids[neighbor] - centroids[label])
            supports.append(extended / extended.norm())
            support_labels.append(label)
    return torch.stack(supports), torch.tensor(support_labels)


@pytest.mark.parametrize("num_neighbors", [1, 3, 6])
@pytest.mark.parametrize("degree", [0.0, 0.1, 0.25, 1.0])
def test_supports_are_the_loop_over_samples_and_neighbors(num_neighbors, degree):
    features, centroids, labels = unit_rows(9, 12), unit_rows(7, 12, seed=1), torch.tensor([0, 0, 6, 6, 2, 3, 3, 0, 5])
    supports, support_labels = generate_support_samples(features, labels, centroids, num_neighbors, degree)
    expected, expected_labels = supports_one_by_one(features, labels, centroids, num_neighbors, degree)
    assert torch.allclose(supports, expected, atol=1e-6)
    assert torch.equal(support_labels, expected_labels)


def test_the_constants_of_the_paper_are_the_defaults():
    features, centroids, labels = unit_rows(3, 8), unit_rows(5, 8, seed=1), torch.tensor([0, 1, 4])
    supports, support_labels = generate_support_samples(features, labels, centroids)
    expected, expected_labels = supports_one_by_one(features, labels, centroids, 1, 0.25)
    assert torch.allclose(supports, expected, atol=1e-6) and torch.equal(support_labels, expected_labels)
    assert progressive_degree(1.0) == pytest.approx(0.25, abs=1e-12)


def test_own_centroid_is_never_a_neighbor_even_when_it_is_the_nearest():
    centroids = torch.eye(3)
    supports, _ = generate_support_samples(centroids[:1], torch.tensor([0]), centroids, 2, degree=0.5)
    # towards both others, away from its own
    assert torch.all(supports[:, 0] < 1) and torch.allclose(supports[:, 1] + supports[:, 2], supports[:, 1:].amax(1))


def test_gradient_flows_through_features_and_not_through_centroids():
    features = unit_rows(4, 6, dtype=torch.float64).requires_grad_()
    centroids, labels = unit_rows(5, 6, seed=1, dtype=torch.float64).requires_grad_(), torch.tensor([0, 1, 1, 4])
    assert torch.autograd.gradcheck(lambda f: generate_support_samples(f, labels, centroids, 2, 0.2)[0], (features,))
    generate_support_samples(features, labels, centroids, 2, 0.2)[0].sum().backward()
    assert centroids.grad is None and features.grad.abs().sum() > 0


@pytest.mark.parametrize("num_neighbors", [0, -1, 5, 6])
def test_impossible_numbers_of_neighbors_are_named(num_neighbors):
    with pytest.raises(ValueError, match=f"not {num_neighbors}$"):
        generate_support_samples(unit_rows(2, 4), torch.tensor([0, 1]), unit_rows(5, 4), num_neighbors)


@pytest.mark.parametrize("base", [0.25, 1.0])
def test_degree_runs_from_zero_to_base(base):
    assert progressive_degree(0.0, base) == 0.0
    assert progressive_degree(1.0, base) == pytest.approx(base, abs=1e-12)
    assert progressive_degree(0.3, base) == pytest.approx(base * math.log((math.e - 1) * 0.3 + 1), abs=1e-12)


def test_schedules_meet_at_the_end_of_training():
    by_name = lambda progress: {name: degree(progress, 0.4) for name, degree in DEGREE_SCHEDULES.items()}
    assert by_name(0.0) == {"progressive": 0.0, "constant": 0.4}
    assert by_name(1.0) == pytest.approx({"progressive": 0.4, "constant": 0.4}, abs=1e-12)


def test_degree_keeps_the_type_and_shape_it_was_given():
    progress = np.linspace(0, 1, 6).reshape(2, 3)
    as_array, as_tensor = progressive_degree(progress), progressive_degree(torch.from_numpy(progress))
    assert isinstance(progressive_degree(0.5), float) and isinstance(progressive_degree(0), float)
    assert as_array.shape == (2, 3) and np.all(np.diff(as_array.ravel()) > 0)
    assert isinstance(as_tensor, torch.Tensor) and np.allclose(as_tensor.numpy(), as_array)


@pytest.mark.parametrize(
    "progress", [-0.1, 1.1, float("nan"), np.array([0.5, 2.0]), torch.tensor([-1.0]), torch.tensor([0.5, 1.5])]
)
def test_progress_outside_of_training_is_refused(progress):
    with pytest.raises(ValueError, match="progress"):
        progressive_degree(progress)
