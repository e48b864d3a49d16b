"""Starts the processes of a run. fastreid's own launcher insists on CUDA."""

import datetime
import os

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ..compat import tell_local_process_group
from ..errors import UsageError

# How long a process waits for the others before the run ends with an error.
_TIMEOUT = datetime.timedelta(minutes=30)


def launch(
    main, num_gpus: int = 1, num_machines: int = 1, machine_rank: int = 0, dist_url: str = "auto", args: tuple = ()
):
    """Runs ``main(*args)`` in every process of the run.

    Under ``torchrun`` this process is one of several already: on CUDA machines each takes a GPU, elsewhere they train on
    the CPU. Otherwise one process is started for each of ``num_gpus`` GPUs.

    Args:
        main: function to run; picklable when there are several processes.
        num_gpus: processes on this machine, one GPU each.
        num_machines, machine_rank, dist_url: as in fastreid's ``launch``.
        args: of ``main``.

    Returns:
        What ``main`` returns where there is one process.

    Raises:
        UsageError: more GPUs are asked for than there are.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        with _Process("env://", int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])):
            return main(*args)
    if num_gpus < 1 or num_machines < 1:
        raise UsageError(f"--num-gpus and --num-machines must be at least 1, not {num_gpus} and {num_machines}")
    if num_gpus > max(1, torch.cuda.device_count()):
        raise UsageError(f"--num-gpus {num_gpus}: this machine has {torch.cuda.device_count()} CUDA GPU(s)")
    if num_gpus * num_machines == 1:
        return main(*args)
    mp.start_processes(
        _spawned,
        args=(main, num_gpus, num_machines, machine_rank, dist_url, args),
        nprocs=num_gpus,
        start_method="spawn",
    )


def _spawned(
    local_rank: int, main, num_gpus: int, num_machines: int, machine_rank: int, dist_url: str, args: tuple
) -> None:
    with _Process(dist_url, num_gpus * num_machines, machine_rank * num_gpus + local_rank, local_rank):
        main(*args)


class _Process:
    """Membership in the process group, for the time of a run."""

    def __init__(self, url: str, world: int, rank: int, local_rank: int):
        self._options = {"init_method": url, "world_size": world, "rank": rank, "timeout": _TIMEOUT}
        self._local_rank = local_rank

    def __enter__(self) -> None:
        on_cuda = torch.cuda.is_available()
        if on_cuda:
            torch.cuda.set_device(self._local_rank)
        dist.init_process_group("nccl" if on_cuda else "gloo", **self._options)
        tell_local_process_group(_group_of_this_machine(self._local_rank))

    def __exit__(self, kind, error, traceback) -> None:
        tell_local_process_group(None)
        if kind is None:  # after an error the others may be gone, and waiting for them would hide it
            dist.destroy_process_group()


def _group_of_this_machine(local_rank: int):
    """The group that fastreid asks for the local rank; machines may have different numbers of processes."""
    firsts = [None] * dist.get_world_size()
    dist.all_gather_object(firsts, dist.get_rank() - local_rank)
    groups = {first: dist.new_group([r for r, f in enumerate(firsts) if f == first]) for first in sorted(set(firsts))}
    return groups[dist.get_rank() - local_rank]
