"""Who a person is: sampled attributes that stay the same in every camera.

A person is told from others by the combination of attributes. Every eighth person is a look-alike that shares what
it wears above the waist, and some of the rest, with the person before it, so that no single garment settles who it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from . import wardrobe
from .streams import Stream, stream
from .wardrobe import Colour

HEIGHT_RANGE_M = (1.50, 1.95)
BUILD_RANGE = (0.84, 1.26)
DYE_SPREAD = 9.0  # two garments of one colour name differ by about this much (8-bit levels, standard deviation)
LOOK_ALIKE_PERIOD = 8  # the last of so many consecutive numbers looks like the one before it
LOOK_ALIKE_CHANGES = 4  # attributes, beside the lower garment and the body, that a look-alike draws anew
COVERING = ("dress", "coat")  # garments that hide most of the lower one
LOOK_ALIKE_ATTRIBUTES = ("hair_style", "hair_colour", "shoes", "bag", "print_shape")


@dataclass(frozen=True)
class Garment:
    """One garment: its cut, its pattern, its main and its second colour (8-bit RGB)."""

    kind: str
    pattern: str
    colour: Colour
    second_colour: Colour


@dataclass(frozen=True)
class Bag:
    """A bag: its kind ("none", "backpack", "shoulder bag", "handbag"), colour, and the side it hangs on (+1 left, -1 right)."""

    kind: str
    colour: Colour
    side: int


@dataclass(frozen=True)
class Identity:
    """A person's lasting looks.

    Attributes:
        height: body height in metres.
        build: width of the body relative to the average, 0.84 (slender) to 1.26 (stout).
        skin, hair_colour, shoes, inner_colour: 8-bit RGB; `inner_colour` is the shirt under an open jacket.
        hair_style: a key of `wardrobe.HAIR_STYLES`.
        upper, lower: garments.
        print_shape, print_colour: what is printed on the chest ("none" for nothing); not seen from behind.
        back_print: whether the back carries a print too.
        bag: what is carried.
        stride: how far the legs swing relative to the average, 0.7 to 1.2.
    """

    height: float
    build: float
    skin: Colour
    hair_style: str
    hair_colour: Colour
    upper: Garment
    lower: Garment
    inner_colour: Colour
    print_shape: str
    print_colour: Colour
    back_print: bool
    shoes: Colour
    bag: Bag
    stride: float


def sample_identity(seed: int, number: int, split: Stream = Stream.IDENTITY) -> Identity:
    """The person of a number.

    Args:
        seed: the data set's seed, 0 or more.
        number: which person; 7, 15, 23, ... look like the number before them.
        split: the family of random streams; strangers have one of their own.

    Returns:
        The same `Identity` whenever it is called with the same arguments.
    """
    own = _sample_independent(stream(seed, split, number))
    if number % LOOK_ALIKE_PERIOD != LOOK_ALIKE_PERIOD - 1:
        return own
    model = _sample_independent(stream(seed, split, number - 1))
    rng = stream(seed, Stream.LOOK_ALIKE, int(split), number)
    changed = rng.choice(len(LOOK_ALIKE_ATTRIBUTES), size=LOOK_ALIKE_CHANGES, replace=False)
    changes = {LOOK_ALIKE_ATTRIBUTES[i]: getattr(own, LOOK_ALIKE_ATTRIBUTES[i]) for i in changed}
    body = {name: getattr(own, name) for name in ("height", "build", "stride", "skin")}
    upper = model.upper
    if upper.kind in COVERING:  # the lower garment would not tell the two apart
        upper = replace(upper, colour=own.upper.colour)
    return replace(model, upper=upper, lower=own.lower, **body, **changes)


def _sample_independent(rng: np.random.Generator) -> Identity:
    lower = _sample_lower(rng)
    return Identity(
        height=float(rng.uniform(*HEIGHT_RANGE_M)),
        build=float(np.clip(rng.normal(1.0, 0.10), *BUILD_RANGE)),
        skin=_dye(rng, wardrobe.SKINS[_pick_index(rng, wardrobe.SKIN_WEIGHTS)], spread=4.0),
        hair_style=_pick(rng, wardrobe.HAIR_STYLES),
        hair_colour=_dye(rng, wardrobe.HAIR_COLOURS[_pick(rng, wardrobe.HAIR_COLOUR_WEIGHTS)], spread=5.0),
        upper=_sample_upper(rng),
        lower=lower,
        inner_colour=_pick_colour(rng, wardrobe.UPPER_COLOURS),
        print_shape=_pick(rng, wardrobe.PRINTS),
        print_colour=_pick_colour(rng, wardrobe.PRINT_COLOURS),
        back_print=bool(rng.random() < 0.3),
        shoes=_pick_colour(rng, wardrobe.SHOE_COLOURS),
        bag=Bag(_pick(rng, wardrobe.BAG_KINDS), _pick_colour(rng, wardrobe.BAG_COLOURS), int(rng.choice((-1, 1)))),
        stride=float(rng.uniform(0.7, 1.2)),
    )


def _sample_upper(rng: np.random.Generator) -> Garment:
    return Garment(
        _pick(rng, wardrobe.UPPER_KINDS),
        _pick(rng, wardrobe.PATTERNS),
        _pick_colour(rng, wardrobe.UPPER_COLOURS),
        _pick_colour(rng, wardrobe.UPPER_COLOURS),
    )


def _sample_lower(rng: np.random.Generator) -> Garment:
    return Garment(
        _pick(rng, wardrobe.LOWER_KINDS),
        _pick(rng, wardrobe.LOWER_PATTERNS),
        _pick_colour(rng, wardrobe.LOWER_COLOURS),
        _pick_colour(rng, wardrobe.UPPER_COLOURS),
    )


def _pick(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    names = list(weights)
    return names[_pick_index(rng, list(weights.values()))]


def _pick_index(rng: np.random.Generator, weights: Sequence[float]) -> int:
    shares = np.asarray(weights, dtype=np.float64)
    return int(rng.choice(len(shares), p=shares / shares.sum()))


def _pick_colour(rng: np.random.Generator, weights: Mapping[str, float]) -> Colour:
    return _dye(rng, wardrobe.COLOURS[_pick(rng, weights)])


def _dye(rng: np.random.Generator, colour: Colour, spread: float = DYE_SPREAD) -> Colour:
    # Brightness and hue of a dye vary apart: a common shift, then a smaller one per channel.
    shifted = np.asarray(colour) + rng.normal(0, spread) + rng.normal(0, 0.6 * spread, size=3)
    red, green, blue = (int(v) for v in np.clip(np.rint(shifted), 8, 247))
    return red, green, blue
