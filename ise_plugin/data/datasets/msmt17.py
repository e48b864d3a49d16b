"""MSMT17 as unsupervised methods train and evaluate on it."""

from __future__ import annotations

import os
import re

from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset

from .market_layout import FOLDERS, Item, for_training, named_items

# Official layout: file names inside the lists are 0000/0000_000_01_0303morning_0015_0.jpg, the third number is the camera.
_LISTED = re.compile(r"(?:.*/)?\d+_\d+_(\d+)_.*")
# Market-1501's layout, as the converted copies have it: 0000_c1_0002.jpg.
_NAMED = re.compile(r"(\d+)_c(\d+)[_s].*\.jpg")


@DATASET_REGISTRY.register()
class MSMT17V1(ImageDataset):
    """MSMT17, version 1 (Wei et al., CVPR 2018): 32,621 training images, 11,659 queries, 82,161 gallery images.

    fastreid's own ``MSMT17`` leaves the images of ``list_val.txt`` out of the training set, which published unsupervised
    methods train on, takes version 2 where both are there, and reads the official layout alone. This one reads the train and
    val lists together, and either layout: the official one (``train``, ``test`` and lists) or Market-1501's
    (``bounding_box_train``, ``query``, ``bounding_box_test``). Items are sorted by path.

    Args:
        root: folder that holds ``MSMT17_V1``; fastreid passes FASTREID_DATASETS or "datasets".

    Raises:
        FileNotFoundError: the folder, or a part of it, is missing.
    """

    dataset_name = "msmt17"
    folder, train_dir, test_dir = "MSMT17_V1", "train", "test"

    def __init__(self, root: str = "datasets", **kwargs) -> None:
        self.dataset_dir = os.path.join(root, self.folder)
        if os.path.isfile(os.path.join(self.dataset_dir, "list_train.txt")):
            train = self._listed(self.train_dir, "list_train.txt") + self._listed(self.train_dir, "list_val.txt")
            query, gallery = (self._listed(self.test_dir, f"list_{part}.txt") for part in ("query", "gallery"))
        else:
            train, query, gallery = (named_items(self._there(folder), _NAMED) for folder in FOLDERS)
        train = for_training(sorted(train), self.dataset_name)
        super().__init__(train, sorted(query), sorted(gallery), **kwargs)

    def _listed(self, folder: str, file_name: str) -> list[Item]:
        with open(self._there(file_name), encoding="utf-8") as file:
            lines = [line.split() for line in file if line.strip()]
        folder = self._there(folder)
        return [(os.path.join(folder, path), int(who), int(_LISTED.fullmatch(path)[1]) - 1) for path, who in lines]

    def _there(self, name: str) -> str:
        path = os.path.join(self.dataset_dir, name)
        if not os.path.exists(path):
            raise FileNotFoundError(
                f"{path} not found: {type(self).__name__} wants {self.folder} with list_train.txt, list_val.txt, "
                f"list_query.txt, list_gallery.txt, {self.train_dir}/ and {self.test_dir}/, or {', '.join(FOLDERS)}"
            )
        return path


@DATASET_REGISTRY.register()
class MSMT17V2(MSMT17V1):
    """Version 2 of :class:`MSMT17V1`, with blurred faces; published numbers are of version 1."""

    folder, train_dir, test_dir = "MSMT17_V2", "mask_train_v2", "mask_test_v2"
