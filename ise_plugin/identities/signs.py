"""What groups may follow instead of people: cameras, backgrounds; and pictures that are no crops of people. Needs no labels."""

from typing import NamedTuple, Optional, Sequence

import numpy as np

from ..clustering import OUTLIER
from ..clustering.quality import explained, purity
from ..data.thumbnails import small_pictures

# Images that are looked at, so many at most of every group: a second of reading.
_MOST_IMAGES, _MOST_OF_A_GROUP = 2000, 20
# Groups follow cameras where their largest camera's share lies so far between chance and 1. On Market-1501's training images
# first labellings, whose groups are tracks of people, reached 0.6.
_FOLLOW_CAMERAS = 0.8


class Signs(NamedTuple):
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


def gather_signs(paths: Sequence[str], labels: np.ndarray, cameras: np.ndarray) -> Signs:
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
    pictures = small_pictures([paths[i] for i in sample])
    of = labels[sample][pictures.places]
    edge, middle = explained(pictures.edges, of), explained(pictures.middles, of)
    camera = chance = None
    if len(np.unique(cameras[cameras >= 0])) > 1 and (cameras[clustered] >= 0).any():
        known = clustered[cameras[clustered] >= 0]
        of_camera, of_group = cameras[known], labels[known]
        camera, chance = purity(of_group, of_camera), purity(of_group, random.permutation(of_camera))
    return Signs(camera, chance, edge, middle, float(pictures.tall.mean()) if len(pictures.tall) else 1.0)
