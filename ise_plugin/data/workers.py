"""A loader whose workers say what ended them, and which no signal but their own process's ends."""

import multiprocessing
import os
import re
import signal
import threading
import time
import weakref
from typing import Iterator

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ..errors import UsageError
from ..utils.files import shown

# how torch reports a worker that is gone
_DEATH = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)")
_SECONDS_TO_REPORT = 5
_LONGEST_PATH = 4096
_tables: weakref.WeakSet = weakref.WeakSet()


class UserErrorLoader(DataLoader):
    """A loader of data sets that make whole batches.

    A :class:`UsageError` in a worker arrives as one, without the worker's traceback around its message. The data set gets
    the attribute ``worker_files`` (:class:`WorkerFiles`, or None without workers) to note in what it reads.
    """

    def __init__(self, dataset: Dataset, **options):
        # dict: a batch stays what it is
        super().__init__(dataset, collate_fn=dict, worker_init_fn=obey_parent_alone, **options)
        dataset.worker_files = WorkerFiles(self.num_workers) if self.num_workers else None

    def __iter__(self) -> Iterator:
        batches = super().__iter__()
        while True:
            try:
                yield next(batches)
            except StopIteration:
                return
            except (RuntimeError, ConnectionError, EOFError) as error:
                explain_worker_death(_reported(error))
                raise
            except UsageError as error:
                # torch repeats the traceback as text and puts the message on the last line
                raise UsageError(str(error).strip().splitlines()[-1].split("UsageError: ")[-1]) from None


def _reported(error: Exception) -> Exception:
    """A worker that dies while it hands over a batch breaks a connection first; torch's report follows, as a signal."""
    try:
        if not isinstance(error, RuntimeError):
            time.sleep(_SECONDS_TO_REPORT)
    except RuntimeError as report:
        return report
    return error


def obey_parent_alone(worker: int = 0) -> None:
    """Makes this worker ignore SIGINT, and SIGTERM from anybody but its parent.

    A terminal, Slurm and containers send both to all processes of a run; the parent saves then, and needs its workers. It
    sends SIGTERM itself to end them, which must work: Python waits for them at its exit.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # only it tells who has sent a signal; macOS has none
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        parent = multiprocessing.parent_process().pid  # os.getppid() may be the fork server
        threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


class WorkerFiles:
    """One row for each of so many workers, in memory that all processes share: its process and the file it reads."""

    def __init__(self, workers: int):
        self._processes = torch.zeros(workers, dtype=torch.int64).share_memory_()
        self._paths = torch.zeros(workers, _LONGEST_PATH + 1, dtype=torch.uint8).share_memory_()
        _tables.add(self)

    def note(self, path: str) -> None:
        """Says that this process reads that file; nothing happens outside a loader's worker."""
        worker = get_worker_info()
        if worker is None or worker.id >= len(self._processes):
            return
        content = bytearray(os.fsencode(path)[:_LONGEST_PATH] + b"\0")
        self._processes[worker.id] = os.getpid()
        self._paths[worker.id, : len(content)] = torch.frombuffer(content, dtype=torch.uint8)

    def of(self, process: int) -> str:
        """The file that a process read last; empty where it read none."""
        rows = (self._processes == process).nonzero().flatten().tolist()
        return os.fsdecode(bytes(self._paths[rows[0]].tolist()).split(b"\0")[0]) if rows else ""


def explain_worker_death(error: BaseException) -> None:
    """Raises UsageError, naming the file that was read, where the error says that a loader's worker has died."""
    found = _DEATH.search(str(error)) if isinstance(error, RuntimeError) else None
    if not found:
        return
    processes = [int(number) for number in found[1].replace(",", " ").split()]
    files = [shown(path) for path in (table.of(p) for table in _tables for p in processes) if path]
    reading = f" while it read {files[0]}" if files else ""
    raise UsageError(
        f"a loader's worker has died{reading} (process {processes[0]} {found[2].strip().rstrip('.')}); if memory ran out, "
        "lower DATALOADER.NUM_WORKERS; if it dies at the same file again, remove that file"
    ) from error
