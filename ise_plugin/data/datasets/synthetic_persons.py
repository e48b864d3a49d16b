"""Reader of the drawn persons (`projects/SyntheticPersons`), one registered name per size."""

from __future__ import annotations

import os
import re

from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset

from .market_layout import FOLDERS, Item, for_training, named_items

# junk, whose names begin with -1, does not match
FILE_NAME = re.compile(r"(\d{4})_c([1-6])s\d+_\d{6}_\d{2}\.jpg")


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
        self.dataset_dir = os.path.join(root, f"synthetic_persons_{self.size}")
        train, query, gallery = folders = [os.path.join(self.dataset_dir, name) for name in FOLDERS]
        for folder in folders:
            if not os.path.isdir(folder):
                raise FileNotFoundError(
                    f"{folder} not found: {type(self).__name__} looks in the folder that FASTREID_DATASETS names "
                    f"(default: datasets) for synthetic_persons_{self.size}/ with {', '.join(FOLDERS)}; "
                    f"write it with: python projects/SyntheticPersons/make.py --size {self.size}"
                )
        super().__init__(
            lambda: self.process_dir(train),
            lambda: self.process_dir(query, is_train=False),
            lambda: self.process_dir(gallery, is_train=False),
            **kwargs,
        )

    def process_dir(self, dir_path: str, is_train: bool = True) -> list[Item]:
        """The items (path, identity, camera) of one folder, sorted by file name, without junk."""
        items = named_items(dir_path, FILE_NAME)
        return for_training(items, self.dataset_name) if is_train else items


@DATASET_REGISTRY.register()
class SyntheticPersonsTiny(SyntheticPersons):
    """The `tiny` size: 12 + 8 identities, for tests and first steps."""

    size = "tiny"


@DATASET_REGISTRY.register()
class SyntheticPersonsMarket(SyntheticPersons):
    """The `market` size: as many identities and images as Market-1501, for measuring time and memory."""

    size = "market"
