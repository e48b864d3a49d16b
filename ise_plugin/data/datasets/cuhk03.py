"""CUHK03 by its new protocol, with detected or with labelled boxes."""

from __future__ import annotations

import os
import re

from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset
from scipy.io import loadmat

from .market_layout import FOLDERS, Item, folders_of, for_training, named_items

# CUHK03-NP: 0001_c1_1.png
_NAMED = re.compile(r"(\d+)_c(\d+)\D.*\.(?:png|jpg)")
# images taken out of cuhk-03.mat: pair of cameras, person, view, number; 1_001_2_06.png
_EXTRACTED = re.compile(r"(\d+)_\d+_([12])_\d+\.png")
_READY, _RELEASE = "CUHK03-NP", "cuhk03"


@DATASET_REGISTRY.register()
class CUHK03Detected(ImageDataset):
    """CUHK03 (Li et al., CVPR 2014), detected boxes, split 767/700 (Zhong et al., CVPR 2017): 7,365 training images, 1,400
    queries, 5,332 gallery images.

    fastreid's own ``CUHK03`` reads labelled boxes alone, wants cuhk-03.mat with two more packages, and writes the paths of this
    machine into the data set. This one reads ``CUHK03-NP/detected`` in Market-1501's layout or, where that is not there, the
    images and the protocol's file of the release (``cuhk03/images_detected``,
    ``cuhk03/cuhk03_new_protocol_config_detected.mat``). Their names tell which of five pairs of cameras saw an image, so there
    are ten cameras; CUHK03-NP tells two, the views of any pair.

    Args:
        root: folder that holds either; fastreid passes FASTREID_DATASETS or "datasets".

    Raises:
        FileNotFoundError: neither is there, or an image of the protocol's file is missing.
    """

    dataset_name = "cuhk03"
    boxes = "detected"

    def __init__(self, root: str = "datasets", **kwargs) -> None:
        self.dataset_dir = os.path.join(root, _READY, self.boxes)
        protocol = os.path.join(root, _RELEASE, f"cuhk03_new_protocol_config_{self.boxes}.mat")
        images = os.path.join(root, _RELEASE, f"images_{self.boxes}")
        if not os.path.isdir(self.dataset_dir) and os.path.isfile(protocol):
            train, query, gallery = _listed(protocol, images)
        else:
            wanted = f"{type(self).__name__} wants it in {_READY}/{self.boxes}/ with {', '.join(FOLDERS)}"
            folders = folders_of(
                self.dataset_dir, f"{wanted}, or {_RELEASE}/ with images_{self.boxes}/ and the .mat file"
            )
            train, query, gallery = (named_items(folder, _NAMED) for folder in folders)
        super().__init__(for_training(train, self.dataset_name), query, gallery, **kwargs)


@DATASET_REGISTRY.register()
class CUHK03Labeled(CUHK03Detected):
    """Labelled boxes: 7,368 training images, 1,400 queries, 5,328 gallery images; all else as :class:`CUHK03Detected`."""

    boxes = "labeled"


def _listed(protocol: str, images: str) -> list[list[Item]]:
    """The training, query and gallery items of the protocol's file, sorted by path."""
    content = loadmat(protocol)
    names = [str(name[0]) for name in content["filelist"].ravel()]
    identities = content["labels"].ravel()
    parts = []
    for part in ("train", "query", "gallery"):
        rows = content[f"{part}_idx"].ravel().astype(int) - 1
        parts.append(sorted((_there(images, names[row]), int(identities[row]), _camera(names[row])) for row in rows))
    return parts


def _camera(name: str) -> int:
    match = _EXTRACTED.fullmatch(name)
    if match is None:
        raise ValueError(f"{name} is not named like 1_001_2_06.png (pair of cameras, person, view, number)")
    return 2 * (int(match[1]) - 1) + int(match[2]) - 1


def _there(folder: str, name: str) -> str:
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{path} not found, which the protocol's file names; take the images out of cuhk-03.mat"
        )
    return path
