"""Checkpoints that a crash cannot break, read without unpickling."""

import io
import os
import pickle
import zipfile
from typing import Any

import numpy as np
import torch
from fastreid.utils.checkpoint import Checkpointer

from ..errors import UsageError
from .files import write_atomically

# numpy 2 has moved the function that its older pickles call by the old name
_NUMPY_SCALAR = (np._core if hasattr(np, "_core") else np.core).multiarray.scalar
# fastreid's own checkpoints hold the metric as a numpy scalar; nothing else is let in beside tensors and plain containers
_SAFE_GLOBALS = [
    np.dtype,
    np.float64,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
    type(np.dtype(np.int64)),
    _NUMPY_SCALAR,
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
]
_NOT_A_CHECKPOINT = (
    pickle.UnpicklingError,
    EOFError,
    zipfile.BadZipFile,
    RuntimeError,
    UnicodeDecodeError,
    ValueError,
    KeyError,
    AttributeError,
    IndexError,
    TypeError,
)

# classifier weights, which other heads have and which no embedding needs
_OTHER_HEADS = ("heads.weight", "heads.classifier")


def load_checkpoint_file(path: str) -> Any:
    """Reads a file of ``torch.save`` onto the CPU; only tensors, numbers, text and plain containers are let in.

    Raises:
        UsageError: the file is missing, is no checkpoint, or holds anything else.
    """
    if not os.path.isfile(path):
        raise UsageError(f"weights file {path} is not there; check the path")
    try:
        with torch.serialization.safe_globals(_SAFE_GLOBALS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except _NOT_A_CHECKPOINT as error:
        reason = str(error).strip().splitlines()
        refused = [line for line in reason if "Unsupported global" in line or "GLOBAL" in line]
        detail = (
            f"it holds more than tensors: {refused[0].strip()}" if refused else "it is damaged or no file of torch.save"
        )
        raise UsageError(f"weights file {path} is not a checkpoint that can be read safely ({detail})") from error


class ISECheckpointer(Checkpointer):
    """fastreid's Checkpointer with atomic writing, safe reading, and an error instead of a half-loaded model.

    Files keep fastreid's layout (``{"model": ..., ...}`` and ``last_checkpoint``), so either reads the other's.
    """

    def save(self, name: str, **kwargs) -> None:
        """Writes ``name.pth`` and then the pointer ``last_checkpoint``, each whole or not at all."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data.update({key: item.state_dict() for key, item in self.checkpointables.items()})
        data.update(kwargs)
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        buffer = io.BytesIO()
        torch.save(data, buffer)
        write_atomically(path, buffer.getvalue())
        self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Points ``last_checkpoint`` to a file of this folder."""
        write_atomically(os.path.join(self.save_dir, "last_checkpoint"), last_filename_basename.encode())

    def load(self, path: str, checkpointables=None) -> dict:
        """Loads the model, and whatever else is asked for; see fastreid's Checkpointer.

        Raises:
            UsageError: the file is missing, is no checkpoint, or not this model's.
        """
        if path and "://" not in path and not os.path.isfile(path):
            raise UsageError(f"weights file {path} is not there; check MODEL.WEIGHTS, or OUTPUT_DIR with --resume")
        self._path = path
        return super().load(path, checkpointables)

    def _load_file(self, f: str) -> dict:
        checkpoint = load_checkpoint_file(f)
        if not isinstance(checkpoint, dict):
            raise UsageError(f"weights file {f} holds a {type(checkpoint).__name__}, not a model's weights")
        if "model" not in checkpoint:  # a bare state dict, as torch.save(model.state_dict()) writes it
            checkpoint = {"model": checkpoint}
        if not isinstance(checkpoint["model"], dict) or not all(
            isinstance(value, (torch.Tensor, np.ndarray)) for value in checkpoint["model"].values()
        ):
            raise UsageError(f"weights file {f} holds no state dict of a model")
        return checkpoint

    def _load_model(self, checkpoint: dict):
        weights = {name.removeprefix("module."): value for name, value in checkpoint["model"].items()}
        model = self.model.state_dict()
        missing = [n for n in model if n not in weights and not n.endswith("num_batches_tracked")]
        misshaped = [n for n in model if n in weights and tuple(weights[n].shape) != tuple(model[n].shape)]
        if misshaped:
            name = misshaped[0]
            self._refuse(
                f"{name} has shape {tuple(weights[name].shape)} there and {tuple(model[name].shape)} here",
                len(misshaped),
            )
        if missing:
            self._refuse(f"{missing[0]} is not in it", len(missing))
        return super()._load_model(checkpoint)

    def _refuse(self, difference: str, count: int) -> None:
        more = f" (and {count - 1} more)" if count > 1 else ""
        raise UsageError(
            f"weights file {self._path} does not belong to this model: {difference}{more}; check MODEL.BACKBONE and MODEL.HEADS"
        )

    def _log_incompatible_keys(self, incompatible) -> None:
        unused = [k for k in incompatible.unexpected_keys if not k.startswith(_OTHER_HEADS)]
        if unused:
            self.logger.warning(
                f"{len(unused)} entries of {self._path} are not part of this model, {unused[0]} the first; left out"
            )
