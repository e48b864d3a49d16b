"""The trainer: fastreid's DefaultTrainer for images without labels."""

import logging
import os
import time

import torch
from fastreid.engine import hooks as fastreid_hooks
from fastreid.engine.defaults import DefaultTrainer
from fastreid.engine.train_loop import TrainerBase
from fastreid.utils import comm
from fastreid.utils.events import EventStorage
from fastreid.utils.logger import setup_logger
from torch.nn.parallel import DistributedDataParallel

from ..data import build_test_loader, read_training_images
from ..distributed import unwrapped, world_size
from ..registry import HOOK, registered
from . import hooks
from .checkpointing import ISECheckpointer
from .choice import ChooseWithoutLabels
from .evaluation import PortableReidEvaluator, observed
from .models import build_model
from .optimizers import build_optimizer
from .precision import choose_precision
from .progress import EpochSummary, TrainingProgress, WithProgress
from .reporting import RunReport
from .results import Results
from .step import TrainingStep
from .warnings_of_processes import TellWarnings

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
        is_best: whether the evaluation of this epoch is the best so far.
        report: :class:`ise_plugin.engine.reporting.RunReport`; None where ``ISE.REPORT.ENABLED`` is off, and in all processes
            but the first.

    Example::

        trainer = ISETrainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
    """

    def __init__(self, cfg):
        TrainerBase.__init__(self)  # DefaultTrainer's own needs CUDA and labels
        if not logging.getLogger("fastreid").isEnabledFor(logging.INFO):
            setup_logger()  # used from Python, without ise_plugin.engine.setup
        os.makedirs(cfg.OUTPUT_DIR or ".", exist_ok=True)
        self.cfg = cfg
        self.start_time = time.perf_counter()
        self.images = read_training_images(cfg.DATASETS.NAMES, cfg.DATASETS.COMBINEALL, cfg)
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        if world_size() > 1:
            # without device_ids it leaves the batch where it is: the labels on the host, the images to the model
            model = DistributedDataParallel(model, broadcast_buffers=False)
        device = torch.device(cfg.MODEL.DEVICE)
        precision = choose_precision(device, cfg.SOLVER.AMP.ENABLED, cfg.ISE.PRECISION, unwrapped(model).backbone)
        self._trainer = TrainingStep(model, optimizer, device, precision, cfg.SOLVER.ACCUMULATE)

        self.iters_per_epoch = cfg.ISE.ITERS_PER_EPOCH
        self.max_epoch = cfg.SOLVER.MAX_EPOCH
        self.max_iter = self.max_epoch * self.iters_per_epoch
        self.start_epoch = 0
        self.warmup_iters = cfg.SOLVER.WARMUP_ITERS
        self.delay_epochs = cfg.SOLVER.DELAY_EPOCHS
        self.scheduler = self.build_lr_scheduler(cfg, optimizer, self.iters_per_epoch)

        self.is_best = False
        self.results = Results(cfg.OUTPUT_DIR, save_to_disk=comm.is_main_process())
        self.pseudo_labels = registered(HOOK, cfg.ISE.PSEUDO_LABEL.HOOK, "ISE.PSEUDO_LABEL.HOOK")(cfg)
        self.choice = ChooseWithoutLabels(cfg, self.pseudo_labels) if cfg.ISE.IDENTITIES.ENABLED else None
        self.checkpointer = ISECheckpointer(
            model,
            cfg.OUTPUT_DIR,
            save_to_disk=comm.is_main_process(),
            optimizer=optimizer,
            pseudo_labels=self.pseudo_labels,
            results=self.results,
            **({"choice": self.choice} if self.choice else {}),
            **self.scheduler,
        )
        self.report = RunReport(cfg, self.images) if cfg.ISE.REPORT.ENABLED and comm.is_main_process() else None
        self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list:
        """fastreid's hooks where they serve, this package's for the rest."""
        cfg, model = self.cfg, self.model
        ret = [
            hooks.SeedEpoch(cfg.SEED),
            fastreid_hooks.IterationTimer(),
            fastreid_hooks.LRScheduler(self.optimizer, self.scheduler),
            self.pseudo_labels,
            hooks.ExtensionDegree(cfg.ISE.SUPPORT.BASE_DEGREE),
            hooks.WriteLosses(_WRITER_PERIOD),
            TrainingProgress(),
        ]
        if cfg.TEST.PRECISE_BN.ENABLED:
            ret.append(fastreid_hooks.PreciseBN(model, _EndlessBatches(self), cfg.TEST.PRECISE_BN.NUM_ITER))
        ret.append(hooks.AverageStatistics())
        if cfg.MODEL.FREEZE_LAYERS and cfg.SOLVER.FREEZE_ITERS > 0:
            ret.append(fastreid_hooks.LayerFreeze(model, cfg.MODEL.FREEZE_LAYERS, cfg.SOLVER.FREEZE_ITERS))
        if cfg.DATASETS.TESTS:
            ret.append(hooks.Evaluate(cfg.TEST.EVAL_PERIOD, cfg.ISE.EVAL_BEFORE_TRAIN, self._evaluate, self.results))
        ret.append(hooks.WriteResults(self.results))
        if world_size() > 1:
            ret.append(TellWarnings())
        if comm.is_main_process():
            ret.append(hooks.SaveCheckpoint(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD))
            ret.append(hooks.WriteMetrics(self.build_writers(), _WRITER_PERIOD))
        if self.choice:
            ret.append(self.choice)
        if self.report:
            ret.append(self.report)
        if comm.is_main_process():
            ret.append(EpochSummary())
        return ret

    def train(self) -> Results:
        """Trains from ``start_epoch`` to the end of the schedule."""
        logger.info(f"Starting training from epoch {self.start_epoch}")
        self.iter = self.start_iter = self.start_epoch * self.iters_per_epoch
        with EventStorage(self.start_iter) as self.storage:
            try:
                self.before_train()
                for self.epoch in range(self.start_epoch, self.max_epoch):
                    self.train_epoch()
            except BaseException:
                self._close_writers()  # what was measured so far is kept; evaluating or saving now would be wrong
                raise
            self.after_train()
        return self.results

    def train_epoch(self) -> None:
        """One epoch with its hooks."""
        self.storage.iter = self.iter  # what is measured before the first step belongs to this epoch
        self.before_epoch()
        for _ in range(self.iters_per_epoch):
            self.before_step()
            self.run_step()
            self.after_step()
            self.iter += 1
        self.after_epoch()

    def set_loader(self, loader) -> None:
        """Batches of the next epoch; the pseudo-label hook calls this."""
        self._trainer.set_loader(loader)

    def autocast(self):
        """The context that the network computes in."""
        return self._trainer.autocast()

    def write_losses(self) -> None:
        """See :meth:`ise_plugin.engine.step.TrainingStep.write_losses`."""
        self._trainer.write_losses()

    def _evaluate(self) -> dict:
        with observed(self.report.watch_retrieval if self.report else None):
            return self.test(self.cfg, self.model)

    def _close_writers(self) -> None:
        for hook in self._hooks:
            if isinstance(hook, fastreid_hooks.PeriodicWriter):
                hook.after_train()

    @classmethod
    def build_model(cls, cfg):
        """See :func:`ise_plugin.engine.models.build_model`."""
        model = build_model(cfg)
        logger.debug(f"Model:\n{model}")
        return model

    @classmethod
    def build_optimizer(cls, cfg, model):
        """See :func:`ise_plugin.engine.optimizers.build_optimizer`."""
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


class _EndlessBatches:
    """The trainer's pseudo-labelled batches, over and over, whichever loader it has when asked."""

    def __init__(self, trainer: ISETrainer):
        self._trainer = trainer

    def __iter__(self):
        while True:
            yield from self._trainer.data_loader
