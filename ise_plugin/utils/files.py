"""Files that are there whole or not at all."""

import os
import re
from typing import Optional

from ..errors import UsageError

_TEMPORARY = re.compile(r"\.(\d+)\.tmp$")


class UnwritableFile(UsageError, OSError):
    """A file could not be written; what was there before is intact."""


def write_atomically(path: str, content: bytes) -> None:
    """Writes a file so that a crash, of the process or the machine, leaves the old one or the new one, never a part.

    Raises:
        UnwritableFile: the folder cannot be written to, or the disk is full; the old file is untouched.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _settle(os.path.dirname(path))
    except BaseException as error:
        if os.path.exists(temporary):
            os.remove(temporary)
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise UnwritableFile(
                f"{path} cannot be written ({reason}); free some space, or choose another place"
            ) from error
        raise


def _settle(folder: str) -> None:
    """Brings a renaming onto the disk, where the system can be told to."""
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
        found = _TEMPORARY.search(name)
        if found and not _alive(int(found[1])):
            os.remove(os.path.join(folder, name))


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def free_space(folder: str) -> Optional[int]:
    """Bytes that may still be written to a folder; None where the system does not tell."""
    if not hasattr(os, "statvfs"):
        return None
    status = os.statvfs(folder or ".")
    return status.f_bavail * status.f_frsize


def shown(path: str) -> str:
    """A path on one line: as it is, or as a Python literal where it holds line breaks or what cannot be printed."""
    return path if path.isprintable() else repr(path)
