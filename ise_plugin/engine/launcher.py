"""Starts the processes of a run. fastreid's own launcher insists on CUDA."""

import datetime
import os
import socket
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ..compat import tell_local_process_group
from ..errors import ProcessLost, UsageError
from ..utils import distributed

# After the first error: how long the other processes may take to end by themselves before they are ended. Unit: seconds.
_GRACE = 5.0
_FAILED = 1


def launch(
    main,
    num_gpus: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: tuple = (),
    timeout: float = 1800.0,
):
    """Runs ``main(*args)`` in every process of the run.

    Under ``torchrun`` this process is one of several already: on CUDA machines each takes a GPU, elsewhere they train on
    the CPU. Otherwise one process is started for each of ``num_gpus`` GPUs. The first process to fail keeps its error; the others
    end without a word.

    Args:
        main: function to run; picklable when there are several processes.
        num_gpus: processes on this machine, one GPU each.
        num_machines, machine_rank, dist_url: as in fastreid's ``launch``; "auto" is a free port of this machine.
        args: of ``main``.
        timeout: how long a process waits for the others before the run ends. Unit: seconds.

    Returns:
        What ``main`` returns where there is one process.

    Raises:
        UsageError: more GPUs are asked for than there are, or several machines without an address to meet at.
        ProcessLost: another process is gone or does not answer.
        torch.multiprocessing.ProcessRaisedException, ProcessExitedException: what became of a process started here.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        world, rank, local_rank = (int(os.environ[name]) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
        with _Process("env://", world, rank, local_rank, timeout):
            return main(*args)
    if num_gpus < 1 or num_machines < 1:
        raise UsageError(f"--num-gpus and --num-machines must be at least 1, not {num_gpus} and {num_machines}")
    if num_gpus > max(1, torch.cuda.device_count()):
        raise UsageError(f"--num-gpus {num_gpus}: this machine has {torch.cuda.device_count()} CUDA GPU(s)")
    if num_gpus * num_machines == 1:
        return main(*args)
    if dist_url == "auto":
        if num_machines > 1:
            raise UsageError(f"--num-machines {num_machines} needs --dist-url tcp://HOST:PORT, an address of machine 0")
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    processes = mp.start_processes(
        _spawned,
        args=(main, num_gpus, num_machines, machine_rank, dist_url, args, timeout),
        nprocs=num_gpus,
        start_method="spawn",
        join=False,
    )
    while not processes.join(grace_period=_GRACE):
        pass


def _spawned(
    local_rank: int, main, num_gpus: int, num_machines: int, machine_rank: int, url: str, args: tuple, timeout: float
) -> None:
    with _Process(url, num_gpus * num_machines, machine_rank * num_gpus + local_rank, local_rank, timeout):
        main(*args)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class _Process:
    """Membership in the process group, for the time of a run."""

    def __init__(self, url: str, world: int, rank: int, local_rank: int, timeout: float):
        self._timeout = datetime.timedelta(seconds=timeout)
        self._url = url
        self._options = {"world_size": world, "rank": rank, "timeout": self._timeout}
        self._local_rank = local_rank

    def __enter__(self) -> None:
        on_cuda = torch.cuda.is_available()
        if on_cuda:
            torch.cuda.set_device(self._local_rank)
        dist.init_process_group("nccl" if on_cuda else "gloo", store=self._store(), **self._options)
        distributed.timeout = self._timeout
        if on_cuda:
            distributed.host_group = dist.new_group(backend="gloo", timeout=self._timeout)
        tell_local_process_group(_group_of_this_machine(self._local_rank))

    def _store(self) -> dist.Store:
        """Where the processes meet. After a restart torchrun gives the store of the attempt before, with the addresses of dead
        processes in it (seen with PyTorch 2.13), so each attempt has names of its own."""
        options = {name: self._options[name] for name in ("rank", "world_size", "timeout")}
        store, _, _ = next(dist.rendezvous(self._url, **options))
        store.set_timeout(self._timeout)
        return dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)

    def __exit__(self, kind, error, traceback) -> None:
        tell_local_process_group(None)
        distributed.host_group = None
        if kind is None:  # after an error the others may be gone, and waiting for them would hide it
            dist.destroy_process_group()
        elif issubclass(kind, Exception):
            self._end_after(error)

    def _end_after(self, error: Exception) -> None:
        if not self._fails_first():
            time.sleep(_GRACE / 2)  # whoever watches shall see the first one end first
            raise SystemExit(_FAILED)
        if _is_loss_of_contact(error):
            reason = " ".join(str(error).split())
            raise ProcessLost(
                f"process {self._options['rank']} lost contact with another process ({reason[:200]}); ISE.PROCESS_TIMEOUT is how "
                "long processes wait for one another; --resume goes on from the last checkpoint"
            ) from error

    def _fails_first(self) -> bool:
        try:
            return dist.distributed_c10d._get_default_store().add("ise/failed processes", 1) == 1
        except RuntimeError:  # the process that kept the store is gone, and told nobody
            return self._local_rank == 0


def _is_loss_of_contact(error: Exception) -> bool:
    return isinstance(error, dist.DistError) or isinstance(error, RuntimeError) and "gloo" in str(error)


def _group_of_this_machine(local_rank: int):
    """The group that fastreid asks for the local rank; machines may have different numbers of processes."""
    firsts = [None] * dist.get_world_size()
    dist.all_gather_object(firsts, dist.get_rank() - local_rank)
    members = {first: [r for r, f in enumerate(firsts) if f == first] for first in sorted(set(firsts))}
    groups = {first: dist.new_group(ranks, timeout=distributed.timeout) for first, ranks in members.items()}
    return groups[dist.get_rank() - local_rank]
