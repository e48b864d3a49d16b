"""What people can wear: a limited wardrobe, so that different people share garments.

Everything is a plain constant. Colours are 8-bit sRGB triples as they look under neutral light; a camera's colour
cast comes later. The numbers behind a name are relative frequencies, not probabilities.
"""

from __future__ import annotations

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "black": (34, 34, 38),
    "charcoal": (68, 70, 74),
    "grey": (132, 133, 135),
    "white": (226, 226, 222),
    "navy": (36, 46, 86),
    "blue": (52, 96, 176),
    "sky": (138, 178, 214),
    "denim": (72, 92, 128),
    "teal": (40, 126, 124),
    "green": (58, 116, 66),
    "olive": (104, 104, 62),
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
    "black": 7, "white": 7, "charcoal": 4, "grey": 5, "navy": 4, "blue": 4, "sky": 3, "teal": 2, "green": 3,
    "olive": 2, "yellow": 3, "orange": 3, "red": 4, "maroon": 2, "pink": 3, "purple": 3, "beige": 3, "brown": 2,
}
LOWER_COLOURS = {
    "black": 7, "denim": 6, "navy": 4, "charcoal": 3, "grey": 3, "khaki": 4, "beige": 3, "white": 3, "brown": 2,
    "olive": 2, "sky": 2, "maroon": 1, "red": 1, "green": 1,
}
SHOE_COLOURS = {"black": 6, "white": 6, "brown": 3, "grey": 3, "red": 2, "blue": 2, "pink": 1, "yellow": 1}
BAG_COLOURS = {
    "black": 5, "navy": 2, "grey": 2, "brown": 3, "red": 3, "pink": 2, "teal": 2, "olive": 2, "yellow": 2, "blue": 2,
    "white": 1, "orange": 2,
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

HAIR_STYLES = {"short": 7, "cropped": 3, "bob": 3, "long": 4, "ponytail": 3, "bun": 2, "cap": 3, "hood": 1}
UPPER_KINDS = {"t-shirt": 6, "long sleeves": 5, "open jacket": 4, "tank top": 1, "coat": 2, "dress": 2}
LOWER_KINDS = {"trousers": 7, "leggings": 3, "shorts": 4, "skirt": 3}
PATTERNS = {"plain": 11, "hoops": 3, "pinstripes": 2, "checks": 2, "two-tone": 2, "contrast sleeves": 2, "dots": 1}
LOWER_PATTERNS = {"plain": 9, "side stripe": 2, "checks": 1}
PRINTS = {"none": 5, "block": 3, "disc": 2, "bars": 2}
BAG_KINDS = {"none": 4, "backpack": 4, "shoulder bag": 3, "handbag": 2}
