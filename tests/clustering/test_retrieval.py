"""CMC, average precision, inverse penalty and re-ranking against fastreid's walks over every row."""

import numpy as np
import pytest
import torch
from clustering.references import random_embeddings, ranks_by_camera
from hypothesis import given
from hypothesis import strategies as st

from ise_plugin.clustering import rerank_distance
from ise_plugin.clustering.retrieval import RankingMeter, Reranking

evaluate_rank = pytest.importorskip("fastreid.evaluation.rank").evaluate_rank
re_ranking = pytest.importorskip("fastreid.evaluation.rerank").re_ranking


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


def stock_re_ranking(queries, gallery, *arguments):
    return re_ranking(1 - queries @ gallery.T, 1 - queries @ queries.T, 1 - gallery @ gallery.T, *arguments)


@pytest.mark.parametrize("k1, k2, lambda_value", [(20, 6, 0.3), (15, 1, 0.0), (7, 3, 0.9), (4, 2, 1.0), (500, 3, 0.2)])
@pytest.mark.parametrize("noise", [0.4, 2.0])
def test_equals_fastreids_function(k1, k2, lambda_value, noise):
    features = random_embeddings(240 if k1 < 240 else 80, 32, seed=k1, noise=noise)  # fastreid's takes k1 squared steps
    queries, gallery = features[:50], features[50:]
    distance = rerank_distance(queries, gallery, k1, k2, lambda_value)
    assert distance.shape == (50, len(gallery)) and distance.dtype == np.float32
    np.testing.assert_allclose(distance, stock_re_ranking(queries, gallery, k1, k2, lambda_value), atol=1e-5)


def test_length_and_kind_of_features_do_not_matter():
    features = random_embeddings(100, 16)
    queries, gallery = features[:30], features[30:]
    expected = rerank_distance(queries, gallery)
    lengths = np.linspace(0.1, 9, 70, dtype=np.float32)[:, None]
    np.testing.assert_allclose(rerank_distance(torch.from_numpy(3 * queries), lengths * gallery), expected, atol=1e-6)


def reference_with_cameras(features, queries, cameras, lambda_value, counts=(5, 20, 2, 4)):
    """Dense, in float64: weights from squared cosine distances over the row's largest, neighbours by camera."""
    k1_intra, k1_inter, k2_intra, k2_inter = counts
    lists = ranks_by_camera(features, cameras, k1_intra, k1_inter)
    original = (1 - features.astype(np.float64) @ features.T.astype(np.float64)) ** 2
    original /= original.max(axis=1, keepdims=True)
    weights = np.zeros_like(original)
    for i, row in enumerate(weights):
        near = {j for ranks in lists for j in ranks[i] if j >= 0 and i in ranks[j]}
        row[sorted(near)] = np.exp(-original[i, sorted(near)])
    weights /= weights.sum(axis=1, keepdims=True)
    averaged = np.concatenate([lists[0][:, :k2_intra], lists[1][:, :k2_inter]], axis=1)
    weights = np.stack([weights[some[some >= 0]].mean(axis=0) for some in averaged])
    mass = np.stack([np.minimum(row, weights[queries:]).sum(axis=1) for row in weights[:queries]])
    return (1 - lambda_value) * (1 - mass / (2 - mass)) + lambda_value * original[:queries, queries:]


@pytest.mark.parametrize("cameras, lambda_value", [(3, 0.3), (6, 0.0), (2, 0.9)])
def test_with_cameras_equals_the_slow_reference_in_blocks_too(cameras, lambda_value):
    features = random_embeddings(240, 32, seed=cameras, noise=1.0)
    seen_by = np.random.default_rng(0).integers(-1, cameras, 240)
    expected = reference_with_cameras(features, 50, seen_by, lambda_value)
    made = Reranking(features[:50], features[50:], lambda_value=lambda_value, cameras=seen_by)
    np.testing.assert_allclose(made.distances(slice(None)), expected, atol=1e-6)
    for block in (slice(0, 7), slice(43, 50)):
        np.testing.assert_allclose(made.distances(block), expected[block], atol=1e-6)


@pytest.mark.parametrize("camera", [3, -1])
def test_one_camera_is_none_to_the_bit(camera):
    features = random_embeddings(120, 16)
    pair = features[:30], features[30:]
    np.testing.assert_array_equal(rerank_distance(*pair, cameras=np.full(120, camera)), rerank_distance(*pair))


def test_bfloat16_candidates_give_the_same():
    features = random_embeddings(600, 48)
    pair = features[:100], features[100:]
    np.testing.assert_allclose(
        rerank_distance(*pair, precision="bfloat16"), rerank_distance(*pair, precision="float32"), atol=1e-6
    )


def test_equal_images_are_finite():
    assert np.isfinite(rerank_distance(np.ones((3, 4), np.float32), np.ones((9, 4), np.float32))).all()


def test_the_constants_of_fastreids_function_are_the_defaults():
    features = random_embeddings(120, 16, noise=1.0)
    queries, gallery = features[:30], features[30:]
    np.testing.assert_allclose(rerank_distance(queries, gallery), stock_re_ranking(queries, gallery), atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_query_and_hardly_any_gallery(count):
    features = random_embeddings(1 + count, 8, noise=1.0)
    distance = rerank_distance(features[:1], features[1:], 4, 2, 0.3)
    np.testing.assert_allclose(distance, stock_re_ranking(features[:1], features[1:], 4, 2, 0.3), atol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"query_features": np.ones(4, np.float32)}, r"query_features.*\(4,\)"),
        ({"gallery_features": np.ones((5, 3), np.float32)}, "gallery_features.*4 columns.*got 3"),
        ({"gallery_features": np.zeros((5, 4), np.float32)}, "gallery_features.*zero rows.*row 0"),
        ({"query_features": np.full((2, 4), np.nan, np.float32)}, "query_features.*finite"),
        ({"k1": 0}, "k1.*got 0"),
        ({"k2": 0}, "k2.*got 0"),
        ({"lambda_value": 1.2}, "lambda_value.*1.2"),
        ({"cameras": np.arange(6)}, r"cameras must be 7 integers.*\(6,\)"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"query_features": np.ones((2, 4), np.float32), "gallery_features": np.ones((5, 4), np.float32)}
    with pytest.raises(ValueError, match=message):
        rerank_distance(**{**arguments, **change})
