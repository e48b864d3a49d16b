"""The figure: an identity's body, clothes, hair and bags, painted from a point of view.

Parts are collected with their depth and painted from far to near, so what a view hides is hidden by what is in front
of it: a backpack by the trunk, a print on the chest by turning the back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import radians, sin

import numpy as np
from PIL import Image, ImageDraw

from . import body
from .body import Limb, Point, Pose
from .canvas import FigureCanvas, Material
from .people import Garment, Identity
from .wardrobe import Colour

WAIST, CHEST_TOP = 0.555, 0.845
HEM = {"dress": 0.30, "coat": 0.33, "skirt": 0.33}
FLARE = {"dress": 0.20, "coat": 0.08, "skirt": 0.16}
FAR_LIMB_OPENNESS = 0.72  # the arm and the leg behind the body get less light
FAR_SIDE = -0.05  # what is farther than this is hidden by the whole body
PATTERN_STEP = 0.042  # body units between two stripes
SOLE: Colour = (46, 44, 44)
PATTERN_COLUMNS = 0.34  # half width, in body units, that patterns cover


@dataclass(frozen=True)
class Placement:
    """Where a figure stands in a picture.

    Attributes:
        size: (width, height) of the picture in pixels.
        foot: (x, y) of the point on the ground below the body's axis, in pixels, y downwards.
        height: body height in pixels.
        stretch: how much wider than in nature, as boxes of all shapes are brought to one.
    """

    size: tuple[int, int]
    foot: Point
    height: float
    stretch: float = 1.0


@dataclass(frozen=True)
class _Part:
    depth: float
    paint: Callable[[], None]


def draw_figure(
    identity: Identity, pose: Pose, place: Placement, rng: np.random.Generator, light: tuple[float, float] = (-0.5, 0.8)
) -> Image.Image:
    """Paints one person on a transparent picture.

    Args:
        identity: who.
        pose: from which side and at which moment of the gait.
        place: where in the picture and how large.
        rng: random stream for what changes from picture to picture (folds).
        light: where the light comes from, (right, up), each about -1 to 1.

    Returns:
        RGBA `PIL.Image` of `place.size`.
    """
    return _Figure(identity, pose, place).render(light, rng)


class _Figure:
    def __init__(self, identity: Identity, pose: Pose, place: Placement) -> None:
        self.who, self.pose = identity, pose
        self.canvas = FigureCanvas(place.size, place.foot, place.height, place.stretch)
        self.upper = self._texture(identity.upper)
        self.lower = self._texture(identity.lower)
        self.sleeve: Material = (
            identity.upper.second_colour if identity.upper.pattern == "contrast sleeves" else self.upper
        )
        self.parts: list[_Part] = []

    def render(self, light: tuple[float, float], rng: np.random.Generator) -> Image.Image:
        self._add_legs()
        self._add_trunk()
        self._add_arms()
        self._add_head()
        self._add_bag()
        for part in sorted(self.parts, key=lambda part: part.depth):
            part.paint()
        return self.canvas.finish(light, rng)

    def _add(self, depth: float, paint: Callable[[], None]) -> None:
        self.parts.append(_Part(depth, paint))

    def _add_beside(self, depth: float, paint: Callable[[], None]) -> None:
        """Adds what hangs beside the body: on the far side it lies behind legs and trunk alike."""
        self._add(depth if depth > FAR_SIDE else depth - 2.0, paint)

    # ------------------------------------------------------------------ cloth
    def _texture(self, garment: Garment) -> Material:
        """The garment's pattern over the whole sheet, or its plain colour."""
        painter = _PATTERN_PAINTERS.get(garment.pattern)
        if painter is None:
            return garment.colour
        sheet = Image.new("RGB", self.canvas.fine_size, garment.colour)
        painter(ImageDraw.Draw(sheet), self.canvas, garment.second_colour, self.pose)
        return sheet

    # ------------------------------------------------------------------- legs
    def _add_legs(self) -> None:
        for side in (-1, 1):
            limb = body.leg(side, self.pose.phase, self.who.build, self.who.stride)
            depth = limb.depth(self.pose)
            # Legs lie under the trunk whatever their depth, hence the offset.
            self._add(depth - 1.0, lambda limb=limb, depth=depth: self._paint_leg(limb, depth))

    def _paint_leg(self, limb: Limb, depth: float) -> None:
        open_ = FAR_LIMB_OPENNESS if depth < 0 and abs(self.pose.facing) < 0.8 else 1.0
        kind = self.who.lower.kind
        bare = kind in ("shorts", "skirt") or self.who.upper.kind == "dress"
        skin_or_cloth = self.who.skin if bare else self.lower
        widen = {"leggings": 0.86, "trousers": 1.08}.get(kind, 0.9) if not bare else 0.86
        self.canvas.fill(body.limb_outline(self.pose, limb, 0, 2, widen), skin_or_cloth, depth, open_)
        if kind == "shorts" and bare and self.who.upper.kind != "dress":
            self.canvas.fill(
                body.limb_outline(self.pose, _shortened(limb, 0, 0.92), 0, 1, 1.16), self.lower, depth, open_
            )
        if self.who.lower.pattern == "side stripe" and not bare:
            self._paint_side_stripe(limb)
        self.canvas.fill(body.limb_outline(self.pose, limb, 2, 3, 0.98), self.who.shoes, depth, open_)
        toe, ankle = self.pose.project(limb.joints[3])[:2], self.pose.project(limb.joints[2])[:2]
        sole = [
            (ankle[0], ankle[1] - 0.027),
            (toe[0], toe[1] - 0.016),
            (toe[0], toe[1] - 0.008),
            (ankle[0], ankle[1] - 0.015),
        ]
        self.canvas.mark(sole, SOLE)

    def _paint_side_stripe(self, limb: Limb) -> None:
        if limb.side * sin(radians(self.pose.view)) > 0.25:  # the outer side of this leg faces away
            return
        outer = [(j[0] + limb.side * r * 0.7, j[1], j[2]) for j, r in zip(limb.joints, limb.radii)]
        stripe = Limb(tuple(outer[:3]), (0.009,) * 3, limb.side)
        for shape in body.limb_outline(self.pose, stripe, 0, 2):
            self.canvas.mark(shape, self.who.lower.second_colour)

    # ------------------------------------------------------------------ trunk
    def _add_trunk(self) -> None:
        self._add(-0.5, self._paint_hips)
        self._add(0.0, self._paint_trunk)

    def _paint_hips(self) -> None:
        kind, build = self.who.lower.kind, self.who.build
        if self.who.upper.kind == "dress":
            return
        if kind == "skirt":
            sections = body.levels(build, 0.60, HEM["skirt"], 1.04, FLARE["skirt"])
        else:
            sections = body.levels(build, 0.60, 0.455, 1.02)
        self.canvas.fill([body.trunk_outline(self.pose, sections)], self.lower, 0.02)

    def _paint_trunk(self) -> None:
        who, kind = self.who, self.who.upper.kind
        neck = body.levels(who.build, 0.88, 0.82)
        self.canvas.fill([body.trunk_outline(self.pose, [(u, 0.033, 0.033) for u, _, _ in neck])], who.skin, 0.0, 0.85)
        widen = {"coat": 1.14, "open jacket": 1.12, "tank top": 0.95}.get(kind, 1.03)
        sections = body.levels(who.build, CHEST_TOP, HEM.get(kind, WAIST - 0.05), widen, FLARE.get(kind, 0.0))
        self.canvas.fill([body.trunk_outline(self.pose, sections)], self.upper, 0.05)
        chest = [s for s in sections if s[0] <= 0.83]
        if kind == "open jacket":
            self.canvas.mark(body.trunk_patch(self.pose, chest, 0, 26), who.inner_colour)
        elif kind == "coat":
            self.canvas.mark(body.trunk_patch(self.pose, chest, 0, 4), _shaded(who.upper.colour, 0.55))
            belt = body.levels(who.build, 0.60, 0.575, 1.15)
            self.canvas.mark(body.trunk_patch(self.pose, belt, 0, 180), _shaded(who.upper.colour, 0.5))
        else:
            collar = [(0.835, 0.05, 0.045), (0.812, 0.10, 0.06)]
            self.canvas.mark(body.trunk_patch(self.pose, collar, 0, 20), who.skin)
            self._paint_prints(widen)

    def _paint_prints(self, widen: float) -> None:
        shape, colour = self.who.print_shape, self.who.print_colour
        for middle in (0.0, 180.0) if self.who.back_print else (0.0,):
            if shape == "block":
                bands = [(0.775, 0.665, 38)]
            elif shape == "disc":
                bands = [(0.770, 0.750, 18), (0.750, 0.695, 30), (0.695, 0.675, 18)]
            elif shape == "bars":
                bands = [(0.775, 0.750, 60), (0.725, 0.700, 60)]
            else:
                return
            for top, bottom, spread in bands:
                self.canvas.mark(
                    body.trunk_patch(self.pose, body.levels(self.who.build, top, bottom, widen), middle, spread), colour
                )

    # ------------------------------------------------------------------- arms
    def _add_arms(self) -> None:
        for side in (-1, 1):
            limb = body.arm(side, self.pose.phase, self.who.build, self.who.stride)
            depth = limb.depth(self.pose)
            self._add_beside(depth + 0.01, lambda limb=limb, depth=depth: self._paint_arm(limb, depth))

    def _paint_arm(self, limb: Limb, depth: float) -> None:
        open_ = FAR_LIMB_OPENNESS if depth < -0.05 else 0.93
        kind, fill = self.who.upper.kind, self.canvas.fill
        fill(body.limb_outline(self.pose, limb, 0, 2, 0.92), self.who.skin, depth, open_)
        if kind in ("t-shirt", "dress"):
            fill(body.limb_outline(self.pose, _shortened(limb, 0, 0.72), 0, 1, 1.12), self.sleeve, depth, open_)
        elif kind != "tank top":
            widen = 1.22 if kind in ("coat", "open jacket") else 1.05
            fill(body.limb_outline(self.pose, _shortened(limb, 1, 0.88), 0, 2, widen), self.sleeve, depth, open_)

    # ------------------------------------------------------------------- head
    def _add_head(self) -> None:
        self._add(0.06, self._paint_head)
        style = self.who.hair_style
        back_depth = -0.09 * self.pose.facing
        if style == "long":
            self._add(max(0.07, back_depth) if self.pose.facing < 0.3 else -0.02, self._paint_long_hair)
        elif style == "ponytail":
            self._add(0.08 if self.pose.facing < 0 else -0.02, self._paint_ponytail)

    def _paint_head(self) -> None:
        who, pose = self.who, self.pose
        style = who.hair_style
        x, y, depth = pose.project((0.0, body.HEAD_UP, 0.012))
        half = pose.half_extent(body.HEAD_HALF[0], body.HEAD_HALF[2])
        self.canvas.fill([body.disc((x, y), half, body.HEAD_HALF[1], 18)], who.skin, 0.06)
        hair = who.hair_colour
        grow = {"cropped": 1.02, "short": 1.08, "bob": 1.16, "cap": 1.08, "hood": 1.25}.get(style, 1.10)
        if style == "hood":
            hair = who.upper.colour
        # Hair covers the crown all round and the nape behind; the face stays free.
        low = {"cropped": 12, "short": -6, "bob": -62, "hood": -75}.get(style, -38)
        for middle, spread in ((105, 48), (180, 60), (255, 48)):
            self._paint_head_patch(middle, spread, low, 70, grow, hair)
        self._paint_head_patch(0, 180, 38 if style != "hood" else 24, 89, grow, hair)
        if style == "bun":
            bx, by, _ = pose.project((0.0, body.HEAD_UP + 0.055, -0.045))
            self.canvas.fill([body.disc((bx, by), 0.027, 0.025)], hair, 0.06 if pose.facing < 0 else 0.0)
        if style == "cap":
            self._paint_cap()
        self._paint_face()

    def _paint_head_patch(
        self, middle: float, spread: float, low: float, high: float, grow: float, colour: Colour
    ) -> None:
        patch = body.head_patch(self.pose, middle, spread, low, high, grow)
        if patch:
            self.canvas.fill([patch], colour, 0.07)

    def _paint_cap(self) -> None:
        colour = self.who.print_colour
        self._paint_head_patch(0, 180, 22, 89, 1.14, colour)
        peak = body.head_patch(self.pose, 0, 60, 18, 30, 1.5)
        if peak:
            self.canvas.fill([peak], _shaded(colour, 0.8), 0.09)

    def _paint_face(self) -> None:
        dark, lip = _shaded(self.who.skin, 0.42), _shaded(self.who.skin, 0.66)
        for middle in (-26, 26):
            self.canvas.mark(body.head_patch(self.pose, middle, 11, 4, 14), dark)
        self.canvas.mark(body.head_patch(self.pose, 0, 7, -22, 2), _shaded(self.who.skin, 0.84))
        self.canvas.mark(body.head_patch(self.pose, 0, 17, -38, -30), lip)

    def _paint_long_hair(self) -> None:
        sections = [(0.95, 0.052, 0.05), (0.88, 0.060, 0.045), (0.80, 0.062, 0.04), (0.735, 0.050, 0.03)]
        self._paint_behind(sections, -0.045)

    def _paint_ponytail(self) -> None:
        sections = [(0.945, 0.014, 0.014), (0.90, 0.022, 0.022), (0.82, 0.019, 0.019), (0.765, 0.008, 0.008)]
        self._paint_behind(sections, -0.072)

    def _paint_behind(self, sections: list[body.Solid], ahead: float) -> None:
        shift, _, depth = self.pose.project((0.0, 0.0, ahead))
        outline = [(x + shift, y) for x, y in body.trunk_outline(self.pose, sections)]
        self.canvas.fill([outline], self.who.hair_colour, max(depth, 0.0) + 0.05, 0.95)

    # ------------------------------------------------------------------- bags
    def _add_bag(self) -> None:
        kind = self.who.bag.kind
        if kind == "backpack":
            depth = self.pose.project((0.0, 0.7, -0.115))[2]
            self._add_beside(depth, self._paint_backpack)
            self._add(0.005, self._paint_backpack_straps)
        elif kind == "shoulder bag":
            self._add_beside(self.pose.project((self.who.bag.side * 0.14, 0.5, 0.0))[2], self._paint_shoulder_bag)
            self._add(0.006, self._paint_shoulder_strap)
        elif kind == "handbag":
            hand = body.arm(self.who.bag.side, self.pose.phase, self.who.build, self.who.stride).joints[2]
            self._add_beside(self.pose.project(hand)[2], lambda: self._paint_handbag(hand))

    def _paint_backpack(self) -> None:
        colour = self.who.bag.colour
        shift, _, depth = self.pose.project((0.0, 0.0, -0.105))
        sections = [
            (0.835, 0.050, 0.02),
            (0.815, 0.078, 0.04),
            (0.68, 0.088, 0.058),
            (0.575, 0.086, 0.062),
            (0.555, 0.07, 0.04),
        ]
        outline = [(x + shift, y) for x, y in body.trunk_outline(self.pose, sections)]
        self.canvas.fill([outline], colour, depth + 0.04)
        if self.pose.facing < -0.2:
            half = self.pose.half_extent(0.062, 0.04)
            pocket = [(shift - half, 0.675), (shift + half, 0.675), (shift + half, 0.59), (shift - half, 0.59)]
            self.canvas.mark(pocket, _shaded(colour, 0.72))

    def _paint_backpack_straps(self) -> None:
        sections = body.levels(self.who.build, 0.83, 0.62, 1.04)
        for middle in (-38, 38):
            self.canvas.mark(body.trunk_patch(self.pose, sections, middle, 9), _shaded(self.who.bag.colour, 0.85))

    def _paint_shoulder_bag(self) -> None:
        bag, build = self.who.bag, self.who.build
        x, y, depth = self.pose.project((bag.side * 0.135 * build, 0.47, -0.01))
        half = self.pose.half_extent(0.035, 0.085)
        box = [(x - half, y + 0.075), (x + half, y + 0.075), (x + half * 1.05, y - 0.06), (x - half * 1.05, y - 0.06)]
        self.canvas.fill([box], bag.colour, depth + 0.06)
        flap = [(x - half, y + 0.07), (x + half, y + 0.07), (x + half, y + 0.02), (x - half, y + 0.02)]
        self.canvas.mark(flap, _shaded(bag.colour, 0.8))

    def _paint_shoulder_strap(self) -> None:
        # From the far shoulder across chest and back to the hip that carries the bag.
        steps = [(0.825 - 0.018 * i, -self.who.bag.side * (40 - 7.6 * i)) for i in range(17)]
        for (top, at), (bottom, _) in zip(steps, steps[1:]):
            sections = body.levels(self.who.build, top, bottom, 1.05)
            for middle in (at, 180 - at):
                self.canvas.mark(body.trunk_patch(self.pose, sections, middle, 10), _shaded(self.who.bag.colour, 0.8))

    def _paint_handbag(self, hand: body.Solid) -> None:
        x, y, depth = self.pose.project(hand)
        half = self.pose.half_extent(0.03, 0.075)
        handle = [(x - half * 0.5, y - 0.045), (x, y), (x + half * 0.5, y - 0.045)]
        box = [(x - half, y - 0.04), (x + half, y - 0.04), (x + half * 1.1, y - 0.15), (x - half * 1.1, y - 0.15)]
        self.canvas.fill([handle, box], self.who.bag.colour, depth + 0.05)


def _shortened(limb: Limb, bone: int, share: float) -> Limb:
    """The limb with one bone cut to a share of its length: where a sleeve or a trouser leg ends."""
    joints = list(limb.joints)
    joints[bone + 1] = _between(joints[bone], joints[bone + 1], share)
    return Limb(tuple(joints), limb.radii, limb.side)


def _between(a: body.Solid, b: body.Solid, share: float) -> body.Solid:
    return (a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]), a[2] + share * (b[2] - a[2]))


def _shaded(colour: Colour, factor: float) -> Colour:
    return int(colour[0] * factor), int(colour[1] * factor), int(colour[2] * factor)


# ------------------------------------------------------------------- patterns
def _rows(canvas: FigureCanvas, step: float) -> list[float]:
    return [canvas.foot[1] - canvas.scale * step * i for i in range(int(0.25 / step), int(0.9 / step))]


def _columns(canvas: FigureCanvas, step: float, pose: Pose) -> list[float]:
    # Stripes wander sideways with the view, as they would on a turning body.
    shift = (pose.view / 360.0) % 1.0
    count = int(PATTERN_COLUMNS / step)
    return [canvas.foot[0] + canvas.scale_x * step * (i + shift) for i in range(-count, count)]


def _hoops(draw: ImageDraw.ImageDraw, canvas: FigureCanvas, colour: Colour, pose: Pose) -> None:
    for y in _rows(canvas, PATTERN_STEP):
        draw.rectangle((0, y, canvas.fine_size[0], y + canvas.scale * PATTERN_STEP * 0.45), fill=colour)


def _pinstripes(draw: ImageDraw.ImageDraw, canvas: FigureCanvas, colour: Colour, pose: Pose) -> None:
    for x in _columns(canvas, PATTERN_STEP, pose):
        draw.rectangle((x, 0, x + canvas.scale_x * PATTERN_STEP * 0.35, canvas.fine_size[1]), fill=colour)


def _checks(draw: ImageDraw.ImageDraw, canvas: FigureCanvas, colour: Colour, pose: Pose) -> None:
    width = canvas.scale * PATTERN_STEP * 0.3
    for y in _rows(canvas, PATTERN_STEP * 1.1):
        draw.rectangle((0, y, canvas.fine_size[0], y + width), fill=colour)
    for x in _columns(canvas, PATTERN_STEP * 1.1, pose):
        draw.rectangle((x, 0, x + width, canvas.fine_size[1]), fill=colour)


def _two_tone(draw: ImageDraw.ImageDraw, canvas: FigureCanvas, colour: Colour, pose: Pose) -> None:
    top, bottom = (canvas.foot[1] - canvas.scale * up for up in (0.70, 0.0))
    draw.rectangle((0, top, canvas.fine_size[0], bottom), fill=colour)


def _dots(draw: ImageDraw.ImageDraw, canvas: FigureCanvas, colour: Colour, pose: Pose) -> None:
    radius = canvas.scale * PATTERN_STEP * 0.22
    for row, y in enumerate(_rows(canvas, PATTERN_STEP * 0.9)):
        for x in _columns(canvas, PATTERN_STEP, pose):
            x += (row % 2) * canvas.scale_x * PATTERN_STEP / 2
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


_PATTERN_PAINTERS = {
    "hoops": _hoops,
    "pinstripes": _pinstripes,
    "checks": _checks,
    "two-tone": _two_tone,
    "dots": _dots,
}
