"""From the command line to a configuration that a run can start with."""

import errno
import logging
import os
import time
from contextlib import contextmanager
from typing import Iterator

import torch
from fastreid.utils import comm
from fastreid.utils.collect_env import collect_env_info
from fastreid.utils.env import seed_all_rng
from fastreid.utils.logger import setup_logger

from ..config import load_cfg
from ..errors import UsageError
from ..utils.files import write_atomically
from ..utils.logs import kept_warnings
from ..utils.memory import keep_freed_memory
from ..utils.parallel import share_cores
from .checkpointing import refuse_finished
from .console import set_verbosity

logger = logging.getLogger("fastreid.ise.setup")


def setup(args):
    """Reads the configuration, opens the log, says what runs where, and seeds every generator.

    Takes the place of fastreid's ``default_setup``, which seeds from the clock.

    Args:
        args: what :func:`ise_plugin.engine.command.argument_parser` returns.

    Returns:
        The frozen configuration, with ``MODEL.DEVICE`` and ``SEED`` resolved.

    Raises:
        UsageError: see :func:`ise_plugin.config.load_cfg`; or the output folder cannot be written.
    """
    cfg = load_cfg(args.config_file, args.opts)
    asked_device, asked_seed = cfg.MODEL.DEVICE, cfg.SEED
    cfg.MODEL.DEVICE = resolve_device(asked_device)
    if asked_seed < 0:
        cfg.SEED = int(time.time())
    cfg.freeze()

    share_cores(comm.get_local_size())
    _make_folder(cfg.OUTPUT_DIR)
    if not (
        args.eval_only or getattr(args, "resume", False) or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    ):
        refuse_finished(cfg.OUTPUT_DIR)  # before its config.yaml is replaced
    # the others write nothing; what they warn of is told by the first (launcher.TellWarnings)
    setup_logger(cfg.OUTPUT_DIR if comm.is_main_process() else None, distributed_rank=comm.get_rank())
    if comm.get_world_size() > 1:
        logging.getLogger("fastreid").addHandler(kept_warnings)
    set_verbosity(getattr(args, "verbosity", "normal"))
    logger.debug(f"Rank {comm.get_rank()} of {comm.get_world_size()}; environment:\n{collect_env_info()}")
    logger.debug(f"Command line arguments: {args}")
    logger.info(f"Device: {_describe(cfg.MODEL.DEVICE)} (MODEL.DEVICE is {asked_device})")
    logger.info(f"Seed: {cfg.SEED}" + (" (from the clock)" if asked_seed < 0 else ""))
    if comm.is_main_process():
        path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
        write_atomically(path, cfg.dump().encode())
        logger.info(f"Full config saved to {path}")
    if cfg.MODEL.DEVICE == "cpu" and cfg.ISE.KEEP_FREED_MEMORY:
        keep_freed_memory()
    seed_all_rng(cfg.SEED)
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK and not args.eval_only
    return cfg


@contextmanager
def named_setup_errors() -> Iterator[None]:
    """Turns into one line what fastreid's components raise for values that they do not know, which is errors of all kinds.

    Raises:
        UsageError: a run cannot be set up. With several processes errors stay as they are: another one may be gone.
    """
    try:
        yield
    except (UsageError, OSError, MemoryError):
        raise
    except Exception as error:
        if comm.get_world_size() > 1:
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UsageError(f"no run can be set up with this configuration ({reason}); --traceback shows where") from error


def resolve_device(name: str) -> str:
    """The torch device that ``MODEL.DEVICE`` means here: ``auto`` takes CUDA, then Apple's GPU, then the CPU.

    Raises:
        UsageError: no such device, or it is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"MODEL.DEVICE {name!r} cannot be used here; use auto, cpu, or one that is there") from error
    return name


def _describe(device: str) -> str:
    if torch.device(device).type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}"
    if device == "cpu":
        return f"cpu, {torch.get_num_threads()} threads"
    return device


def _make_folder(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "no permission to write")
    except OSError as error:
        raise UsageError(f"OUTPUT_DIR {path} cannot be used ({error.strerror}); choose another") from error
