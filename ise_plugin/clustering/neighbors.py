"""k-nearest-neighbour searches for unit rows, registered by name."""

import logging
from typing import Optional

import numpy as np
import torch

from ..registry import NEIGHBOR_SEARCH
from ._checks import Features, integer, unit_rows
from ._exact import search_all_pairs

logger = logging.getLogger("fastreid.ise.clustering")

Neighbors = tuple[np.ndarray, np.ndarray]


@NEIGHBOR_SEARCH.register()
def exact(features: Features, k: int, show_progress: Optional[bool] = None) -> Neighbors:
    """The k most similar rows of every row, by comparing all pairs.

    Args:
        features: (N, D) unit rows, numpy or torch.
        k: neighbours per row, the row itself included, 1 <= k <= N.
        show_progress: True or False overrules the look at the terminal.

    Returns:
        similarities (N, k) float32 and indices (N, k) int64, most similar first. Each row's own index comes first even
        if other rows equal it; among equal similarities the lower index comes first.

    Raises:
        ValueError: features that are no finite unit rows, k outside [1, N].
    """
    rows = unit_rows(features)
    k = _neighbor_count(k, len(rows))
    if rows.device.type != "cpu":
        return _search_on_device(rows, k)
    others, indices = _search_float32(rows.numpy(), k - 1, show_progress)
    return _own_index_first(rows, others, indices)


def _neighbor_count(k: int, num_rows: int) -> int:
    k = integer(k, "k")
    if not 1 <= k <= num_rows:
        raise ValueError(f"k must lie in [1, {num_rows}] for {num_rows} rows, got {k}")
    return k


def _search_float32(rows: np.ndarray, keep: int, show_progress: Optional[bool]) -> Neighbors:
    if keep == 0:
        return np.empty((len(rows), 0), np.float32), np.empty((len(rows), 0), np.int32)
    product: list[np.ndarray] = []

    def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if not product:
            product.append(np.empty((len(a), len(b)), dtype=np.float32))
        return np.matmul(a, b.T, out=product[0])

    return search_all_pairs(rows, keep, multiply, show_progress).sorted()


def _own_index_first(rows: torch.Tensor, similarities: np.ndarray, indices: np.ndarray) -> Neighbors:
    own = torch.linalg.vector_norm(rows, dim=1).square().cpu().numpy()
    similarities = np.concatenate([own[:, None], similarities], axis=1)
    return similarities, np.concatenate([np.arange(len(rows))[:, None], indices], axis=1)


# Scores held at once by the search on an accelerator, in elements (512 MiB of float32).
_DEVICE_BLOCK_ELEMENTS = 1 << 27


def _search_on_device(rows: torch.Tensor, k: int) -> Neighbors:
    """Row blocks against everything with torch, in full float32 (TF32 would disturb the order of neighbours)."""
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        size = max(1, _DEVICE_BLOCK_ELEMENTS // len(rows))
        found = [_search_rows(rows, start, size, k) for start in range(0, len(rows), size)]
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    similarities, indices = (torch.cat(parts).cpu().numpy() for parts in zip(*found))
    return similarities, indices


def _search_rows(rows: torch.Tensor, start: int, size: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    block = rows[start:start + size]
    scores = block @ rows.T
    own = torch.arange(start, start + len(block), device=rows.device)
    true_own = scores.gather(1, own[:, None])
    scores.scatter_(1, own[:, None], float("inf"))
    best, columns = scores.topk(k, dim=1, sorted=True)
    best[:, :1] = true_own
    return best, columns
