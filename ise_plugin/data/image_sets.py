"""What fastreid's data set readers know, without the identities of the training images."""

import logging
import os
from collections import Counter
from dataclasses import dataclass
from typing import Optional, Sequence

import numpy as np
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.utils import comm

from ..errors import UsageError
from ..registry import registered
from ..utils.distributed import computed_once
from .datasets.folder import MAX_BAD_SHARE_KEY, Folder
from .image_files import StandIns, warn_of_input_size
from .sightings import UNKNOWN, Sighting, arrays_of, sighting_reader
from .views import Views, find_views, say_what_was_found

logger = logging.getLogger("fastreid.ise.data")

# What stock readers raise for a missing folder, and for a list or a name of a file that they do not expect. From readers of
# somebody's own the latter are faults of the program.
_MISSING, _UNEXPECTED = (RuntimeError, AssertionError, OSError), (ValueError, LookupError, TypeError, AttributeError)
_PUBLISHED = ("fastreid.", "ise_plugin.")

ROOT_VARIABLE = "FASTREID_DATASETS"
# What a reader may give as the camera of an image where it does not know it.
_UNKNOWN_CAMERAS = ("None", "", "-1", UNKNOWN)


@dataclass(frozen=True)
class TrainingImages:
    """The training images in a fixed order, with camera, track and time where they are known. Identities are not kept.

    Attributes:
        paths: N file names, sorted.
        cameras: (N,), int64, 0..C-1; -1: unknown.
        camera_names: C names, each with its data set in front.
        tracks: (N,), int64, 0..T-1, numbered over all data sets; -1: unknown. A track lies within one camera.
        track_names: T names, each with its data set in front.
        times: (N,), float64, in frames or seconds, comparable within a camera; nan: unknown.
        stand_ins: what to do with files that are lost during the run; None ends it.
        views: generated pictures that stand in for the images in training; None: there are none.
    """

    paths: tuple
    cameras: np.ndarray
    camera_names: tuple
    tracks: np.ndarray
    track_names: tuple
    times: np.ndarray
    stand_ins: Optional[StandIns] = None
    views: Optional[Views] = None

    def __len__(self) -> int:
        return len(self.paths)


def datasets_root() -> str:
    """The folder that holds the data sets: the variable FASTREID_DATASETS, else ``datasets``, as in fastreid."""
    return os.getenv(ROOT_VARIABLE, "datasets")


def read_training_images(names: Sequence[str], combine_all: bool = False, cfg=None) -> TrainingImages:
    """The training images of the named data sets.

    Readers list their folders in the order of the file system; sorting makes a run repeatable elsewhere.

    Args:
        names: registered data set names.
        combine_all: query and gallery images take part as well (``DATASETS.COMBINEALL``).
        cfg: configuration, for readers that take something from it (:class:`ise_plugin.data.datasets.Folder`), and for
            ``DATASETS.VIEWS``.

    Raises:
        UsageError: a name is not registered, its folder is missing, there are no images, or the views cannot be used
            (:func:`ise_plugin.data.views.find_views`).
    """
    items = []
    for name in names:
        data = _read(name, cfg, {"train": "training"}, combineall=combine_all)
        if comm.is_main_process():
            data.show_train()
        sighting = sighting_reader(data)
        items.extend((path, _of_data_set(name, sighting(path), camera)) for path, _identity, camera in data.train)
    items.sort(key=lambda item: (item[0], item[1].camera or ""))
    paths, sightings = zip(*items)
    if cfg is not None and comm.is_main_process():
        warn_of_input_size(paths, cfg.INPUT.SIZE_TRAIN, "INPUT.SIZE_TRAIN")
    known = computed_once(lambda: arrays_of(paths, sightings))
    if comm.is_main_process():
        logger.info(_summary(**known))
    stand_ins = None
    # benchmarks are complete or wrong; a folder of somebody's own may lose a file without ending the run
    if cfg is not None and tuple(names) == (Folder.__name__,):
        stand_ins = StandIns(paths, cfg.DATASETS.FOLDER.MAX_BAD_SHARE, MAX_BAD_SHARE_KEY)
    return TrainingImages(paths, stand_ins=stand_ins, views=_views(cfg, paths), **known)


def _views(cfg, paths: Sequence[str]) -> Optional[Views]:
    if cfg is None or not cfg.DATASETS.VIEWS.ROOT:
        return None
    found = computed_once(lambda: find_views(os.path.expanduser(cfg.DATASETS.VIEWS.ROOT), paths))
    if comm.is_main_process():
        say_what_was_found(found, cfg.DATASETS.VIEWS.PROB)
    return Views(found, cfg.DATASETS.VIEWS.PROB)


def _of_data_set(name: str, sighting: Sighting, camera) -> Sighting:
    """The sighting with the camera of the reader's item where it has none, and the data set in front of names."""
    camera, track = (camera if sighting.camera is None else sighting.camera), sighting.track
    camera = None if str(camera) in _UNKNOWN_CAMERAS else f"{name}/{camera}"
    sequence = None if sighting.sequence is None else str(sighting.sequence)
    return sighting._replace(camera=camera, sequence=sequence, track=None if track is None else f"{name}/{track}")


def _summary(cameras, camera_names, tracks, track_names, times) -> str:
    of = f"of {len(cameras)} training images"
    known = np.sum(cameras >= 0), np.sum(tracks >= 0), np.sum(~np.isnan(times))
    if not any(known):
        return f"nothing is known of cameras, tracks and times {of}: batches take images of a cluster without regard to them"
    return (
        f"{of}: {known[0]} with a camera ({len(camera_names)} cameras), {known[1]} in a track ({len(track_names)} tracks), "
        f"{known[2]} with a time"
    )


def read_evaluation_images(name: str, cfg=None) -> tuple[list, int]:
    """Query and gallery of a data set: the items (path, identity, camera), queries first, and the number of queries.

    Args:
        name: registered data set name.
        cfg: as for :func:`read_training_images`.

    Raises:
        UsageError: the name is not registered, its folder is missing, there are no query or gallery images, or no query
            has an image of the same identity by another camera in the gallery, which alone counts as a match.
    """
    data = _read(name, cfg, {"query": "query", "gallery": "gallery"})
    if comm.is_main_process():
        data.show_test()
    query, gallery = sorted(data.query), sorted(data.gallery)
    seen = {(identity, camera) for _, identity, camera in gallery}
    cameras = Counter(identity for identity, _ in seen)
    if not any(cameras[identity] > ((identity, camera) in seen) for _, identity, camera in query):
        raise UsageError(
            f"data set {name} cannot be evaluated: no query has an image of the same identity by another camera in the "
            f"gallery; {getattr(data, 'advice', _where_to_put())}"
        )
    return query + gallery, len(query)


def _read(name: str, cfg, parts: dict[str, str], **options):
    """The data set; ``parts``, attribute -> what the user calls it, are read and hold something."""
    reader = registered(DATASET_REGISTRY, name, "DATASETS")
    if cfg is not None and hasattr(reader, "from_config"):
        options.update(reader.from_config(cfg))
    try:
        data = reader(root=datasets_root(), **options)
        empty = [part for attribute, part in parts.items() if not getattr(data, attribute)]  # which lists the folder
    except (*_MISSING, *_UNEXPECTED) as error:
        reason = " ".join(str(error).split())
        if not isinstance(error, _MISSING):
            if not reader.__module__.startswith(_PUBLISHED):
                raise
            reason = f"a line of a list or the name of a file is not as expected ({type(error).__name__}: {reason})"
        raise UsageError(f"data set {name} cannot be read: {reason}; {_where_to_put()}") from error
    if empty and hasattr(data, "advice"):  # its reader has folders other than its data_dir
        raise UsageError(f"data set {name} has no {empty[0]} images; {data.advice}")
    if empty:
        folder = os.path.abspath(getattr(data, "data_dir", getattr(data, "dataset_dir", datasets_root())))
        raise UsageError(f"data set {name} has no {empty[0]} images in {folder}; {_where_to_put()}")
    return data


def _where_to_put() -> str:
    root = os.path.abspath(datasets_root())
    return (
        f"looked under {root}, which {ROOT_VARIABLE} sets; a Market-1501-style data set there holds bounding_box_train, "
        f"query and bounding_box_test (docs/howto/datasets.md has the layout of each)"
    )
