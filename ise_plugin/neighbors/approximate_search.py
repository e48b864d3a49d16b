"""Approximate k-nearest-neighbour searches through faiss, for sets too large to compare all pairs of."""

from typing import Any, Optional

import numpy as np

from ..registry import NEIGHBOR_SEARCH
from ..utils.logs import log_once
from ..utils.parallel import blocks_of, progress_bar
from .all_pairs import search_some_rows
from .checks import Features, integer, unit_rows
from .exact_search import Neighbors, float32_product
from .indexes import ROWS_AT_ONCE, build_hnsw, build_ivf, set_effort


@NEIGHBOR_SEARCH.register()
def ivf(features: Features, k: int, num_cells: Optional[int] = None, num_probes: int = 32) -> Neighbors:
    """Inverted file: compare each row only with the rows in the cells nearest to it.

    Runs on all GPUs where a GPU build of faiss finds some. The same rows give the same result.

    Args:
        features: (N, D) unit rows, numpy or torch.
        k: neighbours per row, the row itself included, 1 <= k <= N.
        num_cells: cells of the coarse quantiser, 1..N; default 4 * sqrt(N). More cells: faster, lower recall.
        num_probes: cells searched per row, at least 1. Larger values: slower, higher recall.

    Returns:
        as :func:`ise_plugin.neighbors.exact_search.exact`, with some of the true neighbours missing.

    Raises:
        ValueError: features that are no finite unit rows, k outside [1, N], num_cells outside [1, N], num_probes < 1.
    """
    rows = unit_rows(features)
    k = integer(k, "k", 1, len(rows))
    if num_cells is not None:
        num_cells = integer(num_cells, "num_cells", 1, len(rows))
    vectors = rows.cpu().numpy()
    index = build_ivf(vectors, num_cells, integer(num_probes, "num_probes", 1), on_gpus=True)
    return _query(index, vectors, k)


@NEIGHBOR_SEARCH.register()
def hnsw(
    features: Features, k: int, num_links: int = 32, construction_effort: int = 80, search_effort: int = 128
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

    Returns:
        as :func:`ise_plugin.neighbors.exact_search.exact`, with some of the true neighbours missing.

    Raises:
        ValueError: features that are no finite unit rows, k outside [1, N], a parameter below its least value.
    """
    rows = unit_rows(features)
    k = integer(k, "k", 1, len(rows))
    links, search_effort = integer(num_links, "num_links", 2), integer(search_effort, "search_effort", 1)
    vectors = rows.cpu().numpy()
    index = build_hnsw(vectors, links, integer(construction_effort, "construction_effort", 1))
    set_effort(index, max(search_effort, k))
    return _query(index, vectors, k)


def _query(index: Any, vectors: np.ndarray, k: int) -> Neighbors:
    similarities = np.empty((len(vectors), k), dtype=np.float32)
    indices = np.empty((len(vectors), k), dtype=np.int64)
    with progress_bar(len(vectors), "neighbour search") as bar:
        for start, stop in blocks_of(len(vectors), ROWS_AT_ONCE):
            similarities[start:stop], indices[start:stop] = index.search(vectors[start:stop], k)
            _move_own_index_first(similarities[start:stop], indices[start:stop], start)
            bar.update(stop - start)
    short = np.flatnonzero((indices < 0).any(axis=1))  # faiss writes -1 where it met fewer than k rows
    if len(short):
        log_once(f"Neighbour search: exact for {len(short)} of {len(vectors)} rows, which met too few others.")
        similarities[short, 0], indices[short, 0] = 1.0, short
        others = search_some_rows(vectors, short, k - 1, float32_product()).sorted()
        similarities[short, 1:], indices[short, 1:] = others
    return similarities, indices


def _move_own_index_first(similarities: np.ndarray, indices: np.ndarray, start: int) -> None:
    """Put every row's own index first; a row that did not meet itself gives up its last neighbour."""
    own = np.arange(start, start + len(indices))
    late = np.flatnonzero(indices[:, 0] != own)
    itself = indices[late] == own[late, None]
    itself[~itself.any(axis=1), -1] = True
    order = np.argsort(~itself, axis=1, kind="stable")
    for found in (indices, similarities):
        found[late] = np.take_along_axis(found[late], order, axis=1)
    indices[late, 0], similarities[late, 0] = own[late], 1.0
