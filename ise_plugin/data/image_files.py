"""The pictures of a folder: found, checked, and replaced by others where they are lost during a run."""

import hashlib
import logging
import os
from collections import Counter
from itertools import compress
from typing import Callable, Iterator, Sequence, TypeVar

import numpy as np
import torch

from ..errors import UsageError
from ..utils.files import shown
from ..utils.logs import some_of
from ..utils.parallel import num_threads, progress_bar
from .reading import ReadFile, UnreadableImage, decode_rgb, read_many

logger = logging.getLogger("fastreid.ise.images")

Image = TypeVar("Image")
# Files that tell how large the images of a set are.
_MEASURED = 100
# From images to input: enlarged or squeezed more than this, they are unlike what networks have learned from. Market-1501's
# 128 x 64 crops are enlarged twice in the usual 256 x 128; square ones are squeezed twice.
_MOST_ENLARGED, _MOST_SQUEEZED = 2.5, 2.0
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# Bytes of the check sum that tells equal files from different ones.
_DIGEST_SIZE = 16
# Files that an error names; the log names all.
_NAMED = 5


def find_images(folder: str, left_out: str = "") -> list[str]:
    """The picture files under a folder, at any depth, by their names; none is opened.

    Links to folders are followed, each folder is visited once, so loops end. Hidden files and folders (names that start
    with a dot) and files of other types are passed over; the log says how many.

    Args:
        left_out: a folder below ``folder`` whose files do not count.

    Returns:
        Paths relative to the folder, with "/", sorted.

    Raises:
        UsageError: there is no such folder, or no picture in it.
    """
    if not os.path.isdir(folder):
        raise UsageError(f"{shown(folder)} is not a folder; check the path")
    found, others = [], Counter()
    for directory, name in _files(folder, left_out):
        if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("."):
            found.append(os.path.relpath(os.path.join(directory, name), folder).replace(os.sep, "/"))
        else:
            others["hidden" if name.startswith(".") else os.path.splitext(name)[1].lower() or "no ending"] += 1
    if others:
        kinds = ", ".join(f"{count} x {shown(kind)}" for kind, count in others.most_common(5))
        logger.info(f"{shown(folder)}: {sum(others.values())} files are not pictures by their names ({kinds})")
    if not found:
        raise UsageError(f"no picture in {shown(folder)}; looked at any depth for {', '.join(SUFFIXES)}")
    return sorted(found)


def _files(folder: str, left_out: str) -> Iterator[tuple[str, str]]:
    """(directory, name) of every file, each directory visited once, however many links lead to it."""

    def say_unreadable(error: OSError) -> None:
        logger.warning(f"{shown(str(error.filename))} cannot be listed ({error.strerror}); left out")

    seen = {os.path.realpath(folder)}
    for directory, subfolders, names in os.walk(folder, followlinks=True, onerror=say_unreadable):
        visible = sorted(name for name in subfolders if not name.startswith("."))
        subfolders.clear()
        for name in visible:
            path = os.path.join(directory, name)
            place = os.path.realpath(path)
            if left_out and place == os.path.realpath(left_out):
                logger.warning(f"{shown(path)} is where this run writes; left out")
            elif place in seen:
                logger.warning(f"{shown(path)} leads to a folder already read; left out")
            else:
                seen.add(place)
                subfolders.append(name)
        yield from ((directory, name) for name in names)


def check_images(folder: str, names: Sequence[str], max_bad_share: float, option: str) -> list[str]:
    """Decodes every file once and leaves out what cannot be decoded, naming each in the log.

    Files whose bytes are those of another one stay; the log names the first of them.

    Args:
        names: N files, relative to ``folder``.
        max_bad_share: share of files that may be left out, in [0, 1]; the user sets it with ``option``.

    Returns:
        The names of the readable files, in the order given.

    Raises:
        UsageError: more files are unreadable, or all are; the message names the first, the log all.
    """
    paths = [os.path.join(folder, name) for name in names]
    readable, problems, copies = [], [], []
    first: dict[bytes, str] = {}
    with progress_bar(len(paths), "checking images", unit="img") as bar:
        for name, found in zip(names, read_many(paths, _digest_of_readable, num_threads())):
            bar.update()
            if found.reason is None:
                readable.append(name)
                if (original := first.setdefault(found.value, name)) != name:
                    copies.append(f"{shown(name)} = {shown(original)}")
            else:
                problems.append(found)
    for problem in problems:
        logger.warning(f"left out: {problem}")
    check_share(problems, len(paths), max_bad_share, option)
    if copies:
        text = (
            f"{len(copies)} images are the same, byte by byte, as another one; all are kept: {some_of(copies, _NAMED)}"
        )
        logger.warning(f"{shown(folder)}: {text}")
    return readable


def _digest_of_readable(content: bytes) -> bytes:
    decode_rgb(content)
    return hashlib.blake2b(content, digest_size=_DIGEST_SIZE).digest()


def check_share(problems: Sequence[ReadFile], total: int, max_share: float, option: str, stopped: bool = False) -> None:
    """Refuses a set of ``total`` files with too many unusable ones.

    Args:
        max_share: in [0, 1]; that all are unusable is refused with any. The user sets it with ``option``.
        stopped: whether the rest of the files was not tried.

    Raises:
        UsageError: the share is larger, or no file is left.
    """
    if len(problems) <= max_share * total and (len(problems) < total or not total):
        return
    limit = "which are all" if len(problems) == total else f"more than {option} {max_share:g} allows"
    count = f"{len(problems)} of {total} images"
    found = f"stopped at the first {count} that cannot be used" if stopped else f"{count} cannot be used"
    log = "" if stopped or len(problems) <= _NAMED else " (the log lists all)"
    raise UsageError(f"{found}, {limit}: {some_of(problems, _NAMED)}{log}; repair or remove them")


def warn_of_input_size(paths: Sequence[str], size: Sequence[int], key: str) -> None:
    """Says where the images are far smaller than the network's input, or of another shape, as a landscape is.

    Args:
        paths: N files, a hundred of which are read; unreadable ones are passed over.
        size: (height, width) of the input, in pixels, which the user sets with ``key``.
    """
    some = paths[:: max(1, len(paths) // _MEASURED)]
    sizes = [found.value for found in read_many(some, lambda content: decode_rgb(content).size, num_threads())]
    if len(size) != 2 or not any(sizes):
        return
    width, height = np.median([each for each in sizes if each], axis=0)
    images = f"the median image is {height:.0f} x {width:.0f} (height x width), {key} {size[0]} x {size[1]}"
    enlarged = np.sqrt(size[0] * size[1] / (height * width))
    squeezed = (size[0] / size[1]) / (height / width)
    if max(squeezed, 1 / squeezed) > _MOST_SQUEEZED:
        change = f"squeezes them {max(squeezed, 1 / squeezed):.1f} times; crop them to one person each, or set it to their shape"
        logger.warning(f"{images}, which {change}")
    elif enlarged > _MOST_ENLARGED:
        logger.warning(f"{images}, which enlarges them {enlarged:.1f} times; set it nearer to their size")


class StandIns:
    """Reads images, and for one that is lost the next that can be read.

    It is the same one every time, so a lost image gets the embedding and the pseudo label of its stand-in, and no group of
    its own. Every process that shares the object (data loaders' workers) sees what the others have lost; a lost file is
    not tried again.

    Args:
        paths: N files.
        max_share: of them that may be lost, in [0, 1]; the user sets it with ``option``.

    Attributes:
        lost: (N,), bool, in shared memory.
    """

    def __init__(self, paths: Sequence[str], max_share: float, option: str):
        self._paths, self._max_share, self._option = paths, max_share, option
        self.lost = torch.zeros(len(paths), dtype=torch.bool).share_memory_()

    def read(self, index: int, read: Callable[[int], Image]) -> Image:
        """What ``read`` gives for that index or, where its file is lost, for the next one (the first follows the last).

        Args:
            read: index, 0..N-1 -> image; raises :class:`UnreadableImage` or OSError for a lost file.

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
                self.lost[place] = True
                reason = getattr(error, "strerror", None) or str(error)
                path = shown(self._paths[place])
                logger.warning(f"image {path} was lost during the run ({reason}); the next one is taken instead")
            lost = [ReadFile(path, reason="lost during the run") for path in compress(self._paths, self.lost.tolist())]
            check_share(lost, len(self._paths), self._max_share, self._option)
        raise UsageError("no image can be read any more; check the folder")
