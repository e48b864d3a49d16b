"""Embeddings of a whole set of images."""

import contextlib
from typing import ContextManager

import torch
import torch.nn.functional as F
from fastreid.evaluation.evaluator import inference_context
from torch import Tensor, nn


def extract_embeddings(model: nn.Module, loader, autocast: ContextManager = contextlib.nullcontext()) -> Tensor:
    """L2-normalised embeddings of a loader's images, the network in eval mode.

    Args:
        model: a fastreid model; left in the mode it was in.
        loader: batches as dictionaries with ``images``.
        autocast: the precision to compute in; none of its own by default.

    Returns:
        (N, D), float32 on the CPU, unit rows, in the loader's order; (0, 0) from a loader without batches.
    """
    with torch.inference_mode(), inference_context(model), autocast:
        # on the device until the end: reading every batch back would make it wait for the loader
        batches = [F.normalize(model(batch).float(), dim=1) for batch in loader]
    return torch.cat(batches).cpu() if batches else torch.empty(0, 0)
