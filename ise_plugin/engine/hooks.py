"""Hooks of the training loop; each does one thing."""

import time

from fastreid.engine.hooks import HookBase, PeriodicWriter
from fastreid.evaluation.testing import flatten_results_dict
from fastreid.utils import comm
from fastreid.utils.env import seed_all_rng

from ..distributed import average_statistics, unwrapped
from ..method import progressive_degree
from .results import Results
from .seeds import epoch_seed


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
    that writes or saves: a loss that is not finite ends the run there."""

    def __init__(self, period: int):
        self._period = period

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self._period == 0 or self.trainer.iter == self.trainer.max_iter - 1:
            self.trainer.write_losses()

    def after_epoch(self) -> None:
        self.trainer.write_losses()


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
    """Saves ``model_{epoch}`` every ``period`` epochs, ``model_best`` when an evaluation says so, ``model_final`` at the end.

    The names are those of fastreid's PeriodicCheckpointer, which forgets the best metric on resume and compares stale ones.
    """

    def __init__(self, checkpointer, period: int):
        self._checkpointer = checkpointer
        self._period = period

    def after_epoch(self) -> None:
        epoch = self.trainer.epoch
        state = {"epoch": epoch}
        if self.trainer.is_best:
            self._checkpointer.save("model_best", **state)
            self.trainer.is_best = False
        if epoch + 1 == self.trainer.max_epoch:
            self._checkpointer.save("model_final", **state)
        elif (epoch + 1) % self._period == 0:
            self._checkpointer.save(f"model_{epoch:04d}", **state)


class WriteResults(HookBase):
    """Keeps time and writes ``results.json`` after every epoch. Belongs before :class:`SaveCheckpoint`, which stores the time."""

    def __init__(self, results: Results):
        self._results = results

    def before_train(self) -> None:
        # the evaluation before training has run by now; it counts as well
        self._last = self.trainer.start_time

    def after_epoch(self) -> None:
        now = time.perf_counter()
        self._results.seconds += now - self._last
        self._last = now
        self._results.write()


def _metric(metrics: dict) -> float:
    """fastreid's "metric" of the first test set."""
    return float(metrics["metric"] if "metric" in metrics else next(iter(metrics.values()))["metric"])
