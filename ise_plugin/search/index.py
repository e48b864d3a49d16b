"""A faiss index over embeddings as a folder on disk."""

import json
import logging
import os
import shutil
from typing import NamedTuple, Sequence

import faiss
import numpy as np

from ..clustering import rerank_distance
from ..data.reading import shown
from ..errors import UsageError
from .embeddings import Embeddings

logger = logging.getLogger("fastreid.ise.search")

KINDS = ("auto", "exact", "ivf", "hnsw")
# Vectors up to which "auto" is exact: comparing with all of them takes some milliseconds.
EXACT_LIMIT = 50_000
_INDEX_NAME, _NAMES_NAME, _ABOUT_NAME = "index.faiss", "names.json", "about.json"
_FORMAT_VERSION = 1
_SEED = 1234
# Rows per cell that the cells are trained on; faiss's own recommendation for a cheap training.
_TRAINING_ROWS_PER_CELL = 64
_LINKS, _CONSTRUCTION_EFFORT = 32, 80
# The search effort is raised until so many sampled rows find so many of their true neighbours.
_SAMPLE, _NEIGHBORS = 500, 10
# k-reciprocal re-ranking (Zhong et al., CVPR 2017): neighbours, local expansion, share of the original distance.
_K1, _K2, _LAMBDA = 20, 6, 0.3


class Match(NamedTuple):
    """A found image: rank from 1, path, cosine similarity to the query in [-1, 1]."""

    rank: int
    path: str
    similarity: float


class SearchIndex:
    """Ranked search by cosine similarity.

    Args:
        index: faiss index of inner products over unit rows.
        paths: N file names, in the index's order.
        about: ``kind`` (exact, ivf, hnsw), ``fingerprint`` and ``run`` of the network, ``recall`` (measured when it was
            built), ``effort`` (cells probed, or nodes visited).
    """

    def __init__(self, index: faiss.Index, paths: Sequence[str], about: dict):
        self._index, self.paths, self.about = index, list(paths), about
        self.effort = about["effort"]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def width(self) -> int:
        """Length of an embedding."""
        return self._index.d

    def set_exact(self) -> None:
        """Compares with all vectors from now on.

        Raises:
            UsageError: an hnsw index cannot.
        """
        if self.about["kind"] == "hnsw":
            raise UsageError("an hnsw index cannot search exactly; build one with --kind exact or ivf")
        if self.about["kind"] == "ivf":
            self.effort = self._index.nlist

    def search(
        self, queries: np.ndarray, k: int = 10, rerank: bool = False, candidates: int = 200
    ) -> list[list[Match]]:
        """The k nearest images of every query.

        Args:
            queries: (Q, D), float32, unit rows.
            k: at least 1; fewer come back where there are fewer images.
            rerank: orders the nearest ``candidates`` anew by k-reciprocal re-ranking. The similarities stay cosines.
            candidates: at least k are taken.

        Raises:
            UsageError: queries of another width.
            ValueError: k < 1.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.width:
            raise UsageError(f"queries have shape {queries.shape}, but the index holds vectors of length {self.width}")
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        _set_effort(self._index, self.effort)
        count = min(max(k, candidates) if rerank else k, len(self))
        similarities, indices = self._index.search(queries, count)
        return [
            self._matches(query, near[found >= 0], found[found >= 0], k, rerank)
            for query, near, found in zip(queries, similarities, indices)
        ]

    def _matches(
        self, query: np.ndarray, similarities: np.ndarray, indices: np.ndarray, k: int, rerank: bool
    ) -> list[Match]:
        order = np.arange(len(indices))
        if rerank and len(indices) > 1:
            vectors = self._index.reconstruct_batch(indices)
            distances = rerank_distance(query[None], vectors, _K1, _K2, _LAMBDA, show_progress=False)[0]
            order = np.argsort(distances, kind="stable")
        return [Match(rank + 1, self.paths[indices[i]], float(similarities[i])) for rank, i in enumerate(order[:k])]

    def save(self, folder: str) -> None:
        """Writes the folder, whole or not at all; an older index there is replaced.

        Raises:
            UsageError: the folder holds something else, or cannot be written.
        """
        if os.path.exists(folder) and not os.path.isfile(os.path.join(folder, _ABOUT_NAME)):
            raise UsageError(f"{shown(folder)} is there and holds no index; choose another --output")
        temporary = f"{folder.rstrip(os.sep)}.{os.getpid()}.tmp"
        try:
            os.makedirs(temporary)
            faiss.write_index(self._index, os.path.join(temporary, _INDEX_NAME))
            for name, content in ((_NAMES_NAME, self.paths), (_ABOUT_NAME, {**self.about, "version": _FORMAT_VERSION})):
                with open(os.path.join(temporary, name), "w", encoding="ascii") as file:
                    json.dump(content, file)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(temporary, folder)
        except (OSError, RuntimeError) as error:  # faiss raises the latter
            raise UsageError(
                f"{shown(folder)} cannot be written ({_reason(error)}); choose another --output"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @classmethod
    def load(cls, folder: str) -> "SearchIndex":
        """
        Raises:
            UsageError: the folder holds no index, or a damaged one.
        """
        try:
            with open(os.path.join(folder, _ABOUT_NAME), encoding="ascii") as file:
                about = json.load(file)
            with open(os.path.join(folder, _NAMES_NAME), encoding="ascii") as file:
                paths = json.load(file)
            index = faiss.read_index(os.path.join(folder, _INDEX_NAME))
            if index.ntotal != len(paths) or about["version"] != _FORMAT_VERSION:
                raise ValueError("its parts do not belong together")
            return cls(index, paths, about)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise UsageError(
                f"{shown(folder)} is no index ({_reason(error)}); tools/build_index.py writes one"
            ) from error


def build_index(embeddings: Embeddings, kind: str = "auto", recall: float = 0.97) -> SearchIndex:
    """Builds an index; an approximate one searches as far as a sample needs to find its true neighbours.

    Args:
        embeddings: N of them.
        kind: "exact" compares with all vectors; "ivf" with those in the nearest cells; "hnsw" walks a graph (fastest, slow to
            build, and differs a little from build to build); "auto" is exact up to 50,000 vectors and ivf beyond.
        recall: share of the 10 true nearest neighbours that the approximate kinds shall find, on average over 500 rows, in
            (0, 1].

    Raises:
        UsageError: no embeddings, an unknown kind, or a recall outside (0, 1].
    """
    vectors = np.ascontiguousarray(embeddings.vectors, dtype=np.float32)
    if not len(vectors):
        raise UsageError("there are no embeddings to build an index of")
    if kind not in KINDS:
        raise UsageError(f"--kind must be one of {', '.join(KINDS)}, not {kind!r}")
    if not 0 < recall <= 1:
        raise UsageError(f"--recall must be greater than 0 and at most 1, not {recall}")
    if kind == "auto":
        kind = "exact" if len(vectors) <= EXACT_LIMIT else "ivf"
    index = {"exact": _flat, "ivf": _ivf, "hnsw": _hnsw}[kind](vectors)
    effort, found = (0, 1.0) if kind == "exact" else _tune(index, vectors, recall)
    logger.info(
        f"Index: {kind}, {len(vectors)} vectors, recall {found:.3f} of the {_NEIGHBORS} nearest, effort {effort}"
    )
    about = {
        "kind": kind,
        "effort": effort,
        "recall": round(found, 4),
        "fingerprint": embeddings.fingerprint,
        "run": embeddings.run,
    }
    return SearchIndex(index, embeddings.paths, about)


def _flat(vectors: np.ndarray) -> faiss.Index:
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def _ivf(vectors: np.ndarray) -> faiss.Index:
    width, cells = vectors.shape[1], min(len(vectors), max(1, round(4 * len(vectors) ** 0.5)))
    # without a quantiser of its own faiss (from Python) would free this one too early
    quantizer = faiss.IndexFlatIP(width)
    index = faiss.IndexIVFFlat(quantizer, width, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.min_points_per_centroid = _SEED, 1
    chosen = np.random.default_rng(_SEED).permutation(len(vectors))[: cells * _TRAINING_ROWS_PER_CELL]
    index.train(vectors[np.sort(chosen)])
    index.add(vectors)
    index.make_direct_map()  # re-ranking asks for vectors by their number
    return index


def _hnsw(vectors: np.ndarray) -> faiss.Index:
    index = faiss.IndexHNSWFlat(vectors.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _CONSTRUCTION_EFFORT
    index.add(vectors)
    return index


def _tune(index: faiss.Index, vectors: np.ndarray, recall: float) -> tuple[int, float]:
    """The smallest effort, in steps of two to the half, that reaches the recall; the most there is where none does."""
    rows = np.sort(np.random.default_rng(_SEED).permutation(len(vectors))[:_SAMPLE])
    truth = _others(_flat(vectors), vectors, rows)
    effort, most = 4.0, getattr(index, "nlist", len(vectors))
    while True:
        steps = min(round(effort), most)
        _set_effort(index, steps)
        found = recall_of(_others(index, vectors, rows), truth)
        if found >= recall or steps == most:
            return steps, found
        effort *= 2**0.5


def _others(index: faiss.Index, vectors: np.ndarray, rows: np.ndarray) -> list[set]:
    """The nearest neighbours of some rows, themselves left out."""
    indices = index.search(vectors[rows], min(_NEIGHBORS + 1, len(vectors)))[1]
    return [set([i for i in found.tolist() if i not in (-1, row)][:_NEIGHBORS]) for row, found in zip(rows, indices)]


def recall_of(found: Sequence[set], truth: Sequence[set]) -> float:
    """Mean share of the true neighbours that were found; 1 where there are none to find."""
    shares = [len(a & b) / len(b) for a, b in zip(found, truth) if b]
    return float(np.mean(shares)) if shares else 1.0


def _set_effort(index: faiss.Index, effort: int) -> None:
    if hasattr(index, "nprobe"):
        index.nprobe = effort
    elif hasattr(index, "hnsw"):
        index.hnsw.efSearch = effort


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
