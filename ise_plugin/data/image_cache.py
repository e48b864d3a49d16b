"""Decoded, resized images kept for the epochs to come: in memory that the workers share, or in a file."""

import hashlib
import logging
import os
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional, Sequence

import numpy as np

from ..errors import UsageError
from ..utils.files import free_space

logger = logging.getLogger("fastreid.ise.image_cache")

GIBIBYTE = 2**30
# what an entry was made from: modification time in ns (0: not made yet), file size, check sum of the pixels
_STAMP = [("modified", "<i8"), ("size", "<i8"), ("checksum", "<i8")]
# without a bound in the config, the share of the free memory or disk that a cache may take
_SHARE_OF_FREE = 0.5
_FORMAT_VERSION = b"2"


class ImageCache:
    """N images of one size, each filled in by whoever decodes it first.

    A worker process, however it was started, sees the same memory: a pickled cache is the name of its file.

    Args:
        path: a file of N entries, which is mapped; each has ``pixels`` (H, W, 3), uint8, and of the file they were made from
            ``modified``, ``size`` and ``checksum``, int64.
        entry: their type.
        verify: whether to compare the pixels with their check sum at this process's first read of an entry; a file may
            hold what an interrupted run left half-written.
        kept: whatever has to live as long as others may open ``path``.

    An entry counts only as long as its file has the size and modification time it was made from.
    """

    def __init__(self, path: str, entry: np.dtype, verify: bool = False, kept: Any = None):
        self._reopened = path, entry, verify
        self._entries = np.memmap(path, entry, "r+").view(np.ndarray)
        self._unverified = np.full(len(self._entries), verify)
        self._kept = kept

    def __reduce__(self) -> tuple:
        return type(self), self._reopened

    def read(self, index: int, path: str) -> Optional[np.ndarray]:
        """The image (H, W, 3), uint8; None where there is none or its file has changed; OSError where that is gone."""
        entry = self._entries[index]
        if not entry["modified"] or _identity(path) != (entry["modified"], entry["size"]):
            return None
        if self._unverified[index]:
            if zlib.crc32(entry["pixels"]) != entry["checksum"]:
                return None
            self._unverified[index] = False
        return entry["pixels"]

    def write(self, index: int, path: str, image: np.ndarray) -> None:
        """Keeps an image (H, W, 3), uint8, made from the file as it is now."""
        modified, size = _identity(path)
        entry = self._entries[index]
        entry["modified"] = 0  # nobody takes the pixels for an image while they are being written
        entry["pixels"][:] = image
        entry["size"], entry["checksum"] = size, zlib.crc32(entry["pixels"])
        entry["modified"] = modified


def open_image_cache(
    mode: str, paths: Sequence[str], size: tuple, recipe: str, folder: str, limit_gib: float = 0, processes: int = 1
) -> Optional[ImageCache]:
    """A cache in the mode asked for, or in the next cheaper one that there is room for: ram, disk, none.

    Args:
        paths: N file names.
        size: (height, width) of every image, in pixels.
        recipe: how the pixels are made from a file; a cache file made another way is not used.
        folder: where the file of a "disk" cache lies; several runs and processes may share it.
        limit_gib: the most it may take, in GiB; 0 allows half of what is free.
        processes: on this machine, each of which keeps its own "ram" cache.

    Returns:
        None for no cache. What was asked for and could not be had is logged with the reason.

    Raises:
        UsageError: ``folder`` cannot be written to, with mode "disk".
    """
    if mode == "none" or not len(paths):
        return None
    entry = np.dtype([*_STAMP, ("pixels", np.uint8, (*size, 3))])
    needed = len(paths) * entry.itemsize
    if mode == "ram":
        problem: Optional[str] = "this system has no memory that other processes can open"
        if hasattr(os, "memfd_create"):
            problem = _problem_of_room(needed * processes, limit_gib, free_memory(), "memory")
        if problem is None:
            return _in_memory(needed, entry)
        logger.warning(f"DATALOADER.CACHE ram: {problem}; caching on disk in {folder} instead")
    path = _make_folder(folder) / f"{_digest(paths, size, recipe)}.images"
    problem = None if path.exists() else _problem_of_room(needed, limit_gib, free_space(folder), "disk")
    if problem is None:
        try:
            _reserve(path, needed)
            return ImageCache(str(path), entry, verify=True)
        except OSError as error:
            problem = f"{path} cannot be made ({error.strerror})"
    logger.warning(f"DATALOADER.CACHE disk: {problem}; images are decoded anew every time")
    return None


def _in_memory(needed: int, entry: np.dtype) -> ImageCache:
    """Zeros in a file without a folder, and so without the bound that /dev/shm has; a page takes memory once it is written to."""
    file = os.fdopen(os.memfd_create("images"), "r+b")
    file.truncate(needed)
    return ImageCache(f"/proc/{os.getpid()}/fd/{file.fileno()}", entry, kept=file)


def _identity(path: str) -> tuple:
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


def _reserve(path: Path, length: int) -> None:
    """Makes the file with all its blocks: running out of disk later would end the process without a message."""
    if path.exists():
        if path.stat().st_size != length:
            raise OSError(0, "it has another size than its name says; remove it")
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "r+b") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, length)
            else:
                file.truncate(length)
        with suppress(FileExistsError):
            os.link(temporary, path)  # unlike a rename this leaves the file of a faster process in place
    finally:
        os.unlink(temporary)


def _make_folder(folder: str) -> Path:
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return Path(folder)
    except OSError as error:
        raise UsageError(
            f"DATALOADER.CACHE_DIR {folder} cannot be written to ({error.strerror}); choose another"
        ) from error


def _digest(paths: Sequence[str], size: tuple, recipe: str) -> str:
    digest = hashlib.sha256(_FORMAT_VERSION)
    for part in (str(tuple(size)), recipe, *map(os.path.abspath, paths)):
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()[:32]


def _problem_of_room(needed: int, limit_gib: float, free: Optional[int], what: str) -> Optional[str]:
    allowed = float("inf") if free is None else free * _SHARE_OF_FREE
    source = f"half of the free {what} is {allowed / GIBIBYTE:.1f} GiB"
    if limit_gib > 0:
        allowed = min(limit_gib * GIBIBYTE, float("inf") if free is None else free)
        source = f"DATALOADER.CACHE_GIB allows {limit_gib:g} GiB"
    return None if needed <= allowed else f"the images need {needed / GIBIBYTE:.3g} GiB and {source}"


def free_memory() -> Optional[int]:
    """Bytes that this process may still take, of the machine's and of its control group's; None where nothing tells."""
    known = []
    with suppress(OSError, KeyError, ValueError):
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        known.append(int(lines["MemAvailable"].split()[0]) * 1024)
    with suppress(OSError, KeyError, ValueError):  # no such control group, or "max" for no limit
        group = Path("/sys/fs/cgroup")
        used = int((group / "memory.current").read_text())
        parts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # cached files count as used there, and are given up when memory is asked for
        known.append(int((group / "memory.max").read_text()) - used + int(parts["inactive_file"]))
    return max(0, min(known)) if known else None
