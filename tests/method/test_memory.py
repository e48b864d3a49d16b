"""ClusterMemory against a slow loop, the recordings, and its degenerate cases."""

import pytest
import torch
import torch.nn.functional as F

from ise_plugin.method import ClusterMemory, cluster_centroids


def unit_rows(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def updated_one_by_one(centroids, features, labels, momentum, update):
    """The update rule of the paper, sample after sample, cluster after cluster."""
    result = centroids.clone()
    for label in sorted(set(labels.tolist())):
        members = [i for i, y in enumerate(labels.tolist()) if y == label]
        if update == "hard":
            members = [min(members, key=lambda i: float(features[i] @ centroids[label]))]
        for i in members:
            moved = momentum * result[label] + (1 - momentum) * features[i]
            result[label] = moved / moved.norm()
    return result


def test_the_constants_of_the_released_program_are_the_defaults():
    centroids, features, labels = unit_rows(4, 8), unit_rows(6, 8, seed=1), torch.tensor([0, 0, 2, 2, 2, 3])
    memory = ClusterMemory(centroids)
    memory.update(features, labels)
    assert torch.allclose(memory.centroids, updated_one_by_one(centroids, features, labels, 0.2, "hard"), atol=1e-6)
    assert "centroids" in memory.state_dict()


def test_without_momentum_the_hardest_member_is_the_centroid():
    centroids, features = unit_rows(2, 8), unit_rows(1, 8, seed=1)
    memory = ClusterMemory(centroids, momentum=0.0)
    memory.update(features, torch.tensor([1]))
    assert torch.allclose(memory.centroids, torch.stack([centroids[0], features[0]]), atol=1e-6)


@pytest.mark.parametrize("update", ["hard", "mean"])
@pytest.mark.parametrize(
    "labels",
    [
        [0, 0, 0, 1, 1, 1, 4, 4, 4],  # regular groups
        [3, 1, 3, 0, 3, 1, 3, 3, 0],  # mixed up, of unequal size
        [2],  # one sample
        [2, 2, 2, 2],  # one cluster
        [4, 3, 2, 1, 0],  # singletons only
    ],
)
def test_update_is_the_loop_over_samples(update, labels):
    labels = torch.tensor(labels)
    centroids, features = unit_rows(5, 16), unit_rows(len(labels), 16, seed=1)
    memory = ClusterMemory(centroids, momentum=0.2, update=update)
    memory.update(features, labels)
    expected = updated_one_by_one(centroids, features, labels, 0.2, update)
    assert torch.allclose(memory.centroids, expected, atol=1e-6)
    assert not torch.equal(memory.centroids, centroids)


def test_mean_update_depends_on_the_order_of_the_batch():
    centroids, features, labels = unit_rows(2, 8), unit_rows(4, 8, seed=3), torch.tensor([0, 0, 0, 0])
    forwards, backwards = ClusterMemory(centroids, 0.2, "mean"), ClusterMemory(centroids, 0.2, "mean")
    forwards.update(features, labels)
    backwards.update(features.flip(0), labels)
    assert not torch.allclose(forwards.centroids, backwards.centroids, atol=1e-3)


def test_hard_update_takes_the_first_of_equally_similar_members():
    centroid = torch.tensor([[1.0, 0.0, 0.0]])
    tied = torch.tensor([[0.6, 0.8, 0.0], [0.6, 0.0, 0.8], [0.6, -0.8, 0.0]])
    memory = ClusterMemory(centroid, momentum=0.5, update="hard")
    memory.update(tied, torch.tensor([0, 0, 0]))
    assert torch.allclose(memory.centroids, F.normalize(torch.tensor([[0.8, 0.4, 0.0]]), dim=1), atol=1e-6)


@pytest.mark.parametrize("update", ["hard", "mean"])
def test_untouched_clusters_keep_their_centroid_to_the_bit(update):
    memory = ClusterMemory(unit_rows(6, 8), update=update)
    before = memory.centroids.clone()
    memory.update(unit_rows(3, 8, seed=1), torch.tensor([1, 1, 4]))
    assert torch.equal(memory.centroids[[0, 2, 3, 5]], before[[0, 2, 3, 5]])


@pytest.mark.parametrize("update", ["hard", "mean"])
def test_update_leaves_alone_what_autograd_needs(update):
    memory = ClusterMemory(unit_rows(4, 8), update=update)
    features = unit_rows(4, 8, seed=1).requires_grad_()
    loss = (features @ memory.centroids.t()).pow(2).sum()
    expected = torch.autograd.grad(loss, features, retain_graph=True)[0]
    memory.update(features, torch.tensor([0, 1, 2, 3]))
    assert torch.equal(torch.autograd.grad(loss, features)[0], expected)
    assert not memory.centroids.requires_grad


@pytest.mark.parametrize("update", ["hard", "mean"])
def test_empty_batch_changes_nothing(update):
    memory = ClusterMemory(unit_rows(4, 8), update=update)
    before = memory.centroids.clone()
    memory.update(torch.empty(0, 8), torch.empty(0, dtype=torch.long))
    assert torch.equal(memory.centroids, before)


def test_rows_are_normalised_at_the_start_and_stay_so():
    memory = ClusterMemory(3 * unit_rows(4, 8))
    memory.update(unit_rows(8, 8, seed=1), torch.arange(8) % 4)
    assert torch.allclose(memory.centroids.norm(dim=1), torch.ones(4), atol=1e-6)


def test_state_dict_holds_the_centroids_unless_told_not_to():
    assert list(ClusterMemory(unit_rows(2, 4)).state_dict()) == ["centroids"]
    assert list(ClusterMemory(unit_rows(2, 4), persistent=False).state_dict()) == []


@pytest.mark.parametrize(
    "arguments, word",
    [
        ({"momentum": 1.0}, "momentum"),
        ({"momentum": -0.1}, "momentum"),
        ({"update": "ori"}, "'ori'"),
    ],
)
def test_impossible_arguments_are_named(arguments, word):
    with pytest.raises(ValueError, match=word):
        ClusterMemory(unit_rows(2, 4), **arguments)


@pytest.mark.parametrize("shape", [(4,), (0, 4), (2, 2, 2)])
def test_centroids_of_a_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        ClusterMemory(torch.zeros(shape))


def test_cluster_centroids_are_the_normalised_means():
    features, labels = unit_rows(7, 5), torch.tensor([1, 0, -1, 1, 0, 2, 1])
    expected = [
        F.normalize(torch.stack([f for f, y in zip(features, labels) if y == m]).mean(0), dim=0) for m in range(3)
    ]
    assert torch.allclose(cluster_centroids(features, labels), torch.stack(expected), atol=1e-6)


def test_cluster_centroids_need_a_cluster_and_no_gaps():
    with pytest.raises(ValueError, match="no cluster"):
        cluster_centroids(unit_rows(3, 4), torch.tensor([-1, -1, -1]))
    with pytest.raises(ValueError, match="label 1 has no member"):
        cluster_centroids(unit_rows(3, 4), torch.tensor([0, 2, 0]))
