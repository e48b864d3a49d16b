"""One step of the method against the recordings of the released program (tests/data/conformance)."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import RECORDINGS

from ise_plugin.method import (
    ClusterMemory,
    generate_support_samples,
    label_preserving_loss,
    progressive_degree,
    sample_extension_loss,
)

ABSOLUTE, RELATIVE = 1e-5, 1e-5


@pytest.fixture(params=sorted(p.name for p in RECORDINGS.glob("head_*.npz")))
def recording(request):
    with np.load(RECORDINGS / request.param) as file:
        return {key: torch.from_numpy(file[key]) if file[key].ndim else file[key].item() for key in file}


def one_step(r):
    embeddings = r["embeddings"].clone().requires_grad_()
    features = F.normalize(embeddings, dim=1)
    memory = ClusterMemory(r["centroids"], r["momentum"], r["update"])
    supports, support_labels = generate_support_samples(
        features, r["labels"], memory.centroids, r["num_neighbors"], r["degree"]
    )
    everything, labels = torch.cat([features, supports]), torch.cat([r["labels"], support_labels])
    loss_se = sample_extension_loss(everything, labels, memory.centroids, r["temperature"])
    loss_lp = label_preserving_loss(features, supports, r["labels"], support_labels, r["lp_temperature"])
    memory.update(everything, labels)
    (loss_se + r["lp_weight"] * loss_lp).backward()
    return supports, support_labels, loss_se, loss_lp, embeddings.grad, memory.centroids


def test_step_is_the_released_programs(recording):
    supports, support_labels, loss_se, loss_lp, gradient, centroids = one_step(recording)
    assert torch.allclose(supports, recording["expected_supports"], rtol=0, atol=ABSOLUTE)
    assert torch.equal(support_labels, recording["expected_support_labels"])
    assert loss_se.item() == pytest.approx(recording["expected_loss_se"], rel=RELATIVE)
    assert loss_lp.item() == pytest.approx(recording["expected_loss_lp"], rel=RELATIVE)
    assert torch.allclose(gradient, recording["expected_gradient"], rtol=0, atol=ABSOLUTE)
    assert torch.allclose(centroids, recording["expected_centroids"], rtol=0, atol=ABSOLUTE)


def test_all_recordings_are_there():
    assert len(list(RECORDINGS.glob("head_*.npz"))) == 3 and len(list(RECORDINGS.glob("jaccard_*.npz"))) == 2


def test_degree_schedule_is_the_released_programs():
    with np.load(RECORDINGS / "degree_schedule.npz") as file:
        degree = progressive_degree(file["progress"], file["base"].item())
        assert np.allclose(degree, file["expected_degree"], rtol=RELATIVE, atol=0)
