"""Which file each worker of a loader is reading, for the case that it dies of it."""

import os
import re
import weakref

import torch

from ..errors import UsageError
from ..utils.files import shown

# how torch reports a worker that is gone
_DEATH = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)")
_LONGEST_PATH = 4096
_tables = weakref.WeakSet()


class WorkerFiles:
    """One row for each worker, in memory that all processes share: its process and the file it reads.

    Args:
        workers: how many there may be.
    """

    def __init__(self, workers: int):
        self._processes = torch.zeros(workers, dtype=torch.int64).share_memory_()
        self._lengths = torch.zeros(workers, dtype=torch.int64).share_memory_()
        self._paths = torch.zeros(workers, _LONGEST_PATH, dtype=torch.uint8).share_memory_()
        _tables.add(self)

    def note(self, path: str) -> None:
        """Says that this process reads that file; nothing happens outside a loader's worker."""
        worker = torch.utils.data.get_worker_info()
        if worker is None or worker.id >= len(self._processes):
            return
        content = os.fsencode(path)[:_LONGEST_PATH]
        self._processes[worker.id] = os.getpid()
        self._paths[worker.id, : len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        self._lengths[worker.id] = len(content)

    def of(self, process: int) -> str:
        """The file that a process read last; empty where it read none."""
        rows = (self._processes == process).nonzero().flatten().tolist()
        return os.fsdecode(bytes(self._paths[rows[0], : self._lengths[rows[0]]].tolist())) if rows else ""


def explain_worker_death(error: BaseException) -> None:
    """
    Raises:
        UsageError: the error says that a loader's worker has died; the message names the file that it was reading.
    """
    found = _DEATH.search(str(error)) if isinstance(error, RuntimeError) else None
    if not found:
        return
    processes = [int(number) for number in found[1].replace(",", " ").split()]
    files = [shown(path) for path in (table.of(p) for table in _tables for p in processes) if path]
    reading = f" while it read {files[0]}" if files else ""
    raise UsageError(
        f"a loader's worker has died{reading} (process {processes[0]} {found[2].strip().rstrip('.')}): "
        f"for want of memory use fewer DATALOADER.NUM_WORKERS; a file that kills its reader must go"
    ) from error
