"""PersonX: rendered persons, turned before six backgrounds."""

from __future__ import annotations

import os
import re

from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset

from .market_layout import FOLDERS, folders_of, for_training, named_items

# the numbers of the six cameras, which are backgrounds, are not in a row
_NAMED = re.compile(r"(\d+)_c(\d+)\D.*\.(?:jpg|png)")


@DATASET_REGISTRY.register()
class PersonX(ImageDataset):
    """PersonX (Sun and Zheng, CVPR 2019) as unsupervised methods use it: 9,840 training images of 410 persons, 5,136 queries
    and 30,816 gallery images of 856 others, by six cameras. Items are sorted by path.

    Args:
        root: folder that holds ``PersonX`` in Market-1501's layout; fastreid passes FASTREID_DATASETS or "datasets".

    Raises:
        FileNotFoundError: one of the three folders is missing.
    """

    dataset_name = "personx"
    folder = "PersonX"

    def __init__(self, root: str = "datasets", **kwargs) -> None:
        self.dataset_dir = os.path.join(root, self.folder)
        folders = folders_of(self.dataset_dir, f"PersonX wants {self.folder}/ with {', '.join(FOLDERS)}")
        train, query, gallery = (named_items(folder, _NAMED) for folder in folders)
        super().__init__(for_training(train, self.dataset_name), query, gallery, **kwargs)
