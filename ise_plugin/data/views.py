"""Generated pictures of training images (by GANs, or rendered from meshes) that stand in for them in training."""

import logging
import os
from collections import defaultdict
from typing import Callable, Optional, Sequence, TypeVar

import numpy as np
import torch

from ..errors import UsageError
from ..utils.files import shown
from .augmentation import uniform_numbers
from .image_files import check_images, find_images
from .reading import UnreadableImage

logger = logging.getLogger("fastreid.ise.views")

Image = TypeVar("Image")
ROOT_KEY = "DATASETS.VIEWS.ROOT"
# Seeds of images are below it, so that what is drawn here is not what the augmentation draws from the same seed.
_ABOVE_SEEDS = 1 << 32
_NO_VIEW = -1


class Views:
    """The views of N training images, and which of them is taken when.

    Args:
        of_images: for each image the files of its views, in a fixed order.
        prob: probability that one of an image's views, each alike, takes its place, in [0, 1].

    Attributes:
        paths: V files, in the order of the images.
        lost: (V,), bool, in memory that the loaders' workers share: could not be read during the run.
    """

    def __init__(self, of_images: Sequence[Sequence[str]], prob: float):
        self.paths = tuple(path for paths in of_images for path in paths)
        self._starts = np.cumsum([0, *map(len, of_images)])
        self._prob = prob
        self.lost = torch.zeros(len(self.paths), dtype=torch.bool).share_memory_()

    def draw(self, indices: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Which views take the places of images.

        What is drawn depends on an image and its seed alone, and what the seed gives the augmentation stays as it is.

        Args:
            indices, seeds: (B,), int: of the images.

        Returns:
            (B,), int64: places in ``paths``, -1 for the image itself.
        """
        first, count = self._starts[indices], self._starts[indices + 1] - self._starts[indices]
        chance, which = uniform_numbers(seeds + _ABOVE_SEEDS, 2).T
        return np.where((count > 0) & (chance < self._prob), first + (which * count).astype(np.int64), _NO_VIEW)

    def read(self, view: int, read: Callable[[int], Image]) -> Optional[Image]:
        """What ``read`` gives for a view; None for -1 and, said once, where its file is lost."""
        if view == _NO_VIEW or self.lost[view]:
            return None
        try:
            return read(view)
        except (UnreadableImage, OSError) as error:
            self.lost[view] = True
            reason = getattr(error, "strerror", None) or str(error)
            logger.warning(
                f"view {shown(self.paths[view])} was lost during the run ({reason}); its image is taken instead"
            )
            return None


def find_views(root: str, images: Sequence[str]) -> list[list[str]]:
    """The views below a folder, by training image.

    The views of ``.../cam1/0001.jpg`` are the pictures in ``root/0001`` or, where another image has that name, too, in
    ``root/cam1/0001``: a folder has the name of its image without the ending, after as many of the folders above as make it
    the only one. Every view is decoded once; what cannot be is left out and named in the log.

    Args:
        images: N files.

    Returns:
        For each image its views, sorted by name.

    Raises:
        UsageError: there is no such folder, it has no view of any of the images, all are unreadable, or a picture in it is one of
            the training images.
    """
    try:
        names = find_images(root)
    except UsageError as error:
        raise UsageError(f"{ROOT_KEY}: {error}") from error
    _refuse_training_images(root, names, images)
    owners = _owners(images, {os.path.dirname(name) for name in names})
    kept, stray, doubtful = [], [], []
    for name in names:
        files = {images[i] for i in owners[os.path.dirname(name)]}
        (kept if len(files) == 1 else doubtful if files else stray).append(name)
    of = f"{ROOT_KEY}: {{}} of {len(names)} pictures in {shown(root)}"
    if stray:
        logger.warning(f"{of.format(len(stray))} are for no training image, {shown(stray[0])} for one; left out")
    if doubtful:
        files = [images[i] for i in owners[os.path.dirname(doubtful[0])]][:2]
        fits = (
            f"{shown(doubtful[0])} fits {' and '.join(map(shown, files))}; put more of their folders above it; left out"
        )
        logger.warning(f"{of.format(len(doubtful))} are for several training images: {fits}")
    if not kept:
        raise UsageError(
            f"{of.format('none')} is for one training image; put them into folders like {_stem(images[0])}/"
        )
    found: list[list[str]] = [[] for _ in images]
    for name in check_images(root, kept, 1.0, ROOT_KEY):
        for i in owners[os.path.dirname(name)]:
            found[i].append(os.path.join(root, name))
    return found


def _owners(images: Sequence[str], folders: set) -> dict[str, list[int]]:
    """Folder of views -> the images that it fits."""
    by_stem = defaultdict(list)
    for i, path in enumerate(images):
        by_stem[_stem(path)].append(i)
    whole = [f"/{os.path.splitext(path)[0]}".replace(os.sep, "/") for path in images]
    return {f: [i for i in by_stem.get(f.split("/")[-1], ()) if whole[i].endswith(f"/{f}")] for f in folders}


def _refuse_training_images(root: str, names: Sequence[str], images: Sequence[str]) -> None:
    trained = set(map(os.path.realpath, images))
    both = next((name for name in names if os.path.realpath(os.path.join(root, name)) in trained), None)
    if both is not None:
        raise UsageError(
            f"{ROOT_KEY} {shown(root)}: {shown(both)} is a training image itself; keep views outside the training images' folder"
        )


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def say_what_was_found(found: Sequence[Sequence[str]], prob: float) -> None:
    """Logs how many images have how many views."""
    with_views, count = sum(map(bool, found)), sum(map(len, found))
    logger.info(
        f"{ROOT_KEY}: {count} views of {with_views} of {len(found)} training images, one of which takes the place of its image "
        f"with probability {prob:g}; in training alone"
    )
