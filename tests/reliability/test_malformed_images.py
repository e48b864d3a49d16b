"""Image files with anything wrong in them: each is decoded or named, by training's loader as by the embedder."""

import io
import logging

import numpy as np
import pytest
from fastreid.data.transforms import build_transforms
from PIL import Image
from reliability_runs import times

from ise_plugin import Embedder
from ise_plugin.config import load_cfg
from ise_plugin.data.image_dataset import ImageDataset
from ise_plugin.data.image_files import StandIns
from ise_plugin.data.reading import UnreadableImage, decode_rgb
from ise_plugin.data.workers import UserErrorLoader

CASES = times(250, 5000)
FORMATS = {"JPEG": {}, "PNG": {}, "WEBP": {}, "BMP": {}, "TIFF": {"compression": "tiff_lzw"}}


def valid_images(crops) -> list[bytes]:
    """Some crops in every format and mode that is let in."""
    found = []
    for number, path in enumerate(sorted(crops.iterdir())[:6]):
        with Image.open(path) as image:
            for name, options in FORMATS.items():
                mode = ("RGB", "L", "RGBA", "P")[number % 4] if name in ("PNG", "TIFF", "WEBP") else "RGB"
                buffer = io.BytesIO()
                image.convert(mode).save(buffer, name, **(options if mode != "P" else {}))
                found.append(buffer.getvalue())
    return found


def mutated(images: list, rng) -> bytes:
    """One of the images with one to three things wrong."""
    content = bytearray(images[rng.integers(len(images))])
    for _ in range(rng.integers(1, 4)):
        size = len(content)
        if size < 8:
            break
        start, length = int(rng.integers(size)), int(rng.integers(1, 64))
        kind = rng.integers(9)
        if kind == 0:
            content = content[: max(1, start)]
        elif kind == 1:
            content[start] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            content[start : start + length] = rng.bytes(length)
        elif kind == 3:
            content[start : start + length] = bytes(length)
        elif kind == 4:
            del content[start : start + length]
        elif kind == 5:
            content[start:start] = content[start : start + length]
        elif kind == 6:  # sizes, offsets and marks are at the front
            front = int(rng.integers(min(64, size)))
            content[front] = int(rng.integers(256))
        elif kind == 7:
            front = int(rng.integers(min(64, size - 4)))
            content[front : front + 4] = b"\xff\xff\xff\x7f"
        else:
            other = images[rng.integers(len(images))]
            content[start:] = other[start:]
    return bytes(content)


@pytest.mark.timeout(0)
def test_malformed_images_are_decoded_or_named(folder_run, tmp_path, caplog):
    crops, run = folder_run
    images, rng = valid_images(crops), np.random.default_rng(0)
    paths, decoded = [], []
    for number in range(CASES):
        path = tmp_path / f"{number:05d}.bin"
        path.write_bytes(mutated(images, rng))
        paths.append(str(path))
        try:
            assert decode_rgb(path.read_bytes()).mode == "RGB"
            decoded.append(True)
        except UnreadableImage as error:
            assert str(error) and "\n" not in str(error)
            decoded.append(False)
    assert 0 < sum(decoded) < CASES
    caplog.set_level(logging.ERROR)

    lost = _through_the_loader(paths)
    assert lost == [not there for there in decoded]

    embedded = list(Embedder(str(run), device="cpu").stream(paths))
    assert [file.path for file in embedded] == paths
    assert [file.value is not None for file in embedded] == decoded
    assert all(file.reason for file in embedded if file.value is None)
    assert all(np.isfinite(file.value).all() for file in embedded if file.value is not None)
    print(
        f"malformed images: {CASES} cases, {sum(decoded)} decoded, {CASES - sum(decoded)} named; "
        "0 crashes and 0 hangs in loader and embedder"
    )


def _through_the_loader(paths: list) -> list:
    """Which files a loader with a worker of its own has named as lost."""
    stand_ins = StandIns(paths, 1.0, "none")
    transform = build_transforms(load_cfg(None, ["INPUT.SIZE_TEST", "[64,32]"]), is_train=False)
    dataset = ImageDataset(paths, transform, stand_ins=stand_ins)
    batches = [list(range(start, min(start + 50, len(paths)))) for start in range(0, len(paths), 50)]
    seen = sum(len(batch["images"]) for batch in UserErrorLoader(dataset, batch_sampler=batches, num_workers=1))
    assert seen == len(paths)
    return stand_ins.lost.tolist()
