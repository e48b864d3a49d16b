"""Runs as processes of their own, several at a time, each on its share of the cores."""

import json
import os
import signal
import subprocess
import time
from collections import deque
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Callable, Iterator, Mapping, Optional, Sequence

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two sweeps from training the same run
    fcntl = None  # type: ignore[assignment]

from ..engine.checkpointing import remove_periodic
from ..errors import UsageError
from ..utils.parallel import available_cores
from .grid import DONE, STARTED, Job

_SECONDS_BETWEEN_LOOKS = 0.1
# a log may be large; the last error is at its end
_TAIL = 20_000


def run_jobs(
    jobs: Sequence[Job],
    command: Sequence[str],
    parallel: int = 1,
    environment: Optional[Mapping[str, str]] = None,
    say: Callable[[str], None] = print,
) -> dict[str, str]:
    """Trains what is not done yet; a half-done run goes on from its last checkpoint.

    The console output of a run is in FOLDER.txt. Its periodic checkpoints go when it is done. Ctrl-C and
    SIGTERM let the runs save themselves; a second one ends them at once.

    Args:
        command: words that train, to which the arguments of ``tools/train_net.py`` are added.
        parallel: runs at a time.
        environment: variables beside those of this process.
        say: takes a line for every run that starts or ends.

    Returns:
        folder -> the last line of the error, of each run that failed.

    Raises:
        KeyboardInterrupt: it was ended; the runs have ended as well.
    """
    waiting, failed = deque(jobs), {}
    running: dict[int, tuple[Job, subprocess.Popen, float]] = {}
    places = _places(parallel)
    with _signals_interrupt():
        try:
            while waiting or running:
                while waiting and len(running) < parallel:
                    place = min(set(range(parallel)) - set(running))
                    job = waiting.popleft()
                    try:
                        if process := _start(job, command, places[place], environment, say):
                            running[place] = job, process, time.monotonic()
                    except UsageError as error:
                        failed[job.folder] = str(error)
                        say(f"{job.folder}: not trained: {error}")
                for place, (job, process, began) in list(running.items()):
                    if process.poll() is not None:
                        del running[place]
                        if error := _ended(job, process.returncode, time.monotonic() - began, say):
                            failed[job.folder] = error
                time.sleep(_SECONDS_BETWEEN_LOOKS if running else 0)
        except KeyboardInterrupt:
            _end([process for _, process, _ in running.values()])
            raise
    return failed


def _places(parallel: int) -> list[tuple[list[int], dict]]:
    """For each of several places the cores that its run is bound to (none where the system cannot) and its threads."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    threads = {"OMP_NUM_THREADS": str(max(1, available_cores() // parallel))}
    share = max(1, len(cores) // parallel)
    starts = [i * share % max(1, len(cores)) for i in range(parallel)]
    return [(cores[start : start + share], threads) for start in starts] if parallel > 1 else [([], {})]


def _start(
    job: Job,
    command: Sequence[str],
    place: tuple[list[int], dict],
    environment: Optional[Mapping[str, str]],
    say: Callable,
) -> Optional[subprocess.Popen]:
    """The process that trains a run; None where it is done."""
    cores, threads = place
    Path(job.folder).parent.mkdir(parents=True, exist_ok=True)
    with open(f"{job.folder}.txt", "ab") as log:
        # the process inherits the file, and so the lock stays as long as it lives, also without this one
        _lock(log, job)
        state = job.state()
        if state == DONE:
            return None
        say(f"{job.folder}: {'goes on' if state == STARTED else 'starts'}")
        words = [*command, "--config-file", job.config, "--resume", *job.options]
        with _bound_to(cores):
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**threads, **os.environ, **(environment or {})},
                start_new_session=True,  # a terminal's Ctrl-C reaches this process alone, which passes it on once
            )


def _lock(log, job: Job) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise UsageError(f"{job.folder} is being trained by another process; wait for it, or end it") from error


@contextmanager
def _bound_to(cores: Sequence[int]) -> Iterator[None]:
    """This process, and what it starts, on some cores alone."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _ended(job: Job, code: int, seconds: float, say: Callable) -> str:
    """Says how a run ended; returns its error, empty where there is none."""
    if code == 0:
        remove_periodic(job.folder)
        say(f"{job.folder}: done in {seconds / 60:.1f} min{_result(job)}")
        return ""
    error = last_error(f"{job.folder}.txt")
    if code < 0:
        error = f"ended by {signal.Signals(-code).name}" + (f"; last line: {error}" if error else "")
    say(f"{job.folder}: failed with exit code {code}: {error}; all of it is in {job.folder}.txt")
    return error


def _result(job: Job) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return f", mAP {json.loads(Path(job.folder, 'results.json').read_text())['final']['mAP']:.2f}"
    return ""


def last_error(log: str) -> str:
    """The last line of a log that begins with "error:", without that word; else its last line."""
    with open(log, "rb") as file:
        file.seek(max(0, os.path.getsize(log) - _TAIL))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error:").strip() for line in lines if line.startswith("error:")]
    return (errors or lines or [""])[-1]


def _end(processes: Sequence[subprocess.Popen]) -> None:
    """Lets processes save and end; once more interrupted, ends them at once."""
    try:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
    except KeyboardInterrupt:
        for process in processes:
            process.kill()
            process.wait()


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    # a shell starts what runs in the background with SIGINT ignored
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
