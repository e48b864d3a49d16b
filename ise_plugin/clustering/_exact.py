"""Exact k-nearest-neighbour search on the CPU: every pair once, in square blocks.

A similarity serves both of its rows, so only blocks on and above the diagonal are multiplied: half the arithmetic of a
search that treats queries and data base as different. All blocks have the same shape (the last is padded with zeros),
so that one piece of memory serves all products and every row is multiplied in the same way.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Optional

import numpy as np

from ._parallel import Block, blocks_of, for_each_block, num_threads, progress_bar
from ._selection import CHUNK, offer_columns, offer_rows, sort_buffers

# Rows per block: large enough for the matrix product to run at full speed, small enough for its result to stay in the
# last-level cache; a multiple of the columns that the selection tests at once.
_LARGEST_BLOCK = 2048

# (b, D), (b, D) -> (b, b) products of all pairs: float32, or int16 holding the bits of bfloat16.
Multiply = Callable[[np.ndarray, np.ndarray], np.ndarray]


class CandidateBuffers:
    """The best columns of every row so far: scores float32 and columns int32, both (n, 2 * keep).

    Args:
        own: (n,) the column that is the row itself and therefore no candidate.
        keep: how many candidates a row keeps.
    """

    def __init__(self, own: np.ndarray, keep: int):
        self.own = own
        self.keep = keep
        self.scores = np.empty((len(own), 2 * keep), dtype=np.float32)
        self.columns = np.empty((len(own), 2 * keep), dtype=np.int32)
        self.filled = np.zeros(len(own), dtype=np.int32)
        self.thresholds = np.full(len(own), -np.inf, dtype=np.float32)

    def offer(self, pool: ThreadPoolExecutor, block: np.ndarray, rows: Block, columns: Block, mirror: bool) -> None:
        """Offer a block of scores to its rows and, for ``mirror``, to its columns; each thread takes a stripe."""
        num_rows, num_columns = rows[1] - rows[0], columns[1] - columns[0]
        stripes = num_threads()
        state = self.keep, self.scores, self.columns, self.filled, self.thresholds

        def work(stripe: int) -> None:
            first, last = num_rows * stripe // stripes, num_rows * (stripe + 1) // stripes
            offer_rows(block, self.own, rows[0], columns[0], first, last, num_columns, *state)
            if mirror:
                chunks = -(-num_columns // CHUNK)
                first, last = chunks * stripe // stripes * CHUNK, chunks * (stripe + 1) // stripes * CHUNK
                last = min(last, num_columns)
                offer_columns(block, rows[0], columns[0], first, last, num_rows, *state)

        list(pool.map(work, range(stripes)))

    def sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Best first, ties by index: views (n, keep) of scores and columns; ``filled`` says how many count."""

        def work(start: int, stop: int) -> None:
            sort_buffers(start, stop, self.keep, self.scores, self.columns, self.filled)

        for_each_block(work, blocks_of(len(self.filled), _LARGEST_BLOCK), "sorting neighbours", show_progress=False)
        return self.scores[:, : self.keep], self.columns[:, : self.keep]


def block_size(num_rows: int) -> int:
    """Rows per block: the largest allowed size that wastes little padding in the last block."""
    count = -(-num_rows // _LARGEST_BLOCK)
    return -(-num_rows // (count * CHUNK)) * CHUNK


def search_all_pairs(
    rows: np.ndarray, keep: int, multiply: Multiply, show_progress: Optional[bool] = None
) -> CandidateBuffers:
    """The best ``keep`` other rows of every row, each pair multiplied once.

    Args:
        rows: (N, D), in whatever type ``multiply`` takes.
    """
    operands, blocks = _equal_blocks(rows, block_size(len(rows)))
    buffers = CandidateBuffers(np.arange(len(rows)), keep)
    pairs = [(i, j) for i in range(len(blocks)) for j in range(i, len(blocks))]
    with (
        ThreadPoolExecutor(num_threads()) as pool,
        progress_bar(len(pairs), "neighbour search", "blocks", show_progress) as bar,
    ):
        for i, j in pairs:
            buffers.offer(pool, multiply(operands[i], operands[j]), blocks[i], blocks[j], mirror=i != j)
            bar.update()
    return buffers


def search_some_rows(
    rows: np.ndarray, which: np.ndarray, keep: int, multiply: Multiply, show_progress: Optional[bool] = None
) -> CandidateBuffers:
    """The best ``keep`` other rows of the rows ``which`` (n,) only: what ``search_all_pairs`` gives for those."""
    operands, blocks = _equal_blocks(rows, block_size(len(rows)))
    buffers = CandidateBuffers(which, keep)
    size = block_size(len(which))
    with (
        ThreadPoolExecutor(num_threads()) as pool,
        progress_bar(len(which), "neighbour search of the rest", show=show_progress) as bar,
    ):
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
    if len(rows) == size:
        return rows
    padded = np.zeros((size, rows.shape[1]), dtype=rows.dtype)
    padded[: len(rows)] = rows
    return padded
