"""A folder of crops as a data set: no identities, cameras where something tells them."""

from __future__ import annotations

import csv
import logging
import os
import re
from collections import defaultdict
from itertools import count
from typing import Callable, Optional

from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset

from ...errors import UsageError
from ...utils.distributed import computed_once
from ...utils.files import shown
from ..image_files import check_images, find_images

logger = logging.getLogger("fastreid.ise.folder")

Item = tuple  # (path, identity, camera)
UNKNOWN = "unknown"
_KEY = "DATASETS.FOLDER"
MAX_BAD_SHARE_KEY = f"{_KEY}.MAX_BAD_SHARE"
# Cameras of query and gallery when nothing tells them: two different ones, because the evaluation passes over
# gallery images by the camera of the query.
_QUERY_CAMERA, _GALLERY_CAMERA = 0, 1


@DATASET_REGISTRY.register()
class Folder(ImageDataset):
    """The pictures under a folder, at any depth; ``DATASETS.FOLDER.*`` says where and how.

    Every file is decoded once when the folder is read; what cannot be is left out and named in the log. Items are sorted by
    path. The identity of training items is "unknown".

    Args:
        root: of fastreid's data sets; plays no part, ``folder`` is a path of its own.
        folder: with the training images.
        camera_regex: searched in each path relative to the folder; its group "camera", else its first group, is the camera.
        camera_csv: file with the columns path (relative to the folder) and camera.
        camera_folders: whether the first sub-folder of a path names its camera.
        query, gallery: folders for evaluation only, one sub-folder for each identity; cameras by the same rule
            (``camera_folders``: the sub-folder within the identity's). Without a rule query and gallery count as
            different cameras, so no match is passed over.
        max_bad_share: share of files that may be unusable, in [0, 1].
        output_dir: of the run; what it holds below ``folder`` is no training image (contact sheets, say).

    Raises:
        UsageError: a folder is missing or holds no picture, too many files are unusable, more than one camera rule is
            given, or the rule fits no path.
    """

    dataset_name = "folder"
    advice = f"name a folder with {_KEY}.ROOT, and for evaluation {_KEY}.QUERY and {_KEY}.GALLERY"

    def __init__(
        self,
        root: str = "datasets",
        *,
        folder: str = "",
        camera_regex: str = "",
        camera_csv: str = "",
        camera_folders: bool = False,
        query: str = "",
        gallery: str = "",
        max_bad_share: float = 0.05,
        output_dir: str = "",
        **kwargs,
    ) -> None:
        self.data_dir = os.path.expanduser(folder)
        self._bad_share, self._output_dir = max_bad_share, output_dir
        self._rule = _camera_rule(camera_regex, camera_csv, camera_folders)
        self._below_identity = camera_folders
        # name -> number, the same for query and gallery
        self._identity_numbers: dict[str, int] = defaultdict(count().__next__)
        self._camera_numbers: dict[str, int] = defaultdict(count().__next__)
        kwargs.setdefault("mode", "query")  # mode "train" would read the training images for an evaluation as well
        super().__init__(
            self._read_train,
            lambda: self._read_labelled(query, _QUERY_CAMERA),
            lambda: self._read_labelled(gallery, _GALLERY_CAMERA),
            **kwargs,
        )

    @classmethod
    def from_config(cls, cfg) -> dict:
        """Arguments of the constructor."""
        settings = {key.lower(): value for key, value in cfg.DATASETS.FOLDER.items()}
        return {"folder": settings.pop("root"), "output_dir": cfg.OUTPUT_DIR, **settings}

    def _read_train(self) -> list[Item]:
        if not self.data_dir:
            raise UsageError(f"{_KEY}.ROOT is empty; set it to the folder with the images")
        names = self._usable(self.data_dir, self._output_dir)
        cameras = self._cameras(names)
        return [(os.path.join(self.data_dir, name), UNKNOWN, camera) for name, camera in zip(names, cameras)]

    def _read_labelled(self, folder: str, camera_without_rule: int) -> list[Item]:
        if not folder:
            return []
        folder = os.path.expanduser(folder)
        names = self._usable(folder)
        stray = [name for name in names if "/" not in name]
        if stray:
            raise UsageError(f"{shown(os.path.join(folder, stray[0]))} is in no sub-folder; give each identity one")
        identities = [self._identity_numbers[name.split("/")[0]] for name in names]
        if self._rule is None:
            cameras = [camera_without_rule] * len(names)
        else:
            within = [name.partition("/")[2] for name in names] if self._below_identity else names
            cameras = [self._camera_numbers[camera] for camera in self._cameras(within)]
        return [(os.path.join(folder, name), *labels) for name, *labels in zip(names, identities, cameras)]

    def _usable(self, folder: str, left_out: str = "") -> list[str]:
        return computed_once(
            lambda: check_images(folder, find_images(folder, left_out), self._bad_share, MAX_BAD_SHARE_KEY)
        )

    def _cameras(self, names: list[str]) -> list[str]:
        if self._rule is None:
            logger.info("no camera rule is given: batches take images of a cluster without regard to cameras")
            return [UNKNOWN] * len(names)
        cameras = [self._rule(name) for name in names]
        missing = [name for name, camera in zip(names, cameras) if camera is None]
        if len(missing) == len(names):
            raise UsageError(f"{_KEY}: the camera rule fits none of {len(names)} paths, {shown(names[0])} for one")
        if missing:
            logger.warning(
                f"{len(missing)} of {len(names)} paths have no camera by the rule, {shown(missing[0])} for one; "
                f"they count as one camera, {UNKNOWN!r}"
            )
        return [UNKNOWN if camera is None else camera for camera in cameras]


def _camera_rule(regex: str, table: str, folders: bool) -> Optional[Callable[[str], Optional[str]]]:
    """Relative path -> camera or None; no rule at all where nothing is given."""
    rules = {"CAMERA_REGEX": regex, "CAMERA_CSV": table, "CAMERA_FOLDERS": folders}
    given = [f"{_KEY}.{key}" for key, value in rules.items() if value]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} are given; cameras can be told by one of them only")
    if regex:
        return _by_regex(regex)
    if table:
        return _read_camera_csv(table).get
    if folders:
        return lambda name: name.split("/")[0] if "/" in name else None
    return None


def _by_regex(text: str) -> Callable[[str], Optional[str]]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UsageError(f"{_KEY}.CAMERA_REGEX {text!r} is no regular expression ({error})") from error
    if not pattern.groups:
        raise UsageError(f"{_KEY}.CAMERA_REGEX {text!r} has no group; put the camera in parentheses, like c(\\d+)_")
    group = "camera" if "camera" in pattern.groupindex else 1
    return lambda name: match[group] if (match := pattern.search(name)) else None


def _read_camera_csv(path: str) -> dict[str, str]:
    key = f"{_KEY}.CAMERA_CSV {shown(path)}"
    try:
        with open(os.path.expanduser(path), newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = csv.DictReader(file)
            if not {"path", "camera"} <= set(rows.fieldnames or ()):
                raise UsageError(f"{key}: its first line must name the columns path and camera")
            return {row["path"]: row["camera"] for row in rows if row["path"] and row["camera"]}
    except (OSError, csv.Error) as error:
        raise UsageError(f"{key} cannot be read ({getattr(error, 'strerror', None) or error}); check it") from error
