"""ATRW: Amur tigers in zoos, the re-identification part."""

from __future__ import annotations

import csv
import json
import os

from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset

from ..sightings import UNKNOWN, Sighting
from .market_layout import Item

_TRAIN_LIST, _TRAIN_IMAGES = "atrw_anno_reid_train/reid_list_train.csv", "atrw_reid_train/train"
_TEST_LIST, _TEST_IMAGES = "atrw_anno_reid_test/reid_list_test.csv", "atrw_reid_test/test"
# of the challenge's evaluation program, at the top or where its archive puts it
_TRUTHS = ("gt_test_plain.json", "eval_script/ATRWEvalScript-main/annotations/gt_test_plain.json")
# A match by the query's camera at most so many frames away is left out of the evaluation.
_NEAR_FRAMES = 3
_JUNK = -1


@DATASET_REGISTRY.register()
class ATRW(ImageDataset):
    """ATRW (Li et al., "ATRW: A Benchmark for Amur Tiger Re-identification in the Wild", ACM Multimedia 2020), plain track:
    1,887 training images of 107 entities; every one of the 1,764 test images, of 75 others, is a query to all of them.

    An entity is one side of a tiger, so a mirrored image is of no entity: leave ``INPUT.FLIP`` off. Cameras of training images
    are not published. In place of a camera, a test image has the number of its run: frames of one entity by one camera, each at
    most 3 after the one before. What the evaluation leaves out, matches by the query's "camera", is then what the challenge
    leaves out, matches at most 3 frames away, and what else the run holds.

    Args:
        root: folder that holds ``ATRW``; fastreid passes FASTREID_DATASETS or "datasets".

    Raises:
        FileNotFoundError: a file of it is missing.
    """

    dataset_name = "atrw"
    folder = "ATRW"
    queries = ("sing", "multi")

    def __init__(self, root: str = "datasets", **kwargs) -> None:
        self.dataset_dir = os.path.join(root, self.folder)
        images = self._there(_TRAIN_IMAGES)
        train = [
            (os.path.join(images, name), f"{self.dataset_name}_{entity}", UNKNOWN)
            for entity, name in self._rows(_TRAIN_LIST)
        ]
        query, gallery = self._read_test()
        super().__init__(sorted(train), query, gallery, **kwargs)

    def sighting(self, path: str) -> Sighting:
        """Nothing is known: runs are no cameras."""
        return Sighting(camera=UNKNOWN)

    def _read_test(self) -> tuple[list[Item], list[Item]]:
        truth = next((path for path in map(self._path, _TRUTHS) if os.path.isfile(path)), None)
        if truth is None:
            self._there(_TRUTHS[0])
        with open(truth, encoding="utf-8") as file:
            told = [image for image in json.load(file) if image["entityid"] != _JUNK]
        images = self._there(_TEST_IMAGES)
        names = {int(os.path.splitext(name)[0]): os.path.join(images, name) for name, *_ in self._rows(_TEST_LIST)}
        entities = [image["entityid"] for image in told]
        runs = _runs(entities, [image["frame"] for image in told])
        gallery = [(names[image["imgid"]], entity, run) for image, entity, run in zip(told, entities, runs)]
        query = [item for image, item in zip(told, gallery) if image["query"] in self.queries]
        return sorted(query), sorted(gallery)

    def _rows(self, name: str) -> list[list[str]]:
        with open(self._there(name), newline="", encoding="utf-8") as file:
            return [row for row in csv.reader(file) if row]

    def _path(self, name: str) -> str:
        return os.path.join(self.dataset_dir, name)

    def _there(self, name: str) -> str:
        if not os.path.exists(self._path(name)):
            parts = ", ".join((_TRAIN_LIST, _TRAIN_IMAGES, _TEST_LIST, _TEST_IMAGES, _TRUTHS[0]))
            raise FileNotFoundError(
                f"{self._path(name)} not found: {type(self).__name__} wants {self.folder}/ with {parts}"
            )
        return self._path(name)


@DATASET_REGISTRY.register()
class ATRWSingleCamera(ATRW):
    """The queries that the challenge counts as "single_cam": of entities that one camera saw."""

    queries = ("sing",)


@DATASET_REGISTRY.register()
class ATRWCrossCamera(ATRW):
    """The queries that the challenge counts as "cross_cam": of entities that several cameras saw."""

    queries = ("multi",)


def _runs(entities: list[int], frames: list[list[int]]) -> list[int]:
    """The number of each image's run; ``frames`` have two numbers that name the camera, and one of the frame."""
    runs = [0] * len(entities)
    number, before = -1, None
    for i in sorted(range(len(entities)), key=lambda i: (entities[i], frames[i])):
        *camera, frame = frames[i]
        if before is None or (entities[i], camera) != before[:2] or frame - before[2] > _NEAR_FRAMES:
            number += 1
        before = (entities[i], camera, frame)
        runs[i] = number
    return runs
