"""Trainer, hooks, checkpoints and launcher."""

from .checkpointing import ISECheckpointer
from .labelling import DBSCANPseudoLabelHook, Labelling, extract_embeddings
from .launcher import launch
from .start import resolve_device, setup
from .trainer import ISETrainer

__all__ = [
    "DBSCANPseudoLabelHook",
    "ISECheckpointer",
    "ISETrainer",
    "Labelling",
    "extract_embeddings",
    "launch",
    "resolve_device",
    "setup",
]
