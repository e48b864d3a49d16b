"""Market-1501's layout, which most data sets of persons come in: three folders, and identity and camera in file names."""

from __future__ import annotations

import os
import re

Item = tuple  # (path, identity, camera)

TRAIN, QUERY, GALLERY = FOLDERS = ("bounding_box_train", "query", "bounding_box_test")


def named_items(folder: str, pattern: re.Pattern) -> list[Item]:
    """What the names of a folder's files tell, sorted by name.

    Args:
        folder: an existing one.
        pattern: fits the whole name; its first two groups are the identity and the camera, counted from 1. Files of other
            names (junk, a viewer's index) are passed over.

    Returns:
        (path, identity, camera), integers, cameras from 0.
    """
    found = [(os.path.join(folder, name), pattern.fullmatch(name)) for name in sorted(os.listdir(folder))]
    return [(path, int(match[1]), int(match[2]) - 1) for path, match in found if match]


def for_training(items: list[Item], name: str) -> list[Item]:
    """The items as fastreid wants them for training: identity and camera are strings with the data set's name in front."""
    return [(path, f"{name}_{identity}", f"{name}_{camera}") for path, identity, camera in items]


def folders_of(home: str, wanted: str) -> list[str]:
    """The three folders below ``home``.

    Raises:
        FileNotFoundError: one is missing; the message goes on with what is ``wanted``.
    """
    folders = [os.path.join(home, name) for name in FOLDERS]
    for folder in folders:
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"{folder} not found: {wanted}")
    return folders
