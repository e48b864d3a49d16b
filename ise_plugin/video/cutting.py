"""Several recordings cut at once, each in a process of its own, with progress and the time left."""

import logging
import multiprocessing
import os
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from typing import Any, Optional, Sequence

from ..data.mot import camera_of, write_table
from ..errors import UsageError
from ..utils.files import shown
from ..utils.parallel import available_cores, progress_bar
from .crops import CutSettings, cut_recording
from .recordings import Recording

logger = logging.getLogger("fastreid.ise.video")

_SECONDS_BETWEEN_LOOKS = 0.5
# How many frames the processes have read together; each gets it when it starts.
_frames_read: Any = None


def cut_recordings(
    sources: Sequence[str], output: str, camera: str, settings: CutSettings, processes: Optional[int] = None
) -> list[Recording]:
    """Cuts recordings into ``OUTPUT/NAME``, and writes ``OUTPUT/sightings.csv``. What cannot be read is named, others go on.

    Args:
        camera: regular expression for :func:`ise_plugin.data.mot.camera_of`; empty: each recording's name is its camera.
        processes: recordings at a time; by default as many as there are cores.

    Returns:
        The recordings that were cut, now or before.

    Raises:
        UsageError: two have one name, or none can be cut.
    """
    recordings = [Recording(source, settings.frame_rate) for source in sources]
    for name, times in Counter(recording.name for recording in recordings).items():
        if times > 1:
            raise UsageError(f"{times} recordings are called {shown(name)}; rename one, or its folder")
    cameras = [camera_of(recording.camera, camera) for recording in recordings]
    try:
        os.makedirs(output, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{shown(output)} cannot be made ({error.strerror}); name another folder") from error
    processes = min(processes or available_cores(), len(recordings))
    if callable(settings.detector):
        processes = 1  # a function of the caller's own cannot be sent to another process
    work = [(recording, os.path.join(output, recording.name), own) for recording, own in zip(recordings, cameras)]
    total = sum(_frames_to_read(recording, settings) for recording in recordings)
    with progress_bar(total, "cutting crops", "frames") as bar:
        problems = (_one_by_one if processes == 1 else _side_by_side)(work, settings, processes, bar)
    for recording, problem in zip(recordings, problems):
        if problem is not None:
            logger.warning(f"{shown(recording.name)} is left out: {problem}")
    cut = [recording for recording, problem in zip(recordings, problems) if problem is None]
    if not cut:
        raise UsageError(next(problem for problem in problems if problem is not None))
    write_table(output)
    return cut


def _frames_to_read(recording: Recording, settings: CutSettings) -> int:
    """For the bar; 0 where nothing tells."""
    try:
        return (recording.count() or 0) // settings.every
    except UsageError:  # said where it is cut
        return 0


def _one_by_one(work: Sequence[tuple], settings: CutSettings, processes: int, bar: Any) -> list[Optional[str]]:
    problems: list[Optional[str]] = []
    for recording, place, camera in work:
        try:
            cut_recording(recording, place, camera, settings, bar.update)
            problems.append(None)
        except UsageError as error:
            problems.append(str(error))
    return problems


def _side_by_side(work: Sequence[tuple], settings: CutSettings, processes: int, bar: Any) -> list[Optional[str]]:
    # not forked: threads of the libraries would be torn
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    with ProcessPoolExecutor(processes, context, _begin, (counter, logger.getEffectiveLevel())) as pool:
        waiting = {pool.submit(_cut_in_process, recording, place, own, settings) for recording, place, own in work}
        jobs = list(waiting)
        while waiting:
            _, waiting = wait(waiting, _SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
            bar.update(counter.value - bar.n)
    found = dict(job.result() for job in jobs)
    return [found[recording.name] for recording, _, _ in work]


def _begin(counter: Any, level: int) -> None:
    global _frames_read
    _frames_read = counter
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logger.setLevel(level)


def _cut_in_process(recording: Recording, place: str, camera: str, settings: CutSettings) -> tuple[str, Optional[str]]:
    try:
        cut_recording(recording, place, camera, settings, _tell)
        return recording.name, None
    except UsageError as error:
        return recording.name, str(error)


def _tell(frames: int) -> None:
    with _frames_read.get_lock():
        _frames_read.value += frames
