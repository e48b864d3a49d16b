"""A generated clip: drawn people walk back and forth in front of one drawn camera, behind one another and a pillar."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[1] / "SyntheticPersons"))
from synthetic_persons import Identity, Placement, Pose, draw_figure, make_cameras, sample_identity
from synthetic_persons.cameras import photograph
from synthetic_persons.scenes import SCENE_SIZE, scene

# Whose cameras and scenes: those of the training data, as for a model trained on crops of one's own cameras.
SITE_SEED = 0
# Pixels.
FOOT_ROWS = (168, 244)
HEIGHT_AT_FRONT = 118
SHRINK_PER_ROW = 0.0045
SPEEDS = (3.0, 7.5)
OUTSIDE = 45
PILLAR = (330, 400)
FIGURE_SIZE = (110, 150)
BOX_WIDTH = 0.52  # of the height
BOX_NOISE = 1.5
# Share of a box that has to be free for the detector to see it, and share of free boxes that it misses all the same.
LEAST_VISIBLE, MISSES = 0.5, 0.04
RIGHT, LEFT = 90.0, 270.0  # directions of walking, degrees
VIEW_JITTER = 10.0


class Frame(NamedTuple):
    """A picture (H, W, 3), uint8, RGB; boxes (left, top, width, height) in pixels; and who is in each, for counting only."""

    picture: np.ndarray
    boxes: list
    people: list


@dataclass
class _Walker:
    identity: Identity
    number: int
    x: float
    foot: float
    speed: float
    phase: float
    heading: float = 1.0
    pause: int = 0

    @property
    def height(self) -> float:
        return HEIGHT_AT_FRONT * (1 - SHRINK_PER_ROW * (FOOT_ROWS[1] - self.foot))

    def step(self, rng: np.random.Generator) -> None:
        """Walks on; outside the picture it waits a while and comes back."""
        if self.pause:
            self.pause -= 1
            return
        self.x += self.heading * self.speed
        self.phase = (self.phase + self.speed / 45) % 1.0
        if not -OUTSIDE <= self.x <= SCENE_SIZE[0] + OUTSIDE:
            self.heading = -self.heading
            self.x = float(np.clip(self.x, -OUTSIDE, SCENE_SIZE[0] + OUTSIDE))
            self.foot, self.pause = float(rng.uniform(*FOOT_ROWS)), int(rng.integers(2, 12))

    def box(self) -> tuple:
        width = BOX_WIDTH * self.height
        return self.x - width / 2, self.foot - self.height, width, self.height * 1.02


def make_clip(seed: int, people: int = 9, frames: int = 150, camera: int = 1) -> Iterator[Frame]:
    """The frames of a clip.

    Args:
        seed: of the people and their walks; other seeds have other people, and none is in the training data of seed 0
            (for seeds from 1).
        people: how many walk.
        frames: how many pictures.
        camera: 1 to 6.
    """
    rng = np.random.default_rng(seed)
    eye = make_cameras(SITE_SEED)[camera - 1]
    background = scene(SITE_SEED, camera, eye.scene)
    walkers = [_walker(seed, number, rng) for number in range(1, people + 1)]
    for _ in range(frames):
        for walker in walkers:
            walker.step(rng)
        walkers.sort(key=lambda walker: walker.foot)  # from far to near
        picture = background.copy()
        for walker in walkers:
            _paint(picture, walker, eye, rng)
        ImageDraw.Draw(picture).rectangle((PILLAR[0], 0, PILLAR[1], SCENE_SIZE[1]), fill=(120, 116, 110))
        picture = np.asarray(photograph(picture, eye, rng))
        yield Frame(picture, *_detections(walkers, rng))


def _walker(seed: int, number: int, rng: np.random.Generator) -> _Walker:
    return _Walker(
        sample_identity(seed, number),
        number,
        x=float(rng.uniform(0, SCENE_SIZE[0])),
        foot=float(rng.uniform(*FOOT_ROWS)),
        speed=float(rng.uniform(*SPEEDS)),
        phase=float(rng.random()),
        heading=float(rng.choice((-1.0, 1.0))),
    )


def _paint(picture: Image.Image, walker: _Walker, eye, rng: np.random.Generator) -> None:
    if walker.pause:
        return
    view = (RIGHT if walker.heading > 0 else LEFT) + rng.normal(0, VIEW_JITTER)
    place = Placement(FIGURE_SIZE, (FIGURE_SIZE[0] / 2, FIGURE_SIZE[1] - 12), walker.height, 1.1)
    figure = draw_figure(walker.identity, Pose(view, walker.phase, eye.pitch), place, rng, eye.light)
    corner = round(walker.x - FIGURE_SIZE[0] / 2), round(walker.foot - FIGURE_SIZE[1] + 12)
    picture.paste(figure, corner, figure)


def _detections(walkers: list, rng: np.random.Generator) -> tuple[list, list]:
    """Boxes of those who can be seen, a little off, and whose they are."""
    boxes, people = [], []
    in_front = np.zeros(SCENE_SIZE[::-1], bool)
    in_front[:, PILLAR[0] : PILLAR[1]] = True
    for walker in reversed(walkers):
        if walker.pause:
            continue
        left, top, width, height = walker.box()
        columns = slice(max(0, round(left)), max(0, round(left + width)))
        rows = slice(max(0, round(top)), max(0, round(top + height)))
        free = (~in_front[rows, columns]).sum() / (width * height)
        in_front[rows, columns] = True
        if free >= LEAST_VISIBLE and rng.random() >= MISSES:
            noise = rng.normal(0, BOX_NOISE, 4)
            boxes.append([float(v) for v in np.array([left, top, width, height]) + noise])
            people.append(walker.number)
    return boxes, people
