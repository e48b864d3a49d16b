"""Search results as one picture: a row for each query, its matches beside it."""

import logging
import os
from typing import Sequence

from PIL import Image, ImageDraw, ImageFont

from ..identities.contact_sheets import TILE, tile

logger = logging.getLogger("fastreid.ise.search")

# Pixels.
_GAP, _CAPTION = 6, 18
_FONT_SIZE = 13
_BACKGROUND, _TEXT, _FRAME = (255, 255, 255), (40, 40, 40), (200, 60, 40)
# More would make a picture that programs refuse to show: 3,600 x 15,200 pixels.
MOST_QUERIES, MOST_MATCHES = 100, 50


def draw_matches(queries: Sequence[str], matches: Sequence[Sequence]) -> Image.Image:
    """Queries at the left, framed; matches to the right, the best first, each with its similarity.

    What is more than a picture can show is left out, and the log says so.

    Args:
        queries: Q paths; the first 100 are drawn.
        matches: Q lists of :class:`ise_plugin.inference.index.Match`; the first 50 of each are drawn.
    """
    most = max(map(len, matches), default=0)
    if len(queries) > MOST_QUERIES or most > MOST_MATCHES:
        logger.warning(
            f"the picture shows {min(len(queries), MOST_QUERIES)} of {len(queries)} queries "
            f"and up to {min(most, MOST_MATCHES)} of {most} matches for each"
        )
    shown = [(query, found[:MOST_MATCHES]) for query, found in zip(queries[:MOST_QUERIES], matches)]
    columns = 1 + min(most, MOST_MATCHES)
    cell = TILE[0] + _GAP, TILE[1] + _CAPTION + _GAP
    page = Image.new("RGB", (columns * cell[0] + 2 * _GAP, len(shown) * cell[1] + _GAP), _BACKGROUND)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(_FONT_SIZE)
    for row, (query, found) in enumerate(shown):
        top = _GAP + row * cell[1]
        page.paste(tile(query), (_GAP, top))
        draw.rectangle((_GAP - 3, top - 3, _GAP + TILE[0] + 2, top + TILE[1] + 2), outline=_FRAME, width=3)
        draw.text((_GAP, top + TILE[1] + 2), "query", fill=_FRAME, font=font)
        for column, match in enumerate(found, start=1):
            left = 2 * _GAP + column * cell[0]
            page.paste(tile(os.fspath(match.path)), (left, top))
            draw.text((left, top + TILE[1] + 2), f"{match.similarity:.3f}", fill=_TEXT, font=font)
    return page
