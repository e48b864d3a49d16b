"""Crops: a person in a scene, cut out as a detector would, with what stands in the way, seen by a camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .body import Pose
from .cameras import Camera, photograph, sample_drift, sample_view
from .drawing import Placement, draw_figure
from .people import Identity, sample_identity
from .scenes import HORIZON, SCENE_SIZE, scene
from .streams import Stream

CROP_SIZE = (64, 128)  # width, height in pixels
BODY_SHARE = (0.84, 0.98)  # body height per crop height
STRETCH = (1.02, 1.26)  # people are narrower than a box of 1 : 2, so boxes are stretched
OFFSET_X, OFFSET_Y = 2.2, 2.2  # pixels by which boxes miss the person, standard deviation
VIEW_JITTER_DEG = 8.0  # how much a walker's direction sways, standard deviation
TURN_SHARE, TURN_DEG = 0.25, 70.0  # share of walks with a bend, and how far it goes round
PHASE_STEP = (0.08, 0.30)  # gait between two pictures of a walk, in turns
OBSTACLE_SHARE, PASSER_SHARE = 0.06, 0.06
SCENE_ZOOM = (0.8, 1.35)
UNEVEN_LIGHT = 0.20  # largest change of brightness across a crop
SHADOW_SHARE = 0.06  # share of crops with a cast shadow over part of the picture
SHADOW_FACTOR = 0.62
JUNK_MISS = (0.30, 0.62)  # by how much of the crop a junk box misses its person
STRANGERS = 100_000  # how many different passers-by there are


@dataclass(frozen=True)
class Walk:
    """What the pictures of one identity by one camera have in common.

    Attributes:
        view: direction of walking in degrees, see `body.Pose`.
        turn: degrees by which it changes from the first to the last picture.
        phase, step: gait phase at the start and per picture, in turns.
        place: where in the scene, 0 (left edge) to 1.
        speed: change of place per picture.
        zoom: scene pixels per crop pixel.
        drift: gains of red, green and blue.
    """

    view: float
    turn: float
    phase: float
    step: float
    place: float
    speed: float
    zoom: float
    drift: tuple[float, float, float]

    def pose_at(self, index: int, count: int, camera: Camera, rng: np.random.Generator) -> Pose:
        """The pose in picture `index` of `count`."""
        share = index / max(1, count - 1)
        view = self.view + self.turn * share + rng.normal(0, VIEW_JITTER_DEG)
        return Pose(float(view % 360.0), float((self.phase + self.step * index) % 1.0), camera.pitch)


def sample_walk(camera: Camera, rng: np.random.Generator) -> Walk:
    """A walk past a camera."""
    turn = float(rng.uniform(-TURN_DEG, TURN_DEG)) if rng.random() < TURN_SHARE else 0.0
    return Walk(
        view=sample_view(camera, rng),
        turn=turn,
        phase=float(rng.random()),
        step=float(rng.uniform(*PHASE_STEP)),
        place=float(rng.random()),
        speed=float(rng.uniform(-0.02, 0.02)),
        zoom=float(rng.uniform(*SCENE_ZOOM)),
        drift=sample_drift(rng),
    )


def draw_person(
    identity: Identity,
    camera: Camera,
    view: float,
    rng: np.random.Generator,
    *,
    phase: float | None = None,
    walk: Walk | None = None,
    place: float | None = None,
    seed: int = 0,
    clutter: bool = True,
    miss: float = 0.0,
) -> Image.Image:
    """One crop of a person.

    Args:
        identity: who.
        camera: seen by which camera.
        view: the way the person faces, in degrees: 0 front, 90 to the picture's right, 180 back, 270 to the left.
        rng: random stream for everything that is not given; frames of a clip get equal streams, the same walk and
            a phase and a place that move on.
        phase: gait phase in turns, 0 to 1; random by default.
        walk: white balance and zoom of a walk; sampled by default.
        place: where in the scene, 0 to 1; the walk's by default.
        seed: which data set's scenes to use.
        clutter: whether obstacles and passers-by may hide parts.
        miss: share of the crop by which the box misses the person, 0 to 1 (junk images).

    Returns:
        RGB `PIL.Image`, 64 wide and 128 high.
    """
    walk = walk or sample_walk(camera, rng)
    pose = Pose(view, float(rng.random()) if phase is None else phase, camera.pitch)
    picture = cut_scene(seed, camera, walk.place if place is None else place, walk.zoom, rng)
    layers = [_person_layer(identity, pose, camera, rng, miss)]
    if clutter and rng.random() < PASSER_SHARE:
        layers.insert(int(rng.random() < 0.4), _passer_layer(seed, camera, rng))
    for layer in layers:
        picture.paste(layer, (0, 0), layer)
    if clutter and rng.random() < OBSTACLE_SHARE:
        _draw_obstacle(picture, rng)
    return photograph(_lit(picture, rng), camera, rng, walk.drift)


def draw_background(camera: Camera, rng: np.random.Generator, seed: int = 0) -> Image.Image:
    """A crop in which a detector saw a person where there is none; as `draw_person`."""
    walk = sample_walk(camera, rng)
    picture = cut_scene(seed, camera, walk.place, walk.zoom * float(rng.uniform(0.5, 1.2)), rng)
    if rng.random() < 0.6:
        _draw_obstacle(picture, rng)
    if rng.random() < 0.25:
        layer = _passer_layer(seed, camera, rng)
        picture.paste(layer, (0, 0), layer)
    return photograph(_lit(picture, rng), camera, rng, walk.drift)


def cut_scene(seed: int, camera: Camera, place: float, zoom: float, rng: np.random.Generator) -> Image.Image:
    """The piece of a camera's scene behind a crop: RGB, `CROP_SIZE`."""
    width, height = CROP_SIZE[0] * zoom, CROP_SIZE[1] * zoom
    # The lower edge lies on the ground, well below the horizon.
    bottom = min(SCENE_SIZE[1], HORIZON + 70 + rng.uniform(0, 70))
    top = max(0.0, bottom - height)
    left = (place % 1.0) * (SCENE_SIZE[0] - width)
    box = (left, top, left + width, min(SCENE_SIZE[1], top + height))
    return scene(seed, camera.number, camera.scene, camera.texture).resize(
        CROP_SIZE, Image.Resampling.BILINEAR, box=box
    )


def _person_layer(identity: Identity, pose: Pose, camera: Camera, rng: np.random.Generator, miss: float) -> Image.Image:
    height = CROP_SIZE[1] * rng.uniform(*BODY_SHARE)
    slack = CROP_SIZE[1] - height
    x = CROP_SIZE[0] / 2 + rng.normal(0, OFFSET_X)
    y = CROP_SIZE[1] - slack / 2 + rng.normal(0, OFFSET_Y)
    if miss:
        angle = rng.uniform(0, 2 * np.pi)
        x, y = x + miss * CROP_SIZE[0] * np.cos(angle), y + miss * CROP_SIZE[1] * np.sin(angle)
        height *= rng.uniform(0.8, 1.5)
    place = Placement(CROP_SIZE, (float(x), float(y)), float(height), float(rng.uniform(*STRETCH)))
    return draw_figure(identity, pose, place, rng, camera.light)


def _passer_layer(seed: int, camera: Camera, rng: np.random.Generator) -> Image.Image:
    """Another person at the edge of the crop."""
    stranger = sample_identity(seed, int(rng.integers(STRANGERS)), Stream.STRANGER)
    side = rng.choice((-1.0, 1.0))
    x = CROP_SIZE[0] / 2 + side * CROP_SIZE[0] * rng.uniform(0.40, 0.62)
    height = CROP_SIZE[1] * rng.uniform(0.75, 1.0)
    y = CROP_SIZE[1] * rng.uniform(0.92, 1.04)
    pose = Pose(sample_view(camera, rng), float(rng.random()), camera.pitch)
    place = Placement(CROP_SIZE, (float(x), float(y)), float(height), float(rng.uniform(*STRETCH)))
    return draw_figure(stranger, pose, place, rng, camera.light)


def _draw_obstacle(picture: Image.Image, rng: np.random.Generator) -> None:
    """Paints something that stands between camera and person: a bollard, a hedge, a rail, a pole."""
    draw = ImageDraw.Draw(picture)
    width, height = CROP_SIZE
    grey = int(rng.integers(50, 190))
    kind = int(rng.integers(4))
    x = float(rng.uniform(0, width))
    if kind == 0:
        top = height * rng.uniform(0.60, 0.80)
        draw.rounded_rectangle((x - 6, top, x + 6, height), 4, fill=(52, 54, 60))
        draw.rectangle((x - 6, top + 6, x + 6, top + 10), fill=(200, 60, 50))
    elif kind == 1:
        top = height * rng.uniform(0.70, 0.88)
        draw.rectangle((0, top, width, height), fill=(70, 92, 54))
        for _ in range(26):
            bx, by, green = rng.uniform(0, width), rng.uniform(top - 3, height), int(rng.integers(70, 120))
            draw.ellipse((bx - 5, by - 4, bx + 5, by + 4), fill=(green - 22, green, green - 40))
    elif kind == 2:
        top = height * rng.uniform(0.55, 0.8)
        for y in (top, top + 12):
            draw.rectangle((0, y, width, y + 3), fill=(grey, grey, grey))
        draw.rectangle((x, top, x + 4, height), fill=(grey, grey, grey))
    else:
        x = float(rng.choice((rng.uniform(0, 0.3), rng.uniform(0.7, 1.0))) * width)
        draw.rectangle((x - 4, 0, x + 4, height), fill=(grey, int(grey * 0.96), int(grey * 0.9)))


def _lit(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Uneven light: a slope of brightness over the crop and sometimes a cast shadow with a slanted edge."""
    width, height = picture.size
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :]
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    slope_x, slope_y = rng.uniform(-UNEVEN_LIGHT, UNEVEN_LIGHT, 2)
    field = 1.0 + np.float32(slope_x) * x + np.float32(slope_y) * y
    if rng.random() < SHADOW_SHARE:
        edge = (x * rng.uniform(-1, 1) + y * rng.uniform(0.3, 1.0) - rng.uniform(-0.3, 0.3)).astype(np.float32)
        soft = 1.0 / (1.0 + np.exp(-edge * 40.0))
        field = field * (1.0 - (1.0 - SHADOW_FACTOR) * soft)
    levels = np.asarray(picture, dtype=np.float32) * field[..., None]
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))
