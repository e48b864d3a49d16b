"""Reader of the drawn persons (`projects/SyntheticPersons`), one registered name per size."""

from __future__ import annotations

import os
import re

from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset

Item = tuple  # (path, identity, camera)

TRAIN_DIR, QUERY_DIR, GALLERY_DIR = "bounding_box_train", "query", "bounding_box_test"
JUNK_PID = -1
FILE_NAME = re.compile(r"(-1|\d{4})_c([1-6])s\d+_\d{6}_\d{2}\.jpg")


@DATASET_REGISTRY.register()
class SyntheticPersons(ImageDataset):
    """Persons drawn from a seed, in Market-1501's layout; this name reads the `demo` size.

    Identities and cameras of training items are strings (``syntheticpersons_12``, ``syntheticpersons_0``), those of query
    and gallery items integers, cameras from 0, as fastreid's own readers give them. Distractors are gallery items of
    identity 0; junk images are left out. Items are sorted by path.

    Args:
        root: folder that holds ``synthetic_persons_<size>``; fastreid passes FASTREID_DATASETS or "datasets".

    Raises:
        FileNotFoundError: the folder or one of its three parts is missing; the message says which command writes it.
    """

    _junk_pids = [0, -1]
    dataset_name = "syntheticpersons"
    size = "demo"

    def __init__(self, root: str = "datasets", **kwargs) -> None:
        self.root = root
        self.dataset_dir = os.path.join(root, f"synthetic_persons_{self.size}")
        self.train_dir, self.query_dir, self.gallery_dir = (
            os.path.join(self.dataset_dir, folder) for folder in (TRAIN_DIR, QUERY_DIR, GALLERY_DIR)
        )
        for folder in (self.train_dir, self.query_dir, self.gallery_dir):
            if not os.path.isdir(folder):
                raise FileNotFoundError(
                    f"{folder} not found: {type(self).__name__} looks in the folder that FASTREID_DATASETS names "
                    f"(default: datasets) for synthetic_persons_{self.size}/ with {TRAIN_DIR}/, {QUERY_DIR}/ and "
                    f"{GALLERY_DIR}/; write it with: python projects/SyntheticPersons/make.py --size {self.size}"
                )
        super().__init__(
            lambda: self.process_dir(self.train_dir),
            lambda: self.process_dir(self.query_dir, is_train=False),
            lambda: self.process_dir(self.gallery_dir, is_train=False),
            **kwargs,
        )

    def process_dir(self, dir_path: str, is_train: bool = True) -> list[Item]:
        """The items (path, identity, camera) of one folder, sorted by file name, without junk."""
        items: list[Item] = []
        for name in sorted(os.listdir(dir_path)):
            match = FILE_NAME.fullmatch(name)
            if match is None or int(match[1]) == JUNK_PID:
                continue
            pid, camera = int(match[1]), int(match[2]) - 1
            path = os.path.join(dir_path, name)
            if is_train:
                items.append((path, f"{self.dataset_name}_{pid}", f"{self.dataset_name}_{camera}"))
            else:
                items.append((path, pid, camera))
        return items


@DATASET_REGISTRY.register()
class SyntheticPersonsTiny(SyntheticPersons):
    """The `tiny` size: 12 + 8 identities, for tests and first steps."""

    size = "tiny"


@DATASET_REGISTRY.register()
class SyntheticPersonsMarket(SyntheticPersons):
    """The `market` size: as many identities and images as Market-1501, for measuring time and memory."""

    size = "market"
