"""What the console shows of a run: bars where somebody is watching, one line for every epoch, as much else as was asked for."""

import datetime
import logging
import os
import time
from typing import Iterable, Iterator, Optional

from fastreid.engine.hooks import HookBase
from fastreid.utils import comm

from ..clustering.purity import describe_start
from ..registry import HOOK
from ..utils import parallel

logger = logging.getLogger("fastreid.ise.progress")

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


class TrainingProgress(HookBase):
    """A bar over the steps of each epoch, and the seconds that training takes of it (``training_time``)."""

    def __init__(self):
        self._start: Optional[float] = None

    def before_step(self) -> None:
        if self._start is None:
            trainer, self._start = self.trainer, time.perf_counter()
            steps = trainer.iters_per_epoch - trainer.steps_done
            self._bar = bar(steps, f"epoch {trainer.epoch + 1}/{trainer.max_epoch}", "steps")

    def after_step(self) -> None:
        self._bar.update()

    def after_epoch(self) -> None:
        if self._start is None:
            return  # resumed after the last step
        self._bar.close()
        seconds, self._start = time.perf_counter() - self._start, None
        self.trainer.storage.put_scalar("training_time", seconds, smoothing_hint=False)


@HOOK.register()
class EpochSummary(HookBase):
    """One line when an epoch is over. In the first process."""

    @classmethod
    def from_config(cls, cfg) -> Optional[dict]:
        return {} if comm.is_main_process() else None

    def before_train(self) -> None:
        self._begin = self._last = time.perf_counter()

    def after_epoch(self) -> None:
        trainer, now = self.trainer, time.perf_counter()
        done = trainer.epoch + 1 - trainer.start_epoch
        seconds, self._last = now - self._last, now
        left = (now - self._begin) / done * (trainer.max_epoch - trainer.epoch - 1)
        stored = trainer.storage.latest()
        latest = {name: value for name, (value, _) in stored.items()}
        evaluated = {name: value for name, (value, iteration) in stored.items() if iteration == trainer.iter - 1}
        images = len(trainer.images)
        logger.info(epoch_line(trainer.epoch + 1, trainer.max_epoch, latest, evaluated, images, seconds, left))


def epoch_line(epoch: int, epochs: int, latest: dict, evaluated: dict, images: int, seconds: float, left: float) -> str:
    """The summary of an epoch in one line; what is not known is left out.

    Args:
        epoch, epochs: counted from 1, and how many there will be.
        latest: name -> last value of everything that is logged.
        evaluated: those of them that belong to this epoch's end, which is where metrics are shown from.
        images: how many are trained on.
        seconds, left: of this epoch, and until the end, estimated.
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
    parts.append(f"{seconds:.1f} s, {datetime.timedelta(seconds=round(left))} left")
    return " | ".join(parts)
