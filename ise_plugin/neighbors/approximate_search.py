"""Approximate k-nearest-neighbour searches through faiss, for sets too large to compare all pairs of."""

from typing import Optional

import numpy as np

from ..registry import NEIGHBOR_SEARCH
from ..utils.logs import log_once
from ..utils.parallel import blocks_of, progress_bar
from ._all_pairs import search_some_rows
from ._checks import Features, integer, neighbor_count, unit_rows
from .exact_search import Neighbors, float32_product
from .indexes import ROWS_AT_ONCE, build_hnsw, build_ivf, default_cells, set_effort


@NEIGHBOR_SEARCH.register()
def ivf(
    features: Features,
    k: int,
    num_cells: Optional[int] = None,
    num_probes: int = 32,
    show_progress: Optional[bool] = None,
) -> Neighbors:
    """Inverted file: compare each row only with the rows in the cells nearest to it.

    Runs on all GPUs where a GPU build of faiss finds some. The same rows give the same result.

    Args:
        features: (N, D) unit rows, numpy or torch.
        k: neighbours per row, the row itself included, 1 <= k <= N.
        num_cells: cells of the coarse quantiser, 1..N; default 4 * sqrt(N). More cells: faster, lower recall.
        num_probes: cells searched per row, at least 1. Larger values: slower, higher recall.
        show_progress: True or False overrules the look at the terminal.

    Returns:
        as :func:`ise_plugin.neighbors.exact_search.exact`, with some of the true neighbours missing.

    Raises:
        ValueError: features that are no finite unit rows, k outside [1, N], num_cells outside [1, N], num_probes < 1.
    """
    rows = unit_rows(features)
    k = neighbor_count(k, len(rows))
    num_cells = default_cells(len(rows)) if num_cells is None else integer(num_cells, "num_cells")
    if not 1 <= num_cells <= len(rows):
        raise ValueError(f"num_cells must lie in [1, {len(rows)}] for {len(rows)} rows, got {num_cells}")
    if integer(num_probes, "num_probes") < 1:
        raise ValueError(f"num_probes must be at least 1, got {num_probes}")
    vectors = rows.cpu().numpy()
    index = build_ivf(vectors, num_cells, num_probes, on_gpus=True)
    return _query(index, vectors, k, show_progress)


@NEIGHBOR_SEARCH.register()
def hnsw(
    features: Features,
    k: int,
    num_links: int = 32,
    construction_effort: int = 80,
    search_effort: int = 128,
    show_progress: Optional[bool] = None,
) -> Neighbors:
    """Navigable small-world graph (Malkov and Yashunin, 2018): walk from row to row towards the query.

    The graph is built by several threads at once, so results differ a little from run to run.

    Args:
        features: (N, D) unit rows, numpy or torch.
        k: neighbours per row, the row itself included, 1 <= k <= N.
        num_links: links per row, at least 2. Larger values: more memory, higher recall.
        construction_effort: rows looked at to place one, at least 1. Larger values: slower building, higher recall.
        search_effort: rows looked at per query, at least 1 (k is the least that is used). Larger values: slower, higher
            recall.
        show_progress: True or False overrules the look at the terminal.

    Returns:
        as :func:`ise_plugin.neighbors.exact_search.exact`, with some of the true neighbours missing.

    Raises:
        ValueError: features that are no finite unit rows, k outside [1, N], a parameter below its least value.
    """
    rows = unit_rows(features)
    k = neighbor_count(k, len(rows))
    for name, value, least in (
        ("num_links", num_links, 2),
        ("construction_effort", construction_effort, 1),
        ("search_effort", search_effort, 1),
    ):
        if integer(value, name) < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    vectors = rows.cpu().numpy()
    index = build_hnsw(vectors, num_links, construction_effort, show_progress)
    set_effort(index, max(search_effort, k))
    return _query(index, vectors, k, show_progress)


def _query(index, vectors: np.ndarray, k: int, show_progress: Optional[bool]) -> Neighbors:
    similarities = np.empty((len(vectors), k), dtype=np.float32)
    indices = np.empty((len(vectors), k), dtype=np.int64)
    with progress_bar(len(vectors), "neighbour search", show=show_progress) as bar:
        for start, stop in blocks_of(len(vectors), ROWS_AT_ONCE):
            found = index.search(vectors[start:stop], k)
            similarities[start:stop], indices[start:stop] = found
            _move_own_index_first(similarities[start:stop], indices[start:stop], start)
            bar.update(stop - start)
    _complete(vectors, similarities, indices, show_progress)
    return similarities, indices


def _move_own_index_first(similarities: np.ndarray, indices: np.ndarray, start: int) -> None:
    """Shift what stands before a row's own index (the last entry where it is missing) and put it first."""
    own = np.arange(start, start + len(indices))
    found = indices == own[:, None]
    place = np.where(found.any(axis=1), found.argmax(axis=1), indices.shape[1] - 1)
    for row in np.flatnonzero((place > 0) | ~found.any(axis=1)):
        last = place[row]
        indices[row, 1 : last + 1] = indices[row, :last].copy()
        similarities[row, 1 : last + 1] = similarities[row, :last].copy()
        indices[row, 0], similarities[row, 0] = own[row], 1.0


def _complete(
    vectors: np.ndarray, similarities: np.ndarray, indices: np.ndarray, show_progress: Optional[bool]
) -> None:
    """faiss writes -1 where it met fewer than k rows; search those rows exactly."""
    short = np.flatnonzero((indices < 0).any(axis=1))
    if len(short) == 0:
        return
    log_once(
        f"Neighbour search: exact for {len(short)} of {len(vectors)} rows, for which the approximate search met "
        "too few others."
    )
    keep = indices.shape[1] - 1
    buffers = search_some_rows(vectors, short, keep, float32_product(), show_progress)
    similarities[short, 1:], indices[short, 1:] = buffers.sorted()
    similarities[short, 0], indices[short, 0] = 1.0, short
