"""Hooks of the training loop; each does one thing."""

import time
from typing import Optional

from fastreid.engine.hooks import HookBase, PeriodicWriter
from fastreid.evaluation.testing import flatten_results_dict
from fastreid.utils import comm
from fastreid.utils.env import seed_all_rng

from ..method import progressive_degree
from ..utils.distributed import average_statistics, computed_once, unwrapped
from ..utils.seeds import epoch_seed
from .checkpointing import name_after_epoch, name_within_epoch
from .interruption import NOTHING, SAVE, STOP, Interruption
from .results import Results
from .resume import run_state


class SeedEpoch(HookBase):
    """Seeds Python, numpy and torch at the start of every epoch, so that a resumed run draws what the whole run drew."""

    def __init__(self, seed: int):
        self._seed = seed

    def before_epoch(self) -> None:
        seed_all_rng(epoch_seed(self._seed, self.trainer.epoch, comm.get_rank()))


class ExtensionDegree(HookBase):
    """Sets the degree of extension before every step, from (steps done) / (all steps)."""

    def __init__(self, base: float):
        self._base = base

    def before_step(self) -> None:
        degree = progressive_degree(self.trainer.iter / self.trainer.max_iter, self._base)
        unwrapped(self.trainer.model).heads.degree = degree
        self.trainer.storage.put_scalar("degree", degree, smoothing_hint=False)


class WriteLosses(HookBase):
    """Brings the losses from the device into the storage where they are written or the epoch ends. Belongs before everything
    that writes or saves: weights that are not finite end the run there."""

    def __init__(self, period: int):
        self._period = period

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self._period == 0 or self.trainer.iter == self.trainer.max_iter - 1:
            self.trainer.write_losses()

    def after_epoch(self) -> None:
        self.trainer.write_losses()
        self.trainer.check_weights()  # before an evaluation of them makes no sense


class AverageStatistics(HookBase):
    """Averages batch norm's running statistics over the processes. Belongs before everything that evaluates or saves."""

    def after_epoch(self) -> None:
        average_statistics(self.trainer.model)


class WriteMetrics(PeriodicWriter):
    """fastreid's PeriodicWriter, which at the last step of an epoch waits for what is measured after it: its writers pass over
    whatever comes later for a step that they have written."""

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self.trainer.iters_per_epoch:
            super().after_step()


class Evaluate(HookBase):
    """Evaluates before training (on request), every ``period`` epochs (0: never in between), and after the last.

    Args:
        period: in epochs.
        before_train: whether to evaluate before the first step.
        function: takes nothing, returns fastreid's metrics.
        results: where they are kept.
    """

    def __init__(self, period: int, before_train: bool, function, results: Results):
        self._period = period
        self._before_train = before_train
        self._function = function
        self._results = results

    def before_train(self) -> None:
        if self._before_train and self._results.initial is None:
            self._results.record_initial(self._function())

    def after_epoch(self) -> None:
        done = self.trainer.epoch + 1
        if done < self.trainer.max_epoch and not (self._period and done % self._period == 0):
            return
        start = time.perf_counter()
        metrics = self._function()
        if comm.is_main_process():
            self.trainer.storage.put_scalar("evaluation_time", time.perf_counter() - start, smoothing_hint=False)
            self.trainer.storage.put_scalars(
                **{k: float(v) for k, v in flatten_results_dict(metrics).items()}, smoothing_hint=False
            )
            self.trainer.is_best = self._results.record(metrics, _metric(metrics), self.trainer.epoch)
        comm.synchronize()


class SaveCheckpoint(HookBase):
    """Saves ``model_{epoch}`` every ``period`` epochs, ``model_best`` when an evaluation says so, ``model_final`` at the end;
    inside an epoch ``model_{epoch}_{steps}`` when the last checkpoint is ``seconds`` old (0: never), or a signal asks to stop.

    The names are those of fastreid's PeriodicCheckpointer, which forgets the best metric on resume and compares stale ones.
    In all processes: they agree on when to save, and what each has drawn goes into the file.
    """

    def __init__(self, checkpointer, period: int, seconds: float, interruption: Interruption):
        self._checkpointer = checkpointer
        self._period = period
        self._seconds = seconds
        self._interruption = interruption
        self._last = time.monotonic()

    def after_step(self) -> None:
        due = comm.is_main_process() and 0 < self._seconds <= time.monotonic() - self._last
        wish = self._interruption.agreed(SAVE if due else NOTHING)
        if wish != NOTHING:
            self.trainer.write_losses()
            average_statistics(self.trainer.model)  # the file holds those of one process
            self._save(name_within_epoch(self.trainer.epoch, self.trainer.steps_done), self.trainer.steps_done)
        self.trainer.stopping = wish == STOP

    def save_start_of_epoch(self) -> None:
        """Saves what there was before this epoch's labelling."""
        self._save(name_within_epoch(self.trainer.epoch, 0), 0)

    def after_epoch(self) -> None:
        epoch, last = self.trainer.epoch, self.trainer.epoch + 1 == self.trainer.max_epoch
        if computed_once(lambda: self.trainer.is_best):  # the first process alone has evaluated
            self._save("model_best")
            self.trainer.is_best = False
        asked = not last and self._interruption.agreed() == STOP
        if last:
            self._save("model_final")
        elif asked or (epoch + 1) % self._period == 0:
            self._save(name_after_epoch(epoch))
        self.trainer.stopping = asked

    def after_train(self) -> None:
        if self.trainer.start_epoch == self.trainer.max_epoch and not self._checkpointer.has("model_final"):
            self.trainer.epoch = (
                self.trainer.max_epoch - 1
            )  # resumed from the best of the last epoch, for want of others
            self._save("model_final")

    def _save(self, name: str, step: Optional[int] = None) -> None:
        """Saves behind this epoch or, with ``step``, inside it."""
        self.trainer.check_weights()
        epoch = self.trainer.epoch if step is None else self.trainer.epoch - 1
        self._checkpointer.save(name, **run_state(self.trainer, epoch, step or 0))
        self._last = time.monotonic()


class WriteResults(HookBase):
    """Keeps time and writes ``results.json`` after every epoch. Belongs before :class:`SaveCheckpoint`, which stores the time."""

    def __init__(self, results: Results):
        self._results = results

    def before_train(self) -> None:
        # the evaluation before training has run by now; it counts as well
        self._last = self.trainer.start_time

    def after_step(self) -> None:
        self._count()

    def after_epoch(self) -> None:
        self._count()
        self._results.write()

    def _count(self) -> None:
        now = time.perf_counter()
        self._results.seconds += now - self._last
        self._last = now


def _metric(metrics: dict) -> float:
    """fastreid's "metric" of the first test set."""
    return float(metrics["metric"] if "metric" in metrics else next(iter(metrics.values()))["metric"])
