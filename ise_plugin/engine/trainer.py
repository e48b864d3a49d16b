"""The trainer: fastreid's DefaultTrainer for images without labels."""

import logging
import os
import time
from typing import Iterator, Optional

import torch
from fastreid.engine import hooks as fastreid_hooks
from fastreid.engine.defaults import DefaultTrainer
from fastreid.engine.train_loop import TrainerBase
from fastreid.utils import comm
from fastreid.utils.events import EventStorage
from fastreid.utils.logger import setup_logger
from torch.nn.parallel import DistributedDataParallel

from ..config import unread_keys, watched, with_steps
from ..data import build_test_loader, read_evaluation_images, read_training_images
from ..data.workers import explain_worker_death
from ..errors import UsageError
from ..modeling.build import build_model
from ..modeling.precision import choose_precision, spare_slow_gradients
from ..registry import HOOK, build
from ..utils.distributed import unwrapped, world_size
from . import hooks
from .checkpointing import ISECheckpointer, check_space, refuse_finished, set_random_state, take_run_state
from .collapse import CollapseGuard
from .console import StepWriter, TrainingProgress, WithProgress
from .evaluation import PortableReidEvaluator, Retrieval, evaluate_sets
from .evidence import use_evidence
from .interruption import Interrupted, Interruption
from .launcher import TellWarnings, restarted
from .results import Results
from .start import named_setup_errors
from .step import TrainingStep, build_optimizer

logger = logging.getLogger("fastreid.ise.trainer")

# Steps between two lines of the log, of metrics.json and of the TensorBoard file; fastreid's number.
_WRITER_PERIOD = 200


class ISETrainer(DefaultTrainer):
    """Trains on pseudo labels that the hook named in the config makes at the start of every epoch.

    Hooks, schedulers, writers, evaluation and the order of building follow fastreid's DefaultTrainer. What differs: no
    identities are read; any device; nothing has to be evaluated; an exception does not run the hooks of the end.

    Attributes:
        images: :class:`ise_plugin.data.TrainingImages`.
        results: :class:`ise_plugin.engine.results.Results`.
        step: :class:`ise_plugin.engine.step.TrainingStep`, which holds loader, precision and losses.
        pseudo_labels: the hook that labels (``ISE.PSEUDO_LABEL.HOOK``).
        config_file: that the configuration was read from, for those who report on the run; None where nobody said.

    Example::

        trainer = ISETrainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
    """

    @named_setup_errors()
    def __init__(self, cfg):
        TrainerBase.__init__(self)  # DefaultTrainer's own needs CUDA and labels
        if not logging.getLogger("fastreid").isEnabledFor(logging.INFO):
            setup_logger()  # used from Python, without ise_plugin.engine.start
        os.makedirs(cfg.OUTPUT_DIR or ".", exist_ok=True)
        self.start_time = time.perf_counter()
        cfg, self.images = use_evidence(
            watched(cfg), read_training_images(cfg.DATASETS.NAMES, cfg.DATASETS.COMBINEALL, cfg)
        )
        self.cfg = cfg = with_steps(cfg, len(self.images))
        if len(self.images) <= cfg.ISE.PSEUDO_LABEL.K1:
            raise UsageError(
                f"{len(self.images)} training images are too few for ISE.PSEUDO_LABEL.K1 {cfg.ISE.PSEUDO_LABEL.K1} nearest "
                "neighbours; set it below the number of images, or give more of them"
            )
        for name in cfg.DATASETS.TESTS:
            read_evaluation_images(name, cfg)  # what is wrong with them shows now, not after hours of training
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        if world_size() > 1:
            # without device_ids it leaves the batch where it is: the labels on the host, the images to the model
            model = DistributedDataParallel(model, broadcast_buffers=False)
        device = torch.device(cfg.MODEL.DEVICE)
        backbone = unwrapped(model).backbone
        precision = choose_precision(device, cfg.SOLVER.AMP.ENABLED, cfg.ISE.PRECISION, backbone, cfg.INPUT.SIZE_TRAIN)
        spare_slow_gradients(backbone, device, precision)
        self.step = self._trainer = TrainingStep(
            model, optimizer, device, precision, cfg.SOLVER.ACCUMULATE, cfg.ISE.MAX_SKIPPED_STEPS
        )

        self.iters_per_epoch = cfg.ISE.ITERS_PER_EPOCH
        self.max_epoch = cfg.SOLVER.MAX_EPOCH
        self.max_iter = self.max_epoch * self.iters_per_epoch
        self.start_epoch = 0
        self.start_step = 0  # steps of the first epoch that are done already
        self.steps_done = 0  # of the current epoch
        self.random_at_start: Optional[dict] = None
        self.resumed = False
        self.interruption = Interruption()
        self.warmup_iters = cfg.SOLVER.WARMUP_ITERS
        self.delay_epochs = cfg.SOLVER.DELAY_EPOCHS
        self.scheduler = self.build_lr_scheduler(cfg, optimizer, self.iters_per_epoch)

        self.results = Results(cfg.OUTPUT_DIR, save_to_disk=comm.is_main_process())
        if comm.is_main_process():
            check_space(cfg.OUTPUT_DIR, unwrapped(model), optimizer, cfg.ISE.KEEP_CHECKPOINTS)
        self.config_file: Optional[str] = None
        self.pseudo_labels = build(HOOK, cfg.ISE.PSEUDO_LABEL.HOOK, "ISE.PSEUDO_LABEL.HOOK", cfg)
        self.register_hooks(self.build_hooks())
        self.checkpointer = ISECheckpointer(
            model,
            cfg.OUTPUT_DIR,
            keep=cfg.ISE.KEEP_CHECKPOINTS,
            save_to_disk=comm.is_main_process(),
            optimizer=optimizer,
            numerics=self.step,
            results=self.results,
            **hooks.states_of(self._hooks),
            **self.scheduler,
        )

    def build_hooks(self) -> list:
        """fastreid's hooks where they serve, this package's for the rest, and those of ``ISE.HOOKS``, in
        :data:`ise_plugin.engine.hooks.ORDER`."""
        cfg, model, is_first = self.cfg, self.model, comm.is_main_process()
        test, freeze_iters = cfg.TEST, cfg.SOLVER.FREEZE_ITERS
        self._saving = hooks.SaveCheckpoint(cfg.SOLVER.CHECKPOINT_PERIOD, cfg.ISE.CHECKPOINT_SECONDS)
        batches, precise_bn = self._endless_batches(), test.PRECISE_BN
        frozen, collapse = cfg.MODEL.FREEZE_LAYERS, cfg.ISE.COLLAPSE
        supports = getattr(unwrapped(model).heads, "num_neighbors", 0)
        bounds = collapse.LABELLINGS, collapse.MAX_CLUSTER_SHARE, collapse.MAX_OUTLIER_SHARE
        named = {
            "SeedEpoch": hooks.SeedEpoch(cfg.SEED),
            "EpochLog": hooks.EpochLog(),
            # by default the first three steps are not timed: the rest of a resumed epoch may be as short
            "IterationTimer": fastreid_hooks.IterationTimer(warmup_iter=1),
            "LRScheduler": fastreid_hooks.LRScheduler(self.optimizer, self.scheduler),
            "Labelling": self.pseudo_labels,
            "ExtensionDegree": supports
            and hooks.ExtensionDegree(cfg.ISE.SUPPORT.BASE_DEGREE, cfg.ISE.SUPPORT.SCHEDULE),
            "WriteLosses": hooks.WriteLosses(_WRITER_PERIOD),
            "TrainingProgress": TrainingProgress(),
            "PreciseBN": precise_bn.ENABLED and fastreid_hooks.PreciseBN(model, batches, precise_bn.NUM_ITER),
            "AverageStatistics": hooks.AverageStatistics(),
            "LayerFreeze": frozen and freeze_iters > 0 and fastreid_hooks.LayerFreeze(model, frozen, freeze_iters),
            "Evaluate": cfg.DATASETS.TESTS and hooks.Evaluate(test.EVAL_PERIOD, cfg.ISE.EVAL_BEFORE_TRAIN),
            "WriteResults": hooks.WriteResults(),
            "SaveCheckpoint": self._saving,
            "TellWarnings": world_size() > 1 and TellWarnings(),
            "WriteMetrics": is_first and hooks.WriteMetrics(self.build_writers(), _WRITER_PERIOD),
            "CollapseGuard": collapse.LABELLINGS > 0 and CollapseGuard(*bounds),
        }
        return hooks.in_order({**named, **{name: build(HOOK, name, "ISE.HOOKS", cfg) for name in cfg.ISE.HOOKS}})

    def build_writers(self) -> list:
        """fastreid's: the log, ``metrics.json``, TensorBoard; the log counts as everything else does."""
        return [StepWriter(self.max_epoch, self.iters_per_epoch), *super().build_writers()[1:]]

    def _endless_batches(self) -> Iterator[dict]:
        """The pseudo-labelled batches, over and over, of whichever loader there is when asked."""
        while True:
            yield from self.data_loader

    def tell(self, event: str, argument) -> None:
        """Calls the method of that name on every hook that has one, in the hooks' order."""
        for hook in self._hooks:
            if hasattr(hook, event):
                getattr(hook, event)(argument)

    def resume_or_load(self, resume: bool = True) -> None:
        """Starts from ``MODEL.WEIGHTS``, or with ``resume`` goes on from the last checkpoint of ``OUTPUT_DIR``, if there is one.
        So does a run that torchrun has started again.

        Raises:
            UsageError: ``OUTPUT_DIR`` holds a finished run, which a new one would replace file by file; or see
                :meth:`ise_plugin.engine.checkpointing.ISECheckpointer.resume_or_load`.
        """
        resume = resume or restarted(self.cfg.OUTPUT_DIR, resume)
        if not resume:
            refuse_finished(self.cfg.OUTPUT_DIR)
        self.resumed = resume and self.checkpointer.has_checkpoint()
        rest = self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if self.resumed:
            take_run_state(self, rest)

    def train(self) -> Results:
        """Trains from ``start_epoch`` to the end of the schedule.

        Raises:
            Interrupted: SIGTERM or SIGINT has come, and what was done is saved.
            UsageError, FloatingPointError: something that the user can put right.
        """
        done = f", {self.start_step} steps of it done" if self.start_step else ""
        logger.info(f"Starting training from epoch {self.start_epoch + 1}{done}")
        self.iter = self.start_iter = self.start_epoch * self.iters_per_epoch + self.start_step
        with self.interruption, EventStorage(self.start_iter) as self.storage:
            try:
                with self.interruption.at_once():
                    self.before_train()
                for self.epoch in range(self.start_epoch, self.max_epoch):
                    self.train_epoch()
            except BaseException as error:
                self._close_writers()  # what was measured so far is kept; evaluating or saving now would be wrong
                if isinstance(error, FloatingPointError):
                    raise FloatingPointError(f"{error}; {self._last_good()}") from error
                explain_worker_death(error)
                raise
            self.after_train()
        return self.results

    def _tell_unread_keys(self) -> None:
        keys = unread_keys(self.cfg)
        if keys:
            logger.info(f"set, but read by no part of this run: {', '.join(keys)}")

    def train_epoch(self) -> None:
        """One epoch with its hooks."""
        self.storage.iter = self.iter  # what is measured before the first step belongs to this epoch
        self.steps_done = self.iter - self.epoch * self.iters_per_epoch
        self._begin_epoch()
        if self.epoch == self.start_epoch:
            self._tell_unread_keys()  # now all parts are built
        while self.steps_done < self.iters_per_epoch:
            self.before_step()
            self.run_step()
            self.steps_done += 1
            self.after_step()
            self.interruption.end_if_granted()
            self.iter += 1
        self.after_epoch()
        self.interruption.end_if_granted()

    def _begin_epoch(self) -> None:
        if self.steps_done:  # the labels are there
            self.before_epoch()
            if self.random_at_start is not None:
                set_random_state(self.random_at_start)
            return
        try:
            with self.interruption.at_once():
                self.before_epoch()
        except Interrupted:
            self._saving.save_start_of_epoch()
            raise

    def evaluate(self) -> tuple[dict, list[Retrieval]]:
        """Metrics of the test sets with the model as it is, and what was ranked; see :func:`evaluate_sets`."""
        return evaluate_sets(self.cfg, self.model, self.build_evaluator)

    @classmethod
    def test(cls, cfg, model) -> dict:
        """fastreid's; see :func:`ise_plugin.engine.evaluation.evaluate_sets`."""
        return evaluate_sets(cfg, model, cls.build_evaluator)[0]

    def _last_good(self) -> str:
        candidates = self.checkpointer.candidates()
        return f"last good checkpoint: {candidates[0]}" if candidates else "there is no checkpoint yet"

    def _close_writers(self) -> None:
        for hook in self._hooks:
            if isinstance(hook, fastreid_hooks.PeriodicWriter):
                hook.after_train()

    @classmethod
    def build_model(cls, cfg):
        """See :func:`ise_plugin.modeling.build.build_model`."""
        model = build_model(cfg)
        logger.debug(f"Model:\n{model}")
        return model

    @classmethod
    def build_optimizer(cls, cfg, model):
        """See :func:`ise_plugin.engine.step.build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        """See :func:`ise_plugin.data.build_test_loader`."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_dir=None):
        """The loader of a test set and fastreid's evaluator for it."""
        data_loader, num_query = cls.build_test_loader(cfg, dataset_name)
        evaluator = PortableReidEvaluator(cfg, num_query, output_dir, dataset_name, data_loader.dataset.paths)
        return WithProgress(data_loader, "evaluation"), evaluator
