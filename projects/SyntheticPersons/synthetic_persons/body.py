"""The body as a small solid model: joints, limbs and a trunk, turned by the view and projected onto the picture.

Body coordinates are in units of the body height: `left` to the person's left, `up` from the ground, `ahead` the way
the person faces. Picture coordinates are `x` to the right and `y` up in the same unit, and `depth` towards the camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, hypot, pi, radians, sin, sqrt

Point = tuple[float, float]
Solid = tuple[float, float, float]  # left, up, ahead

SHOULDER_UP, SHOULDER_OUT = 0.805, 0.108
HIP_UP, HIP_OUT = 0.50, 0.046
THIGH, SHIN, FOOT = 0.235, 0.225, 0.085
UPPER_ARM, FOREARM = 0.165, 0.145
ANKLE_UP = 0.04
SWING_LEG_DEG, SWING_ARM_DEG = 27.0, 24.0
HEAD_UP = 0.925
HEAD_HALF = (0.048, 0.068, 0.058)  # half width, half height, half depth
# The trunk from the neck down: height, half width, half depth.
TRUNK = (
    (0.850, 0.036, 0.036),
    (0.832, 0.078, 0.048),
    (0.808, 0.116, 0.058),
    (0.760, 0.118, 0.070),
    (0.690, 0.106, 0.074),
    (0.610, 0.093, 0.068),
    (0.540, 0.098, 0.074),
    (0.480, 0.100, 0.076),
)
PATCH_STEPS = 8


@dataclass(frozen=True)
class Pose:
    """How a person stands before the camera.

    Attributes:
        view: the way the person faces, in degrees: 0 towards the camera (front), 90 towards the picture's right,
            180 away (back), 270 towards the picture's left.
        phase: gait phase in turns, 0 to 1; at 0 and 0.5 the legs pass each other.
        pitch: how far the camera looks down, in degrees.
    """

    view: float
    phase: float
    pitch: float = 8.0

    def project(self, solid: Solid) -> tuple[float, float, float]:
        """Body coordinates to (x, y, depth)."""
        left, up, ahead = solid
        turn, tilt = radians(self.view), radians(self.pitch)
        depth = ahead * cos(turn) - left * sin(turn)
        return left * cos(turn) + ahead * sin(turn), up * cos(tilt) - depth * sin(tilt), depth

    def half_extent(self, half_width: float, half_depth: float) -> float:
        """Half the projected width of an upright elliptic cylinder."""
        turn = radians(self.view)
        return sqrt((half_width * cos(turn)) ** 2 + (half_depth * sin(turn)) ** 2)

    @property
    def facing(self) -> float:
        """1 when the person faces the camera, -1 when the person's back does."""
        return cos(radians(self.view))


@dataclass(frozen=True)
class Limb:
    """A chain of joints with the limb's radius at each; side +1 is the person's left."""

    joints: tuple[Solid, ...]
    radii: tuple[float, ...]
    side: int

    def depth(self, pose: Pose) -> float:
        """Mean depth of its joints."""
        return sum(pose.project(joint)[2] for joint in self.joints) / len(self.joints)


def leg(side: int, phase: float, build: float, stride: float) -> Limb:
    """Hip, knee, ankle and toe of one leg at a gait phase (turns)."""
    angle = 2 * pi * (phase + (0.0 if side > 0 else 0.5))
    swing = radians(SWING_LEG_DEG) * stride * sin(angle)
    # The knee bends while the leg comes forward, which is when the swing grows.
    bend = radians(8 + 38 * max(0.0, cos(angle)) * stride)
    hip = (side * HIP_OUT * build, HIP_UP, 0.0)
    knee = (side * HIP_OUT * 0.95 * build, hip[1] - THIGH * cos(swing), THIGH * sin(swing))
    shin = swing - bend
    ankle = (side * HIP_OUT * 0.9 * build, knee[1] - SHIN * cos(shin), knee[2] + SHIN * sin(shin))
    toe_pitch = 0.35 * shin
    toe = (ankle[0] * 1.25, ankle[1] - 0.016 + FOOT * sin(toe_pitch) * 0.6, ankle[2] + FOOT * cos(toe_pitch))
    return Limb((hip, knee, ankle, toe), (0.056 * build, 0.040 * build, 0.027 * build, 0.017), side)


def arm(side: int, phase: float, build: float, stride: float) -> Limb:
    """Shoulder, elbow and hand of one arm; it swings against its leg."""
    angle = 2 * pi * (phase + (0.5 if side > 0 else 0.0))
    swing = radians(SWING_ARM_DEG) * stride * sin(angle)
    bend = radians(22 + 14 * sin(angle))
    shoulder = (side * SHOULDER_OUT * build, SHOULDER_UP - 0.012, 0.0)
    elbow = (side * (SHOULDER_OUT + 0.026) * build, shoulder[1] - UPPER_ARM * cos(swing), UPPER_ARM * sin(swing))
    fore = swing + bend
    hand = (side * (SHOULDER_OUT + 0.030) * build, elbow[1] - FOREARM * cos(fore), elbow[2] + FOREARM * sin(fore))
    return Limb((shoulder, elbow, hand), (0.036 * build, 0.029 * build, 0.020), side)


def limb_outline(pose: Pose, limb: Limb, first: int, last: int, widen: float = 1.0) -> list[list[Point]]:
    """Closed outlines that together cover the limb between two of its joints: tapered quads and round ends."""
    flat = [pose.project(joint)[:2] for joint in limb.joints[first : last + 1]]
    radii = [radius * widen for radius in limb.radii[first : last + 1]]
    shapes = [disc(centre, radius, radius) for centre, radius in zip(flat, radii)]
    for (a, b), (ra, rb) in zip(zip(flat, flat[1:]), zip(radii, radii[1:])):
        length = hypot(b[0] - a[0], b[1] - a[1]) or 1e-6
        nx, ny = (a[1] - b[1]) / length, (b[0] - a[0]) / length
        shapes.append(
            [
                (a[0] + nx * ra, a[1] + ny * ra),
                (b[0] + nx * rb, b[1] + ny * rb),
                (b[0] - nx * rb, b[1] - ny * rb),
                (a[0] - nx * ra, a[1] - ny * ra),
            ]
        )
    return shapes


def disc(centre: Point, rx: float, ry: float, steps: int = 12) -> list[Point]:
    """An ellipse as a polygon."""
    return [(centre[0] + rx * cos(2 * pi * i / steps), centre[1] + ry * sin(2 * pi * i / steps)) for i in range(steps)]


def levels(build: float, top: float, bottom: float, widen: float = 1.0, flare: float = 0.0) -> list[Solid]:
    """The trunk's cross-sections between two heights, continued below the hips for skirts and coats.

    Args:
        build: width of the body relative to the average.
        top, bottom: heights in body units, top above bottom.
        widen: how much wider than the body the garment is.
        flare: half width gained per unit of height below the waist.

    Returns:
        (height, half width, half depth) from top to bottom.
    """
    heights = [top] + [up for up, _, _ in TRUNK if bottom < up < top] + [bottom]
    result = []
    for up in heights:
        half_width, half_depth = _trunk_at(up)
        gain = flare * max(0.0, 0.60 - up)
        result.append((up, (half_width * widen + gain) * build, (half_depth * widen + gain) * sqrt(build)))
    return result


def _trunk_at(up: float) -> tuple[float, float]:
    above = TRUNK[0]
    for below in TRUNK[1:]:
        if up >= below[0]:
            share = min(1.0, (up - below[0]) / (above[0] - below[0]))
            return below[1] + share * (above[1] - below[1]), below[2] + share * (above[2] - below[2])
        above = below
    return above[1], above[2]


def trunk_outline(pose: Pose, sections: Sequence[Solid]) -> list[Point]:
    """Outline of upright elliptic cross-sections stacked on the body's axis."""
    left, right = [], []
    for up, half_width, half_depth in sections:
        x, y, _ = pose.project((0.0, up, 0.0))
        half = pose.half_extent(half_width, half_depth)
        left.append((x - half, y))
        right.append((x + half, y))
    return left + right[::-1]


def trunk_patch(pose: Pose, sections: Sequence[Solid], middle: float, spread: float) -> list[Point] | None:
    """The visible part of a patch on the trunk's surface.

    Args:
        pose: the view.
        sections: as `levels` gives them; the patch runs from the first to the last.
        middle: where on the surface, in degrees from straight ahead, positive to the person's left.
        spread: half its angular width in degrees.

    Returns:
        Its outline, or None where it faces away from the camera.
    """
    turn = radians(pose.view)
    seen = []
    for i in range(PATCH_STEPS + 1):
        psi = radians(middle - spread + 2 * spread * i / PATCH_STEPS)
        if cos(psi) * cos(turn) - sin(psi) * sin(turn) > 0.05:
            seen.append(psi)
    if len(seen) < 2:
        return None

    def edge(section: Solid) -> list[Point]:
        up, half_width, half_depth = section
        return [pose.project((half_width * sin(psi), up, half_depth * cos(psi)))[:2] for psi in seen]

    outline = [edge(section) for section in sections]
    sides = [row[0] for row in outline[1:-1]], [row[-1] for row in outline[1:-1]]
    return outline[0] + sides[1] + outline[-1][::-1] + sides[0][::-1]


def head_patch(
    pose: Pose, middle: float, spread: float, low: float, high: float, grow: float = 1.0
) -> list[Point] | None:
    """The visible part of a patch on the head; `low` and `high` are elevations in degrees. As `trunk_patch`."""
    width, height, depth = (half * grow for half in HEAD_HALF)
    steps = [low + (high - low) * i / 4 for i in range(5)]
    sections = [
        (HEAD_UP + height * sin(radians(e)), width * cos(radians(e)), depth * cos(radians(e))) for e in reversed(steps)
    ]
    return trunk_patch(pose, sections, middle, spread)
