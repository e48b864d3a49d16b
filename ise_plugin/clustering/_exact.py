"""Exact k-nearest-neighbour search on the CPU: every pair once, in square blocks.

A similarity serves both of its rows, so only blocks on and above the diagonal are multiplied: half the arithmetic of a
search that treats queries and data base as different. All blocks have the same shape (the last is padded with zeros),
so that equal rows get equal similarities wherever they stand and ties are broken by index, not by rounding.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Optional

import numpy as np

from ._parallel import blocks_of, for_each_block, num_threads, progress_bar
from ._selection import offer_columns, offer_rows, sort_buffers

# Rows per block: large enough for the matrix product to run at full speed, small enough for its result to stay in the
# last-level cache; a multiple of the product's own tile.
_LARGEST_BLOCK = 2048
_TILE = 64


class CandidateBuffers:
    """The best columns of every row so far: scores float32 and columns int32, both (N, 2 * keep)."""

    def __init__(self, num_rows: int, keep: int):
        self.keep = keep
        self.scores = np.empty((num_rows, 2 * keep), dtype=np.float32)
        self.columns = np.empty((num_rows, 2 * keep), dtype=np.int32)
        self.filled = np.zeros(num_rows, dtype=np.int32)
        self.thresholds = np.full(num_rows, -np.inf, dtype=np.float32)

    def state(self) -> tuple:
        return self.keep, self.scores, self.columns, self.filled, self.thresholds

    def sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Best first, ties by index: views (N, keep) of scores and columns; ``filled`` says how many count."""
        def work(start: int, stop: int) -> None:
            sort_buffers(start, stop, self.keep, self.scores, self.columns, self.filled)
        for_each_block(work, blocks_of(len(self.filled), 4096), "sorting neighbours", show_progress=False)
        return self.scores[:, :self.keep], self.columns[:, :self.keep]


def block_size(num_rows: int) -> int:
    """Rows per block: the largest allowed size that wastes little padding in the last block."""
    count = -(-num_rows // _LARGEST_BLOCK)
    return -(-num_rows // (count * _TILE)) * _TILE


def search_all_pairs(rows: np.ndarray, keep: int, multiply: Callable[[np.ndarray, np.ndarray], np.ndarray],
                     show_progress: Optional[bool] = None) -> CandidateBuffers:
    """Offer every pair's score to both of its rows.

    Args:
        rows: (N, D), in whatever type ``multiply`` takes.
        keep: candidates to keep per row, itself not among them.
        multiply: (b, D), (b, D) -> (b, b) products of all pairs, float32, or int16 holding the bits of bfloat16.
    """
    num_rows, size = len(rows), block_size(len(rows))
    blocks = blocks_of(num_rows, size)
    buffers = CandidateBuffers(num_rows, keep)

    def block_of(index: int):
        start, stop = blocks[index]
        if stop - start == size:
            return rows[start:stop]
        padded = np.zeros((size, rows.shape[1]), dtype=rows.dtype)
        padded[:stop - start] = rows[start:stop]
        return padded

    operands = [block_of(index) for index in range(len(blocks))]
    total = len(blocks) * (len(blocks) + 1) // 2
    with ThreadPoolExecutor(num_threads()) as pool, progress_bar(total, "neighbour search", "blocks",
                                                                  show_progress) as bar:
        for i, upper in enumerate(operands):
            for j in range(i, len(operands)):
                _offer_block(pool, multiply(upper, operands[j]), blocks[i], blocks[j], buffers)
                bar.update()
    return buffers


def _offer_block(pool: ThreadPoolExecutor, block: np.ndarray, rows: tuple[int, int], columns: tuple[int, int],
                 buffers: CandidateBuffers) -> None:
    """Each thread takes a stripe of the block's rows and, off the diagonal, a stripe of its columns."""
    num_rows, num_columns = rows[1] - rows[0], columns[1] - columns[0]
    stripes = num_threads()

    def work(stripe: int) -> None:
        first, last = num_rows * stripe // stripes, num_rows * (stripe + 1) // stripes
        offer_rows(block, rows[0], columns[0], first, last, num_columns, *buffers.state())
        if rows != columns:
            first, last = num_columns * stripe // stripes, num_columns * (stripe + 1) // stripes
            offer_columns(block, rows[0], columns[0], first, last, num_rows, *buffers.state())

    list(pool.map(work, range(stripes)))
