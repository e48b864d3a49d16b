"""Embeddings of many files on disk: written in parts, so that an interrupted job goes on where it stopped."""

import os
import shutil
import zipfile
from contextlib import contextmanager
from typing import Iterator, NamedTuple, Sequence

import numpy as np

from ..data.reading import shown
from ..errors import UsageError

# Images in a part: what an interruption can cost at most.
PART_SIZE = 2048
FORMATS = ("npz", "parquet")


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

    Args:
        base: path without ending; ``base.npz`` and ``base.parquet`` are the result, ``base.parts/`` is what there is until
            then.
        fingerprint, run: see :class:`Embeddings`.

    Raises:
        UsageError: there are embeddings of another network under that name, or the folder cannot be written to.
    """

    def __init__(self, base: str, fingerprint: str, run: str):
        self._base, self._fingerprint, self._run = base, fingerprint, run
        self._parts = f"{base}.parts"
        self._known: dict = {}
        self._new: list = []
        for path in [f"{base}.npz", *_part_files(self._parts)]:
            if os.path.exists(path):
                self._take(path)
        try:
            os.makedirs(self._parts, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{shown(self._parts)} cannot be made ({error.strerror}); choose another --output"
            ) from error

    def _take(self, path: str) -> None:
        there = read_embeddings(path)
        if there.fingerprint != self._fingerprint:
            raise UsageError(f"{shown(path)} holds embeddings of another network; remove it or choose another --output")
        for name, vector, when in zip(there.paths, there.vectors, there.stamps.tolist()):
            self._known[name] = (vector, tuple(when))

    def missing(self, paths: Sequence[str]) -> list[str]:
        """Those of the paths that have no embedding yet, or whose file has changed since."""
        return [path for path in paths if path not in self._known or self._known[path][1] != stamp(path)]

    def add(self, path: str, vector: np.ndarray) -> None:
        """Keeps an embedding (D,); every 2048 of them go to the disk."""
        self._new.append((path, vector, stamp(path)))
        if len(self._new) == PART_SIZE:
            self.flush()

    def flush(self) -> None:
        """Writes what is only in memory so far."""
        if not self._new:
            return
        name = os.path.join(self._parts, f"{len(_part_files(self._parts)):06d}.npz")
        _write_npz(name, self._as_embeddings(self._new))
        self._known.update((path, (vector, when)) for path, vector, when in self._new)
        self._new = []

    def finish(self, paths: Sequence[str], formats: Sequence[str] = FORMATS) -> Embeddings:
        """Writes the files of the paths that have an embedding, in that order, and removes the parts.

        Args:
            paths: N file names.
            formats: some of "npz" and "parquet".
        """
        self.flush()
        rows = [(path, *self._known[path]) for path in paths if path in self._known]
        result = self._as_embeddings(rows)
        for kind in formats:
            (_write_npz if kind == "npz" else _write_parquet)(f"{self._base}.{kind}", result)
        shutil.rmtree(self._parts)
        return result

    def _as_embeddings(self, rows: list) -> Embeddings:
        if not rows:
            return Embeddings(
                [], np.zeros((0, 0), np.float32), np.zeros((0, 2), np.int64), self._fingerprint, self._run
            )
        paths, vectors, stamps = zip(*rows)
        vectors, stamps = np.stack(vectors).astype(np.float32), np.array(stamps, np.int64)
        return Embeddings(list(paths), vectors, stamps, self._fingerprint, self._run)


def read_embeddings(path: str) -> Embeddings:
    """What an :class:`EmbeddingStore` wrote as npz.

    Raises:
        UsageError: the file is missing, damaged, or something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = Embeddings(
                [os.fsdecode(name) for name in _split(file["names"].tobytes(), file["lengths"])],
                file["embeddings"],
                file["stamps"],
                str(file["fingerprint"]),
                str(file["run"]),
            )
        if found.vectors.ndim != 2 or len(found.vectors) != len(found.paths):
            raise ValueError("it has other rows than paths")
        return found
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise UsageError(f"{shown(path)} is no file of embeddings ({reason}); tools/embed.py writes one") from error


def _part_files(folder: str) -> list[str]:
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return [os.path.join(folder, name) for name in names if name.endswith(".npz")]


def _write_npz(path: str, content: Embeddings) -> None:
    names = [os.fsencode(name) for name in content.paths]  # as bytes: a name may hold anything but zero
    with written_whole(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            embeddings=content.vectors,
            paths=np.array([printable(name) for name in content.paths], dtype=np.str_),
            names=np.frombuffer(b"".join(names), np.uint8),
            lengths=np.array([len(name) for name in names], np.int64),
            stamps=content.stamps,
            fingerprint=content.fingerprint,
            run=content.run,
        )


def _split(text: bytes, lengths: np.ndarray) -> Iterator[bytes]:
    ends = np.cumsum(lengths)
    return (text[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist()))


def check_parquet() -> None:
    """
    Raises:
        UsageError: the package that writes Parquet is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "Parquet files need pyarrow; install it with: pip install pyarrow, or ask for npz only"
        ) from error


def _write_parquet(path: str, content: Embeddings) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    width = content.vectors.shape[1]
    vectors = pa.array(content.vectors.ravel(), pa.float32())
    column = pa.FixedSizeListArray.from_arrays(vectors, width) if width else pa.array([], pa.list_(pa.float32()))
    table = pa.table({"path": [printable(name) for name in content.paths], "embedding": column})
    table = table.replace_schema_metadata({"fingerprint": content.fingerprint, "run": content.run})
    with written_whole(path) as temporary:
        pq.write_table(table, temporary)


def printable(path: str) -> str:
    """A path as valid Unicode: bytes that are no UTF-8 become backslash escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@contextmanager
def written_whole(path: str) -> Iterator[str]:
    """The name of a temporary file that takes the name ``path`` at the end, and is removed after an exception.

    Raises:
        UsageError: the folder cannot be written to.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(
            f"{shown(path)} cannot be written ({error.strerror or error}); choose another place"
        ) from error
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
