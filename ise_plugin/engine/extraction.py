"""Embeddings of a whole set of images."""

import torch
import torch.nn.functional as F
from fastreid.evaluation.evaluator import inference_context
from torch import Tensor, nn


@torch.no_grad()
def extract_embeddings(model: nn.Module, loader) -> Tensor:
    """L2-normalised embeddings of a loader's images, the network in eval mode.

    Args:
        model: a fastreid model; left in the mode it was in.
        loader: batches as dictionaries with ``images``.

    Returns:
        (N, D), float32 on the CPU, unit rows, in the loader's order.
    """
    with inference_context(model):
        batches = [F.normalize(model(batch).float(), dim=1).cpu() for batch in loader]
    return torch.cat(batches)
