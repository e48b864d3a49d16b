"""Row blocks on several threads, with a progress bar where somebody is watching.

The compiled kernels of this package release Python's lock and write to rows of their own, so plain threads share the
work and the result cannot depend on how many there are. (numba's own parallel loops were not taken: they compile
several times longer and bring a second OpenMP pool that must not be used after a fork, which data loaders do.)
"""

import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Callable, Iterable, Optional

import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

Block = tuple[int, int]

# where Linux mounts the control groups; a container sees its own there
_CONTROL_GROUPS = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """Cores that this process may use: those of its affinity, and no more than its control group has time for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _quota() -> Optional[float]:
    """Cores' worth of time that the control group grants, of either version; None where it sets no bound."""
    with suppress(OSError, ValueError):  # "max" is no bound
        time, period = (_CONTROL_GROUPS / "cpu.max").read_text().split()
        return int(time) / int(period)
    with suppress(OSError, ValueError):
        time, period = ((_CONTROL_GROUPS / f"cpu/cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(time) / int(period) if int(time) > 0 else None  # -1 is no bound
    return None


def share_cores(processes: int) -> None:
    """Gives this process as many threads as there are cores for each of so many processes on this machine.

    ``OMP_NUM_THREADS`` stays in force, but for the 1 that torchrun sets where nothing else is said: with it one core per
    process would search, build the graph and cluster, and all the others would wait.
    """
    asked = os.environ.get("OMP_NUM_THREADS")
    by_torchrun = asked == "1" and processes > 1 and "TORCHELASTIC_RUN_ID" in os.environ
    share = max(1, available_cores() // processes)
    if by_torchrun or not asked and share < torch.get_num_threads():
        torch.set_num_threads(share)
        threadpool_limits(share)  # numpy's BLAS, and every OpenMP that is loaded
        os.environ["OMP_NUM_THREADS"] = str(share)  # of libraries that are loaded later, such as faiss


def num_threads() -> int:
    """As many threads as torch has been told to use (:func:`share_cores`, ``torch.set_num_threads``, ``OMP_NUM_THREADS``)."""
    return max(1, torch.get_num_threads())


def blocks_of(num_rows: int, size: int) -> list[Block]:
    """Cut 0..num_rows into (start, stop) pieces of at most ``size``."""
    return [(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]


# Set by whoever wants no bars at all, terminal or not.
silent = False


def progress_bar(total: int, title: str, unit: str = "rows", show: Optional[bool] = None) -> tqdm:
    """A bar that stays silent for work of under two seconds and where standard error is no terminal.

    Args:
        show: True or False overrules the look at the terminal.
    """
    hidden = silent or (not sys.stderr.isatty() if show is None else not show)
    return tqdm(total=total, desc=title, unit=unit, unit_scale=True, delay=2.0, leave=False, disable=hidden)


def for_each_block(
    work: Callable[[int, int], object], blocks: Iterable[Block], title: str, show_progress: Optional[bool] = None
) -> list:
    """Call ``work(start, stop)`` for every block, in threads; the results in the blocks' order."""
    blocks = list(blocks)
    total = sum(stop - start for start, stop in blocks)
    with progress_bar(total, title, show=show_progress) as bar, ThreadPoolExecutor(num_threads()) as pool:
        results = []
        for (start, stop), result in zip(blocks, pool.map(lambda block: work(*block), blocks)):
            results.append(result)
            bar.update(stop - start)
    return results
