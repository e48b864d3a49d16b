"""Files that are there whole or not at all."""

import os


def write_atomically(path: str, content: bytes) -> None:
    """Writes a file so that a crash leaves the old one or the new one, never a part.

    Raises:
        OSError: the folder cannot be written to, or the disk is full; the old file is untouched.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise
