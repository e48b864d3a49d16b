"""Files and folders that are there whole or not at all, and what is said about them."""

import hashlib
import os
import re
import shutil
from collections import defaultdict
from contextlib import contextmanager, suppress
from typing import Collection, Iterable, Iterator

from ..errors import UsageError

_TEMPORARY = re.compile(r"\.(\d+)\.tmp$")


class UnwritableFile(UsageError, OSError):
    """A file could not be written; what was there before is intact."""


@contextmanager
def written_whole(path: str) -> Iterator[str]:
    """Gives the name of a temporary file to write, which takes the name ``path`` at the end.

    After a crash, of the process or the machine, the old file or the new one is there, never a part; after an exception
    it is the old one.

    Raises:
        UnwritableFile: the folder cannot be written to, or the disk is full.
    """
    with _temporary(path) as temporary:
        yield temporary
        _settle(temporary)
        os.replace(temporary, path)
        _settle_folder(os.path.dirname(path))


def write_atomically(path: str, content: bytes) -> None:
    """:func:`written_whole` for content that is in memory."""
    with written_whole(path) as temporary, open(temporary, "wb") as file:
        file.write(content)


@contextmanager
def replaced_folder(path: str, own: Collection[str]) -> Iterator[str]:
    """:func:`written_whole` for a folder of files: gives an empty temporary folder to fill. A link stays one.

    Args:
        path: where nothing is, or an older folder.
        own: names of the files that are removed with the older folder. While it holds others, it stays beside the new one.
    """
    path = os.path.realpath(path)
    with _temporary(path) as temporary:
        os.makedirs(temporary)
        yield temporary
        for name in os.listdir(temporary):
            _settle(os.path.join(temporary, name))
        _settle_folder(temporary)
        old = f"{temporary}.old"
        if os.path.isdir(path):
            os.rename(path, old)
        try:
            os.rename(temporary, path)
        except OSError:
            if os.path.isdir(old):
                os.rename(old, path)
            raise
        _settle_folder(os.path.dirname(path))
        with suppress(OSError):  # there was none, or somebody has just put another file into it
            for name in set(os.listdir(old)) & set(own):
                os.remove(os.path.join(old, name))
            os.rmdir(old)


@contextmanager
def _temporary(path: str) -> Iterator[str]:
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        yield temporary
    except OSError as error:
        reason = error.strerror or str(error)
        raise UnwritableFile(
            f"{shown(path)} cannot be written ({reason}); free some space, or choose another place"
        ) from error
    finally:
        if os.path.isdir(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
        elif os.path.lexists(temporary):
            os.remove(temporary)


def _settle(path: str) -> None:
    """Waits until a file is on the disk."""
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def _settle_folder(folder: str) -> None:
    """Waits until the names in a folder are on the disk, where the system can be told to."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: str) -> None:
    """Removes the temporary files of processes that were killed while they wrote."""
    for name in os.listdir(folder or "."):
        found, path = _TEMPORARY.search(name), os.path.join(folder, name)
        if found and os.path.isfile(path) and not _alive(int(found[1])):
            os.remove(path)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:  # another one: it is somebody else's
        return not isinstance(error, ProcessLookupError)
    return True


def free_space(folder: str) -> int:
    """Bytes that may still be written to a folder."""
    return shutil.disk_usage(folder or ".").free


def shown(path: str) -> str:
    """A path on one line: as it is, or as a Python literal where it holds line breaks or what cannot be printed."""
    return path if path.isprintable() else repr(path)


def digest_of(path: str) -> str:
    """SHA-256 of a file, hexadecimal; OSError where it cannot be read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def identical_files(paths: Iterable[str]) -> dict[str, str]:
    """Copies: path -> the first of the paths whose file has the same bytes. What cannot be read is no copy.

    Only files of equal size are read.
    """
    by_size = defaultdict(list)
    for path in dict.fromkeys(paths):
        with suppress(OSError):
            by_size[os.path.getsize(path)].append(path)
    first: dict[bytes, str] = {}
    copies = {}
    for path in (path for same in by_size.values() if len(same) > 1 for path in same):
        with suppress(OSError), open(path, "rb") as file:
            original = first.setdefault(hashlib.sha256(file.read()).digest(), path)
            if original != path:
                copies[path] = original
    return copies
