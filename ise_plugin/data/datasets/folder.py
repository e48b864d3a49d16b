"""A folder of crops as a data set: no identities; cameras, tracks and times where something tells them."""

from __future__ import annotations

import os
from collections import defaultdict
from itertools import count
from typing import Union

from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset

from ...errors import UsageError
from ...utils.distributed import computed_once
from ...utils.files import shown
from ..image_files import check_images, find_images
from ..sightings import UNKNOWN, Rule, Sighting, find_sightings

Item = tuple  # (path, identity, camera)
_KEY = "DATASETS.FOLDER"
MAX_BAD_SHARE_KEY = f"{_KEY}.MAX_BAD_SHARE"
# Cameras of query and gallery images that nothing tells: two different ones, which no rule can name, because the evaluation
# passes over gallery images by the camera of the query.
_QUERY_CAMERA, _GALLERY_CAMERA = (UNKNOWN, "query"), (UNKNOWN, "gallery")


@DATASET_REGISTRY.register()
class Folder(ImageDataset):
    """The pictures under a folder, at any depth; ``DATASETS.FOLDER.*`` says where and how.

    Every file is decoded once when the folder is read; what cannot be is left out and named in the log. Items are sorted by
    path. The identity of training items is "unknown".

    Args:
        root: of fastreid's data sets; plays no part, ``folder`` is a path of its own.
        folder: with the training images.
        camera_regex: searched in each path relative to the folder; its groups "camera" (else its first group), "track",
            "sequence", "frame" or "time" tell of the image (:class:`ise_plugin.data.sightings.Sighting`).
        camera_csv: file with the columns path (relative to the folder), and any of camera, track, sequence, frame or time.
        camera_folders: whether the first sub-folder of a path names its camera.
        query, gallery: folders for evaluation only, one sub-folder for each identity; cameras by the same rules
            (``camera_folders``: the sub-folder within the identity's). Images without one count as by different cameras in
            query and gallery, so no match is passed over.
        max_bad_share: share of files that may be unusable, in [0, 1].
        output_dir: of the run; what it holds below ``folder`` is no training image (contact sheets, say).

    Raises:
        UsageError: a folder is missing or holds no picture, too many files are unusable, or a rule fits no path.
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
        self._rules = folder_rules(camera_regex, camera_csv, camera_folders)
        self._labelled = [os.path.expanduser(path) for path in (query, gallery) if path]
        self._sightings: dict[str, Sighting] = {}
        # name -> number, the same for query and gallery
        self._identity_numbers: dict[str, int] = defaultdict(count().__next__)
        self._camera_numbers: dict[Union[str, tuple], int] = defaultdict(count().__next__)
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
        sightings = computed_once(lambda: self._training_sightings(names))
        return [(path, UNKNOWN, seen.camera) for path, seen in self._kept(self.data_dir, names, sightings)]

    def _training_sightings(self, names: list[str]) -> list[Sighting]:
        for rule in self._rules:
            rule.say_doubts(names, [self.data_dir, *self._labelled])
        return find_sightings(self._rules, names)

    def sighting(self, path: str) -> Sighting:
        """What is known of an image that was read; its camera is "unknown" where nothing tells it."""
        return self._sightings[path]

    def _kept(self, folder: str, names: list[str], sightings: list[Sighting]) -> list[tuple[str, Sighting]]:
        found = [
            (os.path.join(folder, name), seen._replace(camera=seen.camera or UNKNOWN))
            for name, seen in zip(names, sightings)
        ]
        self._sightings.update(found)
        return found

    def _read_labelled(self, folder: str, unknown_camera: tuple) -> list[Item]:
        if not folder:
            return []
        folder = os.path.expanduser(folder)
        names = self._usable(folder)
        stray = [name for name in names if "/" not in name]
        if stray:
            raise UsageError(f"{shown(os.path.join(folder, stray[0]))} is in no sub-folder; give each identity one")
        identities = [self._identity_numbers[name.split("/")[0]] for name in names]
        sightings = computed_once(lambda: find_sightings(self._rules, names, depth=1))
        cameras = [self._camera_numbers[seen.camera or unknown_camera] for seen in sightings]
        found = self._kept(folder, names, sightings)
        return [(path, *labels) for (path, _seen), *labels in zip(found, identities, cameras)]

    def _usable(self, folder: str, left_out: str = "") -> list[str]:
        return computed_once(
            lambda: check_images(folder, find_images(folder, left_out), self._bad_share, MAX_BAD_SHARE_KEY)
        )


def folder_rules(regex: str, table: str, folders: bool) -> list[Rule]:
    """What ``DATASETS.FOLDER.CAMERA_REGEX``, ``CAMERA_CSV`` and ``CAMERA_FOLDERS`` say, those that are set."""
    given = []
    if regex:
        given.append(Rule.by_regex(f"{_KEY}.CAMERA_REGEX", regex))
    if table:
        given.append(Rule.by_table(f"{_KEY}.CAMERA_CSV", table))
    if folders:
        given.append(Rule.by_folders(f"{_KEY}.CAMERA_FOLDERS"))
    return given
