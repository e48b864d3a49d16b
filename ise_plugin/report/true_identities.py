"""The true identities of the training images, for the report alone. Nothing that trains may import this module."""

from typing import Optional, Sequence

import numpy as np
from fastreid.data.datasets import DATASET_REGISTRY

from ..data.image_sets import datasets_root

# A reader without identities gives all its images one name; one identity would also make every measure trivial.
_FEWEST_IDENTITIES = 2
# Readers that know none and are slow to ask.
_WITHOUT_IDENTITIES = ("Folder",)


def read_true_identities(names: Sequence[str], paths: Sequence[str], combine_all: bool = False) -> Optional[np.ndarray]:
    """Who is on the training images, as the data sets' readers say.

    The training images were read without identities (:func:`ise_plugin.data.read_training_images`); this reads the data
    sets again, to study how well the pseudo labels fit.

    Args:
        names: registered data set names.
        paths: N training images.
        combine_all: as ``DATASETS.COMBINEALL``.

    Returns:
        (N,), text, the name of the data set in front; None where the readers do not know every image, or know no two
        identities.
    """
    if any(name in _WITHOUT_IDENTITIES for name in names):
        return None
    identities = {}
    for name in names:
        data = DATASET_REGISTRY.get(name)(root=datasets_root(), combineall=combine_all)
        identities.update((path, f"{name} {identity}") for path, identity, _camera in data.train)
    if any(path not in identities for path in paths):
        return None
    found = np.array([identities[path] for path in paths])
    return found if len(np.unique(found)) >= _FEWEST_IDENTITIES else None
