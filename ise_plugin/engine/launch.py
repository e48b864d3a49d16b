"""Starts the processes of a run."""

import torch

from ..errors import UsageError


def launch(main, num_gpus: int = 1, num_machines: int = 1, machine_rank: int = 0, dist_url: str = "auto", args: tuple = ()):
    """Runs ``main(*args)``.

    Args:
        main: function to run.
        num_gpus: processes on this machine, one GPU each.
        num_machines, machine_rank, dist_url: as in fastreid's ``launch``.
        args: of ``main``.

    Raises:
        UsageError: more GPUs are asked for than there are, or more than one process.
    """
    if num_gpus < 1 or num_machines < 1:
        raise UsageError(f"--num-gpus and --num-machines must be at least 1, not {num_gpus} and {num_machines}")
    if num_gpus > max(1, torch.cuda.device_count()):
        raise UsageError(f"--num-gpus {num_gpus}: this machine has {torch.cuda.device_count()} CUDA GPU(s)")
    if num_gpus * num_machines > 1:
        raise UsageError("training in several processes is not there yet; use --num-gpus 1 --num-machines 1")
    return main(*args)
