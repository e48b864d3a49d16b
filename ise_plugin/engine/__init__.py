"""Trainer, hooks, checkpoints and launcher."""

from .checkpointing import ISECheckpointer
from .extraction import extract_embeddings
from .labelling import DBSCANPseudoLabelHook
from .launcher import launch
from .start import resolve_device, setup
from .trainer import ISETrainer

__all__ = [
    "DBSCANPseudoLabelHook",
    "ISECheckpointer",
    "ISETrainer",
    "extract_embeddings",
    "launch",
    "resolve_device",
    "setup",
]
