"""Starts the processes of a run (fastreid's own launcher insists on CUDA), and says what becomes of them."""

import datetime
import logging
import os
import socket
import time
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Optional

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fastreid.engine.hooks import HookBase
from fastreid.utils import comm

from ..compat import tell_local_process_group
from ..errors import ProcessLost, UsageError
from ..utils import distributed
from ..utils.logs import kept_warnings
from .interruption import passed_on

logger = logging.getLogger("fastreid.ise.processes")

# After the first error: how long the other processes may take to end by themselves before they are ended. Unit: seconds.
_GRACE = 5.0
_FAILED = 1


def launch(
    main: Callable,
    num_gpus: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: tuple = (),
    timeout: float = 1800.0,
    device: str = "auto",
) -> Any:
    """Runs ``main(*args)`` in every process of the run.

    Under ``torchrun`` this process is one of several already. Otherwise one process is started for each of ``num_gpus`` GPUs.
    The first process to fail keeps its error; the others end without a word.

    Args:
        main: function to run; picklable when there are several processes.
        num_gpus: processes on this machine, one GPU each.
        num_machines, machine_rank, dist_url: as in fastreid's ``launch``; "auto" is a free port of this machine.
        args: of ``main``.
        timeout: how long a process waits for the others before the run ends. Unit: seconds.
        device: ``MODEL.DEVICE``: on CUDA ("auto": where there is one) each process takes a GPU, on others they talk through gloo.

    Returns:
        What ``main`` returns where there is one process.

    Raises:
        UsageError: more GPUs are asked for than there are, one GPU for several processes, or several machines without an address
            to meet at.
        ProcessLost: another process is gone or does not answer.
        torch.multiprocessing.ProcessRaisedException, ProcessExitedException: what became of a process started here.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        world, rank, local_rank = (int(os.environ[name]) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
        try:
            _check_gpus(device, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        except UsageError:
            if local_rank == 0:
                raise
            raise SystemExit(UsageError.EXIT_CODE) from None  # the first one says it
        with _process_group("env://", world, rank, local_rank, timeout, device):
            return main(*args)
    if num_gpus < 1 or num_machines < 1:
        raise UsageError(f"--num-gpus and --num-machines must be at least 1, not {num_gpus} and {num_machines}")
    if num_gpus > max(1, torch.cuda.device_count()):
        raise UsageError(f"--num-gpus {num_gpus}: this machine has {torch.cuda.device_count()} CUDA GPU(s)")
    if num_gpus * num_machines == 1:
        return main(*args)
    _check_gpus(device, num_gpus)
    if dist_url == "auto":
        if num_machines > 1:
            raise UsageError(f"--num-machines {num_machines} needs --dist-url tcp://HOST:PORT, an address of machine 0")
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    own = dist_url, num_gpus * num_machines, num_gpus * machine_rank, timeout, device, main, args
    processes = mp.start_processes(_spawned, own, nprocs=num_gpus, start_method="spawn", join=False)
    with passed_on(processes.processes):
        while not processes.join(grace_period=_GRACE):
            pass


def restarted(output_dir: str, resume: bool) -> bool:
    """Whether torchrun has started this run again (``--max-restarts``).

    The first attempt makes sure that a second one does not take an older run's checkpoint for its own.
    """
    attempt, restarts = _attempt(), int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0))
    pointer = os.path.join(output_dir, "last_checkpoint")
    if attempt > 0:
        logger.info(f"torchrun started the run again (attempt {attempt + 1}): going on from the last checkpoint")
    elif restarts and not resume and comm.is_main_process() and os.path.exists(pointer):
        logger.warning(f"{pointer} is of an older run, and --resume was not asked for: removed")
        os.remove(pointer)
    return attempt > 0


class TellWarnings(HookBase):
    """After every epoch the first process logs what the others have warned of and it has not."""

    def __init__(self):
        self._known: set = set()
        logging.getLogger("fastreid").addHandler(kept_warnings)

    def after_epoch(self) -> None:
        gathered = comm.gather(kept_warnings.take(), group=distributed.host_group)
        if not gathered:
            return
        own, *others = gathered
        self._known.update(own)
        for message in dict.fromkeys(message for messages in others for message in messages):
            if message not in self._known:
                processes = [str(number) for number, messages in enumerate(others, start=1) if message in messages]
                logger.warning(f"process {', '.join(processes)}: {message}")
                self._known.add(message)
        kept_warnings.take()  # what was logged just now


def _spawned(
    local_rank: int, url: str, world: int, first: int, timeout: float, device: str, main: Callable, args: tuple
) -> None:
    with _process_group(url, world, first + local_rank, local_rank, timeout, device):
        main(*args)


def _check_gpus(device: str, processes: int) -> None:
    """Raises UsageError where the processes of this machine would have to share a GPU, which NCCL hangs at."""
    if processes > 1 and _on_cuda(device):
        if device.startswith("cuda:"):
            raise UsageError(f"MODEL.DEVICE {device} is one GPU for {processes} processes; cuda gives each its own")
        if processes > torch.cuda.device_count():
            there = torch.cuda.device_count()
            raise UsageError(f"{processes} processes on a machine with {there} CUDA GPU(s); start one per GPU")


def _on_cuda(device: str) -> bool:
    return torch.cuda.is_available() and (device == "auto" or device.startswith("cuda"))


def _gpu_of(device: str, local_rank: int) -> Optional[torch.device]:
    """This process's GPU; None on other devices."""
    if not _on_cuda(device):
        return None
    return torch.device(device if device.startswith("cuda:") else f"cuda:{local_rank}")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def _attempt() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


@contextmanager
def _process_group(url: str, world: int, rank: int, local_rank: int, timeout: float, device: str) -> Iterator[None]:
    """Membership in the process group, for the time of a run."""
    distributed.timeout = datetime.timedelta(seconds=timeout)
    gpu = _gpu_of(device, local_rank)
    if gpu is not None:
        torch.cuda.set_device(gpu)
    options = {"rank": rank, "world_size": world, "timeout": distributed.timeout}
    store, _, _ = next(dist.rendezvous(url, **options))
    store.set_timeout(distributed.timeout)
    # After a restart torchrun gives the store of the attempt before, with the addresses of dead processes in it (seen with
    # PyTorch 2.13), so each attempt has names of its own.
    store = dist.PrefixStore(f"attempt {_attempt()}", store)
    dist.init_process_group("gloo" if gpu is None else "nccl", store=store, device_id=gpu, **options)
    if gpu is not None:
        distributed.host_group = dist.new_group(backend="gloo", timeout=distributed.timeout)
    tell_local_process_group(_group_of_this_machine(local_rank))
    try:
        yield
    except Exception as error:
        _leave_after(error, rank, local_rank)
        raise
    else:  # after an error the others may be gone, and waiting for them would hide it
        dist.destroy_process_group()
    finally:
        tell_local_process_group(None)
        distributed.host_group = None


def _leave_after(error: Exception, rank: int, local_rank: int) -> None:
    try:
        is_first = dist.distributed_c10d._get_default_store().add("ise/failed processes", 1) == 1
    except RuntimeError:  # the process that kept the store is gone
        is_first = local_rank == 0
    if not is_first:
        time.sleep(_GRACE / 2)  # whoever watches shall see the first one end first
        raise SystemExit(_FAILED)
    if isinstance(error, dist.DistError) or isinstance(error, RuntimeError) and "gloo" in str(error):
        reason = " ".join(str(error).split())[:200]
        raise ProcessLost(
            f"process {rank} lost contact with another process ({reason}); ISE.PROCESS_TIMEOUT is how long processes wait "
            "for one another; --resume goes on from the last checkpoint"
        ) from error


def _group_of_this_machine(local_rank: int) -> dist.ProcessGroup:
    """The group that fastreid asks for the local rank; machines may have different numbers of processes."""
    firsts = [None] * dist.get_world_size()
    dist.all_gather_object(firsts, dist.get_rank() - local_rank, group=distributed.host_group)
    members = {first: [r for r, f in enumerate(firsts) if f == first] for first in sorted(set(firsts))}
    # gloo: it is asked for ranks alone, and NCCL would connect the GPUs once more
    options = {"backend": "gloo", "timeout": distributed.timeout}
    groups = {first: dist.new_group(ranks, **options) for first, ranks in members.items()}
    return groups[dist.get_rank() - local_rank]
