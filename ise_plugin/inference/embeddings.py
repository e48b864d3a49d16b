"""Embeddings of many files on disk: written in parts, so that an interrupted job goes on where it stopped."""

import logging
import os
import re
import zipfile
from contextlib import suppress
from typing import NamedTuple, Sequence

import numpy as np

from ..errors import UsageError
from ..utils.files import remove_leftovers, shown, written_whole

logger = logging.getLogger("fastreid.ise.search")

# Images in a part: what an interruption can cost at most.
PART_SIZE = 2048
FORMATS = ("npz", "parquet")
_PART_NAME = re.compile(r"(\d{6,})\.npz")
# What the npz holds: array -> type and number of dimensions.
_ARRAYS = {
    "embeddings": (np.float32, 2),
    "paths": (np.str_, 1),
    "stamps": (np.int64, 2),
    "fingerprint": (np.str_, 0),
    "run": (np.str_, 0),
}


class Embeddings(NamedTuple):
    """Embeddings and where they come from.

    Attributes:
        paths: N file names.
        vectors: (N, D), float32, unit rows.
        stamps: (N, 2), int64: size in bytes and modification time in ns of each file when it was embedded.
        fingerprint: of the network (:attr:`ise_plugin.Embedder.fingerprint`).
        run: folder of the run that the network is from.
    """

    paths: list
    vectors: np.ndarray
    stamps: np.ndarray
    fingerprint: str
    run: str


def stamp(path: str) -> tuple[int, int]:
    """(size in bytes, modification time in ns) of a file; zeros where it is not there."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return 0, 0
    return status.st_size, status.st_mtime_ns


class EmbeddingStore:
    """Collects embeddings; a second run with the same network finds what the first one wrote.

    A damaged part is left out with a line in the log: its images are missing again.

    Args:
        base: path without ending; ``base.npz`` and ``base.parquet`` are the result, ``base.parts/`` is what there is until
            then.
        fingerprint, run: see :class:`Embeddings`.
        width: D, length of an embedding.

    Raises:
        UsageError: there are embeddings of another network or a damaged file under that name; or the folder cannot be
            written to, which later calls say as well.
    """

    def __init__(self, base: str, fingerprint: str, run: str, width: int):
        self._base, self._fingerprint, self._run, self._width = base, fingerprint, run, width
        self._parts = f"{base}.parts"
        self._known: dict = {}  # path -> (embedding, stamp)
        self._unwritten: list = []  # paths of those that are in memory only
        result = f"{base}.npz"
        try:
            if os.path.exists(result):
                self._take(result)
        except ValueError as error:
            reason = f"holds no embeddings of this network ({error})"
            raise UsageError(f"{shown(result)} {reason}; remove it or choose another --output") from error
        for _, path in sorted(_part_files(self._parts).items()):
            try:
                self._take(path)
            except ValueError as error:
                logger.warning(f"{shown(path)} is damaged ({error}); its images are embedded anew")
        try:
            os.makedirs(self._parts, exist_ok=True)
        except OSError as error:
            reason = f"cannot be made ({error.strerror})"
            raise UsageError(f"{shown(self._parts)} {reason}; choose another --output") from error

    def _take(self, path: str) -> None:
        there = _load(path)
        if there.fingerprint != self._fingerprint:
            raise UsageError(f"{shown(path)} holds embeddings of another network; remove it or choose another --output")
        if there.vectors.shape[1] != self._width:
            raise ValueError(f"{there.vectors.shape[1]} numbers in each, but the network gives {self._width}")
        self._known.update(zip(there.paths, zip(there.vectors, map(tuple, there.stamps.tolist()))))

    def missing(self, paths: Sequence[str]) -> list[str]:
        """Those of the paths that have no embedding yet, or whose file has changed since."""
        return [path for path in paths if path not in self._known or self._known[path][1] != stamp(path)]

    def add(self, path: str, vector: np.ndarray) -> None:
        """Keeps an embedding (D,); every 2048 of them go to the disk."""
        self._known[path] = vector, stamp(path)
        self._unwritten.append(path)
        if len(self._unwritten) == PART_SIZE:
            self._flush()

    def _flush(self) -> None:
        if self._unwritten:
            number = max(_part_files(self._parts), default=-1) + 1
            _write_npz(os.path.join(self._parts, f"{number:06d}.npz"), self._embeddings_of(self._unwritten))
            self._unwritten = []

    def pause(self) -> None:
        """Writes what is in memory only; no empty folder stays. For the end of a job, whether it has failed or not."""
        try:
            self._flush()
        finally:
            with suppress(OSError):  # it holds parts, or what somebody else has put there
                remove_leftovers(self._parts)
                os.rmdir(self._parts)

    def finish(self, paths: Sequence[str], formats: Sequence[str] = FORMATS) -> Embeddings:
        """Writes those of the paths that have an embedding, in that order, as "npz" and "parquet"; the parts go."""
        self._flush()
        result = self._embeddings_of([path for path in paths if path in self._known])
        for kind in formats:
            _WRITERS[kind](f"{self._base}.{kind}", result)
        for part in _part_files(self._parts).values():
            with suppress(OSError):  # the result is there; a part that stays does no harm
                os.remove(part)
        self.pause()
        return result

    def _embeddings_of(self, paths: list) -> Embeddings:
        rows = [self._known[path] for path in paths]
        vectors = np.array([vector for vector, _ in rows], np.float32).reshape(len(rows), self._width)
        stamps = np.array([when for _, when in rows], np.int64).reshape(len(rows), 2)
        return Embeddings(paths, vectors, stamps, self._fingerprint, self._run)


def read_embeddings(path: str) -> Embeddings:
    """What an :class:`EmbeddingStore` wrote as npz; UsageError where it is missing, damaged, or something else."""
    base, ending = os.path.splitext(path)
    if ending.lower() == ".parquet":
        raise UsageError(f"{shown(path)} is no .npz of embeddings; name the one beside it, {shown(base)}.npz")
    try:
        return _load(path)
    except ValueError as error:
        raise UsageError(f"{shown(path)} is no file of embeddings ({error}); tools/embed.py writes one") from error


def _load(path: str) -> Embeddings:
    """ValueError, with a reason of a few words, where the file holds no embeddings."""
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise zipfile.BadZipFile
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: np.asarray(archive[name]) for name in _ARRAYS if name in archive}
                of_earlier_release = "lengths" in archive
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except MemoryError as error:
        raise ValueError("it needs more memory than there is") from error
    except zipfile.BadZipFile as error:
        raise ValueError("no .npz, or damaged") from error
    except Exception as error:  # damaged bytes make zipfile and numpy raise nearly anything
        raise ValueError("it is damaged, or another program's") from error
    _check(arrays)
    if of_earlier_release and np.char.find(arrays["paths"], "\\x").max(initial=-1) >= 0:
        raise ValueError("it is of an earlier release, with names that are no UTF-8")  # whose bytes it kept elsewhere
    vectors, paths, stamps, fingerprint, run = (arrays[name] for name in _ARRAYS)
    return Embeddings(paths.tolist(), vectors, stamps, str(fingerprint), str(run))


def _check(arrays: dict) -> None:
    for name, (kind, dimensions) in _ARRAYS.items():
        if name not in arrays:
            raise ValueError(f"it has no {name}")
        found = arrays[name]
        if not np.issubdtype(found.dtype, kind) or found.ndim != dimensions:
            expected = f"{kind.__name__} of {dimensions} dimensions"
            raise ValueError(f"its {name} are {found.dtype} of shape {found.shape}, not {expected}")
    vectors, count = arrays["embeddings"], len(arrays["paths"])
    if len(vectors) != count or arrays["stamps"].shape != (count, 2):
        raise ValueError("it has other rows than paths")
    if vectors.shape[1] == 0:
        raise ValueError("its embeddings are empty")
    if not np.isfinite(vectors).all():
        raise ValueError("some of its embeddings are no finite numbers")


def _part_files(folder: str) -> dict[int, str]:
    """Number -> path of the parts in a folder."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return {int(found[1]): os.path.join(folder, found[0]) for found in map(_PART_NAME.fullmatch, names) if found}


def write_embeddings(path: str, content: Embeddings) -> None:
    """Writes an .npz that :func:`read_embeddings` reads, whole or not at all, and anew the .parquet beside it if there is one."""
    _write_npz(path, content)
    beside = f"{os.path.splitext(path)[0]}.parquet"
    if os.path.isfile(beside):
        _write_parquet(beside, content)


def _write_npz(path: str, content: Embeddings) -> None:
    with written_whole(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            embeddings=content.vectors,
            paths=np.array(content.paths, np.str_),  # surrogates, for bytes that are no UTF-8, are characters to numpy
            stamps=content.stamps,
            fingerprint=content.fingerprint,
            run=content.run,
        )


def _write_parquet(path: str, content: Embeddings) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def printable(path: str) -> str:  # as valid Unicode: bytes that are no UTF-8 become backslash escapes
        return os.fsencode(path).decode("utf-8", "backslashreplace")

    vectors = pa.FixedSizeListArray.from_arrays(content.vectors.ravel(), content.vectors.shape[1])
    network = {"fingerprint": content.fingerprint, "run": printable(content.run)}
    table = pa.table({"path": [printable(name) for name in content.paths], "embedding": vectors}, metadata=network)
    with written_whole(path) as temporary:
        pq.write_table(table, temporary)


_WRITERS = {"npz": _write_npz, "parquet": _write_parquet}
