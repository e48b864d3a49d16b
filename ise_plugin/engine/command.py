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
    parser.add_argument("--traceback", action="store_true", help="show where an error of one line comes from")
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
        cfg = load_cfg(args.config_file, args.opts)
    except UsageError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # the processes of torchrun do not know of one another yet
            _failed(error, args.traceback)
        return UsageError.EXIT_CODE
    try:
        launch(_one_process, *machine, args=(main, args), timeout=cfg.ISE.PROCESS_TIMEOUT, device=cfg.MODEL.DEVICE)
    except Interrupted as interrupted:
        print(str(interrupted), file=sys.stderr)
        return interrupted.exit_code
    except KeyboardInterrupt:  # before training has begun, or after it
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        return _failed(error, args.traceback)
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
    table = results.table()
    logger.log(
        RESULT, f"Results, also in {path}:\n{table}" if table else f"Nothing was evaluated; the time is in {path}"
    )


def _failed(error: Exception, with_traceback: bool) -> int:
    """Says on standard error what is wrong, in one line where that is enough; returns the exit code."""
    code, line = UsageError.EXIT_CODE, " ".join(str(error).split())
    if isinstance(error, ProcessRaisedException):  # its last line is what another process has raised
        lost = "ProcessLost: " in str(error)
        code = _LOST if lost else code
        with_traceback = with_traceback or not lost and "UsageError: " not in str(error)
        line = str(error).strip().splitlines()[-1].split("UsageError: ")[-1].split("ProcessLost: ")[-1]
    elif isinstance(error, ProcessExitedException):
        code = error.exit_code if error.exit_code > 0 else 128 - error.exit_code  # negative: the number of a signal
        line = f"{line}; --resume goes on from the last checkpoint"
    elif isinstance(error, ProcessLost):
        code = _LOST
    elif isinstance(error, FloatingPointError):
        line = f"{line}; try a smaller SOLVER.BASE_LR and --resume"
    elif isinstance(error, OSError) and error.errno in _NO_ROOM:
        line = f"{error.filename or 'a file of the run'} cannot be written ({error.strerror}); make room in OUTPUT_DIR and go on "
        line += "with --resume, older checkpoints are intact"
    elif not isinstance(error, UsageError):
        logger.debug("Unforeseen:", exc_info=error)  # into log.txt
        code, line = 1, f"{type(error).__name__}: {line} (unforeseen; log.txt and --traceback show where)"
    if with_traceback:
        traceback.print_exception(error)
    print(f"error: {line}", file=sys.stderr)
    return code
