"""Scenes: one wide background per camera, from which every crop of that camera cuts its own piece."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .streams import Stream, stream
from .wardrobe import Colour

SCENE_SIZE = (720, 250)  # pixels, at the scale of a crop of 64 x 128
HORIZON = 96  # row where the ground begins
SCENE_BLUR = 0.9  # pixels: what is behind a person is out of focus
SURFACE_NOISE = 7.0  # 8-bit levels of fine texture, standard deviation
MOTTLE_NOISE = 11.0  # 8-bit levels of stains and dapples, standard deviation
PATTERN_PERIOD = (8.0, 24.0)  # pixels
SCENE_KINDS = ("lawn", "brick wall", "road", "shop front", "plaza", "underpass")


@lru_cache(maxsize=16)
def scene(seed: int, camera: int, kind: str, texture: float = 0.0) -> Image.Image:
    """The background of one camera.

    Args:
        seed: the data set's seed.
        camera: the camera's number, from 1.
        kind: one of `SCENE_KINDS`.
        texture: weight of the camera's own pattern over the scene, 0 to 1.

    Returns:
        RGB `PIL.Image` of `SCENE_SIZE`; the same object for the same arguments, so do not change it.

    Raises:
        ValueError: unknown kind.
    """
    if kind not in _PAINTERS:
        raise ValueError(f"unknown scene {kind!r}, known: {', '.join(SCENE_KINDS)}")
    rng = stream(seed, Stream.SCENE, camera)
    image = Image.new("RGB", SCENE_SIZE)
    _PAINTERS[kind](ImageDraw.Draw(image), rng)
    image = image.filter(ImageFilter.GaussianBlur(SCENE_BLUR))
    image = _textured(image, rng)
    return Image.blend(image, _pattern(rng), texture) if texture else image


def _textured(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    width, height = image.size
    fine = rng.normal(0, SURFACE_NOISE, (height, width))
    coarse = Image.fromarray(rng.normal(0, MOTTLE_NOISE, (height // 12, width // 12)).astype(np.float32))
    mottle = np.asarray(coarse.resize(image.size, Image.Resampling.BICUBIC))
    levels = np.asarray(image, dtype=np.float32) + (fine + mottle)[..., None]
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


def _pattern(rng: np.random.Generator) -> Image.Image:
    """Two gratings across one another, in two colours: another for every camera."""
    y, x = np.mgrid[: SCENE_SIZE[1], : SCENE_SIZE[0]].astype(np.float32)
    waves = np.zeros_like(x)
    for across in (0.0, np.pi / 2):
        angle, period = rng.uniform(0, np.pi) + across, rng.uniform(*PATTERN_PERIOD)
        waves += np.sign(np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period)))
    share = (waves / 4 + 0.5)[..., None]
    colours = rng.uniform(0, 255, (2, 3))
    return Image.fromarray((colours[0] + share * (colours[1] - colours[0])).astype(np.uint8))


def _tint(rng: np.random.Generator, colour: Colour, spread: float = 10.0) -> Colour:
    red, green, blue = (int(v) for v in np.clip(np.asarray(colour) + rng.normal(0, spread, 3), 0, 255))
    return red, green, blue


def _ground(draw: ImageDraw.ImageDraw, near: Colour, far: Colour) -> None:
    rows = SCENE_SIZE[1] - HORIZON
    for row in range(rows):
        share = row / rows
        mixed = tuple(int(f + share * (n - f)) for n, f in zip(near, far))
        draw.line((0, HORIZON + row, SCENE_SIZE[0], HORIZON + row), fill=mixed)


def _joints(draw: ImageDraw.ImageDraw, colour: Colour, step: int, slant: float) -> None:
    """Joints of a paved ground: rows that grow wider apart towards the camera, and slanted columns."""
    row, gap = float(HORIZON + 4), 5.0
    while row < SCENE_SIZE[1]:
        draw.line((0, row, SCENE_SIZE[0], row), fill=colour)
        row, gap = row + gap, gap * 1.28
    middle = SCENE_SIZE[0] / 2
    for x in range(-SCENE_SIZE[0], 2 * SCENE_SIZE[0], step):
        draw.line((x, HORIZON, x + (x - middle) * 0.7 + slant * 90, SCENE_SIZE[1]), fill=colour)


def _lawn(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, SCENE_SIZE[0], HORIZON), fill=_tint(rng, (150, 165, 160)))
    _ground(draw, (104, 128, 66), (126, 140, 88))
    path = _tint(rng, (176, 166, 148))
    draw.polygon([(0, 150), (SCENE_SIZE[0], 132), (SCENE_SIZE[0], 205), (0, 222)], fill=path)
    for x in range(-20, SCENE_SIZE[0], 24):
        radius = rng.uniform(16, 36)
        y = rng.uniform(20, HORIZON - 8)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_tint(rng, (66, 92, 50), 14))
    for _ in range(9):
        x, width = rng.uniform(0, SCENE_SIZE[0]), rng.uniform(5, 10)
        draw.rectangle((x, 0, x + width, HORIZON + rng.uniform(4, 26)), fill=_tint(rng, (84, 68, 54), 8))


def _brick_wall(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    bottom = HORIZON + 34
    wall = _tint(rng, (150, 92, 74), 12)
    _ground(draw, (150, 146, 138), (132, 128, 122))
    draw.rectangle((0, 0, SCENE_SIZE[0], bottom), fill=wall)
    for row, y in enumerate(range(0, bottom, 6)):
        for x in range(-14 + 7 * (row % 2), SCENE_SIZE[0], 14):
            draw.rectangle((x, y, x + 12, y + 4), fill=_tint(rng, wall, 8))
    for x in range(30, SCENE_SIZE[0], 120):
        draw.rectangle((x, 14, x + 46, 78), fill=(214, 210, 202))
        draw.rectangle((x + 4, 18, x + 42, 74), fill=_tint(rng, (70, 84, 98)))
        draw.line((x + 23, 18, x + 23, 74), fill=(214, 210, 202), width=3)
    _joints(draw, (118, 114, 108), 46, 0.3)
    draw.rectangle((0, bottom - 8, SCENE_SIZE[0], bottom), fill=(118, 112, 106))


def _road(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, SCENE_SIZE[0], HORIZON), fill=_tint(rng, (172, 178, 184)))
    for x in range(0, SCENE_SIZE[0], 60):
        top = rng.uniform(0, 50)
        draw.rectangle((x, top, x + 56, HORIZON), fill=_tint(rng, (142, 138, 134), 16))
        for y in range(int(top) + 6, HORIZON - 8, 14):
            draw.rectangle((x + 8, y, x + 48, y + 6), fill=(92, 100, 110))
    _ground(draw, (98, 98, 102), (116, 116, 118))
    draw.rectangle((0, HORIZON + 44, SCENE_SIZE[0], HORIZON + 50), fill=(190, 188, 180))
    for x in range(0, SCENE_SIZE[0], 70):
        draw.polygon([(x, 196), (x + 34, 196), (x + 38, 203), (x, 203)], fill=(216, 214, 206))
    for x in range(20, SCENE_SIZE[0], 170):
        _car(draw, rng, x, HORIZON + 34)


def _car(draw: ImageDraw.ImageDraw, rng: np.random.Generator, x: float, ground: float) -> None:
    body = _tint(rng, ((170, 172, 176), (150, 36, 40), (40, 52, 84), (38, 38, 42))[int(rng.integers(4))])
    draw.rounded_rectangle((x, ground - 28, x + 112, ground - 6), 6, fill=body)
    draw.polygon(
        [(x + 22, ground - 26), (x + 36, ground - 46), (x + 80, ground - 46), (x + 96, ground - 26)], fill=body
    )
    draw.polygon(
        [(x + 28, ground - 28), (x + 39, ground - 43), (x + 77, ground - 43), (x + 89, ground - 28)], fill=(56, 66, 76)
    )
    for wheel in (x + 24, x + 88):
        draw.ellipse((wheel - 9, ground - 16, wheel + 9, ground + 2), fill=(30, 30, 32))


def _shop_front(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    bottom = HORIZON + 30
    _ground(draw, (170, 160, 148), (146, 138, 128))
    _joints(draw, (138, 130, 120), 34, -0.4)
    draw.rectangle((0, 0, SCENE_SIZE[0], bottom), fill=_tint(rng, (120, 112, 104)))
    for x in range(0, SCENE_SIZE[0], 96):
        draw.rectangle((x + 4, 26, x + 88, bottom - 4), fill=_tint(rng, (46, 56, 62)))
        sign = ((176, 60, 50), (56, 96, 140), (196, 164, 72), (78, 120, 84))[int(rng.integers(4))]
        draw.rectangle((x + 4, 6, x + 88, 24), fill=_tint(rng, sign))
        for _ in range(7):  # goods behind the glass
            gx, gy = x + rng.uniform(8, 74), rng.uniform(40, bottom - 24)
            draw.rectangle(
                (gx, gy, gx + rng.uniform(5, 14), gy + rng.uniform(8, 22)), fill=_tint(rng, (130, 116, 100), 36)
            )


def _plaza(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, SCENE_SIZE[0], HORIZON), fill=_tint(rng, (196, 200, 204), 6))
    for x in range(0, SCENE_SIZE[0], 90):
        draw.rectangle((x, rng.uniform(10, 44), x + 78, HORIZON), fill=_tint(rng, (182, 172, 156), 10))
    draw.rectangle((0, HORIZON - 20, SCENE_SIZE[0], HORIZON + 6), fill=_tint(rng, (84, 108, 70)))
    _ground(draw, (192, 186, 174), (176, 170, 160))
    _joints(draw, (164, 156, 144), 40, 0.0)
    for x in range(10, SCENE_SIZE[0], 64):
        _bicycle(draw, x + rng.uniform(-6, 6), HORIZON + 30, _tint(rng, (70, 70, 76), 30))


def _bicycle(draw: ImageDraw.ImageDraw, x: float, ground: float, colour: Colour) -> None:
    for wheel in (x, x + 30):
        draw.ellipse((wheel - 10, ground - 20, wheel + 10, ground), outline=(44, 44, 46), width=2)
    frame = [(0, 10), (10, 26), (26, 26), (30, 10), (14, 10), (0, 10)]
    draw.line([(x + right, ground - up) for right, up in frame], fill=colour, width=2)
    draw.line([(x + 14, ground - 10), (x + 9, ground - 31)], fill=colour, width=2)
    draw.line([(x + 26, ground - 26), (x + 24, ground - 33)], fill=colour, width=2)


def _underpass(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    bottom = HORIZON + 22
    _ground(draw, (112, 110, 106), (84, 84, 84))
    draw.rectangle((0, 0, SCENE_SIZE[0], bottom), fill=_tint(rng, (108, 112, 110), 6))
    for y in range(10, bottom, 18):
        draw.line((0, y, SCENE_SIZE[0], y), fill=(92, 96, 96))
    for x in range(16, SCENE_SIZE[0], 104):
        draw.rectangle((x, 0, x + 26, bottom + 20), fill=_tint(rng, (142, 138, 128), 8))
        draw.rectangle((x + 20, 0, x + 26, bottom + 20), fill=(96, 94, 90))
        poster = ((190, 176, 96), (150, 70, 62), (90, 120, 150))[int(rng.integers(3))]
        draw.rectangle((x + 44, 28, x + 78, 80), fill=_tint(rng, poster))


_PAINTERS = dict(zip(SCENE_KINDS, (_lawn, _brick_wall, _road, _shop_front, _plaza, _underpass)))
