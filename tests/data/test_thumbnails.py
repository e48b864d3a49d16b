"""Thumbnails and pages of tiles: every image where it belongs, and no exception whatever a file holds."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from ise_plugin.data.thumbnails import THUMBNAIL_SIZE, TILE, Row, draw_rows, thumbnail, tile, to_jpeg


def decoded(source):
    prefix = "data:image/jpeg;base64,"
    assert source.startswith(prefix)
    return Image.open(io.BytesIO(base64.b64decode(source[len(prefix) :])))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK"])
def test_every_mode_becomes_a_small_jpeg_of_the_same_shape(tmp_path, mode):
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    Image.new(mode, (300, 600)).save(path)
    image = decoded(thumbnail(str(path)))
    assert image.format == "JPEG" and image.mode == "RGB" and image.size == THUMBNAIL_SIZE


def test_wide_images_keep_their_shape(tmp_path):
    Image.new("RGB", (400, 100)).save(tmp_path / "wide.png")
    assert decoded(thumbnail(str(tmp_path / "wide.png"))).size == (THUMBNAIL_SIZE[0], THUMBNAIL_SIZE[0] // 4)


@pytest.mark.parametrize("content", [b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_picture_gives_no_thumbnail_and_a_crossed_out_tile(tmp_path, content):
    (tmp_path / "x.jpg").write_bytes(content)
    for path in (str(tmp_path / "x.jpg"), str(tmp_path / "missing.jpg")):
        assert thumbnail(path) is None
        assert len(tile(path, (20, 40)).getcolors()) == 2


def test_tile_shows_the_whole_image_in_any_size(tmp_path):
    Image.new("RGB", (40, 20), (255, 0, 0)).save(tmp_path / "a.png")
    pixels = np.asarray(tile(str(tmp_path / "a.png"), (30, 30)))
    red = (pixels == (255, 0, 0)).all(axis=2)
    assert pixels.shape == (30, 30, 3) and red.sum() == 30 * 15 and red[15].all()


@pytest.mark.parametrize("text, captions", [("", ()), ("a\nb", ()), ("", ("1", "2"))])
def test_page_shows_every_image_of_every_row_in_order(tmp_path, text, captions):
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    for number, colour in enumerate(colours):
        Image.new("RGB", TILE, colour).save(tmp_path / f"{number}.png")
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    pixels = np.asarray(draw_rows([Row(paths[:2], text, captions), Row(paths[2:], text, captions[:1])]))
    places = [np.argwhere((pixels == colour).all(axis=2)) for colour in colours]
    assert [len(place) for place in places] == [TILE[0] * TILE[1]] * 3  # nothing is covered
    (top, left), (same, right), (below, under) = (place.min(axis=0) for place in places)
    assert top == same and right > left + TILE[0] - 1 and below > top + TILE[1] - 1 and under == left
    ink = np.argwhere((pixels < 90).all(axis=2))
    assert bool(len(ink)) == bool(text or captions)
    if text:
        assert ink[:, 1].max() < left
    elif captions:
        assert ink[:, 0].min() >= top + TILE[1]


def test_frame_is_around_the_first_image(tmp_path):
    plain, framed = (np.asarray(draw_rows([Row(["x", "y"], framed=framed)])).astype(int) for framed in (False, True))
    changed = np.argwhere((plain != framed).any(axis=2))
    assert changed[:, 1].max() < plain.shape[1] // 2 + 4


def test_a_lower_quality_takes_less():
    image = Image.effect_noise((64, 64), 80).convert("RGB")
    assert len(to_jpeg(image, 20)) < len(to_jpeg(image))
