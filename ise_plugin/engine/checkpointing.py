"""Checkpoints: what they hold of a run; written whole, read without unpickling, the one before where the newest is damaged."""

import io
import logging
import os
import random
import re
from typing import Optional

import numpy as np
import torch
import yaml
from fastreid.utils import comm
from fastreid.utils.checkpoint import Checkpointer
from torch import nn
from torch.optim import Optimizer

from ..config import flat
from ..errors import UsageError
from ..modeling.build import PACKAGE_SCHEME, resolve_weights_path
from ..modeling.layouts import OWN, differences_of, fit_weights, look_of, state_dict_of
from ..utils.distributed import unwrapped, world_size
from ..utils.files import UnwritableFile, free_space, remove_leftovers, write_atomically
from ..utils.weights import DamagedWeights, load_checkpoint_file, sealed

logger = logging.getLogger("fastreid.ise.checkpoints")

# classifier weights, which other heads have and which no embedding needs
_OTHER_HEADS = ("heads.weight", "heads.classifier")
_PERIODIC = re.compile(r"model_(\d{4,})(?:_(\d{6,}))?\.pth")
_FINAL, _BEST = "model_final", "model_best"
# the file of the weights that were chosen without labels
CHOSEN = "model_chosen.pth"
_POINTER = "last_checkpoint"
# the best, the last, and the one that is being written, beside those kept
_MORE_FILES = 3
# keys that say where and how often, not what is computed
_NO_EFFECT = ("OUTPUT_DIR", "ISE.REPORT.", "ISE.CHECKPOINT_SECONDS", "ISE.KEEP_CHECKPOINTS", "SOLVER.CHECKPOINT_PERIOD")


def checkpoint_name(epoch: int, steps: Optional[int] = None) -> str:
    """fastreid's name of the checkpoint after an epoch, counted from 0; with ``steps``, of one after so many of its steps."""
    return f"model_{epoch:04d}" + ("" if steps is None else f"_{steps:06d}")


def is_finished(folder: str) -> bool:
    """Whether a folder holds a run that has come to its end."""
    return os.path.isfile(os.path.join(folder, f"{_FINAL}.pth"))


def remove_periodic(folder: str) -> None:
    """Removes the periodic checkpoints of a finished run, which are there to go on from."""
    for name in filter(_PERIODIC.fullmatch, os.listdir(folder)):
        os.remove(os.path.join(folder, name))


def refuse_finished(folder: str) -> None:
    """UsageError where a folder holds a finished run, which a new one would replace file by file."""
    if is_finished(folder):
        raise UsageError(f"OUTPUT_DIR {folder} holds a finished run; name another folder, or go on with --resume")


def check_space(folder: str, model: nn.Module, optimizer: Optimizer, keep: int) -> None:
    """Refuses a run whose checkpoints would fill the disk, by a UsageError.

    Args:
        folder: that the run writes to; what is there already counts as taken.
        model, optimizer: what a checkpoint holds; the optimiser is taken for one of two moments, as Adam.
        keep: periodic checkpoints that stay.
    """
    trained = {p for group in optimizer.param_groups for p in group["params"]}
    one = sum(t.nbytes for t in model.state_dict().values()) + 2 * sum(p.nbytes for p in trained)
    needed, free = one * (keep + _MORE_FILES), free_space(folder)
    if free < needed:
        raise UsageError(
            f"OUTPUT_DIR {folder}: its checkpoints need {needed / 2**20:.0f} MiB and {free / 2**20:.0f} MiB are free; "
            f"free some, or choose another folder"
        )


class ISECheckpointer(Checkpointer):
    """fastreid's Checkpointer with atomic writing, safe reading, and an error instead of a half-loaded model.

    Files keep fastreid's layout (``{"model": ..., ...}`` and ``last_checkpoint``), so either reads the other's.

    Args:
        model, save_dir, options: as fastreid's.
        keep: periodic checkpoints of this run that stay; 0 keeps all. The best and the last always stay.
    """

    def __init__(self, model, save_dir: str = "", *, keep: int = 0, **options):
        super().__init__(model, save_dir, **options)
        self._keep = keep
        if save_dir and self.save_to_disk and os.path.isdir(save_dir):
            remove_leftovers(save_dir)

    def save(self, name: str, **kwargs) -> None:
        """Writes ``name.pth`` and then the pointer ``last_checkpoint``, each whole or not at all.

        ``model_best`` is not pointed to: the run has more to write after it, which resuming from there would miss.

        Raises:
            UnwritableFile: the disk is full, or the folder cannot be written to; what was there is intact.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: item.state_dict() for key, item in self.checkpointables.items()}
        data = {"model": self.model.state_dict(), **states, **kwargs}
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        buffer = io.BytesIO()
        torch.save(data, buffer)
        try:
            write_atomically(path, sealed(buffer.getvalue()))
            if name != _BEST:
                self.tag_last_checkpoint(f"{name}.pth")
        except UnwritableFile as error:
            raise UnwritableFile(f"{error}; older checkpoints are intact, go on from them with --resume") from error
        position = _position(f"{name}.pth")
        if self._keep and position is not None:
            for old in self._periodic(until=position)[self._keep :]:
                os.remove(os.path.join(self.save_dir, old))

    def _periodic(self, until: Optional[tuple[int, int]] = None) -> list[str]:
        """Periodic checkpoints in the folder up to a position, newest first."""
        found = [(_position(name), name) for name in os.listdir(self.save_dir) if _PERIODIC.fullmatch(name)]
        return [name for position, name in sorted(found, reverse=True) if until is None or position <= until]

    def candidates(self) -> list[str]:
        """Files to resume from: the one that ``last_checkpoint`` names, then those before it, then the best."""
        if not os.path.isdir(self.save_dir):
            return []
        named = _first_line(os.path.join(self.save_dir, _POINTER))
        until = _position(named or "")
        final = [f"{_FINAL}.pth"] if self.has(_FINAL) and until is None else []
        best = [f"{_BEST}.pth"] if self.has(_BEST) else []
        names = [*([named] if named else []), *final, *self._periodic(until), *best]
        return [os.path.join(self.save_dir, name) for name in dict.fromkeys(names)]

    def has(self, name: str) -> bool:
        """Whether there is a checkpoint of that name."""
        return os.path.isfile(os.path.join(self.save_dir, f"{name}.pth"))

    def has_checkpoint(self) -> bool:
        """Whether there is anything to resume from."""
        return bool(self.candidates())

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict:
        """fastreid's; a checkpoint that is damaged is reported, and the one before it taken.

        Raises:
            UsageError: no checkpoint can be read, or the first that can is not this run's.
        """
        candidates = self.candidates() if resume else []
        if not candidates:
            return self.load(path, checkpointables=[])
        for number, candidate in enumerate(candidates):
            try:
                return self.load(candidate)
            except DamagedWeights as error:
                follows = "the one before it is tried" if number + 1 < len(candidates) else "there is no other"
                logger.warning(f"{error}; {follows}")
        raise UsageError(
            f"none of the {len(candidates)} checkpoints in {self.save_dir} can be read, "
            f"{os.path.basename(candidates[0])} the first (the log has the reasons); start anew without --resume"
        )

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Points ``last_checkpoint`` to a file of this folder."""
        write_atomically(os.path.join(self.save_dir, _POINTER), last_filename_basename.encode())

    def load(self, path: str, checkpointables=None) -> dict:
        """Loads the model, and whatever else is asked for; see fastreid's Checkpointer.

        Raises:
            DamagedWeights: the file is missing, or is no checkpoint.
            UsageError: it is an address, or not this model's or this configuration's.
        """
        if path and path.startswith(PACKAGE_SCHEME):
            path = resolve_weights_path(path, "MODEL.WEIGHTS")
        if path and "://" in path:
            raise UsageError(f"MODEL.WEIGHTS {path}: weights are read from files alone; download it and name the file")
        if path and not os.path.isfile(path):
            raise DamagedWeights(f"weights file {path} is not there; check MODEL.WEIGHTS, or OUTPUT_DIR with --resume")
        self._path = path
        rest = super().load(path, checkpointables=[])
        for name in self.checkpointables if checkpointables is None else checkpointables:
            if name in rest:
                self._take(name, rest.pop(name))
        return rest

    def _take(self, name: str, state) -> None:
        try:
            self.checkpointables[name].load_state_dict(state)
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UsageError(
                f"checkpoint {self._path}: its {name} is not that of this configuration ({reason}); resume with its own"
            ) from error

    def _load_file(self, f: str) -> dict:
        checkpoint = load_checkpoint_file(f)
        state = state_dict_of(checkpoint)
        if not state:
            raise DamagedWeights(f"weights file {f} holds no state dict of a model")
        return {**({} if state.keys() & checkpoint.keys() else checkpoint), "model": state}

    def _load_model(self, checkpoint: dict):
        state = checkpoint["model"]
        fit = fit_weights(state, self.model.state_dict(), getattr(self.model, "backbone", None))
        own = fit.layout is OWN and any(name.startswith("heads.") for name in fit.state)  # of a whole model
        no_head = [] if own else [name for name in fit.missing if name.startswith("heads.")]
        if differences := differences_of(fit, but=no_head):
            of_head = all(name.startswith("heads.") for name in [*fit.reshaped, *fit.missing])
            advice = "check MODEL.HEADS" if of_head else look_of(state)
            raise UsageError(f"weights file {self._path} does not belong to this model: {differences}; {advice}")
        if no_head:
            start = f"{len(no_head)} weights of the head, {no_head[0]} the first, stay as they were"
            self.logger.warning(f"{self._path} is named as by {fit.layout.name}: {start}")
        if fit.layout.note:
            self.logger.warning(f"{self._path}: {fit.layout.note}")
        checkpoint["model"] = fit.state
        return super()._load_model(checkpoint)

    def _log_incompatible_keys(self, incompatible) -> None:
        unused = [k for k in incompatible.unexpected_keys if not k.startswith(_OTHER_HEADS)]
        if unused:
            self.logger.warning(
                f"{len(unused)} entries of {self._path} are not part of this model, {unused[0]} the first; left out"
            )


def _position(name: str) -> Optional[tuple[int, int]]:
    """Epochs and steps of the next one that were done at a periodic checkpoint; None for another file."""
    found = _PERIODIC.fullmatch(name)
    if not found:
        return None
    return (int(found[1]) + 1, 0) if found[2] is None else (int(found[1]), int(found[2]))


def _first_line(path: str) -> Optional[str]:
    """The name of a file that a pointer holds; None where there is no pointer, or it holds something else."""
    try:
        with open(path, encoding="utf-8") as file:
            name = file.read(256).strip()
    except (OSError, UnicodeDecodeError):
        return None
    return name if name and name == os.path.basename(name) and name.isprintable() else None


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
        network = unwrapped(trainer.model)
        kept = network.state_dict().keys()  # memories are the labelling's
        own["buffers"] = {name: buffer.cpu() for name, buffer in network.named_buffers() if name in kept}
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
    processes, own = state.get("processes") or [], {}
    if len(processes) == world_size():
        own = processes[comm.get_rank()]
    elif processes:
        logger.warning(
            f"the checkpoint is of {len(processes)} process(es) and there are {world_size()}: "
            f"the run goes on, but not to the bit as it would have"
        )
    unwrapped(trainer.model).load_state_dict(own.get("buffers", {}), strict=False)
    trainer.random_at_start = own.get("random") if trainer.start_step else None


def _compare(cfg, text) -> None:
    """Says which settings are not those of the checkpoint."""
    if not isinstance(text, str):
        return  # a checkpoint of fastreid, or of an earlier version
    before, now = flat(yaml.safe_load(text) or {}), flat(yaml.safe_load(cfg.dump()))
    other = [
        f"{key} {before.get(key)} -> {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(_NO_EFFECT)
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
