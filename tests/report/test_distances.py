"""The histogram around eps, against the dense matrix of distances."""

import numpy as np
from clustering.references import random_embeddings

from ise_plugin.clustering import jaccard_distance
from ise_plugin.report.distances import distance_histogram


def test_counts_are_those_of_the_dense_matrix_when_everything_is_sampled():
    features = random_embeddings(120, 16, noise=0.8)
    identities = np.random.default_rng(0).integers(0, 10, 120).astype(str)
    found = distance_histogram(features, identities, 12, 4, "exact", eps=0.5)
    dense = jaccard_distance(features, k1=12, k2=4)
    pairs = (dense < 1) & ~np.eye(120, dtype=bool)
    same = identities[:, None] == identities[None]
    for name, where in (("same", pairs & same), ("different", pairs & ~same)):
        expected = np.histogram(dense[where], found["edges"])[0]
        assert np.abs(np.array(found[name]) - expected).sum() <= 4  # rounding moves a pair over the edge of a bin
        assert expected.sum() > 100
    assert found["eps"] == 0.5 and "all" not in found


def test_without_identities_all_pairs_count_together_and_the_sample_is_the_seeds():
    features = random_embeddings(400, 16, noise=0.8)
    found = distance_histogram(features, None, 12, 4, "exact", eps=0.5)
    assert set(found) == {"edges", "eps", "all"}
    assert found == distance_histogram(features, None, 12, 4, "exact", eps=0.5)
    assert found != distance_histogram(features, None, 12, 4, "exact", eps=0.5, seed=1)


def test_two_images_are_enough():
    features = random_embeddings(2, 4)
    assert sum(distance_histogram(features, None, 30, 6, "exact", eps=0.5)["all"]) <= 2
