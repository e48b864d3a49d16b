"""What the console shows of a run: bars where somebody is watching, one line for every epoch, as much else as was asked for."""

import datetime
import logging
import os
import time
from typing import Iterable, Iterator, Optional

import numpy as np
import torch
from fastreid.engine.hooks import HookBase
from fastreid.utils import comm
from fastreid.utils.events import EventWriter, get_event_storage

from ..clustering.purity import describe_start
from ..registry import HOOK
from ..utils import parallel

logger = logging.getLogger("fastreid.ise.progress")

# A line of the log has the median of so many steps, as metrics.json and fastreid's lines do.
SMOOTHED_STEPS = 20
# Between INFO and WARNING: what even a quiet run says.
RESULT = 25
logging.addLevelName(RESULT, "RESULT")
_LEVELS = {"quiet": RESULT, "normal": logging.INFO, "verbose": logging.DEBUG}


def set_verbosity(verbosity: str) -> None:
    """How much of the log goes to the console: ``"quiet"``: warnings and results, no bars; ``"normal"``; ``"verbose"``:
    environment and network as well. ``log.txt`` always gets all of it."""
    parallel.silent = verbosity == "quiet"
    for handler in logging.getLogger("fastreid").handlers:
        # fastreid writes log.txt with the same class; its stream is a file then
        backed_by_file = os.path.isfile(str(getattr(getattr(handler, "stream", None), "name", "")))
        if type(handler) is logging.StreamHandler and not backed_by_file:
            handler.setLevel(_LEVELS[verbosity])


class WithProgress:
    """A loader whose passes are shown as a bar with rate and time left; silent in a quiet run and without a terminal.

    Everything but the iteration is the loader's own.
    """

    def __init__(self, loader: Iterable, title: str):
        self._loader = loader
        self._title = title

    def __getattr__(self, name: str):
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator:
        with bar(len(self._loader), self._title, "batches") as shown:
            for batch in self._loader:
                yield batch
                shown.update()


def bar(total: int, title: str, unit: str):
    """A tqdm bar on standard error, in the first process alone."""
    return parallel.progress_bar(total, title, unit, show=None if comm.is_main_process() else False)


class StepWriter(EventWriter):
    """A line of the log for fastreid's writers: epoch and step from 1, losses, learning rate, seconds of a step.

    fastreid's own counts epochs from 0, and estimates the time left by the steps alone; :class:`EpochSummary` says that.

    Args:
        epochs, steps: how many the run has, and each epoch.
    """

    def __init__(self, epochs: int, steps: int):
        self._epochs, self._steps = epochs, steps

    def write(self) -> None:
        """Logs the line."""
        storage = get_event_storage()
        epoch, step = divmod(storage.iter, self._steps)
        known = storage.histories()
        parts = [f"{name} {known[name].median(SMOOTHED_STEPS):.4g}" for name in known if "loss" in name]
        parts += [f"lr {known['lr'].latest():.2e}"] if "lr" in known else []
        parts += [f"{known['time'].median(SMOOTHED_STEPS):.4f} s a step"] if "time" in known else []
        if torch.cuda.is_available():
            parts.append(f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MiB at most")
        logger.info(f"epoch {epoch + 1}/{self._epochs}, step {step + 1}/{self._steps}: {', '.join(parts)}")


class TrainingProgress(HookBase):
    """A bar over the steps of each epoch, and the seconds that training takes of it (``training_time``)."""

    def __init__(self):
        self._start: Optional[float] = None
        self._before = 0.0  # seconds of this epoch before a resume

    def state_dict(self) -> dict:
        """For a run that is resumed inside an epoch."""
        return {"seconds": self._before + (time.perf_counter() - self._start if self._start else 0.0)}

    def load_state_dict(self, state: dict) -> None:
        """Takes what :meth:`state_dict` gave."""
        self._before = state["seconds"]

    def before_step(self) -> None:
        if self._start is None:
            trainer, self._start = self.trainer, time.perf_counter()
            steps = trainer.iters_per_epoch - trainer.steps_done
            self._bar = bar(steps, f"epoch {trainer.epoch + 1}/{trainer.max_epoch}", "steps")

    def after_step(self) -> None:
        self._bar.update()

    def after_epoch(self) -> None:
        if self._start is not None:  # else resumed after the last step
            self._bar.close()
        seconds, self._start, self._before = self.state_dict()["seconds"], None, 0.0
        self.trainer.storage.put_scalar("training_time", seconds, smoothing_hint=False)


@HOOK.register()
class EpochSummary(HookBase):
    """One line when an epoch is over. In the first process."""

    @classmethod
    def from_config(cls, cfg) -> Optional[dict]:
        return {} if comm.is_main_process() else None

    def __init__(self):
        self._last = time.perf_counter()
        self._before = 0.0  # seconds of this epoch before a resume

    def state_dict(self) -> dict:
        """For a run that is resumed inside an epoch."""
        return {"seconds": time.perf_counter() - self._last}

    def load_state_dict(self, state: dict) -> None:
        """Takes what :meth:`state_dict` gave."""
        self._before = state["seconds"]

    def before_train(self) -> None:
        self._begin = time.perf_counter()
        self._last = self._begin - (self._before if self.trainer.start_step else 0.0)

    def after_epoch(self) -> None:
        trainer, now = self.trainer, time.perf_counter()
        seconds, self._last = now - self._last, now
        done = trainer.iter - trainer.start_iter
        left = (now - self._begin) / done * (trainer.max_iter - trainer.iter) if done else None
        stored, histories = trainer.storage.latest(), trainer.storage.histories()
        latest = {name: value for name, (value, _) in stored.items()}
        begin = trainer.epoch * trainer.iters_per_epoch
        for name in (name for name in latest if "loss" in name):
            latest[name] = np.mean([value for value, iteration in histories[name].values() if iteration >= begin])
        evaluated = {name: value for name, (value, iteration) in stored.items() if iteration == trainer.iter - 1}
        images = len(trainer.images)
        logger.info(epoch_line(trainer.epoch + 1, trainer.max_epoch, latest, evaluated, images, seconds, left))


def epoch_line(
    epoch: int, epochs: int, latest: dict, evaluated: dict, images: int, seconds: float, left: Optional[float]
) -> str:
    """The summary of an epoch in one line; what is not known is left out.

    Args:
        epoch, epochs: counted from 1, and how many there will be.
        latest: name -> last value of everything that is logged; of losses the mean over the epoch.
        evaluated: those of them that belong to this epoch's end, which is where metrics are shown from.
        images: how many are trained on.
        seconds, left: of this epoch, and until the end, estimated; None where no step was done since a resume.
    """
    parts = [f"epoch {epoch}/{epochs}"]
    if "clusters" in latest:
        parts.append(f"{latest['clusters']:.0f} clusters, {latest['outliers'] / images:.1%} outliers")
    if "labels/estimated_purity" in latest:
        purity = latest["labels/estimated_purity"]
        start = f" ({describe_start(1 - latest['outliers'] / images, purity)})" if epoch == 1 else ""
        parts.append(f"estimated purity {purity:.2f}{start}")
    if "labels/stability" in latest:
        parts.append(f"labels as before {latest['labels/stability']:.2f}")
    losses = [f"{name.removeprefix('loss_')} {latest[name]:.3f}" for name in latest if name.startswith("loss_")]
    if "total_loss" in latest:
        parts.append(f"loss {latest['total_loss']:.3f}" + (f" ({', '.join(losses)})" if losses else ""))
    if "degree" in latest:
        parts.append(f"degree {latest['degree']:.3f}")
    parts += [f"{name} {value:.1f} %" for name, value in evaluated.items() if name.split("/")[-1] == "mAP"]
    parts.append(f"{seconds:.1f} s" + ("" if left is None else f", {datetime.timedelta(seconds=round(left))} left"))
    return " | ".join(parts)
