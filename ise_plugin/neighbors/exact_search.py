"""k-nearest-neighbour searches for unit rows, registered by name."""

from functools import partial
from typing import Any, Callable, Optional

import numpy as np
import torch

from ..registry import NEIGHBOR_SEARCH
from ..utils.distributed import computed_once
from ..utils.logs import log_once
from ._bfloat16 import candidates_needed, round_rows, search_with_candidates
from ._device import search_on_device
from ._duplicates import find_copies, spread_over_copies
from .all_pairs import Multiply, gathered, search_all_pairs, search_some_rows
from .checks import Features, integer, unit_rows

Neighbors = tuple[np.ndarray, np.ndarray]  # similarities and indices, (N, k)


@NEIGHBOR_SEARCH.register()
def exact(features: Features, k: int, precision: str = "auto", shared: bool = False) -> Neighbors:
    """The k most similar rows of every row, by comparing all pairs.

    Args:
        features: (N, D) unit rows, numpy or torch.
        k: neighbours per row, the row itself included, 1 <= k <= N.
        precision: ``"float32"`` compares in float32. ``"bfloat16"`` finds candidates in bfloat16, scores them again in
            float32 and proves for every row that none was missed; rows without a proof are searched in float32. Either
            way the neighbours are the same, up to pairs whose similarities differ by less than float32's own rounding.
            ``"auto"`` takes bfloat16 on CPUs with bfloat16 dot products. On an accelerator, where the rows stay, always
            float32 with a second scoring in float64.
        shared: all processes of a torch.distributed run call this with the same rows, share the work, and get the same result,
            which is that of one process to the bit.

    Returns:
        similarities (N, k) float32 and indices (N, k) int64, most similar first. Each row's own index comes first even
        if other rows equal it; among equal similarities the lower index comes first.

    Raises:
        ValueError: features that are no finite unit rows, k outside [1, N], an unknown precision.
    """
    rows = unit_rows(features)
    k = integer(k, "k", 1, len(rows))
    return _search_with_copies(rows, k, _best_search(rows, precision), shared)


exact.shared = True  # all processes may call it together


def exact_across(
    features: Features, k: int, groups: np.ndarray, precision: str = "auto", shared: bool = False
) -> Neighbors:
    """The k most similar rows of every row among those of other groups, by comparing all pairs.

    Args:
        features, precision, shared: as for :func:`exact`.
        k: neighbours per row, in [1, N].
        groups: (N,), int64, such as cameras.

    Returns:
        similarities (N, k) float32 and indices (N, k) int64, most similar first; -inf and -1 where there are fewer. Among
        equal similarities the lower index comes first, but for equal rows, which rounding may put in either order.
    """
    rows = unit_rows(features)
    k = integer(k, "k", 1, len(rows))
    return _search_across(rows, k, groups, _best_search(rows, precision), shared)


exact.across = exact_across  # how neighbours in other groups alone are found


def _best_search(rows: torch.Tensor, precision: str) -> Callable[..., Neighbors]:
    if precision not in _PRECISIONS:
        raise ValueError(f"precision must be one of {_PRECISIONS}, got {precision!r}")
    return partial(_search_on_cpu, precision) if rows.device.type == "cpu" else search_on_device


def _search_across(
    rows: torch.Tensor, k: int, groups: np.ndarray, search: Callable[..., Neighbors], shared: bool
) -> Neighbors:
    groups, keep = np.unique(groups, return_inverse=True)[1].astype(np.int64), min(k, len(rows) - 1)
    similarities, indices = np.full((len(rows), k), -np.inf, np.float32), np.full((len(rows), k), -1, np.int64)
    similarities[:, :keep], indices[:, :keep] = _search_others(rows, keep, partial(search, groups=groups), shared)
    return similarities, indices


def _search_with_copies(rows: torch.Tensor, k: int, search: Callable[..., Neighbors], shared: bool) -> Neighbors:
    """What ``exact`` returns, from a search for the other rows of distinct ones; rows stay on their device."""
    own = torch.linalg.vector_norm(rows, dim=1).square().cpu().numpy()
    copies = find_copies(rows)
    if copies is None:
        found = _search_others(rows, k - 1, search, shared)
    else:
        distinct = rows[torch.from_numpy(copies.firsts).to(rows.device)]
        others = _search_others(distinct, min(k, len(distinct)) - 1, search, shared)
        found = spread_over_copies(copies, own[copies.firsts], *others, k - 1)
    itself = np.arange(len(rows))[:, None]
    return np.concatenate([own[:, None], found[0]], axis=1), np.concatenate([itself, found[1]], axis=1)


_PRECISIONS = ("auto", "float32", "bfloat16")


# Below this size the search is over before the candidates' second scoring can pay.
_FEW_ROWS = 2048
# With more unproven rows than this part, searching them singly costs more than searching everything in float32, which
# multiplies every pair once.
_UNPROVEN_SHARE = 0.4


def _search_others(rows: torch.Tensor, keep: int, search: Callable[..., Neighbors], shared: bool) -> Neighbors:
    """The ``keep`` most similar other rows of every row: similarities and int32 indices, (N, keep)."""
    if keep == 0:
        return np.empty((len(rows), 0), np.float32), np.empty((len(rows), 0), np.int32)
    return search(rows, keep, shared)


def _search_on_cpu(
    precision: str, rows: torch.Tensor, keep: int, shared: bool, groups: Optional[np.ndarray] = None
) -> Neighbors:
    if precision == "auto":
        precision = _decided(lambda: _best_precision(len(rows)), shared)
    return (_search_bfloat16 if precision == "bfloat16" else _search_float32)(rows, keep, shared, groups)


def _decided(choose: Callable[[], Any], shared: bool) -> Any:
    """What process 0 chooses, where all must do the same: their processors may differ."""
    return computed_once(choose) if shared else choose()


def _best_precision(num_rows: int) -> str:
    if num_rows < _FEW_ROWS:
        return "float32"
    cpu = torch.cpu
    for unit, there in (("AMX", cpu._is_amx_tile_supported), ("avx512_bf16", cpu._is_avx512_bf16_supported)):
        if there():
            log_once(f"Neighbour search: bfloat16 candidates, because this CPU has bfloat16 dot products ({unit}).")
            return "bfloat16"
    log_once("Neighbour search: float32, because this CPU has no bfloat16 dot products (AMX or avx512_bf16).")
    return "float32"


def _search_bfloat16(rows: torch.Tensor, keep: int, shared: bool, groups: Optional[np.ndarray] = None) -> Neighbors:
    rounded = round_rows(rows)
    candidates = _decided(partial(candidates_needed, *rounded, keep, groups), shared)
    if candidates is None:
        log_once("Neighbour search: float32, because these embeddings lie too close together for bfloat16.")
        return _search_float32(rows, keep, shared, groups)
    similarities, indices, proven = search_with_candidates(rows, *rounded, keep, candidates, shared, groups)
    del rounded
    unproven = np.flatnonzero(~proven)
    some = f"{len(unproven)} of {len(rows)} rows"
    if len(unproven) > _UNPROVEN_SHARE * len(rows):
        log_once(f"Neighbour search: float32, because {some} could not be proven complete in bfloat16.")
        return _search_float32(rows, keep, shared, groups)
    if len(unproven):
        log_once(f"Neighbour search: float32 for {some}, which could not be proven complete in bfloat16.")
        buffers = search_some_rows(rows.numpy(), unproven, keep, float32_product(), groups)
        similarities[unproven], indices[unproven] = buffers.sorted()
    return similarities, indices


def _search_float32(rows: torch.Tensor, keep: int, shared: bool, groups: Optional[np.ndarray] = None) -> Neighbors:
    similarities, indices = search_all_pairs(rows.numpy(), keep, float32_product(), shared, groups).sorted()
    return gathered(similarities, shared), gathered(indices, shared)


def float32_product() -> Multiply:
    """Products of equal blocks, always written to the same memory."""
    product: list[np.ndarray] = []  # filled on the first call, when the size of a block is known

    def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if not product:
            product.append(np.empty((len(a), len(b)), dtype=np.float32))
        return np.matmul(a, b.T, out=product[0])

    return multiply
