"""faiss indexes of unit rows by inner product; every index of the package is built here."""

from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from ..utils.logs import log_once
from ..utils.parallel import blocks_of, progress_bar

if TYPE_CHECKING:
    import faiss

# faiss is imported where it is used: that takes a while, and most runs search without it.

SEED = 1234
# Rows handed to faiss at once: enough to keep every thread busy, few enough for the bar to move.
ROWS_AT_ONCE = 16384
# The cells are trained on a sample; this many rows per cell are faiss's own recommendation for a cheap training.
_TRAINING_ROWS_PER_CELL = 64


def build_flat(vectors: np.ndarray) -> "faiss.Index":
    """An index that compares with all ``vectors`` (N, D) float32."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def build_ivf(
    vectors: np.ndarray, num_cells: Optional[int] = None, num_probes: int = 1, on_gpus: bool = False
) -> "faiss.Index":
    """An inverted file: rows in cells, each search looks into the nearest ones. The same rows give the same index.

    Args:
        vectors: (N, D) float32.
        num_cells: in [1, N]; None takes 4 * sqrt(N), at most N.
        num_probes: cells that a search looks into, at least 1.
        on_gpus: uses all GPUs that a GPU build of faiss finds. Otherwise rows can be read back by their number.
    """
    import faiss

    width, num_cells = vectors.shape[1], num_cells or min(len(vectors), round(4 * len(vectors) ** 0.5))
    index: Any = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, num_cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = SEED
    index.cp.min_points_per_centroid = 1  # small sets are allowed; they need no warning
    index.nprobe = min(num_probes, num_cells)
    if on_gpus and getattr(faiss, "get_num_gpus", int)() > 0:
        log_once(f"Neighbour search: faiss on {faiss.get_num_gpus()} GPU(s).")
        index = faiss.index_cpu_to_all_gpus(index)
    chosen = np.random.default_rng(SEED).permutation(len(vectors))[: num_cells * _TRAINING_ROWS_PER_CELL]
    index.train(vectors[np.sort(chosen)])
    index.add(vectors)
    if not on_gpus:
        index.make_direct_map()
    return index


def build_hnsw(vectors: np.ndarray, num_links: int = 32, construction_effort: int = 80) -> "faiss.Index":
    """A navigable small-world graph (Malkov and Yashunin, 2018). Threads build it together, so it differs a little each time.

    Args:
        vectors: (N, D) float32.
        num_links: links per row, at least 2.
        construction_effort: rows looked at to place one, at least 1.
    """
    import faiss

    index = faiss.IndexHNSWFlat(vectors.shape[1], num_links, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = construction_effort
    with progress_bar(len(vectors), "building the HNSW graph") as bar:
        for start, stop in blocks_of(len(vectors), ROWS_AT_ONCE):
            index.add(vectors[start:stop])
            bar.update(stop - start)
    return index


def set_effort(index: "faiss.Index", effort: int) -> None:
    """How much a search looks at: cells of an inverted file, nodes of a graph; nothing to set for a flat index."""
    if hasattr(index, "nprobe"):
        index.nprobe = effort
    elif hasattr(index, "hnsw"):
        index.hnsw.efSearch = effort
