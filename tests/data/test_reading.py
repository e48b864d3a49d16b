"""Pictures of every kind, and files that are none."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ise_plugin.data.reading import MIN_SIDE, UnreadableImage, decode_rgb, read_many, read_rgb
from ise_plugin.utils.files import shown

SIZE = (12, 20)  # width, height


def picture(seed=0, size=SIZE):
    """Smooth colours, which survive JPEG."""
    corners = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize(size, Image.Resampling.BILINEAR)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def difference(a, b):
    return np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max()


@pytest.mark.parametrize("kind, tolerance", [("PNG", 0), ("BMP", 0), ("JPEG", 12), ("WEBP", 12)])
def test_formats(kind, tolerance):
    found = decode_rgb(encoded(picture(), kind, quality=95) if kind in ("JPEG", "WEBP") else encoded(picture(), kind))
    assert found.mode == "RGB" and found.size == SIZE and difference(found, picture()) <= tolerance


def test_grey_is_equal_in_all_channels():
    grey = picture().convert("L")
    assert difference(decode_rgb(encoded(grey)), np.repeat(np.asarray(grey)[..., None], 3, axis=2)) == 0


def test_palette():
    palette = picture().quantize(16)
    assert difference(decode_rgb(encoded(palette)), palette.convert("RGB")) == 0


def test_cmyk():
    found = decode_rgb(encoded(picture().convert("CMYK"), "JPEG", quality=95))
    assert found.mode == "RGB" and difference(found, picture()) <= 12


def test_sixteen_bits_are_scaled_not_cut_off():
    values = np.linspace(0, 65535, SIZE[0] * SIZE[1]).astype(np.uint16).reshape(SIZE[1], SIZE[0])
    found = np.asarray(decode_rgb(encoded(Image.fromarray(values))))
    assert np.array_equal(found[..., 0], values // 257) and (found[..., 0] == found[..., 2]).all()


def test_transparent_pixels_show_the_mean_colour():
    image = picture().convert("RGBA")
    image.putpixel((0, 0), (255, 0, 0, 0))
    image.putpixel((1, 0), (200, 100, 50, 255))
    found = decode_rgb(encoded(image))
    assert found.getpixel((0, 0)) == (124, 116, 104) and found.getpixel((1, 0)) == (200, 100, 50)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(orientation):
    upright = np.asarray(picture())
    # what the camera stored, so that the operation of the tag gives the upright picture (EXIF 2.3, table 6)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode_rgb(encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif))
    assert difference(found, upright) == 0


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_first_frame_of_an_animation(kind):
    content = encoded(picture(1), kind, save_all=True, append_images=[picture(2)], lossless=True)
    assert difference(decode_rgb(content), picture(1)) == 0


def png_of_size(width, height):
    """A PNG whose header promises so many pixels, without the pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


UNREADABLE = {
    "empty": (b"", "empty"),
    "text": (b"not a picture at all", "no JPEG, PNG"),
    "truncated jpeg": (encoded(picture(size=(64, 128)), "JPEG")[:-400], "truncated"),
    "truncated png": (encoded(picture(size=(64, 128)))[:-40], ""),
    "header alone": (encoded(picture())[:20], ""),
    "one pixel": (encoded(Image.new("RGB", (1, 1))), "1 x 1"),
    "too thin": (encoded(Image.new("RGB", (MIN_SIDE - 1, 50))), f"{MIN_SIDE - 1} x 50"),
    "bomb": (png_of_size(20_000, 20_000), "pixels"),
    "small bomb": (png_of_size(10_000, 10_000), "10000 x 10000"),
    "gif": (encoded(picture(), "GIF"), "no JPEG, PNG"),
    "postscript": (encoded(picture(), "EPS"), "no JPEG, PNG"),
}


@pytest.mark.parametrize("content, words", UNREADABLE.values(), ids=UNREADABLE.keys())
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_picture_has_a_reason_of_one_line(content, words):
    with pytest.raises(UnreadableImage) as caught:
        decode_rgb(content)
    assert words in str(caught.value) and "\n" not in str(caught.value) and str(caught.value)


def test_smallest_picture_is_read():
    assert decode_rgb(encoded(Image.new("RGB", (MIN_SIDE, MIN_SIDE)))).size == (MIN_SIDE, MIN_SIDE)


def test_missing_folder_and_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path, words in (("gone.jpg", "No such file"), ("pipe.jpg", "not a regular file"), (".", "not a regular file")):
        with pytest.raises(UnreadableImage, match=words):
            read_rgb(str(tmp_path / path))


@pytest.mark.parametrize("threads", [1, 3])
def test_many_files_come_in_their_order(tmp_path, threads):
    paths = [str(tmp_path / f"{i}.bin") for i in range(600)]
    for i, path in enumerate(paths):
        if i % 7:
            (tmp_path / f"{i}.bin").write_bytes(str(i).encode())
    found = list(read_many(paths, int, threads))
    assert [f.path for f in found] == paths
    assert [f.value for f in found] == [i if i % 7 else None for i in range(600)]
    assert all(("No such file" in f.reason) == (i % 7 == 0) if f.reason else i % 7 for i, f in enumerate(found))


def test_names_that_cannot_be_printed_are_shown_on_one_line():
    assert shown("a b/'ü\"人.jpg") == "a b/'ü\"人.jpg"
    for name in ("a\nb.jpg", "a\x1b[31m.jpg", os.fsdecode(b"\xff.jpg")):
        text = shown(name)
        assert text.isprintable() and eval(text) == name


def test_a_film_under_a_pictures_name_is_not_read(tmp_path):
    with open(tmp_path / "film.jpg", "wb") as file:
        file.truncate(4 * 2**40)  # a sparse file: nothing of it lies on the disk
    with pytest.raises(UnreadableImage, match="bytes are more than a picture has"):
        read_rgb(str(tmp_path / "film.jpg"))
