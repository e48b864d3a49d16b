"""Running out of the device's memory: how it shows, and embedding on with fewer images at a time."""

import logging
from typing import Callable

import torch
from torch import Tensor

logger = logging.getLogger("fastreid.ise.out_of_memory")

_OUT_OF_MEMORY = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)
# what torch says on the CPU and on Apple's GPU, where it has no exception of its own for it
_SAID_ELSEWHERE = ("can't allocate memory", "MPS backend out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and (
        isinstance(error, _OUT_OF_MEMORY) or any(words in str(error) for words in _SAID_ELSEWHERE)
    )


class Halving:
    """A function of images, each on its own, that goes on with half as many at a time when the memory is not enough.

    Attributes:
        most: images at a time; None as long as none were too many.
    """

    def __init__(self):
        self.most = None

    def __call__(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """``function(images)``, (B, ...) to (B, D), in as many pieces as it takes; every halving is logged.

        Raises:
            RuntimeError: torch's own, where one image alone is too much.
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
            # behind the handler, which holds what the failed pass has allocated
            self.most = at_once // 2
            logger.warning(f"out of memory embedding {at_once} images at a time; going on with {self.most}")
            if images.is_cuda:
                torch.cuda.empty_cache()
