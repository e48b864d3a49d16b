"""Row blocks on several threads, with a progress bar where somebody is watching.

The compiled kernels of this package release Python's lock and write to rows of their own, so plain threads share the
work and the result cannot depend on how many there are. (numba's own parallel loops were not taken: they compile
several times longer and bring a second OpenMP pool that must not be used after a fork, which data loaders do.)
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Iterable, Optional

import torch
from tqdm import tqdm

Block = tuple[int, int]


def num_threads() -> int:
    """As many threads as torch has been told to use (``torch.set_num_threads``, ``OMP_NUM_THREADS``)."""
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
