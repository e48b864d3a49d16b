"""Memories of images against loops over the published equations, and the cases in which there is little to remember."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ise_plugin.errors import UsageError
from ise_plugin.method import cluster_centroids, number_proxies
from ise_plugin.modeling import CameraProxyMemory, InstanceMemory
from ise_plugin.utils.distributed import WholeBatch

LABELS = torch.tensor([0, 0, 0, 1, 1, -1, 2, 2])
IMAGES = SimpleNamespace(cameras=np.array([0, 1, 1, 0, -1, 0, 2, 2]))
INDICES = torch.tensor([2, 7, 5, 2, 4, 0, 2])  # one image three times, an outlier, one of unknown camera


def unit(count, seed=0):
    return F.normalize(torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)), dim=1)


def filled(memory):
    memory.fill(unit(8), LABELS, IMAGES)
    return memory


def moved_one_by_one(rows, features, numbers, momentum):
    rows = rows.clone()
    for f, i in zip(features, numbers):
        if i >= 0:
            v = momentum * rows[i] + (1 - momentum) * f
            rows[i] = v / v.norm()
    return rows


def batch(indices=INDICES):
    return WholeBatch(LABELS[indices], (len(indices),), indices)


def test_an_instance_memory_has_a_row_for_every_image_moved_by_the_batch_in_its_order():
    memory, features = filled(InstanceMemory(0.3)), unit(7, 1).requires_grad_()
    outputs = memory(features, batch())
    assert torch.equal(outputs["instances"], unit(8)) and torch.equal(outputs["indices"], INDICES)
    expected = moved_one_by_one(unit(8), features.detach(), INDICES.tolist(), 0.3)
    assert torch.allclose(memory.instances, expected, atol=1e-6) and not memory.instances.requires_grad
    (features @ outputs["instances"].t()).sum().backward()  # the rows of before are as they were


def test_camera_proxies_are_means_moved_by_every_member_of_the_batch_in_turn():
    memory, features = filled(CameraProxyMemory(0.3)), unit(7, 1)
    pairs, own = number_proxies(LABELS, torch.from_numpy(IMAGES.cameras))
    proxies = cluster_centroids(unit(8), own)
    outputs = memory(features, batch())
    assert torch.equal(outputs["proxies"], proxies) and torch.equal(outputs["proxy_pairs"], pairs)
    assert outputs["own_proxies"].tolist() == own[INDICES].tolist() and -1 in own[INDICES]
    expected = moved_one_by_one(proxies, features, own[INDICES].tolist(), 0.3)
    assert torch.allclose(memory.proxies, expected, atol=1e-6)


def test_without_known_cameras_there_are_no_proxies_and_it_stays_so():
    memory = CameraProxyMemory()
    memory.fill(unit(8), LABELS, SimpleNamespace(cameras=np.full(8, -1)))
    outputs = memory(unit(7), batch())
    assert outputs["proxies"].shape == memory.proxies.shape == (0, 6) and set(outputs["own_proxies"].tolist()) == {-1}


@pytest.mark.parametrize("kind", [InstanceMemory, CameraProxyMemory])
def test_a_restored_memory_goes_on_as_it_would_have(kind):
    memory, restored = filled(kind(0.3)), kind(0.3)
    memory(unit(7, 1), batch())
    restored.restore({name: tensor.clone() for name, tensor in memory.kept().items()}, LABELS, IMAGES)
    ends = [each(unit(7, 2), batch()) for each in (memory, restored)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert all(torch.equal(memory.kept()[name], restored.kept()[name]) for name in memory.kept())
    assert not memory.state_dict()  # a model's own state does not change its size


def test_a_memory_of_other_images_is_refused():
    kept = filled(InstanceMemory()).kept()
    with pytest.raises(UsageError, match="of 8 images and there are 5"):
        InstanceMemory().restore(kept, LABELS[:5], IMAGES)
    kept = filled(CameraProxyMemory()).kept()
    with pytest.raises(UsageError, match="camera proxies are not those of these images"):
        CameraProxyMemory().restore(kept, LABELS, SimpleNamespace(cameras=np.zeros(8, np.int64)))


@pytest.mark.parametrize("kind", [InstanceMemory, CameraProxyMemory])
def test_a_batch_that_does_not_say_which_images_it_has_is_refused(kind):
    with pytest.raises(RuntimeError, match="needs the batch's indices"):
        filled(kind())(unit(8), WholeBatch(LABELS, (8,)))
