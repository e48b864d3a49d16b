"""Indexes find what a full sort finds, once they look far enough."""

import numpy as np
import pytest
from clustering.references import random_embeddings, reference_ranks

from ise_plugin.neighbors.indexes import build_flat, build_hnsw, build_ivf, set_effort


@pytest.mark.parametrize("build, effort", [(build_flat, 0), (build_ivf, 94), (build_hnsw, 400)])
def test_far_enough_finds_all(build, effort):
    vectors = random_embeddings(550, 16)
    index = build(vectors)
    set_effort(index, effort)
    found = index.search(vectors, 8)[1]
    assert np.mean(found == reference_ranks(vectors, 8)) > 0.99


def test_effort_is_what_an_index_looks_at():
    vectors = random_embeddings(550, 16, noise=3)
    index, true = build_ivf(vectors), reference_ranks(vectors, 8)
    assert index.nlist == 94  # 4 * sqrt(550)
    recall = []
    for effort in (1, 8, 94):
        set_effort(index, effort)
        recall.append(np.mean(index.search(vectors, 8)[1] == true))
    assert recall[0] < recall[1] < recall[2]


def test_rows_of_an_inverted_file_can_be_read_back():
    vectors = random_embeddings(100, 8)
    np.testing.assert_array_equal(
        build_ivf(vectors, num_cells=5).reconstruct_batch(np.array([7, 99])), vectors[[7, 99]]
    )
