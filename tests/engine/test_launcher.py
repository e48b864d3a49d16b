"""What becomes of a run one of whose processes fails, dies or hangs; gloo on the CPU, every wait has a limit."""

import logging
import multiprocessing
import signal
import threading

import distributed_workers as workers
import pytest
import torch
import torch.distributed as dist
from fastreid.utils import comm
from helpers import HANG, forkserver
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from ise_plugin.engine.launcher import TellWarnings, _free_port, launch
from ise_plugin.errors import UsageError
from ise_plugin.utils.logs import kept_warnings


@pytest.fixture
def two_devices(monkeypatch):
    """This process believes in two GPUs and starts two processes, which find none and take gloo."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def quick_start(two_devices, monkeypatch):
    """The processes need not import anything, so that they meet within a moment of one another."""
    forkserver()
    start = torch.multiprocessing.start_processes
    monkeypatch.setattr(
        torch.multiprocessing, "start_processes", lambda *a, **k: start(*a, **{**k, "start_method": "forkserver"})
    )


def started(main, timeout, args=()):
    """What launch raised, when all its processes were gone; fails where that takes too long."""
    raised = []

    def run():
        try:
            launch(main, num_gpus=2, timeout=timeout, args=args)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(HANG)
    assert not thread.is_alive(), "the processes did not end in time"
    assert not multiprocessing.active_children()
    return raised


def test_processes_meet_and_end(quick_start, tmp_path):
    assert started(workers.meet, HANG, (str(tmp_path),)) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0 of 2", "1 of 2"]


def test_a_signal_goes_on_to_the_processes_and_is_waited_for(two_devices, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    launch(workers.wait_to_be_told, num_gpus=2, timeout=HANG, args=(str(tmp_path),))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0 was told", "1 was told"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_first_error_is_the_one_that_is_shown(quick_start):
    (error,) = started(workers.fail, HANG)
    assert isinstance(error, ProcessRaisedException) and "UsageError: process 1 has no images" in str(error)


def test_killed_process_is_named(quick_start):
    (error,) = started(workers.die, HANG)
    said = isinstance(error, ProcessExitedException) and "SIGKILL" in str(error)
    assert said or "ProcessLost: process 0 lost contact" in str(error)  # whoever is noticed first


def test_process_that_hangs_ends_the_run_after_the_timeout(quick_start):
    (error,) = started(workers.hang, 5)
    assert "ProcessLost: process 0 lost contact" in str(error) and "ISE.PROCESS_TIMEOUT" in str(error)


def test_several_machines_need_an_address(two_devices):
    with pytest.raises(UsageError, match="--dist-url"):
        launch(workers.meet, num_gpus=1, num_machines=2)


@pytest.fixture
def as_torchrun(monkeypatch):
    """Makes this process one that torchrun has started on a machine that believes in two GPUs."""

    def start(local_rank=0, processes=1):
        names = "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"
        for name, value in zip(names, (local_rank, local_rank, processes, processes, "127.0.0.1", _free_port())):
            monkeypatch.setenv(name, str(value))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    return start


def test_the_backend_is_that_of_the_device_and_not_of_the_machine(as_torchrun):
    as_torchrun()
    assert launch(dist.get_backend, device="cpu") == "gloo"


@pytest.mark.parametrize(
    "device, local_rank, processes, gpu", [("auto", 1, 2, 1), ("cuda", 1, 2, 1), ("cuda", 0, 1, 0), ("cuda:1", 0, 1, 1)]
)
def test_a_process_on_cuda_is_bound_to_its_gpu(as_torchrun, monkeypatch, device, local_rank, processes, gpu):
    as_torchrun(local_rank, processes)
    asked = []

    def stop(backend, device_id, **options):
        asked.extend([backend, device_id])
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.cuda, "set_device", asked.append)
    monkeypatch.setattr(dist, "rendezvous", lambda url, **options: iter([(dist.HashStore(), local_rank, processes)]))
    monkeypatch.setattr(dist, "init_process_group", stop)
    with pytest.raises(KeyboardInterrupt):
        launch(workers.meet, device=device)
    assert asked == [torch.device("cuda", gpu), "nccl", torch.device("cuda", gpu)]


@pytest.mark.parametrize(
    "device, processes, said", [("cuda:0", 2, "cuda:0 is one GPU for 2 processes"), ("auto", 3, "with 2 CUDA GPU")]
)
def test_processes_do_not_share_a_gpu(as_torchrun, device, processes, said):
    as_torchrun(0, processes)
    with pytest.raises(UsageError, match=said):
        launch(workers.meet, device=device)
    as_torchrun(1, processes)
    with pytest.raises(SystemExit) as end:  # the first process has said it
        launch(workers.meet, device=device)
    assert end.value.code == UsageError.EXIT_CODE


def test_one_gpu_for_processes_started_here_is_refused(as_torchrun):
    with pytest.raises(UsageError, match="cuda gives each its own"):
        launch(workers.meet, num_gpus=2, device="cuda:0")


@pytest.fixture
def epoch(monkeypatch, caplog):
    """Ends an epoch in which the other processes have warned as told; gives what is logged now."""
    kept_warnings.take()
    hook = TellWarnings()

    def end(*others, first=True):
        monkeypatch.setattr(comm, "gather", lambda own, **options: [own, *others] if first else [])
        caplog.clear()
        hook.after_epoch()
        return [record.getMessage() for record in caplog.records]

    return end


def test_warnings_are_named_where_they_differ(epoch):
    logger = logging.getLogger("fastreid.ise.something")
    logger.warning("small batches")
    logger.info("no warning")
    assert epoch(["small batches"], ["small batches", "image lost"], ["image lost", "no room"]) == [
        "process 2, 3: image lost",
        "process 3: no room",
    ]
    assert epoch(["small batches"], [], ["image lost"]) == []  # said before
    logger.warning("late")
    assert epoch(["late", "later"], [], []) == ["process 1: later"]


def test_other_processes_log_nothing_and_keep_nothing(epoch):
    logging.getLogger("fastreid").warning("here")
    assert epoch(first=False) == [] == kept_warnings.take()
