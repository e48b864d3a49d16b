"""What groups may follow instead of people: cameras, backgrounds; and pictures that are no crops of people. Needs no labels."""

from typing import NamedTuple, Optional, Sequence

import numpy as np
from PIL import Image

from ..clustering import OUTLIER
from ..data.reading import decode_rgb, read_many
from ..utils.parallel import num_threads

# Images that are looked at, so many at most of every group: a second of reading.
_MOST_IMAGES, _MOST_OF_A_GROUP = 2000, 20
# Width and height of the pictures that colours are compared in, and which columns are edge and middle.
_SMALL, _EDGE, _MIDDLE = (8, 16), [0, 7], slice(2, 6)
# Groups follow cameras where their largest camera's share lies so far between chance and 1. On Market-1501's training images
# first labellings, whose groups are tracks of people, reached 0.6.
_FOLLOW_CAMERAS = 0.8


class Evidence(NamedTuple):
    """Of the images in groups.

    Attributes:
        camera: share of a group's images by its most frequent camera, the mean over images whose camera is known; None with
            fewer than two cameras.
        camera_chance: the same with the cameras dealt out at random.
        edge: share of the variance of the colours at the left and right edge of the images that the groups explain,
            adjusted for the number of groups (0: none beyond chance). Market-1501's people explain 0.08, its cameras 0.09.
        middle: the same for the middle. Market-1501's people explain 0.41, its cameras 0.05.
        tall: share of the images that are taller than wide.
    """

    camera: Optional[float]
    camera_chance: Optional[float]
    edge: float
    middle: float
    tall: float

    def suspicions(self, scenes: int) -> dict[str, str]:
        """What the groups, or the images, seem to be instead -> one line with the numbers and a key to turn.

        Args:
            scenes: ``ISE.APPEARANCE.SCENES`` of the run.
        """
        found: dict[str, str] = {}
        better = "try weights that have seen people (MODEL.BACKBONE.PRETRAIN_PATH)"
        if not scenes:
            better += ", or take scenes out (ISE.APPEARANCE.SCENES 32)"
        if self.camera is not None and self.camera - self.camera_chance > _FOLLOW_CAMERAS * (1 - self.camera_chance):
            found["cameras"] = (
                f"{self.camera:.0%} of a group's images are by one camera ({self.camera_chance:.0%} by chance), so the groups "
                f"follow cameras: {better}"
            )
        if self.edge > self.middle:
            found["backgrounds"] = (
                f"groups explain {self.edge:.0%} of the colours at the edges of the images and {self.middle:.0%} in the middle, "
                f"so they follow the background: crop closer, or {better}"
            )
        if self.tall < 0.5:
            found["no crops of people"] = (
                f"{1 - self.tall:.0%} of the images are not taller than wide, as crops of people are: is it the right folder "
                "(DATASETS.FOLDER.ROOT)?"
            )
        return found


def gather_evidence(paths: Sequence[str], labels: np.ndarray, cameras: np.ndarray) -> Evidence:
    """Looks at a sample of the groups; the same each time.

    Args:
        paths: N files; what cannot be read is left out.
        labels: (N,) int64, -1 for outliers; at least one group.
        cameras: (N,) int64; -1: unknown.
    """
    random, clustered = np.random.default_rng(0), np.flatnonzero(labels != OUTLIER)
    shuffled = random.permutation(clustered)
    place = random.permutation(labels.max() + 1)[labels[shuffled]]  # of the image's group in a random order
    shuffled, place = shuffled[np.argsort(place, kind="stable")], np.sort(place)
    within = np.arange(len(place)) - np.searchsorted(place, place)  # number of the image in its group
    sample = shuffled[within < _MOST_OF_A_GROUP][:_MOST_IMAGES]
    found = list(read_many([paths[i] for i in sample], _small, num_threads()))
    read = [(one.value, label) for one, label in zip(found, labels[sample]) if one.reason is None]
    pictures, tall, of = [], [], np.array([label for _, label in read], np.int64)
    for (picture, is_tall), _ in read:
        pictures.append(picture)
        tall.append(is_tall)
    colors = np.array(pictures, np.float64).reshape(len(pictures), _SMALL[1], _SMALL[0], 3)
    edge, middle = (explained(colors[:, :, part], of) for part in (_EDGE, _MIDDLE))
    camera = chance = None
    if len(np.unique(cameras[cameras >= 0])) > 1 and (cameras[clustered] >= 0).any():
        known = clustered[cameras[clustered] >= 0]
        of_camera, of_group = cameras[known], labels[known]
        camera = largest_share(of_group, of_camera)
        chance = largest_share(of_group, random.permutation(of_camera))
    return Evidence(camera, chance, edge, middle, float(np.mean(tall)) if tall else 1.0)


def _small(content: bytes) -> tuple[np.ndarray, bool]:
    image = decode_rgb(content)
    return np.asarray(image.resize(_SMALL, Image.Resampling.BOX)), image.height > image.width


def explained(values: np.ndarray, groups: np.ndarray) -> float:
    """Share of the variance of values (N, ...) that lies between groups (N,), at most 1, adjusted for their number: about 0 for
    groups at random. 0 where nothing varies or every group is one value."""
    _, groups, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    freedom = len(values) - len(sizes)
    if freedom <= 0:
        return 0.0
    values = values.reshape(len(values), -1)
    total = ((values - values.mean(0)) ** 2).sum()
    if not total:
        return 0.0
    means = np.zeros((len(sizes), values.shape[1]))
    np.add.at(means, groups, values)
    inside = ((values - (means / sizes[:, None])[groups]) ** 2).sum()
    return float(1 - (inside / freedom) / (total / (len(values) - 1)))


def largest_share(groups: np.ndarray, cameras: np.ndarray) -> float:
    """Share of images (N,) that are by the most frequent camera of their group."""
    pairs, counts = np.unique(np.stack([groups, cameras]), axis=1, return_counts=True)
    most = np.zeros(groups.max() + 1, np.int64)
    np.maximum.at(most, pairs[0], counts)
    return float(most.sum() / len(groups))
