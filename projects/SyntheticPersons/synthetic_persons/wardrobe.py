"""What people can wear: a limited wardrobe, so that different people share garments.

Everything is a plain constant. Colours are 8-bit sRGB triples as they look under neutral light; a camera's colour
cast comes later. The numbers beside a name are relative frequencies, not probabilities.
"""

from __future__ import annotations

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "black": (34, 34, 38),
    "grey": (132, 133, 135),
    "white": (226, 226, 222),
    "navy": (36, 46, 86),
    "blue": (52, 96, 176),
    "sky": (138, 178, 214),
    "denim": (72, 92, 128),
    "teal": (40, 126, 124),
    "green": (58, 116, 66),
    "yellow": (220, 188, 58),
    "orange": (216, 114, 44),
    "red": (178, 40, 46),
    "maroon": (104, 34, 44),
    "pink": (222, 138, 162),
    "purple": (108, 66, 132),
    "brown": (106, 76, 50),
    "khaki": (162, 142, 104),
    "beige": (204, 184, 150),
}

UPPER_COLOURS = {
    "black": 4,
    "white": 4,
    "grey": 4,
    "navy": 3,
    "blue": 4,
    "sky": 3,
    "teal": 3,
    "green": 4,
    "yellow": 4,
    "orange": 4,
    "red": 4,
    "maroon": 2,
    "pink": 4,
    "purple": 4,
    "beige": 3,
}
LOWER_COLOURS = {
    "black": 4,
    "denim": 4,
    "navy": 3,
    "grey": 4,
    "khaki": 3,
    "beige": 3,
    "white": 4,
    "brown": 3,
    "sky": 3,
    "maroon": 2,
    "red": 2,
    "green": 2,
}
SHOE_COLOURS = {"black": 6, "white": 6, "brown": 3, "grey": 3, "red": 2, "blue": 2, "pink": 1, "yellow": 1}
BAG_COLOURS = {
    "black": 5,
    "navy": 2,
    "grey": 2,
    "brown": 3,
    "red": 3,
    "pink": 2,
    "teal": 2,
    "yellow": 2,
    "blue": 2,
    "white": 1,
    "orange": 2,
}
PRINT_COLOURS = {"white": 3, "black": 3, "red": 2, "yellow": 2, "blue": 2, "green": 1}

HAIR_COLOURS: dict[str, Colour] = {
    "black": (26, 22, 22),
    "dark brown": (56, 38, 28),
    "brown": (96, 64, 40),
    "blond": (184, 150, 92),
    "red": (140, 66, 34),
    "grey": (150, 148, 146),
}
HAIR_COLOUR_WEIGHTS = {"black": 7, "dark brown": 5, "brown": 4, "blond": 3, "red": 1, "grey": 2}
SKINS: tuple[Colour, ...] = ((238, 204, 178), (226, 184, 150), (204, 158, 120), (166, 118, 84), (116, 78, 56))
SKIN_WEIGHTS = (4, 5, 4, 2, 2)

HAIR_STYLES = {"short": 4, "cropped": 3, "bob": 3, "long": 4, "ponytail": 3, "bun": 2, "cap": 3, "hood": 1}
UPPER_KINDS = {"t-shirt": 6, "long sleeves": 5, "open jacket": 4, "tank top": 1, "coat": 2, "dress": 2}
LOWER_KINDS = {"trousers": 7, "leggings": 3, "shorts": 4, "skirt": 3}
PATTERNS = {"plain": 5, "hoops": 3, "pinstripes": 2, "checks": 2, "two-tone": 2, "contrast sleeves": 2, "dots": 1}
LOWER_PATTERNS = {"plain": 9, "side stripe": 2, "checks": 1}
PRINTS = {"none": 4, "block": 3, "disc": 2, "bars": 2}
BAG_KINDS = {"none": 2, "backpack": 4, "shoulder bag": 3, "handbag": 2}
