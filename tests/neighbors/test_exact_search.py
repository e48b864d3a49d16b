import logging

import numpy as np
import pytest
import torch
from clustering.references import random_embeddings, reference_ranks, unit
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ise_plugin.neighbors import _bfloat16, _device, all_pairs, kernels
from ise_plugin.neighbors import exact_search as neighbors
from ise_plugin.neighbors.all_pairs import block_size, search_all_pairs


def search(kind, features, k):
    """The neighbours as a precision of the CPU finds them, as the search for accelerators does on the CPU, or on CUDA."""
    if kind == "device":
        return neighbors._search_with_copies(torch.from_numpy(features), k, _device.search_on_device, shared=False)
    if kind == "cuda":
        return neighbors.exact(torch.from_numpy(features).cuda(), k)
    return neighbors.exact(features, k, kind)


every_kind = pytest.mark.parametrize(
    "kind", ["float32", "bfloat16", "device", pytest.param("cuda", marks=pytest.mark.cuda)]
)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks so small that a few hundred rows cross several of them."""
    monkeypatch.setattr(all_pairs, "_LARGEST_BLOCK", 128)
    for name, size in (("_SCORES_AT_ONCE", 20_000), ("_CANDIDATES_AT_ONCE", 3000), ("_SORTED_AT_ONCE", 5000)):
        monkeypatch.setattr(_device, name, size)


@every_kind
@pytest.mark.parametrize("size, dim, k", [(2, 3, 2), (70, 8, 1), (70, 8, 70), (300, 33, 30), (517, 16, 5)])
def test_exact_search_equals_a_full_sort(kind, size, dim, k, small_blocks):
    features = random_embeddings(size, dim, seed=size)
    similarities, indices = search(kind, features, k)
    assert similarities.shape == indices.shape == (size, k)
    assert similarities.dtype == np.float32 and indices.dtype == np.int64
    np.testing.assert_array_equal(indices, reference_ranks(features, k))
    np.testing.assert_allclose(similarities, np.take_along_axis(features @ features.T, indices, 1), atol=1e-6)


@every_kind
def test_equal_rows_are_ordered_by_index_after_the_row_itself(kind, small_blocks):
    base = random_embeddings(40, 16, seed=3)
    features = np.concatenate([base] * 5)
    _, indices = search(kind, features, 5)
    for row, found in enumerate(indices):
        copies = [copy for copy in range(row % 40, 200, 40) if copy != row]
        assert found.tolist() == [row] + copies


@every_kind
def test_all_rows_equal(kind, small_blocks):
    features = np.tile(unit(np.ones((1, 24))), (400, 1))
    _, indices = search(kind, features, 4)
    for row, found in enumerate(indices):
        assert found.tolist() == [row] + [other for other in range(5) if other != row][:3]


@pytest.mark.parametrize(
    "make",
    [
        lambda x: torch.from_numpy(x),
        lambda x: np.asfortranarray(x),
        lambda x: torch.from_numpy(np.repeat(x, 2, 1))[:, ::2],
        lambda x: x.astype(np.float64),
        lambda x: torch.from_numpy(x).requires_grad_(),
    ],
)
def test_kinds_of_input_do_not_matter(make):
    features = random_embeddings(100, 12)
    for ours, expected in zip(neighbors.exact(make(features), 7), neighbors.exact(features, 7)):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_input_is_searched_at_unit_length(dtype):
    features = torch.from_numpy(random_embeddings(100, 12)).to(dtype)
    again = features.float() / features.float().norm(dim=1, keepdim=True)
    np.testing.assert_array_equal(neighbors.exact(features, 7)[1], neighbors.exact(again, 7)[1])


@every_kind
def test_number_of_threads_does_not_matter(kind, small_blocks):
    features = random_embeddings(500, 32, noise=3)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(search(kind, features, 20))
    finally:
        torch.set_num_threads(before)
    for one, three in zip(*results):
        np.testing.assert_array_equal(one, three)


@every_kind
def test_equal_similarities_are_ordered_by_index(kind, small_blocks):
    """More of them than candidates are kept: rows without anything in common, between rows that have something."""
    features = np.eye(400, dtype=np.float32)
    features[::40, 0] = 1  # the only similarities that are not 0
    similarities, indices = search(kind, unit(features), 12)
    np.testing.assert_array_equal(indices, reference_ranks(unit(features), 12))


class TestOnDevice:
    """The search for accelerators, run on the CPU."""

    def found(self, features, keep):
        return _device.search_on_device(torch.from_numpy(features), keep)

    @pytest.mark.parametrize("spread", [1e-4, 1e-2, 1])
    def test_similarities_are_the_true_ones_rounded_and_in_order(self, spread, small_blocks):
        """Also where the order is below the rounding of a float32 product."""
        features = unit(1 + spread * np.random.default_rng(0).standard_normal((300, 100)))
        true = (features.astype(np.float64) @ features.T.astype(np.float64)).astype(np.float32)
        np.fill_diagonal(true, -np.inf)
        similarities, indices = self.found(features, 9)
        assert similarities.dtype == np.float32 and indices.dtype == np.int32
        np.testing.assert_array_equal(indices, np.argsort(-true, axis=1, kind="stable")[:, :9])
        np.testing.assert_array_equal(similarities, np.take_along_axis(true, indices, 1))

    def test_rows_in_doubt_alone_are_compared_with_all_others(self, monkeypatch):
        """Beside 400 rows that lie well apart, and at right angles to them, are 30 that float32 cannot tell apart."""
        features = np.zeros((430, 72), np.float32)
        features[:400, :48] = random_embeddings(400, 48)
        features[400:, 48:] = unit(1 + 1e-5 * np.random.default_rng(0).standard_normal((30, 24)))
        seen, sort_all = [], _device._sort_all
        monkeypatch.setattr(
            _device,
            "_sort_all",
            lambda rows, groups, some, keep: seen.extend(some) or sort_all(rows, groups, some, keep),
        )
        indices = self.found(features, 10)[1]
        assert sorted(map(int, seen)) == list(range(400, 430))
        np.testing.assert_array_equal(indices[:400], reference_ranks(features, 11)[:400, 1:])

    def test_rows_never_leave_the_device_and_pairs_are_never_all_held(self, small_blocks):
        """What is copied to the host grows with N alone; the largest tensor made stays below N x N."""
        count, dim, keep = 600, 64, 5
        features = torch.from_numpy(random_embeddings(count, dim))
        features = torch.cat([features, features[:10]])  # copies are found where the rows are as well
        with Sizes() as sizes:
            neighbors._search_with_copies(features, keep + 1, _device.search_on_device, shared=False)
        assert max(sizes.to_host) <= len(features) * keep
        assert max(sizes.made) < len(features) ** 2 / 4

    def test_full_float32_whatever_the_program_has_set(self, monkeypatch):
        matmul, seen = torch.backends.cuda.matmul, []
        if not hasattr(matmul, "fp32_precision"):
            pytest.skip("this PyTorch has only the older switch")
        search_block = _device._search_block

        def watched(*arguments):
            seen.append((matmul.fp32_precision, torch.is_autocast_enabled("cpu")))
            return search_block(*arguments)

        monkeypatch.setattr(_device, "_search_block", watched)
        before = matmul.fp32_precision
        try:
            matmul.fp32_precision = "tf32"
            with torch.autocast("cpu", torch.bfloat16):
                self.found(random_embeddings(50, 8), 5)
            assert seen == [("ieee", False)] and matmul.fp32_precision == "tf32"
        finally:
            matmul.fp32_precision = before


class Sizes(TorchDispatchMode):
    """Numbers of elements of what is made, and of what is handed to the host."""

    def __init__(self):
        super().__init__()
        self.made, self.to_host = [], []

    def __enter__(self):
        self._patch = pytest.MonkeyPatch()
        for name in ("cpu", "numpy", "tolist"):
            self._patch.setattr(torch.Tensor, name, self._noting(getattr(torch.Tensor, name)))
        return super().__enter__()

    def __exit__(self, *error):
        self._patch.undo()
        return super().__exit__(*error)

    def _noting(self, method):
        def noted(tensor, *arguments):
            self.to_host.append(tensor.numel())
            return method(tensor, *arguments)

        return noted

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.made += [tensor.numel() for tensor in tree_leaves(result) if isinstance(tensor, torch.Tensor)]
        return result


class TestProof:
    def test_bound_holds_for_every_pair(self):
        features = torch.from_numpy(random_embeddings(400, 96, seed=5, noise=0.3))
        rounded, slopes = _bfloat16.round_rows(features)
        scores = torch.nn.functional.linear(rounded, rounded).float().numpy()
        true = features.double().numpy() @ features.double().numpy().T
        spacing = np.vectorize(kernels.rounding_of_score)(scores)
        error = np.abs(true - scores)
        assert (error <= slopes[:, None] + spacing).all()
        assert error.max() > 0.1 * (slopes[:, None] + spacing).min()  # and it is no empty bound

    def test_unprovable_rows_are_reported(self):
        features = torch.from_numpy(random_embeddings(300, 16))
        rounded, slopes = _bfloat16.round_rows(features)
        slopes[::2] = 10
        _, _, proven = _bfloat16.search_with_candidates(features, rounded, slopes, 5, 20)
        assert not proven[::2].any() and proven[1::2].any()

    def test_proven_rows_are_right_even_with_hardly_any_spare_candidates(self):
        features = random_embeddings(600, 48, noise=2)
        rows = torch.from_numpy(features)
        rounded, slopes = _bfloat16.round_rows(rows)
        _, indices, proven = _bfloat16.search_with_candidates(rows, rounded, slopes, 10, 12)
        assert proven.any() and not proven.all()
        np.testing.assert_array_equal(indices[proven], reference_ranks(features, 11)[proven, 1:])

    @pytest.mark.parametrize("spread", [0.03, 0.05, 0.1, 0.2])
    def test_no_row_is_proven_wrongly_where_rounding_hides_the_order(self, spread):
        features = unit(1 + spread * np.random.default_rng(0).standard_normal((600, 48)))
        rows = torch.from_numpy(features)
        rounded, slopes = _bfloat16.round_rows(rows)
        for candidates in (11, 40):
            _, indices, proven = _bfloat16.search_with_candidates(rows, rounded, slopes, 10, candidates)
            np.testing.assert_array_equal(indices[proven], reference_ranks(features, 11)[proven, 1:])

    def test_fallback_for_some_rows_is_exact_and_logged(self, monkeypatch, caplog):
        monkeypatch.setattr(neighbors, "candidates_needed", lambda rounded, slopes, keep, groups: keep + 2)
        features = random_embeddings(600, 48, noise=0.5)
        neighbors.log_once.cache_clear()
        with caplog.at_level(logging.INFO, "fastreid.ise"):
            _, indices = neighbors.exact(features, 11, precision="bfloat16")
        np.testing.assert_array_equal(indices, reference_ranks(features, 11))
        assert "could not be proven complete" in caplog.text

    def test_crowded_embeddings_go_to_float32_and_it_is_logged_once(self, caplog):
        features = unit(1 + 1e-4 * np.random.default_rng(0).standard_normal((500, 16)))
        neighbors.log_once.cache_clear()
        with caplog.at_level(logging.INFO, "fastreid.ise"):
            for _ in range(2):
                found = neighbors.exact(features, 4, precision="bfloat16")
        for ours, expected in zip(found, neighbors.exact(features, 4, precision="float32")):
            np.testing.assert_array_equal(ours, expected)
        assert caplog.text.count("too close together") == 1


def test_choice_of_precision_follows_the_hardware(monkeypatch, caplog):
    for amx, avx512_bf16, expected in ((True, False, "bfloat16"), (False, True, "bfloat16"), (False, False, "float32")):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
        assert neighbors._best_precision(100_000) == expected


@pytest.mark.parametrize("size", [1, 63, 64, 2048, 2049, 12936, 100_000])
def test_blocks_are_bounded_and_waste_little(size):
    block = block_size(size)
    count = -(-size // block)
    assert block <= 2048 and block % 64 == 0
    assert count * block - size <= 64 * count


def test_search_keeps_only_its_buffers(small_blocks):
    """The buffers are all that grows with N: two entries of eight bytes per candidate, twelve bytes per row."""
    import tracemalloc

    features = random_embeddings(1000, 8)
    product = lambda a, b: a @ b.T  # noqa: E731
    search_all_pairs(features, 10, product)
    tracemalloc.start()
    search_all_pairs(features, 10, product)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1000 * (2 * 10 * 8 + 24) + 4 * 128 * 128 * 4


@pytest.mark.parametrize("k, message", [(0, "got 0"), (6, "got 6"), (2.5, "got 2.5")])
def test_bad_k(k, message):
    with pytest.raises(ValueError, match=f"k must.*{message}"):
        neighbors.exact(random_embeddings(5, 4), k)


def test_bad_precision():
    with pytest.raises(ValueError, match="precision.*float8"):
        neighbors.exact(random_embeddings(5, 4), 2, precision="float8")
