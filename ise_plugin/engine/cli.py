"""The command ``tools/train_net.py``: fastreid's arguments, one line for what the user can mend."""

import json
import logging
import os
import sys
import traceback

from fastreid.engine import default_argument_parser
from fastreid.utils import comm
from torch.multiprocessing import ProcessRaisedException

from ..errors import UsageError
from .checkpointing import ISECheckpointer
from .files import write_atomically
from .launch import launch
from .models import build_model
from .progress import RESULT
from .results import Results
from .setup import setup
from .trainer import ISETrainer

logger = logging.getLogger("fastreid.ise")


def main(argv=None) -> int:
    """Runs the command; returns its exit code: 0, or 2 for what the user can mend."""
    parser = default_argument_parser()
    parser.description = "Train or evaluate Implicit Sample Extension with fastreid."
    parser.add_argument(
        "--traceback", action="store_true", help="show the traceback of errors that are usually one line"
    )
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument(
        "-q", "--quiet", dest="verbosity", action="store_const", const="quiet", help="warnings and results alone"
    )
    loudness.add_argument(
        "-v",
        "--verbose",
        dest="verbosity",
        action="store_const",
        const="verbose",
        help="environment and network as well",
    )
    parser.set_defaults(verbosity="normal")
    args = parser.parse_args(argv)
    try:
        launch(run, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args,))
    except (UsageError, FloatingPointError, ProcessRaisedException) as error:
        if args.traceback or isinstance(error, ProcessRaisedException) and "UsageError: " not in str(error):
            traceback.print_exc()
        print(f"error: {_describe(error)}", file=sys.stderr)
        return UsageError.EXIT_CODE
    return 0


def run(args) -> None:
    """One process of a run: evaluation alone, or training."""
    cfg = setup(args)
    if args.eval_only:
        evaluate(cfg)
        return
    trainer = ISETrainer(cfg)
    if trainer.report:
        trainer.report.config_file = args.config_file
    trainer.resume_or_load(resume=args.resume)
    results = trainer.train()
    logger.log(RESULT, f"Results, also in {os.path.join(cfg.OUTPUT_DIR, 'results.json')}:\n{results.table()}")
    if trainer.report:
        logger.log(RESULT, f"Report: {trainer.report.path}")


def evaluate(cfg) -> dict:
    """Evaluates ``MODEL.WEIGHTS`` on the test sets and writes ``OUTPUT_DIR/evaluation.json``; the first process returns it.

    Raises:
        UsageError: no weights or no test set are given.
    """
    if not cfg.MODEL.WEIGHTS:
        raise UsageError("--eval-only needs weights; add: MODEL.WEIGHTS path/to/model_final.pth")
    if not cfg.DATASETS.TESTS:
        raise UsageError("--eval-only needs a test set; add: DATASETS.TESTS \"('Market1501',)\"")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.PRETRAIN = False  # the checkpoint holds all of them
    model = build_model(cfg)
    ISECheckpointer(model).load(cfg.MODEL.WEIGHTS, checkpointables=[])
    metrics = ISETrainer.test(cfg, model)
    if not comm.is_main_process():
        return {}
    results = Results(cfg.OUTPUT_DIR)
    results.record(metrics, metric=0.0, epoch=0)
    results.best = None
    path = os.path.join(cfg.OUTPUT_DIR, "evaluation.json")
    write_atomically(path, (json.dumps(results.final, indent=2) + "\n").encode())
    logger.log(RESULT, f"Results, also in {path}:\n{results.table()}")
    return results.final


def _describe(error: Exception) -> str:
    if isinstance(error, FloatingPointError):
        return (
            f"{' '.join(str(error).split())}; the last checkpoint is intact, try a smaller SOLVER.BASE_LR and --resume"
        )
    return (
        str(error).strip().splitlines()[-1].split("UsageError: ")[-1]
    )  # a spawned process's error repeats its traceback
