"""Two lists for every row, within its camera and across cameras, against a full sort of all similarities."""

from functools import partial

import numpy as np
import pytest
import torch
from clustering.references import random_embeddings, ranks_by_camera, unit

from ise_plugin.neighbors import _bfloat16, _device, all_pairs, exact, ivf, search_by_camera
from ise_plugin.neighbors.exact_search import _search_across, exact_across


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks so small that a few hundred rows cross several of them."""
    monkeypatch.setattr(all_pairs, "_LARGEST_BLOCK", 128)
    for name, size in (("_SCORES_AT_ONCE", 20_000), ("_CANDIDATES_AT_ONCE", 3000), ("_SORTED_AT_ONCE", 5000)):
        monkeypatch.setattr(_device, name, size)


def drawn_cameras(size, count, seed=0, unknown=0.0):
    random = np.random.default_rng(seed)
    return np.where(random.random(size) < unknown, -1, random.integers(0, count, size))


def searched(kind, features, cameras, k_intra, k_inter):
    if kind == "device":
        search = lambda rows, k: exact(rows, k)  # noqa: E731
        # run on the CPU
        search.across = lambda rows, k, groups: _search_across(rows, k, groups, _device.search_on_device, shared=False)
        return search_by_camera(search, features, cameras, k_intra, k_inter)
    return search_by_camera(exact, features, cameras, k_intra, k_inter, precision=kind)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "device"])
@pytest.mark.parametrize(
    "size, cameras",
    [
        (300, drawn_cameras(300, 4)),
        (300, drawn_cameras(300, 3, unknown=0.4)),
        (150, np.full(150, -1)),  # nobody knows any: all others are across
        (300, np.arange(300) // 296),  # a camera of four images
        (40, np.full(40, 7)),  # nothing is across
        (2, np.array([1, 0])),
        (1, np.array([0])),
    ],
)
def test_both_lists_equal_a_full_sort(kind, size, cameras, small_blocks):
    features = random_embeddings(size, 24, seed=size)
    similarities, indices = searched(kind, features, cameras, 5, min(9, size))
    assert similarities.dtype == np.float32 and indices.dtype == np.int64
    intra, inter = ranks_by_camera(features, cameras, 5, min(9, size))
    np.testing.assert_array_equal(indices, np.concatenate([intra, inter], axis=1))
    true = np.take_along_axis(features @ features.T, np.maximum(indices, 0), axis=1)
    np.testing.assert_allclose(similarities, np.where(indices < 0, -np.inf, true), atol=1e-6)


def test_rows_of_the_own_camera_are_never_taken_for_others_where_they_crowd(small_blocks):
    """Rows of a camera so close together that no proof can be given leave the same answer."""
    random = np.random.default_rng(0)
    cameras = np.arange(300) % 2
    features = unit(cameras[:, None] * np.ones(40) + np.ones(40) + 1e-4 * random.standard_normal((300, 40)))
    expected = exact_across(features.astype(np.float32), 6, cameras, "float32")[1]
    assert (cameras[expected] != cameras[:, None]).all()
    true = features.astype(np.float64) @ features.T.astype(np.float64)
    for found in (expected, exact_across(features, 6, cameras, "bfloat16")[1]):
        kept = np.take_along_axis(true, found, axis=1)[:, -1]
        best = np.sort(np.where(cameras[:, None] == cameras, -2, true), axis=1)[:, -6]
        np.testing.assert_allclose(kept, best, atol=1e-6)


def test_bfloat16_proves_rows_with_fewer_others_than_candidates(small_blocks):
    """Three rows of another camera are all there are, and are right without a second search."""
    rows = torch.from_numpy(random_embeddings(200, 32))
    groups = (np.arange(200) >= 197).astype(np.int64)
    _, indices, proven = _bfloat16.search_with_candidates(rows, *_bfloat16.round_rows(rows), 5, 10, groups=groups)
    assert proven[:197].all()
    assert (np.sort(indices[:197], axis=1)[:, 2:] == [197, 198, 199]).all() and (indices[:197] == -1).sum() == 2 * 197


def test_a_search_that_knows_no_groups_is_sifted(caplog):
    features, cameras = random_embeddings(200, 16), drawn_cameras(200, 4)
    wide = partial(ivf, num_cells=4, num_probes=4)  # all cells, so that only the sifting is approximate
    with caplog.at_level("INFO"):
        similarities, indices = search_by_camera(wide, features, cameras, 4, 5)
    intra, inter = ranks_by_camera(features, cameras, 4, 5)
    np.testing.assert_array_equal(indices[:, :4], intra)
    found = indices[:, 4:]
    assert (found == inter)[found >= 0].all() and (found >= 0).mean() > 0.95
    assert (np.isneginf(similarities[:, 4:]) == (found < 0)).all()
    assert "among the 20 nearest" in caplog.text


@pytest.mark.parametrize(
    "change, message",
    [
        ({"cameras": np.zeros(9, np.int64)}, r"cameras must be 10 integers.*\(9,\)"),
        ({"cameras": np.zeros(10)}, "cameras must be 10 integers.*float64"),
        ({"k_intra": 0}, "k_intra.*got 0"),
        ({"k_inter": 0}, "k_inter.*got 0"),
        ({"features": np.ones((10, 4), np.float32)}, "unit length"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"features": random_embeddings(10, 4), "cameras": np.arange(10), "k_intra": 2, "k_inter": 2}
    with pytest.raises(ValueError, match=message):
        search_by_camera(exact, **{**arguments, **change})
