"""The command ``tools/train_net.py``: fastreid's arguments, one line for what the user can mend."""

import errno
import json
import logging
import os
import signal
import sys
import traceback

import torch.multiprocessing as mp
from fastreid.engine import default_argument_parser
from fastreid.utils import comm
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from ..config import load_cfg
from ..errors import ProcessLost, UsageError
from ..modeling.build import build_model
from ..utils.files import write_atomically
from .checkpointing import ISECheckpointer
from .console import RESULT
from .interruption import Interrupted
from .launcher import launch
from .results import Results
from .start import setup
from .trainer import ISETrainer

logger = logging.getLogger("fastreid.ise")

# what writing a log or metrics fails with when the disk is full or has become unwritable
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)
# exit code of a run that has lost one of its processes
_LOST = 1


def main(argv=None) -> int:
    """Runs the command; returns its exit code: 0, 2 for what the user can mend, 128 + its number for a signal, else 1 (a process
    is lost, say)."""
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
    machine = args.num_gpus, args.num_machines, args.machine_rank, args.dist_url
    try:
        timeout = load_cfg(args.config_file, args.opts).ISE.PROCESS_TIMEOUT
    except UsageError as error:
        # before the processes of torchrun know of one another each would say it
        return _failed(error, args.traceback, silent=os.environ.get("LOCAL_RANK", "0") != "0")
    try:
        launch(run, *machine, args=(args,), timeout=timeout)
    except Interrupted as interrupted:
        print(str(interrupted), file=sys.stderr)
        return interrupted.exit_code
    except KeyboardInterrupt:  # before training has begun, or behind it
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except (UsageError, FloatingPointError, ProcessLost, ProcessRaisedException, ProcessExitedException) as error:
        return _failed(error, args.traceback)
    except Exception as error:
        if args.traceback:
            raise
        return _unforeseen(error)
    return 0


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


def run(args) -> None:
    """One process of a run: evaluation alone, or training."""
    cfg = setup(args)
    if args.eval_only:
        evaluate(cfg)
        return
    trainer = _set_up(cfg)
    trainer.config_file = args.config_file
    trainer.resume_or_load(resume=args.resume or _restarted(cfg.OUTPUT_DIR, args.resume))
    try:
        results = trainer.train()
    except Interrupted as interrupted:
        if mp.parent_process() is None:
            raise
        sys.exit(interrupted.exit_code)  # one of several that another process has started
    logger.log(RESULT, f"Results, also in {os.path.join(cfg.OUTPUT_DIR, 'results.json')}:\n{results.table()}")


def _set_up(cfg) -> ISETrainer:
    try:
        return ISETrainer(cfg)
    except (UsageError, OSError, MemoryError):
        raise
    except Exception as error:  # fastreid's components raise all kinds for values that they do not know
        if comm.get_world_size() > 1:  # or another process is gone
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UsageError(f"no run can be set up with this configuration ({reason}); --traceback shows where") from error


def _restarted(output_dir: str, resume: bool) -> bool:
    """Whether torchrun has started this run again (``--max-restarts``). The first attempt makes sure that a second one does not
    take an older run's checkpoint for its own."""
    attempt, restarts = (int(os.environ.get(f"TORCHELASTIC_{name}", 0)) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    pointer = os.path.join(output_dir, "last_checkpoint")
    if attempt > 0:
        logger.info(f"torchrun started the run again (attempt {attempt + 1}): going on from the last checkpoint")
    elif restarts and not resume and comm.is_main_process() and os.path.exists(pointer):
        logger.warning(f"{pointer} is of an older run, and --resume was not asked for: removed")
        os.remove(pointer)
    return attempt > 0


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


def _unforeseen(error: Exception) -> int:
    """One line for what no other part of the program has put into words; the exit code."""
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        print(
            f"error: {error.filename or 'a file of the run'} cannot be written ({error.strerror}); "
            f"make room in OUTPUT_DIR and go on with --resume, older checkpoints are intact",
            file=sys.stderr,
        )
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
