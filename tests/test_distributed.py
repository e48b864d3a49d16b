"""Several processes against one, with gloo on the CPU; every wait has a limit, so that a hang fails."""

import time

import pytest
import torch
import torch.multiprocessing as mp

import distributed_workers as workers
from ise_plugin import distributed


def run(function, world, tmp_path):
    with mp.get_context("spawn").Manager() as manager:
        results = manager.dict()
        context = mp.start_processes(
            workers.start, (world, tmp_path / "store", function, results), nprocs=world, join=False, start_method="spawn"
        )
        deadline = time.monotonic() + 180
        while not context.join(timeout=5):  # true once all have ended; raises what any of them raised
            if time.monotonic() > deadline:
                pytest.fail("the processes did not end in time")
        return [results[rank] for rank in range(world)]


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


def test_rows_of_uneven_shards_come_back_in_order(tmp_path):
    for rows, count in run(workers.gather_uneven, 3, tmp_path):
        assert rows == list(range(10)) and count == 0 + 1 + 2


def test_what_process_0_computes_or_raises_is_everywhere(tmp_path):
    assert run(workers.once, 2, tmp_path) == [({"rank": 0}, "raised")] * 2


def test_running_statistics_are_averaged(tmp_path):
    assert run(workers.buffers, 3, tmp_path) == [[1.0, 1.0]] * 3


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("function", [workers.twenty_steps, workers.twenty_steps_mean])
def test_steps_do_not_depend_on_the_number_of_processes(tmp_path, world, function):
    (loss, gradients), memory = function(0, 1)
    results = run(function, world, tmp_path)
    for (other_loss, other_gradients), other_memory in results:
        assert other_loss == pytest.approx(loss, abs=1e-5)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(other_gradients, gradients))
        assert torch.allclose(other_memory, memory, atol=1e-4)
        assert torch.equal(other_memory, results[0][1])
