"""What a run says when the device's memory is not enough."""

from contextlib import contextmanager
from typing import Callable, Iterator

import torch

from ..errors import UsageError
from ..out_of_memory import is_out_of_memory


@contextmanager
def named_out_of_memory(advice: Callable[[], str]) -> Iterator[None]:
    """Turns running out of memory inside into one line.

    Args:
        advice: what was computed, and the setting that needs less memory.

    Raises:
        UsageError: the memory was not enough.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UsageError(f"out of memory {advice()}") from error


def advice_for_training(images: int, pieces: int, precision: torch.dtype, device: torch.device) -> str:
    """What was computed in a step, and what would need half of its memory.

    Args:
        images: in the batch of this process.
        pieces: that it was computed in.
        precision: of the network.
        device: it ran on.
    """
    piece = -(-images // pieces)
    text = f"in a training step of {images} images, {piece} at a time, in {_name(precision)}: "
    if piece == 1:
        return text + "one image alone is too much; use a smaller INPUT.SIZE_TRAIN or network"
    options = [
        f"SOLVER.ACCUMULATE {2 * pieces} computes {-(-images // (2 * pieces))} at a time, with the same batch for the losses"
    ]
    if precision == torch.float32 and device.type == "cuda":
        options.append("SOLVER.AMP.ENABLED True halves what the network keeps")
    return text + "; ".join(options)


def advice_for_extraction(images: int, precision: torch.dtype) -> str:
    """The same for embedding images without training."""
    text = f"embedding {images} images at a time, in {_name(precision)}: "
    if images <= 1:
        return text + "one image alone is too much; use a smaller INPUT.SIZE_TEST or network"
    return text + f"ISE.EXTRACTION.IMS_PER_BATCH {images // 2} (for evaluation TEST.IMS_PER_BATCH) needs half"


def _name(precision: torch.dtype) -> str:
    return str(precision).removeprefix("torch.")
