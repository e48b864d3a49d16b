"""The plan of a data set: which pictures there are, before a single one is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .cameras import MAX_CAMERAS, MIN_CAMERAS
from .people import LOOK_ALIKE_PERIOD
from .streams import Stream, stream

TRAIN_DIR, QUERY_DIR, GALLERY_DIR = "bounding_box_train", "query", "bounding_box_test"
FOLDERS = (TRAIN_DIR, QUERY_DIR, GALLERY_DIR)
DISTRACTOR_PID, JUNK_PID = 0, -1
# Numbers of one group go to the same split, so that look-alikes meet.
LOOK_ALIKE_GROUP = LOOK_ALIKE_PERIOD
MOST_PER_WALK = 12  # no identity has more pictures than this from one camera, unless there is no other way
FRAMES_BETWEEN = 25


@dataclass(frozen=True)
class Size:
    """How large a data set is; counts are those of the whole set.

    Attributes:
        train_identities, test_identities: how many people.
        train_walks, test_walks: pairs of identity and camera with six cameras; each test pair gives one query image.
        train_images, gallery_images: pictures of people in the training and the gallery folder.
        distractors: further gallery images, of no test identity (0000).
        junk: further gallery images, badly cut (-1); readers skip them.
    """

    train_identities: int
    test_identities: int
    train_walks: int
    test_walks: int
    train_images: int
    gallery_images: int
    distractors: int
    junk: int


SIZES: dict[str, Size] = {
    "tiny": Size(12, 8, 40, 28, 150, 80, 10, 6),
    "demo": Size(150, 100, 640, 430, 2500, 1700, 250, 150),
    "market": Size(751, 750, 3372, 3368, 12936, 13115, 2798, 3819),
}


@dataclass(frozen=True)
class ImagePlan:
    """One picture to be drawn.

    Attributes:
        folder: one of `FOLDERS`.
        pid: identity number from 1; 0 for a distractor, -1 for junk.
        person: number of the identity that is drawn; of a stranger where pid is 0, of a test identity where it is -1.
        camera: from 1.
        index, count: which picture of how many of this identity by this camera.
        name: file name.
    """

    folder: str
    pid: int
    person: int
    camera: int
    index: int
    count: int
    name: str


def make_plan(size: str, seed: int = 0, cameras: int = MAX_CAMERAS) -> list[ImagePlan]:
    """All pictures of a data set.

    Args:
        size: a key of `SIZES`.
        seed: 0 or more.
        cameras: 2 to 6; with fewer than six, identities are seen by fewer cameras each, and so there are fewer query
            images; the other counts stay.

    Returns:
        The pictures in a fixed order; names are unique within a folder.

    Raises:
        ValueError: unknown size, negative seed, or cameras out of range.
    """
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}, known: {', '.join(SIZES)}")
    if not MIN_CAMERAS <= cameras <= MAX_CAMERAS:
        raise ValueError(f"cameras must be {MIN_CAMERAS} to {MAX_CAMERAS}, got {cameras}")
    counts = SIZES[size]
    rng = stream(seed, Stream.PLAN, list(SIZES).index(size), cameras)
    train, test = _split_identities(counts.train_identities, counts.test_identities, rng)
    train_walks = _deal_walks(train, counts.train_walks, cameras, rng)
    test_walks = _deal_walks(test, counts.test_walks, cameras, rng)
    plan = _plan_train(train_walks, counts.train_images, rng)
    plan += _plan_test(test_walks, counts.gallery_images, rng)
    plan += _plan_extras(DISTRACTOR_PID, counts.distractors, None, cameras, rng)
    plan += _plan_extras(JUNK_PID, counts.junk, test, cameras, rng)
    return plan


def _split_identities(train: int, test: int, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Numbers 1 .. train + test, dealt to the two parts by groups of look-alikes."""
    numbers = np.arange(1, train + test + 1)
    groups = numbers // LOOK_ALIKE_GROUP
    dealt = [int(n) for g in rng.permutation(groups.max() + 1) for n in numbers[groups == g]]
    return sorted(dealt[:train]), sorted(dealt[train:])


def _deal_walks(people: list[int], total: int, cameras: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Pairs of identity and camera: every identity is seen by at least two cameras."""
    if cameras < MAX_CAMERAS:
        # Keep the share of the cameras that see somebody, between the two that everybody needs and all of them.
        share = (total / len(people) - MIN_CAMERAS) / (MAX_CAMERAS - MIN_CAMERAS)
        total = round(len(people) * (MIN_CAMERAS + share * (cameras - MIN_CAMERAS)))
    seen = np.full(len(people), MIN_CAMERAS)
    room = np.repeat(np.arange(len(people)), cameras - MIN_CAMERAS)
    np.add.at(seen, rng.permutation(room)[: total - seen.sum()], 1)
    return [
        (pid, int(camera) + 1)
        for pid, n in zip(people, seen)
        for camera in sorted(rng.choice(cameras, size=int(n), replace=False))
    ]


def _deal_images(walks: int, total: int, rng: np.random.Generator) -> np.ndarray:
    """How many pictures each walk gets: at least one, some walks many more than others."""
    most = max(MOST_PER_WALK, -(-total // walks) + 2)
    counts = np.ones(walks, dtype=np.int64)
    liking = rng.gamma(2.0, size=walks)
    while (left := total - counts.sum()) > 0:
        open_ = counts < most
        chosen = rng.choice(walks, size=int(left), p=liking * open_ / (liking * open_).sum())
        counts = np.minimum(counts + np.bincount(chosen, minlength=walks), most)
    return counts


def _name(pid: int, camera: int, frame: int, box: int) -> str:
    number = "-1" if pid == JUNK_PID else f"{pid:04d}"
    return f"{number}_c{camera}s{1 + frame // 40_000}_{frame:06d}_{box:02d}.jpg"


def _walk_images(pid: int, camera: int, count: int, rng: np.random.Generator) -> list[tuple[int, str]]:
    start = int(rng.integers(1, 100_000))
    return [(i, _name(pid, camera, start + FRAMES_BETWEEN * i, int(rng.integers(1, 6)))) for i in range(count)]


def _plan_train(walks: list[tuple[int, int]], total: int, rng: np.random.Generator) -> list[ImagePlan]:
    plan = []
    for (pid, camera), count in zip(walks, _deal_images(len(walks), total, rng)):
        for index, name in _walk_images(pid, camera, int(count), rng):
            plan.append(ImagePlan(TRAIN_DIR, pid, pid, camera, index, int(count), name))
    return plan


def _plan_test(walks: list[tuple[int, int]], gallery: int, rng: np.random.Generator) -> list[ImagePlan]:
    """One picture of every walk is the query, the others go to the gallery (there is always another)."""
    plan = []
    for (pid, camera), in_gallery in zip(walks, _deal_images(len(walks), gallery, rng)):
        count = int(in_gallery) + 1
        query = int(rng.integers(count))
        for index, name in _walk_images(pid, camera, count, rng):
            folder = QUERY_DIR if index == query else GALLERY_DIR
            plan.append(ImagePlan(folder, pid, pid, camera, index, count, name))
    return plan


def _plan_extras(
    pid: int, total: int, people: list[int] | None, cameras: int, rng: np.random.Generator
) -> list[ImagePlan]:
    plan = []
    for index in range(total):
        camera = int(rng.integers(1, cameras + 1))
        person = index if people is None else int(rng.choice(people))
        # The running number keeps names unique.
        name = _name(pid, camera, 100_000 + index, int(rng.integers(1, 6)))
        plan.append(ImagePlan(GALLERY_DIR, pid, person, camera, index, total, name))
    return plan
