"""Memory that is not enough: how it shows, what a run says, embedding fewer at a time, keeping what was freed."""

import ctypes
import logging
from contextlib import contextmanager
from typing import Callable, Iterator, Optional

import torch
from torch import Tensor

from ..errors import UsageError

logger = logging.getLogger("fastreid.ise.memory")

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _LARGEST_INT = -1, -4, 2**31 - 1
_OUT_OF_MEMORY = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)
# what torch says on the CPU and on Apple's GPU, where it has no exception of its own for it
_SAID_ELSEWHERE = ("can't allocate memory", "MPS backend out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or the host has no memory left; not Python's own ``MemoryError``."""
    return isinstance(error, RuntimeError) and (
        isinstance(error, _OUT_OF_MEMORY) or any(words in str(error) for words in _SAID_ELSEWHERE)
    )


class Halving:
    """A function of images, each on its own, that goes on with half as many at a time when the memory is not enough.

    Attributes:
        most: images at a time; None as long as none were too many.
    """

    def __init__(self) -> None:
        self.most: Optional[int] = None

    def __call__(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """``function(images)``, (B, ...) to (B, D), in as many pieces as it takes; every halving is logged.

        Where one image alone is too much, torch's own error is raised.
        """
        while True:
            try:
                pieces = images.split(self.most or max(1, len(images)))
                done = [function(piece) for piece in pieces]
                return done[0] if len(done) == 1 else torch.cat(done)
            except RuntimeError as error:
                at_once = min(self.most or len(images), len(images))
                if not is_out_of_memory(error) or at_once <= 1:
                    raise
            # after the handler, which holds what the failed pass has allocated
            self.most = at_once // 2
            logger.warning(f"out of memory embedding {at_once} images at a time; going on with {self.most}")
            give_back_memory()


def give_back_memory() -> None:
    """Gives the device what torch has freed and keeps, in pieces that may be too small for what comes next."""
    torch.cuda.empty_cache()  # does nothing where CUDA is not in use
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


@contextmanager
def named_out_of_memory(advice: Callable[[], str]) -> Iterator[None]:
    """Turns running out of memory inside into a UsageError; ``advice`` gives what was computed and what needs less."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UsageError(f"out of memory {advice()}") from error


def advice_for_training(images: int, pieces: int, precision: torch.dtype, device: torch.device) -> str:
    """What this process computed in a step of so many images, in so many pieces, and what would need half as much."""
    piece, half = -(-images // pieces), -(-images // (2 * pieces))
    text = f"in a training step of {images} images, {piece} at a time, in {precision_name(precision)}: "
    if piece == 1:
        return text + "one image alone is too much; use a smaller INPUT.SIZE_TRAIN or network"
    text += f"SOLVER.ACCUMULATE {2 * pieces} computes {half} at a time, with the same batch for the losses"
    if precision == torch.float32 and device.type == "cuda":
        text += "; SOLVER.AMP.ENABLED True halves what the network keeps"
    return text


def advice_for_extraction(images: int, precision: torch.dtype) -> str:
    """The same for embedding images without training."""
    text = f"embedding {images} images at a time, in {precision_name(precision)}: "
    if images <= 1:
        return text + "one image alone is too much; use a smaller INPUT.SIZE_TEST or network"
    return text + f"ISE.EXTRACTION.IMS_PER_BATCH {images // 2} (for evaluation TEST.IMS_PER_BATCH) needs half"


def keep_freed_memory() -> bool:
    """Tells the C library to keep freed memory for the next allocation; returns whether it could be told.

    glibc gives large blocks back to the system at once and fetches them anew, cleared page by page: on the CPU that
    doubles the time of an extraction, whose activations are the same size for every batch (``docs/benchmarks.md``).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT))


def precision_name(precision: torch.dtype) -> str:
    """``float32``, without torch's name before it."""
    return str(precision).removeprefix("torch.")
