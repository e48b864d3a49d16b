"""Cameras: what a camera looks at, from which side it usually sees people, and what it does to colours and detail."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageFilter

from .scenes import SCENE_KINDS
from .streams import Stream, stream

MIN_CAMERAS, MAX_CAMERAS = 2, 6

# Gains of red, green and blue: the colour casts that are dealt out to the cameras.
CASTS = (
    (1.00, 1.00, 1.00),
    (1.06, 1.00, 0.92),
    (0.93, 0.99, 1.08),
    (0.97, 1.04, 0.95),
    (1.04, 0.97, 1.03),
    (1.02, 1.02, 0.94),
)
GAMMAS = (0.92, 0.96, 1.0, 1.04, 1.08, 1.12)
FAVOURITE_VIEWS = (10.0, 175.0, 65.0, 320.0, 215.0, 130.0)
FAVOURITE_SHARE = 0.5  # share of walks that follow the favourite direction; the others go anywhere
VIEW_SPREAD_DEG = 22.0  # how closely they follow it, standard deviation
BLURS = (0.2, 0.3, 0.35, 0.4, 0.45, 0.5)  # pixels
NOISES = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0)  # 8-bit levels, standard deviation
RESOLUTIONS = (1.0, 0.96, 0.92, 0.88, 0.84, 0.80)  # detail left by the distance: pixels really seen per pixel written
SATURATIONS = (1.05, 1.02, 1.0, 0.97, 0.94, 0.91)
JPEG_QUALITIES = (92, 90, 88, 84, 80, 76)
CAST_JITTER = 0.02  # drift of the white balance between walks, standard deviation per channel
EXPOSURE_JITTER = 0.04
STANDARD_STRENGTH = 1.0  # of the cameras; above it, gains, gamma and saturation are raised to that power


@dataclass(frozen=True)
class Camera:
    """One camera.

    Attributes:
        number: from 1, as file names have it.
        scene: one of `scenes.SCENE_KINDS`.
        gain: factors on red, green and blue.
        gamma: exponent on levels in 0..1; above 1 darkens.
        saturation: 1 keeps colours, 0 is grey.
        blur: Gaussian blur in pixels.
        noise: standard deviation in 8-bit levels.
        resolution: pixels seen per pixel written, 0 to 1.
        favourite_view: the view in degrees (see `body.Pose`) from which most people are seen.
        pitch: how far it looks down, in degrees.
        light: direction of the light, (right, up).
        jpeg_quality: 1 to 95.
        texture: weight of its own pattern in the scene, 0 (none) to 1 (nothing else).
    """

    number: int
    scene: str
    gain: tuple[float, float, float]
    gamma: float
    saturation: float
    blur: float
    noise: float
    resolution: float
    favourite_view: float
    pitch: float
    light: tuple[float, float]
    jpeg_quality: int
    texture: float = 0.0


def make_cameras(seed: int, count: int = MAX_CAMERAS, strength: float = STANDARD_STRENGTH) -> tuple[Camera, ...]:
    """The cameras of a data set: each trait is dealt out in an order of its own, so that another seed mixes them anew.

    Args:
        seed: the data set's seed, 0 or more.
        count: how many, 2 to 6.
        strength: how much they differ in colours and background, 1 or more.

    Raises:
        ValueError: count or strength out of range.
    """
    if not MIN_CAMERAS <= count <= MAX_CAMERAS:
        raise ValueError(f"cameras must be {MIN_CAMERAS} to {MAX_CAMERAS}, got {count}")
    if not STANDARD_STRENGTH <= strength < float("inf"):
        raise ValueError(f"the strength of the cameras must be {STANDARD_STRENGTH:g} or more, got {strength}")
    rng = stream(seed, Stream.CAMERA)
    order = [rng.permutation(MAX_CAMERAS) for _ in range(9)]
    # Blur, noise and resolution have an order each: the worst of all in one camera would be hopeless. Compression
    # follows resolution, as a far camera's small pictures are also sent with fewer bytes.
    cameras = []
    for i in range(MAX_CAMERAS):
        cameras.append(
            Camera(
                number=i + 1,
                scene=SCENE_KINDS[order[0][i]],
                gain=tuple(gain**strength for gain in CASTS[order[1][i]]),
                gamma=GAMMAS[order[2][i]] ** strength,
                saturation=SATURATIONS[order[3][i]] ** strength,
                blur=BLURS[order[4][i]],
                noise=NOISES[order[5][i]],
                resolution=RESOLUTIONS[order[6][i]],
                favourite_view=FAVOURITE_VIEWS[order[7][i]],
                pitch=4.0 + 3.0 * float(order[8][i]),
                light=(float(rng.uniform(-0.9, 0.9)), float(rng.uniform(0.3, 1.0))),
                jpeg_quality=JPEG_QUALITIES[order[6][i]],
                texture=1.0 - (STANDARD_STRENGTH / strength) ** 2,
            )
        )
    return tuple(cameras[:count])


def sample_view(camera: Camera, rng: np.random.Generator) -> float:
    """From which side a camera sees somebody who walks past, in degrees, 0 to 360."""
    if rng.random() < FAVOURITE_SHARE:
        return float(rng.normal(camera.favourite_view, VIEW_SPREAD_DEG) % 360.0)
    return float(rng.uniform(0.0, 360.0))


def sample_drift(rng: np.random.Generator) -> tuple[float, float, float]:
    """Gains by which white balance and exposure differ between two walks past one camera."""
    exposure = 1.0 + rng.normal(0, EXPOSURE_JITTER)
    red, green, blue = (float(v) for v in exposure * (1.0 + rng.normal(0, CAST_JITTER, 3)))
    return red, green, blue


def photograph(
    image: Image.Image, camera: Camera, rng: np.random.Generator, drift: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Image.Image:
    """What the camera makes of a clean picture: less detail, its colours, noise.

    Args:
        image: RGB picture.
        camera: whose colours, blur and noise.
        rng: random stream for the noise.
        drift: further gains of red, green and blue.

    Returns:
        RGB picture of the same size.
    """
    size = image.size
    if camera.resolution < 1.0:
        small = (max(1, round(size[0] * camera.resolution)), max(1, round(size[1] * camera.resolution)))
        image = image.resize(small, Image.Resampling.BOX).resize(size, Image.Resampling.BICUBIC)
    image = image.filter(ImageFilter.GaussianBlur(camera.blur))
    levels = np.asarray(image, dtype=np.float32) / 255.0
    grey = levels.mean(axis=2, keepdims=True)
    levels = grey + camera.saturation * (levels - grey)
    levels = levels * np.asarray(camera.gain, dtype=np.float32) * np.asarray(drift, dtype=np.float32)
    levels = np.clip(levels, 0.0, 1.0) ** np.float32(camera.gamma)
    levels = levels * 255.0 + rng.standard_normal(levels.shape, dtype=np.float32) * np.float32(camera.noise)
    return Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8))


def to_jpeg(image: Image.Image, camera: Camera) -> bytes:
    """The picture as the camera's JPEG file."""
    buffer = BytesIO()
    image.save(buffer, format="JPEG", quality=camera.jpeg_quality)
    return buffer.getvalue()
