"""Exact k-nearest-neighbour search on the CPU: every pair once, in square blocks.

A similarity serves both of its rows, so only blocks on and above the diagonal are multiplied: half the arithmetic of a
search that treats queries and data base as different. All blocks have the same shape (the last is padded with zeros),
so that one piece of memory serves all products and every row is multiplied in the same way.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Optional

import numpy as np
import torch

from ..utils.distributed import gather_parts, gather_rows, rank, shard, shards, world_size
from ..utils.parallel import Block, blocks_of, for_each_block, num_threads, progress_bar
from .kernels import CHUNK, offer_columns, offer_rows, sort_buffers

# Rows per block: large enough for the matrix product to run at full speed, small enough for its result to stay in the
# last-level cache; a multiple of the columns that the selection tests at once.
_LARGEST_BLOCK = 2048

# (b, D), (b, D) -> (b, b) products of all pairs: float32, or int16 holding the bits of bfloat16.
Multiply = Callable[[np.ndarray, np.ndarray], np.ndarray]


class CandidateBuffers:
    """The best columns of every row so far: scores float32 and columns int32, both (n, 2 * keep).

    Args:
        own, groups: (n,), (N,), int64, the group of every row and column. A column of the row's own group is no candidate.
        keep: how many candidates a row keeps.
    """

    def __init__(self, own: np.ndarray, groups: np.ndarray, keep: int):
        self.own, self.groups, self.keep, shape = own, groups, keep, (len(own), 2 * keep)
        self.scores, self.columns = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.int32)
        self.filled = np.zeros(len(own), dtype=np.int32)
        self.thresholds = np.full(len(own), -np.inf, dtype=np.float32)

    def offer(self, pool: ThreadPoolExecutor, block: np.ndarray, rows: Block, columns: Block, mirror: bool) -> None:
        """Offer a block of scores to its rows and, for ``mirror``, to its columns; each thread takes a stripe."""
        num_rows, num_columns = rows[1] - rows[0], columns[1] - columns[0]
        stripes = num_threads()
        groups = self.own, self.groups
        state = self.keep, self.scores, self.columns, self.filled, self.thresholds

        def work(stripe: int) -> None:
            first, last = num_rows * stripe // stripes, num_rows * (stripe + 1) // stripes
            offer_rows(block, *groups, rows[0], columns[0], first, last, num_columns, *state)
            if mirror:
                chunks = -(-num_columns // CHUNK)
                first, last = chunks * stripe // stripes * CHUNK, chunks * (stripe + 1) // stripes * CHUNK
                offer_columns(block, *groups, rows[0], columns[0], first, min(last, num_columns), num_rows, *state)

        list(pool.map(work, range(stripes)))

    def sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Best first, ties by index: views (n, keep) of scores and columns, -inf and -1 after those ``filled`` counts."""
        work = lambda first, last: sort_buffers(first, last, self.keep, self.scores, self.columns, self.filled)
        for_each_block(work, blocks_of(len(self.filled), _LARGEST_BLOCK), "sorting neighbours")
        return self.scores[:, : self.keep], self.columns[:, : self.keep]


def block_size(num_rows: int) -> int:
    """Rows per block: the largest allowed size that wastes little padding in the last block."""
    count = -(-num_rows // _LARGEST_BLOCK)
    return -(-num_rows // (count * CHUNK)) * CHUNK


def search_all_pairs(
    rows: np.ndarray, keep: int, multiply: Multiply, shared: bool = False, groups: Optional[np.ndarray] = None
) -> CandidateBuffers:
    """The best ``keep`` other rows of every row, each pair multiplied once.

    Args:
        rows: (N, D), in whatever type ``multiply`` takes.
        shared: all processes call this together. Each multiplies some of the blocks, and has the outcome for its ``shard(N)``
            alone. The same blocks are multiplied in the same way, so the outcome is the same to the bit.
        groups: (N,), int64; a row is given none of its own group. None: each row is a group.
    """
    operands, blocks = _equal_blocks(rows, block_size(len(rows)))
    groups = np.arange(len(rows)) if groups is None else groups
    buffers = CandidateBuffers(groups, groups, keep)
    pairs = [(i, j) for i in range(len(blocks)) for j in range(i, len(blocks))]
    if shared:
        pairs = pairs[rank() :: world_size()]  # in the same order: buffers want ascending columns
    with ThreadPoolExecutor(num_threads()) as pool, progress_bar(len(pairs), "neighbour search", "blocks") as bar:
        for i, j in pairs:
            buffers.offer(pool, multiply(operands[i], operands[j]), blocks[i], blocks[j], mirror=i != j)
            bar.update()
    if shared and world_size() > 1:
        _exchange(buffers)
    return buffers


def _exchange(buffers: CandidateBuffers) -> None:
    """Puts together what all processes have found for this process's rows. Best first and ties by index is an order of all
    candidates, so the best of the processes' best are the best of all."""
    keep = buffers.keep
    scores, columns = buffers.sorted()
    for process, share in enumerate(shards(len(scores))):
        mine = slice(share.start, share.stop)
        found = [gather_parts(part[mine], process) for part in (scores, columns)]
        if process != rank():
            continue
        for start, stop in blocks_of(len(share), _LARGEST_BLOCK):
            all_scores, all_columns = (np.concatenate([part[start:stop] for part in parts], axis=1) for parts in found)
            order = np.lexsort((all_columns, -all_scores), axis=1)[:, :keep]
            rows = slice(share.start + start, share.start + stop)
            buffers.scores[rows, :keep] = np.take_along_axis(all_scores, order, 1)
            buffers.columns[rows, :keep] = np.take_along_axis(all_columns, order, 1)
            buffers.filled[rows] = np.isfinite(buffers.scores[rows, :keep]).sum(1)


def gathered(values: np.ndarray, shared: bool) -> np.ndarray:
    """(N, ...) complete, from an array of which each process has filled its ``shard(N)``."""
    if not shared or world_size() == 1:
        return values
    if values.dtype == np.bool_:  # gloo knows none
        return gathered(values.view(np.uint8), shared).view(np.bool_)
    mine = shard(len(values))
    return gather_rows(torch.from_numpy(np.ascontiguousarray(values[mine.start : mine.stop]))).numpy()


def search_some_rows(
    rows: np.ndarray, which: np.ndarray, keep: int, multiply: Multiply, groups: Optional[np.ndarray] = None
) -> CandidateBuffers:
    """The best ``keep`` other rows of the rows ``which`` (n,) only: what ``search_all_pairs`` gives for those."""
    operands, blocks = _equal_blocks(rows, block_size(len(rows)))
    groups = np.arange(len(rows)) if groups is None else groups
    buffers = CandidateBuffers(groups[which], groups, keep)
    size = block_size(len(which))
    with ThreadPoolExecutor(num_threads()) as pool, progress_bar(len(which), "neighbour search of the rest") as bar:
        for start, stop in blocks_of(len(which), size):
            queries = _padded(rows[which[start:stop]], size)
            for operand, columns in zip(operands, blocks):
                buffers.offer(pool, multiply(queries, operand), (start, stop), columns, mirror=False)
            bar.update(stop - start)
    return buffers


def _equal_blocks(rows: np.ndarray, size: int) -> tuple[list[np.ndarray], list[Block]]:
    blocks = blocks_of(len(rows), size)
    return [_padded(rows[start:stop], size) for start, stop in blocks], blocks


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    return rows if len(rows) == size else np.pad(rows, ((0, size - len(rows)), (0, 0)))
