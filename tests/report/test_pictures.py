"""Thumbnails: small, of any mode, and no exception whatever the file is."""

import base64
import io

import pytest
from PIL import Image

from ise_plugin.report.pictures import THUMBNAIL_SIZE, escaped, picture, thumbnail


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
def test_what_is_no_picture_gives_none(tmp_path, content):
    (tmp_path / "x.jpg").write_bytes(content)
    assert thumbnail(str(tmp_path / "x.jpg")) is None
    assert thumbnail(str(tmp_path / "missing.jpg")) is None


def test_picture_names_the_file_without_its_folder(tmp_path):
    found = picture(str(tmp_path / "a.jpg"), "✓", True)
    assert found == {"src": None, "name": "a.jpg", "mark": "✓", "good": True}


def test_escaped_text_is_harmless_in_text_and_attributes():
    text = escaped("<b onclick='x' title=\"y\">&\udcff")
    assert not set("<>\"'") & set(text) and "&amp;?" in text
    text.encode()
