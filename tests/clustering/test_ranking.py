"""CMC, average precision and inverse penalty against fastreid's walk over every row."""

import numpy as np
import pytest
import torch
from fastreid.evaluation.rank import evaluate_rank
from hypothesis import given
from hypothesis import strategies as st

from ise_plugin.clustering.ranking import RankingMeter


def measured(distances, query_ids, gallery_ids, query_cams, gallery_cams, max_rank=50, block=7):
    meter = RankingMeter(gallery_ids, gallery_cams, max_rank)
    for start in range(0, len(distances), block):
        part = slice(start, start + block)
        meter.add(torch.from_numpy(distances[part]), query_ids[part], query_cams[part])
    return meter.result()


def drawn(seed, queries=40, gallery=200, identities=12, cameras=3, levels=None):
    rng = np.random.default_rng(seed)
    distances = rng.random((queries, gallery), dtype=np.float32)
    if levels:  # ties
        distances = np.round(distances * levels) / np.float32(levels)
    ids = rng.integers(identities, size=queries + gallery)
    cams = rng.integers(cameras, size=queries + gallery)
    return distances, ids[:queries], ids[queries:], cams[:queries], cams[queries:]


@pytest.mark.parametrize("levels", [None, 10, 1])
@given(seed=st.integers(0, 2**32 - 1), identities=st.integers(1, 60), cameras=st.integers(2, 4))
def test_numbers_are_fastreids_ties_included(levels, seed, identities, cameras):
    given_ = drawn(seed, identities=identities, cameras=cameras, levels=levels)
    cmc, precisions, penalties = evaluate_rank(*given_, use_cython=False)
    found = measured(*given_)
    assert np.array_equal(found.cmc, cmc)
    counts = np.isfinite(found.average_precision)
    assert len(counts) == len(given_[0]) and found.average_precision[counts] == pytest.approx(precisions, abs=1e-12)
    assert np.array_equal(found.inverse_penalty[counts], penalties)


def test_by_hand():
    # query 0: junk (own camera) first, then a stranger, a match, a stranger, a match; query 1: no match at all
    distances = np.array([[0.1, 0.2, 0.3, 0.4, 0.5], [0.1, 0.2, 0.3, 0.4, 0.5]], np.float32)
    gallery_ids, gallery_cams = np.array([7, 1, 7, 1, 7]), np.array([0, 1, 1, 1, 2])
    found = measured(distances, np.array([7, 9]), gallery_ids, np.array([0, 0]), gallery_cams, max_rank=4)
    assert found.average_precision.tolist() == pytest.approx([(1 / 2 + 2 / 4) / 2, np.nan], nan_ok=True)
    assert found.inverse_penalty[0] == 2 / 4 and found.cmc.tolist() == [0, 1, 1, 1]


def test_a_gallery_smaller_than_the_ranks_gives_as_many_as_it_has():
    assert len(measured(*drawn(0, gallery=5, identities=2)).cmc) == 5


def test_without_any_match_nothing_can_be_measured():
    meter = RankingMeter(np.array([1, 2]), np.array([0, 0]))
    meter.add(torch.rand(3, 2), np.array([3, 1, 2]), np.array([1, 0, 0]))
    with pytest.raises(ValueError, match="no query"):
        meter.result()
