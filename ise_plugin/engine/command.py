"""The command ``tools/train_net.py``: fastreid's arguments, one line for what the user can put right."""

import argparse
import errno
import json
import logging
import os
import signal
import sys
import traceback
from typing import Callable, Optional, Sequence

import torch.multiprocessing as mp
from fastreid.engine import default_argument_parser
from fastreid.utils import comm
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from ..config import load_cfg
from ..errors import ProcessLost, UsageError
from ..utils.files import write_atomically
from .checkpointing import ISECheckpointer
from .console import RESULT
from .interruption import Interrupted
from .launcher import launch
from .results import Results

logger = logging.getLogger("fastreid.ise")

# what writing a log or metrics fails with when the disk is full or has become unwritable
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)
# exit code of a run that has lost one of its processes
_LOST = 1


def argument_parser() -> argparse.ArgumentParser:
    """fastreid's arguments, and how much of a run is said."""
    parser = default_argument_parser()
    parser.description = "Train or evaluate Implicit Sample Extension with fastreid."
    parser.add_argument(
        "--traceback", action="store_true", help="show the traceback of errors that are usually one line"
    )
    loudness = parser.add_mutually_exclusive_group()
    for option, what in (("quiet", "warnings and results alone"), ("verbose", "environment and network as well")):
        names = f"-{option[0]}", f"--{option}"
        loudness.add_argument(*names, dest="verbosity", action="store_const", const=option, help=what)
    parser.set_defaults(verbosity="normal")
    return parser


def parse_arguments(parser: argparse.ArgumentParser, argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Options may come before, between and after the KEY VALUE pairs of ``opts``; a value may start with a dash."""
    args, pairs = parser.parse_args(argv), []
    while args.opts:
        if args.opts[0].startswith("-"):
            args = parser.parse_args(args.opts, args)
        pairs += args.opts[:2]
        args.opts = args.opts[2:]
    args.opts = pairs
    return args


def run(parser: argparse.ArgumentParser, main: Callable, argv: Optional[Sequence[str]] = None) -> int:
    """Runs ``main(args)`` in every process of a run, and turns what the user can put right into one line on standard error.

    Args:
        parser: :func:`argument_parser`, with whatever further arguments ``main`` reads.
        main: trains or evaluates; the table of :class:`Results` that it returns is logged. Picklable for several processes.
        argv: words of the command line; None: those that the program was started with.

    Returns:
        The exit code: 0, 2 for what the user can put right, 128 + its number for a signal, else 1 (a process is lost, say).
    """
    args = parse_arguments(parser, argv)
    machine = args.num_gpus, args.num_machines, args.machine_rank, args.dist_url
    try:
        timeout = load_cfg(args.config_file, args.opts).ISE.PROCESS_TIMEOUT
    except UsageError as error:
        # before the processes of torchrun know of one another each would say it
        return _failed(error, args.traceback, silent=os.environ.get("LOCAL_RANK", "0") != "0")
    try:
        launch(_one_process, *machine, args=(main, args), timeout=timeout)
    except Interrupted as interrupted:
        print(str(interrupted), file=sys.stderr)
        return interrupted.exit_code
    except KeyboardInterrupt:  # before training has begun, or after it
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except (UsageError, FloatingPointError, ProcessLost, ProcessRaisedException, ProcessExitedException) as error:
        return _failed(error, args.traceback)
    except Exception as error:
        if args.traceback:
            raise
        return _unforeseen(error)
    return 0


def evaluate(cfg, trainer_class: type) -> dict:
    """Evaluates ``MODEL.WEIGHTS`` on the test sets and writes ``OUTPUT_DIR/evaluation.json``; the first process returns it.

    Args:
        cfg: frozen configuration.
        trainer_class: :class:`ise_plugin.engine.ISETrainer` or a subclass; its ``build_model`` and ``test`` are taken.

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
    model = trainer_class.build_model(cfg)
    ISECheckpointer(model).load(cfg.MODEL.WEIGHTS, checkpointables=[])
    metrics = trainer_class.test(cfg, model)
    if not comm.is_main_process():
        return {}
    results = Results(cfg.OUTPUT_DIR)
    results.record(metrics, metric=0.0, epoch=0)
    results.best = None
    path = os.path.join(cfg.OUTPUT_DIR, "evaluation.json")
    write_atomically(path, (json.dumps(results.final, indent=2) + "\n").encode())
    _log_table(results, path)
    return results.final


def _one_process(main: Callable, args: argparse.Namespace) -> None:
    try:
        results = main(args)
    except Interrupted as interrupted:
        if mp.parent_process() is None:
            raise
        sys.exit(interrupted.exit_code)  # one of several that another process has started
    if isinstance(results, Results):
        _log_table(results, results.path)


def _log_table(results: Results, path: str) -> None:
    logger.log(RESULT, f"Results, also in {path}:\n{results.table()}")


def _failed(error: Exception, with_traceback: bool, silent: bool = False) -> int:
    """Says what is wrong, in one line where that is enough; returns the exit code."""
    spawned = isinstance(error, ProcessRaisedException)
    if isinstance(error, ProcessExitedException) and error.exit_code != _LOST:
        print(f"error: {_describe(error)}", file=sys.stderr)
        return error.exit_code if error.exit_code > 0 else 128 - error.exit_code  # negative: the number of a signal
    lost = isinstance(error, (ProcessLost, ProcessExitedException)) or spawned and "ProcessLost: " in str(error)
    if not silent:
        if with_traceback or spawned and not lost and "UsageError: " not in str(error):
            traceback.print_exception(error)
        print(f"error: {_describe(error)}", file=sys.stderr)
    return _LOST if lost else UsageError.EXIT_CODE


def _unforeseen(error: Exception) -> int:
    """One line for what no other part of the program has put into words; the exit code."""
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        what = f"{error.filename or 'a file of the run'} cannot be written ({error.strerror})"
        advice = "make room in OUTPUT_DIR and go on with --resume, older checkpoints are intact"
        print(f"error: {what}; {advice}", file=sys.stderr)
        return UsageError.EXIT_CODE
    logger.debug("Unforeseen:", exc_info=error)  # into log.txt
    reason = " ".join(str(error).split())
    print(f"error: {type(error).__name__}: {reason} (unforeseen; log.txt and --traceback show where)", file=sys.stderr)
    return 1


def _describe(error: Exception) -> str:
    if isinstance(error, FloatingPointError):
        return f"{' '.join(str(error).split())}; try a smaller SOLVER.BASE_LR and --resume"
    if isinstance(error, ProcessExitedException):
        return f"{error}; --resume goes on from the last checkpoint"
    line = str(error).strip().splitlines()[-1]  # a spawned process's error repeats its traceback
    return line.split("UsageError: ")[-1].split("ProcessLost: ")[-1]
