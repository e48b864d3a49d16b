"""The hooks of a run: what each does, and the order in which all of them run.

Beside fastreid's ``before_train`` ... ``after_train`` a hook may have ``after_labelling(labelling)``, called in all processes
after every labelling (:class:`ise_plugin.engine.labelling.Labelling`), ``after_evaluation(evaluation)``, after every
evaluation (:class:`ise_plugin.engine.evaluation.Evaluation`), and ``after_choice(labelling)``, in the first process, when the
identities of that labelling have been written. One with ``state_dict`` and ``load_state_dict`` goes into checkpoints, as
``state_name`` where it has that, else by the name of its class. ``self.trainer`` is the trainer.
"""

import time
from typing import Optional

from fastreid.engine.hooks import HookBase, PeriodicWriter
from fastreid.evaluation.testing import flatten_results_dict
from fastreid.utils import comm
from fastreid.utils.env import seed_all_rng

from ..method import DEGREE_SCHEDULES
from ..utils.distributed import average_statistics, computed_once, unwrapped
from ..utils.seeds import epoch_seed
from .checkpointing import checkpoint_name, run_state
from .console import SMOOTHED_STEPS
from .evaluation import Evaluation
from .interruption import NOTHING, SAVE, STOP

OWN = "hooks of the user's own"
# At every point of the loop hooks run in this order.
ORDER = (
    "SeedEpoch",  # before anything draws a random number
    "EpochLog",  # before anything is logged
    "IterationTimer",
    "LRScheduler",
    "Labelling",  # makes the epoch's memory and loader: before everything that looks at either
    "ExtensionDegree",
    "WriteLosses",  # before everything that writes or saves: weights that are not finite end the run here
    "TrainingProgress",  # its seconds are those of the steps alone
    "PreciseBN",
    "AverageStatistics",  # before everything that evaluates or saves: from here on all processes hold the same
    "LayerFreeze",
    "Evaluate",
    OWN,  # what they measure is written, their state is saved
    "WriteResults",  # before SaveCheckpoint, which stores the time
    "SaveCheckpoint",
    "TellWarnings",
    "WriteMetrics",  # after everything that measures
    "IdentityChoice",  # after everything that saves: at the end it labels once more
    "RunReport",  # reads what the others have written
    "CollapseGuard",  # may end the run at a labelling, of which the report then tells
    "EpochSummary",  # the last word on an epoch
)


def in_order(hooks: dict) -> list:
    """Named hooks as :data:`ORDER` has them; those that it does not name in the order given."""
    place = {name: number for number, name in enumerate(ORDER)}
    return [hooks[name] for name in sorted(hooks, key=lambda name: place.get(name, place[OWN])) if hooks[name]]


def states_of(hooks: list) -> dict:
    """The hooks that checkpoints hold, by the names they have there."""
    return {getattr(hook, "state_name", type(hook).__name__): hook for hook in hooks if hasattr(hook, "state_dict")}


class SeedEpoch(HookBase):
    """Seeds Python, numpy and torch at the start of every epoch, so that a resumed run draws what the whole run drew."""

    def __init__(self, seed: int):
        self._seed = seed

    def before_epoch(self) -> None:
        seed_all_rng(epoch_seed(self._seed, self.trainer.epoch, comm.get_rank()))


class EpochLog(HookBase):
    """Keeps in checkpoints what the epoch has logged so far, so that a run that is resumed inside it has all of it."""

    state_name = "logged"

    def __init__(self):
        self._before: dict = {}

    def before_epoch(self) -> None:
        """Logs the values of the part before once more."""
        storage, now = self.trainer.storage, self.trainer.storage.iter
        begin = now - self.trainer.steps_done
        for name, (smoothed, values) in self._before.items() if self.trainer.steps_done else ():
            for value, step in values:
                storage.iter = begin + int(step)
                storage.put_scalar(name, value, smoothing_hint=smoothed)
        storage.iter, self._before = now, {}

    def state_dict(self) -> dict:
        """{name: (whether writers smooth it, [(value, step of the epoch from 0)])}; of smoothed ones the steps before, too."""
        storage = getattr(self.trainer, "storage", None)
        if storage is None:
            return {}  # saved by somebody's own code before training
        begin, kept = self.trainer.epoch * self.trainer.iters_per_epoch, {}
        for name, smoothed in storage.smoothing_hints().items():
            first = begin - SMOOTHED_STEPS if smoothed else begin
            kept[name] = smoothed, [(v, at - begin) for v, at in storage.history(name).values() if at >= first]
        return kept

    def load_state_dict(self, state: dict) -> None:
        """Takes what :meth:`state_dict` gave."""
        self._before = state


class ExtensionDegree(HookBase):
    """Sets the degree of extension before every step, from (steps done) / (all steps), by a schedule's name."""

    def __init__(self, base: float, schedule: str = "progressive"):
        self._base, self._degree_at = base, DEGREE_SCHEDULES[schedule]

    def before_step(self) -> None:
        degree = self._degree_at(self.trainer.iter / self.trainer.max_iter, self._base)
        unwrapped(self.trainer.model).heads.degree = degree
        self.trainer.storage.put_scalar("degree", degree, smoothing_hint=False)


class WriteLosses(HookBase):
    """Brings the losses from the device into the storage where they are written or the epoch ends."""

    def __init__(self, period: int):
        self._period = period

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self._period == 0 or self.trainer.iter == self.trainer.max_iter - 1:
            self.trainer.step.write_losses()

    def after_epoch(self) -> None:
        self.trainer.step.write_losses()
        self.trainer.step.check_weights()  # before an evaluation of them makes no sense


class AverageStatistics(HookBase):
    """Averages batch norm's running statistics over the processes."""

    def after_epoch(self) -> None:
        average_statistics(self.trainer.model)


class WriteMetrics(PeriodicWriter):
    """fastreid's PeriodicWriter, which at the last step of an epoch waits for what is measured after it: its writers pass over
    whatever comes later for a step that they have written."""

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self.trainer.iters_per_epoch:
            super().after_step()


class Evaluate(HookBase):
    """Evaluates before training (on request), every ``period`` epochs (0: never in between), and after the last."""

    def __init__(self, period: int, before_train: bool):
        self._period = period
        self._before_train = before_train

    def before_train(self) -> None:
        if self._before_train and self.trainer.results.initial is None:
            metrics, retrievals = self.trainer.evaluate()
            self.trainer.results.record_initial(metrics)
            self.trainer.tell("after_evaluation", Evaluation(0, metrics, False, retrievals))

    def after_epoch(self) -> None:
        trainer, done = self.trainer, self.trainer.epoch + 1
        if done < trainer.max_epoch and not (self._period and done % self._period == 0):
            return
        start = time.perf_counter()
        metrics, retrievals = trainer.evaluate()
        is_best = False
        if comm.is_main_process():
            measured = {name: float(value) for name, value in flatten_results_dict(metrics).items()}
            trainer.storage.put_scalars(evaluation_time=time.perf_counter() - start, **measured, smoothing_hint=False)
            first = metrics if "metric" in metrics else next(iter(metrics.values()))  # of several test sets
            is_best = trainer.results.record(metrics, float(first["metric"]), trainer.epoch)
        trainer.tell("after_evaluation", Evaluation(done, metrics, is_best, retrievals))
        comm.synchronize()


class SaveCheckpoint(HookBase):
    """Saves ``model_{epoch}`` every ``period`` epochs, ``model_best`` when an evaluation says so, ``model_final`` at the end;
    inside an epoch ``model_{epoch}_{steps}`` when the last checkpoint is ``seconds`` old (0: never), or a signal asks to stop.

    The names are those of fastreid's PeriodicCheckpointer, which forgets the best metric on resume and compares stale ones.
    In all processes: they agree on when to save, and what each has drawn goes into the file.
    """

    def __init__(self, period: int, seconds: float):
        self._period = period
        self._seconds = seconds
        self._last = time.monotonic()
        self._is_best = False

    def after_evaluation(self, evaluation: Evaluation) -> None:
        self._is_best = evaluation.is_best

    def after_step(self) -> None:
        interruption = self.trainer.interruption
        due = comm.is_main_process() and 0 < self._seconds <= time.monotonic() - self._last
        wish = interruption.agreed(SAVE if due else NOTHING)
        if wish == NOTHING:
            return
        self.trainer.step.write_losses()
        average_statistics(self.trainer.model)  # the file holds those of one process
        self._save(checkpoint_name(self.trainer.epoch, self.trainer.steps_done), self.trainer.steps_done)
        interruption.granted = wish == STOP

    def save_start_of_epoch(self) -> None:
        """Saves what there was before this epoch's labelling."""
        self._save(checkpoint_name(self.trainer.epoch, 0), 0)

    def after_epoch(self) -> None:
        interruption = self.trainer.interruption
        epoch, last = self.trainer.epoch, self.trainer.epoch + 1 == self.trainer.max_epoch
        if computed_once(lambda: self._is_best):  # the first process alone has evaluated
            self._save("model_best")
            self._is_best = False
        asked = not last and interruption.agreed() == STOP
        if last:
            self._save("model_final")
        elif asked or (epoch + 1) % self._period == 0:
            self._save(checkpoint_name(epoch))
        interruption.granted = asked

    def after_train(self) -> None:
        trainer = self.trainer
        if trainer.start_epoch == trainer.max_epoch and not trainer.checkpointer.has("model_final"):
            trainer.epoch = trainer.max_epoch - 1  # resumed from the best of the last epoch, the only one that was left
            self._save("model_final")

    def _save(self, name: str, step: Optional[int] = None) -> None:
        """Saves after this epoch or, with ``step``, inside it."""
        self.trainer.step.check_weights()
        epoch = self.trainer.epoch if step is None else self.trainer.epoch - 1
        self.trainer.checkpointer.save(name, **run_state(self.trainer, epoch, step or 0))
        self._last = time.monotonic()


class WriteResults(HookBase):
    """Keeps time and writes ``results.json`` after every epoch."""

    def before_train(self) -> None:
        # the evaluation before training has run by now; it counts as well
        self._last = self.trainer.start_time

    def after_step(self) -> None:
        now = time.perf_counter()
        self.trainer.results.seconds += now - self._last
        self._last = now

    def after_epoch(self) -> None:
        self.after_step()  # counts the evaluation
        self.trainer.results.write()
