"""What fastreid's data set readers know, without the identities of the training images."""

import os
from collections import Counter
from dataclasses import dataclass
from typing import Optional, Sequence

import numpy as np
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.utils import comm

from ..errors import UsageError
from ..registry import registered
from .datasets.folder import MAX_BAD_SHARE_KEY, Folder
from .image_files import StandIns

ROOT_VARIABLE = "FASTREID_DATASETS"
DEFAULT_ROOT = "datasets"


@dataclass(frozen=True)
class TrainingImages:
    """The training images in a fixed order, and the camera of each. Their identities are not kept.

    Attributes:
        paths: N file names, sorted.
        cameras: (N,), int64, 0..C-1.
        camera_names: C names, each with its data set in front.
        stand_ins: what to do with files that are lost during the run; None ends it.
    """

    paths: tuple
    cameras: np.ndarray
    camera_names: tuple = ()
    stand_ins: Optional[StandIns] = None

    def __len__(self) -> int:
        return len(self.paths)


def datasets_root() -> str:
    """The folder that holds the data sets: the variable FASTREID_DATASETS, else ``datasets``, as in fastreid."""
    return os.getenv(ROOT_VARIABLE, DEFAULT_ROOT)


def read_training_images(names: Sequence[str], combine_all: bool = False, cfg=None) -> TrainingImages:
    """The training images of the named data sets.

    Readers list their folders in the order of the file system; sorting makes a run repeatable elsewhere.

    Args:
        names: registered data set names.
        combine_all: query and gallery images take part as well (``DATASETS.COMBINEALL``).
        cfg: configuration, for readers that take something from it (:class:`ise_plugin.data.datasets.Folder`).

    Raises:
        UsageError: a name is not registered, its folder is missing, or there are no images.
    """
    items = []
    for name in names:
        data = _read(name, cfg, ("train",), combineall=combine_all)
        if comm.is_main_process():
            data.show_train()
        items.extend((path, f"{name}/{camera}") for path, _identity, camera in data.train)
        if not data.train:
            raise UsageError(f"data set {name} has no training images{_where(data)}; {_advice(data, name)}")
    items.sort()
    paths = tuple(path for path, _ in items)
    camera_names, cameras = np.unique([camera for _, camera in items], return_inverse=True)
    return TrainingImages(paths, cameras.astype(np.int64), tuple(map(str, camera_names)), _stand_ins(paths, names, cfg))


def _stand_ins(paths: tuple, names: Sequence[str], cfg) -> Optional[StandIns]:
    """Benchmarks are complete or wrong; a folder of somebody's own may lose a file without ending the run."""
    if cfg is None or tuple(names) != (Folder.__name__,):
        return None
    return StandIns(paths, cfg.DATASETS.FOLDER.MAX_BAD_SHARE, MAX_BAD_SHARE_KEY)


def read_evaluation_images(name: str, cfg=None) -> tuple[list, int]:
    """Query and gallery of a data set: the items (path, identity, camera), queries first, and the number of queries.

    Args:
        name: registered data set name.
        cfg: as for :func:`read_training_images`.

    Raises:
        UsageError: the name is not registered, its folder is missing, there are no query or gallery images, or no query
            has an image of the same identity by another camera in the gallery, which alone counts as a match.
    """
    data = _read(name, cfg, ("query", "gallery"))
    if comm.is_main_process():
        data.show_test()
    query, gallery = sorted(data.query), sorted(data.gallery)
    if not query or not gallery:
        part = "query" if not query else "gallery"
        raise UsageError(f"data set {name} has no {part} images{_where(data)}; {_advice(data, name)}")
    seen = {(identity, camera) for _, identity, camera in gallery}
    cameras = Counter(identity for identity, _ in seen)
    if not any(cameras[identity] > ((identity, camera) in seen) for _, identity, camera in query):
        raise UsageError(
            f"data set {name} cannot be evaluated: no query has an image of the same identity by another camera in the "
            f"gallery; {_advice(data, name)}"
        )
    return query + gallery, len(query)


def _read(name: str, cfg, parts: Sequence[str], **options):
    reader = registered(DATASET_REGISTRY, name, "DATASETS")
    if cfg is not None and hasattr(reader, "from_config"):
        options.update(reader.from_config(cfg))
    try:
        data = reader(root=datasets_root(), **options)
        for part in parts:
            getattr(data, part)  # readers list their folders only when asked
    except (RuntimeError, AssertionError, OSError) as error:  # stock readers raise each of these for a missing folder
        raise UsageError(
            f"data set {name} cannot be read: {' '.join(str(error).split())}; {_where_to_put(name)}"
        ) from error
    return data


def _advice(data, name: str) -> str:
    return getattr(data, "advice", None) or _where_to_put(name)


def _where_to_put(name: str) -> str:
    root = os.path.abspath(datasets_root())
    return (
        f"looked under {root}, which {ROOT_VARIABLE} sets; a Market-1501-style data set there holds bounding_box_train, "
        f"query and bounding_box_test (docs/howto/datasets.md has the layout of each)"
    )


def _where(data) -> str:
    """Readers with advice of their own have other folders than their data_dir."""
    if hasattr(data, "advice"):
        return ""
    return f" in {os.path.abspath(getattr(data, 'data_dir', getattr(data, 'dataset_dir', datasets_root())))}"
