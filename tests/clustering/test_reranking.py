import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from clustering.references import random_embeddings

from ise_plugin.clustering import rerank_distance

pytestmark = pytest.mark.skipif(importlib.util.find_spec("fastreid") is None, reason="compares with fastreid")


def stock_re_ranking(queries, gallery, *arguments):
    """fastreid's own function, from its file: the package itself needs more than numpy."""
    file = Path(importlib.util.find_spec("fastreid").origin).parent / "evaluation" / "rerank.py"
    spec = importlib.util.spec_from_file_location("stock_rerank", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.re_ranking(1 - queries @ gallery.T, 1 - queries @ queries.T, 1 - gallery @ gallery.T, *arguments)


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
    ],
)
def test_bad_arguments(change, message):
    arguments = {"query_features": np.ones((2, 4), np.float32), "gallery_features": np.ones((5, 4), np.float32)}
    with pytest.raises(ValueError, match=message):
        rerank_distance(**{**arguments, **change})
