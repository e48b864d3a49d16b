"""A faiss index over embeddings as a folder on disk."""

import json
import logging
import os
from typing import Any, NamedTuple, Optional, Sequence

import faiss
import numpy as np

from ..clustering import rerank_distance
from ..errors import UsageError
from ..neighbors.indexes import SEED, build_flat, build_hnsw, build_ivf, set_effort
from ..utils.files import replaced_folder, shown
from .embeddings import Embeddings

logger = logging.getLogger("fastreid.ise.search")

_KINDS = {
    "exact": (build_flat, faiss.IndexFlat),
    "ivf": (build_ivf, faiss.IndexIVFFlat),
    "hnsw": (build_hnsw, faiss.IndexHNSWFlat),
}
KINDS = ("auto", *_KINDS)
# Vectors up to which "auto" is exact: comparing with all of them takes some milliseconds.
EXACT_LIMIT = 50_000
_INDEX_NAME, _NAMES_NAME, _ABOUT_NAME = "index.faiss", "names.json", "about.json"
_OWN_NAMES = {_INDEX_NAME, _NAMES_NAME, _ABOUT_NAME}
# Tells an about.json of ours from anybody else's: only what has it is ever replaced.
_MARK = {"format": "ise_plugin search index", "version": 1}
_ABOUT_TYPES = {"kind": str, "effort": int, "recall": float, "fingerprint": str, "run": str}
# The search effort is raised until so many sampled rows find so many of their true neighbours.
_SAMPLE, _NEIGHBORS = 500, 10
# k-reciprocal re-ranking (Zhong et al., CVPR 2017): neighbours, local expansion, share of the original distance.
_K1, _K2, _LAMBDA = 20, 6, 0.3


class Match(NamedTuple):
    """A found image: rank from 1, path, cosine similarity to the query in [-1, 1]; the probability that both show one person,
    where the network is calibrated (:attr:`ise_plugin.Embedder.calibration`)."""

    rank: int
    path: str
    similarity: float
    probability: Optional[float] = None


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

    def embeddings(self) -> Embeddings:
        """What was indexed; the stamps of the files are not kept, they are zeros."""
        vectors = self._index.reconstruct_n(0, len(self))
        stamps = np.zeros((len(self), 2), np.int64)
        return Embeddings(self.paths, vectors, stamps, self.about["fingerprint"], self.about["run"])

    def set_exact(self) -> None:
        """Compares with all vectors from now on; UsageError for an hnsw index, which cannot."""
        if self.about["kind"] == "hnsw":
            raise UsageError("an hnsw index cannot search exactly; build one with --kind exact or ivf")
        if self.about["kind"] == "ivf":
            self.effort = self._index.nlist  # type: ignore[attr-defined]

    def search(
        self, queries: np.ndarray, k: int = 10, rerank: bool = False, candidates: int = 200
    ) -> list[list[Match]]:
        """The k nearest images of every query.

        Args:
            queries: (Q, D), float32, unit rows.
            k: at least 1; fewer come back where there are fewer images.
            rerank: reorders the nearest ``candidates`` (at least k) by k-reciprocal re-ranking. Results show cosines.

        Raises:
            UsageError: queries of another width, or with values that are not finite.
            ValueError: k < 1.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self._index.d:
            raise UsageError(f"queries have shape {queries.shape}, the index holds vectors of length {self._index.d}")
        if not np.isfinite(queries).all():
            raise UsageError("queries hold values that are no finite numbers; the network's weights are damaged")
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        set_effort(self._index, self.effort)
        similarities, indices = self._index.search(queries, min(max(k, candidates) if rerank else k, len(self)))
        matches = []
        for query, near, found in zip(queries, similarities, indices):
            near, found = near[found >= 0], found[found >= 0]
            order = self._reranked(query, found) if rerank and len(found) > 1 else range(len(found))
            matches.append([Match(rank, self.paths[found[i]], float(near[i])) for rank, i in enumerate(order[:k], 1)])
        return matches

    def _reranked(self, query: np.ndarray, indices: np.ndarray) -> np.ndarray:
        distances = rerank_distance(query[None], self._index.reconstruct_batch(indices), _K1, _K2, _LAMBDA)
        return np.argsort(distances[0], kind="stable")

    def save(self, folder: str) -> None:
        """Writes the folder, whole or not at all; replaces an older index and nothing else (:func:`check_place`)."""
        check_place(folder)
        with replaced_folder(folder, _OWN_NAMES) as new:
            for name, content in ((_NAMES_NAME, self.paths), (_ABOUT_NAME, {**self.about, **_MARK})):
                with open(os.path.join(new, name), "w", encoding="ascii") as file:
                    json.dump(content, file)
            try:
                faiss.write_index(self._index, os.path.join(new, _INDEX_NAME))
            except RuntimeError as error:  # its own message is about its source code
                raise OSError(f"faiss failed to write {_INDEX_NAME}") from error

    @classmethod
    def load(cls, folder: str) -> "SearchIndex":
        """The index that a folder holds; UsageError where it holds none, or a damaged one."""
        try:
            about, paths = _read_about(folder), _read_json(folder, _NAMES_NAME)
            index = _read_faiss(folder, about["kind"])
            if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
                raise ValueError(f"{_NAMES_NAME} is no list of names")
            if not 0 < index.ntotal == len(paths):
                raise ValueError(f"{len(paths)} names for {index.ntotal} vectors")
            if not (about["kind"] != "exact") <= about["effort"] <= len(paths):
                raise ValueError(f"an effort of {about['effort']}")
        except (OSError, ValueError) as error:
            reason = f"is no index ({_reason(error)})"
            raise UsageError(f"{shown(folder)} {reason}; tools/build_index.py writes one") from error
        return cls(index, paths, about)


def check_place(folder: str) -> None:
    """UsageError, with what is in the way, for a folder with other content than an index."""
    if not folder:
        raise UsageError("--output is empty; name a folder for the index")
    if not os.path.lexists(folder):
        return
    try:
        names = os.listdir(folder)
        others = sorted(set(names) - _OWN_NAMES)
        if others:
            raise ValueError(f"{shown(others[0])} is no part of one")
        if names:
            _read_about(folder)
    except (OSError, ValueError) as error:
        reason = f"is there and holds no index only ({_reason(error)})"
        raise UsageError(f"{shown(folder)} {reason}; choose another --output") from error


def _read_json(folder: str, name: str) -> Any:
    try:
        with open(os.path.join(folder, name), encoding="ascii") as file:
            return json.load(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is damaged") from error


def _read_about(folder: str) -> dict:
    """The description of an index; ValueError where it is anything else."""
    about = _read_json(folder, _ABOUT_NAME)
    if not isinstance(about, dict) or any(about.get(key) != value for key, value in _MARK.items()):
        raise ValueError(f"{_ABOUT_NAME} is not that of an index, or of another version")
    for key, kind in _ABOUT_TYPES.items():
        if type(about.get(key)) is not kind:  # isinstance would take True for a number
            raise ValueError(f"{_ABOUT_NAME} has no {key}, or a wrong one")
    return about


def _read_faiss(folder: str, kind: str) -> faiss.Index:
    try:
        index = faiss.read_index(os.path.join(folder, _INDEX_NAME))
    except (RuntimeError, MemoryError) as error:  # its own message is about its source code
        raise ValueError(f"{_INDEX_NAME} is missing or damaged") from error
    if kind not in _KINDS or not isinstance(index, _KINDS[kind][1]) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise ValueError(f"{_INDEX_NAME} is not of kind {kind}")
    return index


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
    index = _KINDS[kind][0](vectors)
    effort, found = (0, 1.0) if kind == "exact" else _tune(index, vectors, recall)
    logger.info(
        f"Index: {kind}, {len(vectors)} vectors, effort {effort}, recall of the {_NEIGHBORS} nearest {found:.3f}"
    )
    network = {"fingerprint": embeddings.fingerprint, "run": embeddings.run}
    return SearchIndex(index, embeddings.paths, {"kind": kind, "effort": effort, "recall": round(found, 4), **network})


def _tune(index: faiss.Index, vectors: np.ndarray, recall: float) -> tuple[int, float]:
    """The smallest effort, in steps of two to the half, that reaches the recall; the most there is where none does."""
    rows = np.sort(np.random.default_rng(SEED).permutation(len(vectors))[:_SAMPLE])
    truth = _others(build_flat(vectors), vectors, rows)
    effort, most = 4.0, getattr(index, "nlist", len(vectors))
    while True:
        steps = min(round(effort), most)
        set_effort(index, steps)
        pairs = zip(_others(index, vectors, rows), truth)
        found = float(np.mean([len(near & true) / len(true) if true else 1 for near, true in pairs]))
        if found >= recall or steps == most:
            return steps, found
        effort *= 2**0.5


def _others(index: faiss.Index, vectors: np.ndarray, rows: np.ndarray) -> list[set]:
    """The nearest neighbours of some rows, themselves left out."""
    indices = index.search(vectors[rows], min(_NEIGHBORS + 1, len(vectors)))[1]
    return [set([i for i in found.tolist() if i not in (-1, row)][:_NEIGHBORS]) for row, found in zip(rows, indices)]


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
