"""The sheet a figure is painted on: flat colours and textures first, light and folds afterwards.

Beside the colour it keeps, for every point, the relief (what stands out towards the camera), how open to the light it
is, and whether anything was painted. Shading is worked out once, from the relief, when the figure is finished.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .body import Point
from .wardrobe import Colour

SUPERSAMPLING = 2  # the figure is painted this many times finer than the picture
RELIEF_BLUR = 1.5  # picture pixels over which edges of parts are rounded
SHADE_GAIN = 0.042  # change of brightness per 8-bit step of relief and pixel
FOLD_DEPTH = 15.0  # 8-bit steps of relief that folds of cloth add, standard deviation
FOLD_GRID = (10, 18)  # folds across and along the picture

Material = Colour | Image.Image


class FigureCanvas:
    """Collects the parts of one figure.

    Args:
        size: (width, height) of the finished picture in pixels.
        foot: where the ground under the body's axis lies, (x, y) in picture pixels, y downwards.
        scale: picture pixels per body height.
        stretch: how much wider than high a body unit is drawn.
    """

    def __init__(self, size: tuple[int, int], foot: Point, scale: float, stretch: float = 1.0) -> None:
        self.size = size
        self.fine_size = (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING)
        self.scale = scale * SUPERSAMPLING
        self.scale_x = self.scale * stretch
        self.foot = (foot[0] * SUPERSAMPLING, foot[1] * SUPERSAMPLING)
        self.colour = Image.new("RGB", self.fine_size)
        self.form = Image.new("RGB", self.fine_size)  # relief, openness, alpha
        self._colour_draw = ImageDraw.Draw(self.colour)
        self._form_draw = ImageDraw.Draw(self.form)

    def to_pixels(self, outline: Sequence[Point]) -> list[Point]:
        """Picture coordinates in body units to fine pixels."""
        return [(self.foot[0] + self.scale_x * x, self.foot[1] - self.scale * y) for x, y in outline]

    def fill(
        self, outlines: Sequence[Sequence[Point]], material: Material, depth: float, openness: float = 1.0
    ) -> None:
        """Paints closed outlines (body units) over what is there.

        Args:
            outlines: polygons; together one part.
            material: a colour, or a texture as large as `fine_size`.
            depth: nearness of the part in body units, about -0.2 to 0.2.
            openness: 1 in the open, less where the part lies in the shade of others.
        """
        relief = int(min(255, max(0, 128 + 420 * depth)))
        form = (relief, int(255 * openness), 255)
        polygons = [self.to_pixels(outline) for outline in outlines if outline and len(outline) > 2]
        if isinstance(material, tuple):
            for polygon in polygons:
                self._colour_draw.polygon(polygon, fill=material)
        else:
            mask = Image.new("L", self.fine_size)
            mask_draw = ImageDraw.Draw(mask)
            for polygon in polygons:
                mask_draw.polygon(polygon, fill=255)
            self.colour.paste(material, (0, 0), mask)
        for polygon in polygons:
            self._form_draw.polygon(polygon, fill=form)

    def mark(self, outline: Sequence[Point] | None, colour: Colour) -> None:
        """Colours an outline on a part already there without changing its form. None is ignored."""
        if outline and len(outline) > 2:
            self._colour_draw.polygon(self.to_pixels(outline), fill=colour)

    def finish(self, light: tuple[float, float], folds: np.random.Generator) -> Image.Image:
        """Shades the figure and brings it to picture size.

        Args:
            light: where the light comes from, (right, up), each about -1 to 1.
            folds: random stream for the folds of cloth.

        Returns:
            RGBA picture of `size`.
        """
        noise = Image.fromarray(folds.normal(0, FOLD_DEPTH, FOLD_GRID[::-1]).astype(np.float32))
        noise = np.asarray(noise.resize(self.fine_size, Image.Resampling.BICUBIC))
        soft = self.form.filter(ImageFilter.GaussianBlur(RELIEF_BLUR * SUPERSAMPLING))
        relief = np.asarray(soft)[..., 0].astype(np.float32) + noise
        rise_y, rise_x = np.gradient(relief)
        sharp = np.asarray(self.form)
        shade = 1.0 + SHADE_GAIN * SUPERSAMPLING / 2 * (-light[0] * rise_x + light[1] * rise_y)
        shade = np.clip(shade, 0.45, 1.5) * (sharp[..., 1].astype(np.float32) / 255.0)
        colour = np.clip(np.asarray(self.colour) * shade[..., None], 0, 255).astype(np.uint8)
        layers = np.concatenate([colour, sharp[..., 2:3]], axis=2)
        return Image.fromarray(layers).resize(self.size, Image.Resampling.BOX)
