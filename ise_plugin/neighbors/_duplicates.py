"""Rows that equal each other bit for bit: searched once, so that their order is by index and not by rounding.

A matrix product may round the same inner product differently in different places. Among copies of one image that would
decide at random who is whose neighbour, and with more copies than neighbours no search could tell them apart.
"""

from dataclasses import dataclass
from typing import Optional

import numpy as np
import torch

from ..utils.parallel import blocks_of, for_each_block
from . import kernels

_ROWS_PER_TASK = 1024
# Rows whose bits are added up at once: 4 MiB of int64 at 2,048 columns.
_ROWS_AT_ONCE = 256


@dataclass
class Copies:
    """Which rows are copies of which."""

    firsts: np.ndarray  # (U,) index of one row of every group, ascending
    group: np.ndarray  # (N,) group of every row, 0..U-1
    starts: np.ndarray  # (U + 1,) where a group's members begin
    members: np.ndarray  # (N,) rows by group, ascending within each


def find_copies(rows: torch.Tensor) -> Optional[Copies]:
    """Group equal rows of an (N, D) float32 matrix, on its device; None if all rows differ."""
    # sums of the bits, each times a random odd number, modulo 2 ** 64; equal ones are compared in full below
    factors = np.random.default_rng(0).integers(-(2**62), 2**62, size=rows.shape[1]) * 2 + 1
    odd = torch.from_numpy(factors).to(rows.device)
    sums = [(block.view(torch.int32) * odd).sum(dim=1) for block in rows.split(_ROWS_AT_ONCE)]
    hashes = torch.cat(sums).cpu().numpy()
    _, firsts, group = np.unique(hashes, return_index=True, return_inverse=True)
    if len(firsts) == len(rows):
        return None
    # Groups in the order of their first row, so that a lower group wins a tie as a lower index does.
    order = np.argsort(firsts)
    firsts, group = firsts[order], np.argsort(order)[group]
    copied = np.flatnonzero(firsts[group] != np.arange(len(rows)))
    for some in np.split(copied, range(_ROWS_AT_ONCE, len(copied), _ROWS_AT_ONCE)):
        pair = [rows[torch.from_numpy(index).to(rows.device)] for index in (some, firsts[group[some]])]
        if not torch.equal(*pair):
            return None  # two different rows with one hash: practically impossible, and only the order of ties is lost
    starts = np.concatenate([[0], np.cumsum(np.bincount(group))])
    return Copies(firsts, group, starts, np.argsort(group, kind="stable"))


def spread_over_copies(
    copies: Copies, own: np.ndarray, similarities: np.ndarray, groups: np.ndarray, keep: int
) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours of all rows from the neighbours of one row per group.

    Args:
        own: (U,) similarity of each group's row with itself.
        similarities, groups: (U, n) the most similar other groups of every group, best first; n may be short of
            ``keep`` only if there are no more groups.
        keep: other rows wanted per row.

    Returns:
        (N, keep) similarities and indices: copies of the row itself first, then each group's rows, ascending.
    """
    shape = len(copies.group), keep
    found, indices = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.int32)
    arrays = copies.group, copies.starts, copies.members, own, similarities, groups, found, indices
    work = lambda first, last: kernels.spread(first, last, *arrays)
    for_each_block(work, blocks_of(len(found), _ROWS_PER_TASK), "copies")
    return found, indices
