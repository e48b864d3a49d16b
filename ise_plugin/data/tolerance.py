"""How many files of a set may be unusable, and what stands in for one that is lost during a run."""

import logging
from typing import Callable, Sequence, TypeVar

import torch

from ..errors import UsageError
from ..utils.files import shown
from .reading import Problem, UnreadableImage

logger = logging.getLogger("fastreid.ise.images")

Image = TypeVar("Image")
# Files that an error names; the log names all.
_NAMED_IN_ERROR = 5


def check_share(problems: Sequence[Problem], total: int, max_share: float, option: str) -> None:
    """Refuses a set with too many unusable files.

    Args:
        problems: the unusable ones.
        total: files in all.
        max_share: in [0, 1].
        option: where the user sets it, for the message.

    Raises:
        UsageError: the share is larger, or no file is left.
    """
    if within_share(problems, total, max_share):
        return
    raise UsageError(
        f"{len(problems)} of {total} images cannot be used, more than {option} {max_share:g} allows: "
        f"{first_of(problems, ' (the log lists all)')}; repair or remove them"
    )


def within_share(problems: Sequence[Problem], total: int, max_share: float) -> bool:
    """Whether so many unusable files, of ``total``, may be left out: no more than the share, and not all."""
    return len(problems) <= max_share * total and (len(problems) < total or not total)


def first_of(problems: Sequence[Problem], where_the_rest_is: str = "") -> str:
    """The first files, with their reasons, and how many more there are."""
    more = len(problems) - _NAMED_IN_ERROR
    first = ", ".join(map(str, problems[:_NAMED_IN_ERROR]))
    return first + (f" and {more} more{where_the_rest_is}" if more > 0 else "")


class StandIns:
    """Reads images, and for one that is lost the next that can be read.

    The same image stands in every time, so a lost one gets the embedding and the pseudo label of its stand-in, and no
    group of its own. Every process that shares the object (data loaders' workers) sees what the others have lost; a
    lost file is not tried again.

    Args:
        paths: N files.
        max_share: of them that may be lost, in [0, 1].
        option: where the user sets it, for the message.

    Attributes:
        lost: (N,), bool, in shared memory.
    """

    def __init__(self, paths: Sequence[str], max_share: float, option: str):
        self._paths = paths
        self._max_share = max_share
        self._option = option
        self.lost = torch.zeros(len(paths), dtype=torch.bool).share_memory_()

    def read(self, index: int, read: Callable[[int], Image]) -> Image:
        """What ``read`` gives for that index or, where its file is lost, for the next one (the first follows the last).

        Args:
            index: 0..N-1.
            read: index -> image; raises :class:`UnreadableImage` or OSError for a lost file.

        Raises:
            UsageError: more files are lost than may be.
        """
        for step in range(len(self._paths)):
            place = (index + step) % len(self._paths)
            if self.lost[place]:
                continue
            try:
                return read(place)
            except (UnreadableImage, OSError) as error:
                self._lose(place, getattr(error, "strerror", None) or str(error))
        raise UsageError("no image can be read any more; check the folder")

    def _lose(self, place: int, reason: str) -> None:
        self.lost[place] = True
        logger.warning(
            f"image {shown(self._paths[place])} was lost during the run ({reason}); the next one stands in for it"
        )
        lost = [Problem(self._paths[i], "lost during the run") for i in self.lost.nonzero().flatten().tolist()]
        check_share(lost, len(self._paths), self._max_share, self._option)
