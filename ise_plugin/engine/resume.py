"""What a run depends on beside model, optimiser, schedule and labels, as a checkpoint holds it."""

import logging
import random

import numpy as np
import torch
import yaml
from fastreid.utils import comm

from ..config import flat
from ..errors import UsageError
from ..utils.distributed import unwrapped, world_size

logger = logging.getLogger("fastreid.ise.resume")

# Keys that say where and how often, not what is computed.
_WITHOUT_EFFECT = (
    "OUTPUT_DIR",
    "ISE.REPORT.",
    "ISE.CHECKPOINT_SECONDS",
    "ISE.KEEP_CHECKPOINTS",
    "SOLVER.CHECKPOINT_PERIOD",
)


def run_state(trainer, epoch: int, step: int) -> dict:
    """Where a run is; all processes call it together.

    Args:
        trainer: :class:`ise_plugin.engine.ISETrainer`.
        epoch: the last one that is over, counted from 0; -1 before the end of the first.
        step: steps done of the one after it.

    Returns:
        ``epoch``, ``step``, ``config`` (as YAML), ``lost`` (N,) bool images that stand-ins stand for, and ``processes``: for each
        its random states and, with several, its running statistics.
    """
    own = {"random": random_state()}
    if world_size() > 1:  # each has normalised other images
        own["buffers"] = {name: b.cpu() for name, b in unwrapped(trainer.model).named_buffers() if "memory" not in name}
    state = {"epoch": epoch, "step": step, "config": trainer.cfg.dump(), "processes": comm.gather(own)}
    if trainer.images.stand_ins:
        state["lost"] = trainer.images.stand_ins.lost.clone()
    return state


def take_run_state(trainer, state: dict) -> None:
    """Sets what :func:`run_state` gave, but for the random states, which are due when the step's epoch has begun.

    Raises:
        UsageError: the epoch has fewer steps by now than were done.
    """
    _compare(trainer.cfg, state.get("config"))
    trainer.start_epoch, trainer.start_step = state.get("epoch", -1) + 1, state.get("step", 0)
    if trainer.start_step > trainer.iters_per_epoch:
        raise UsageError(
            f"the checkpoint was made after step {trainer.start_step} of an epoch, and ISE.ITERS_PER_EPOCH is "
            f"{trainer.iters_per_epoch}; resume with the value it was made with"
        )
    if trainer.images.stand_ins and len(state.get("lost", ())) == len(trainer.images):
        trainer.images.stand_ins.lost |= state["lost"]
    own = _own_part(state.get("processes") or [], trainer.start_step)
    unwrapped(trainer.model).load_state_dict(own.get("buffers", {}), strict=False)
    trainer.random_at_start = own.get("random") if trainer.start_step else None


def _own_part(processes: list, step: int) -> dict:
    if len(processes) == world_size():
        return processes[comm.get_rank()]
    if processes:
        logger.warning(
            f"the checkpoint is of {len(processes)} process(es) and there are {world_size()}: "
            f"the run goes on, but not to the bit as it would have"
        )
    return {}


def _compare(cfg, text) -> None:
    """Says which settings are not those of the checkpoint."""
    if not isinstance(text, str):
        return  # a checkpoint of fastreid, or of an earlier version
    before, now = flat(yaml.safe_load(text) or {}), flat(yaml.safe_load(cfg.dump()))
    other = [
        f"{key} {before.get(key)} -> {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(_WITHOUT_EFFECT)
    ]
    if other:
        logger.warning(f"the run goes on with other settings than its checkpoint was made with: {'; '.join(other)}")


def random_state() -> dict:
    """The states of Python's, numpy's and torch's generators, as tensors and plain containers."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict) -> None:
    """Takes what :func:`random_state` gave; on a machine with other GPUs theirs are left as they are."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if len(state.get("cuda", ())) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(state["cuda"])
