"""Trainer, hooks, checkpoints and launcher."""

from .checkpointing import ISECheckpointer
from .extraction import extract_embeddings
from .launch import launch
from .pseudo_labels import DBSCANPseudoLabelHook
from .setup import resolve_device, setup
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
