"""Several processes against one, with gloo on the CPU and NCCL on GPUs; every wait has a limit, so that a hang fails."""

import time

import distributed_workers as workers
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from helpers import HANG, forkserver

from ise_plugin.neighbors import all_pairs
from ise_plugin.neighbors import exact_search as neighbors
from ise_plugin.neighbors._device import search_on_device
from ise_plugin.utils import distributed


@pytest.fixture(scope="module", params=[("gloo", 3), pytest.param(("nccl", 2), marks=pytest.mark.nccl)], ids=str)
def outcomes(request, tmp_path_factory):
    """What every function of distributed_workers gave in every process: {name: [of process 0, of process 1, ...]}.

    While a test compares with it, this process computes where those did.
    """
    (backend, world), store = request.param, tmp_path_factory.mktemp("store") / "file"
    if backend == "nccl":
        workers.compute_on("cuda:0")
    yield _outcomes(backend, world, store)
    workers.compute_on("cpu")


def _outcomes(backend, world, store, *names):
    with forkserver().Manager() as manager:
        results = manager.dict()
        context = mp.start_processes(
            workers.start, (world, store, results, backend, names), nprocs=world, join=False, start_method="forkserver"
        )
        deadline = time.monotonic() + HANG
        while not context.join(timeout=5):  # true once all have ended; raises what any of them raised
            if time.monotonic() > deadline:
                pytest.fail("the processes did not end in time")
        return {name: [results[rank][name] for rank in range(world)] for name in results[0]}


@pytest.mark.parametrize("count, world", [(10, 3), (3, 4), (0, 2), (7, 1), (8, 4)])
def test_shards_cover_everything_once(monkeypatch, count, world):
    monkeypatch.setattr(distributed, "world_size", lambda: world)
    shares = []
    for rank in range(world):
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        shares.append(list(distributed.shard(count)))
    assert sum(shares, []) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_needs_no_group():
    rows = torch.rand(3, 2, requires_grad=True)
    assert distributed.gather_rows(rows) is rows and distributed.gather_with_gradient(rows) is rows
    assert distributed.computed_once(lambda: 5) == 5 and distributed.world_size() == 1 and distributed.rank() == 0


def test_rows_of_uneven_shards_come_back_in_order(outcomes):
    world = len(outcomes["gather_uneven"])
    for rows, count, wide in outcomes["gather_uneven"]:
        assert rows == list(range(10)) and count == sum(range(world)) and wide == [[1.0, 1.0, 1.0]]


def test_what_process_0_computes_or_raises_is_everywhere(outcomes):
    assert all(value == ({"rank": 0}, "raised") for value in outcomes["once"])


def test_running_statistics_are_averaged(outcomes):
    world = len(outcomes["buffers"])
    assert all(value == [(world - 1) / 2] * 2 for value in outcomes["buffers"])


@pytest.mark.parametrize("update", ["hard", "mean"])
def test_steps_do_not_depend_on_the_number_of_processes(outcomes, update):
    (loss, gradients), memory = workers.on_host(workers.twenty_steps(0, 1, update))
    results = outcomes[f"twenty_steps_{update}"]
    for (other_loss, other_gradients), other_memory in results:
        assert other_loss == pytest.approx(loss, abs=1e-5)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(other_gradients, gradients))
        assert torch.allclose(other_memory, memory, atol=1e-4)
        assert torch.equal(other_memory, results[0][1])


def test_processes_with_other_labels_are_named(outcomes):
    world = len(outcomes["digests"])
    assert all(
        message.startswith(f"labels differ between process 0 and process {world - 1};")
        for message in outcomes["digests"]
    )


@pytest.mark.parametrize("case", workers.NORMALISED, ids=str)
def test_normalised_steps_do_not_depend_on_the_number_of_processes(outcomes, case):
    (loss, gradients, statistics), memory, last_statistics = workers.on_host(workers.normalised_steps(0, 1, *case))
    results = [outcome[case] for outcome in outcomes["normalised"]]
    for (other_loss, other_gradients, other_statistics), other_memory, other_last_statistics in results:
        assert other_loss == pytest.approx(loss, abs=1e-5)
        assert all(torch.allclose(a, b, rtol=0, atol=1e-5) for a, b in zip(other_gradients, gradients))
        assert all(torch.allclose(a, b, rtol=0, atol=1e-6) for a, b in zip(other_statistics, statistics))
        assert torch.allclose(other_memory, memory, rtol=0, atol=1e-4)
        assert torch.equal(other_memory, results[0][1])
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(other_last_statistics, last_statistics))


def test_shared_search_is_that_of_one_process_to_the_bit(outcomes, monkeypatch):
    monkeypatch.setattr(all_pairs, "_LARGEST_BLOCK", 128)
    expected = [neighbors.exact(workers.search_rows(), k, precision) for precision, k in workers.SEARCHES]
    expected.append(neighbors.exact(workers.search_rows()[:3], 2))
    expected.append(search_on_device(workers.search_rows(), 5, shared=False))
    expected.extend(workers.searches_by_camera(shared=False))
    for found in outcomes["searches"]:
        assert len(found) == len(expected)
        for (similarities, indices), (other_similarities, other_indices) in zip(expected, found):
            assert np.array_equal(similarities, other_similarities) and np.array_equal(indices, other_indices)
            assert indices.dtype == other_indices.dtype


def test_nothing_is_read_back_from_the_device_in_a_step(outcomes):
    for seen, would_be_noticed in outcomes["reads"]:
        assert seen == set() and would_be_noticed


def test_evaluation_and_extraction_with_a_process_that_has_nothing(outcomes):
    shape, expected = workers.evaluation(0, 1)
    for process, (other_shape, results) in enumerate(outcomes["evaluation"]):
        assert other_shape == shape == (14, 2)
        assert results == (expected if process == 0 else {})
    assert expected["mAP"] == 100


def test_memories_of_images_do_not_depend_on_the_number_of_processes(outcomes):
    _compare_memories_of_images(outcomes["memories_of_images"])


def test_four_processes_have_the_memories_of_one(tmp_path):
    _compare_memories_of_images(_outcomes("gloo", 4, tmp_path / "store", "memories_of_images")["memories_of_images"])


def _compare_memories_of_images(results):
    losses, memories, _ = workers.on_host(workers.memories_of_images(0, 1))
    for other_losses, others, seen in results:
        assert other_losses == pytest.approx(losses, abs=1e-4) and seen == set()
        assert all(torch.allclose(a, b, rtol=0, atol=1e-4) for a, b in zip(others, memories, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(others, results[0][1], strict=True))
