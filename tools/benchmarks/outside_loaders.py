#!/usr/bin/env python3
"""Exported networks in the loaders of other programs: cosine similarity to Embedder's vectors (docs/howto/tracker.md).

    python tools/benchmarks/outside_loaders.py                              # two small networks, untrained, on drawn crops
    python tools/benchmarks/outside_loaders.py --run out --crops my_crops

Whichever of boxmot, reid, deep-sort-realtime and openvino is installed is given the files of ise-export as they are, and crops as
it wants them. Least cosine similarity over the crops: of the network's own size, where nothing is resized, and as wide as other
detections, which every program resizes by its own rule; and, so that the numbers mean something, of the same crops to Embedder's
vectors with red and blue exchanged.
"""

import argparse
import importlib
import importlib.metadata
import os
import shutil
import sys
import tempfile
from glob import glob
from pathlib import Path
from typing import Callable, Iterator, NamedTuple, Optional

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate

from ise_plugin import Embedder
from ise_plugin.config import load_cfg
from ise_plugin.data.reading import decode_rgb
from ise_plugin.errors import UsageError
from ise_plugin.inference.exports import BOXMOT_SUFFIX, as_input, export
from ise_plugin.modeling.build import build_model
from ise_plugin.utils.command_line import run_command

MOBILENET, OSNET = "ISE/synthetic_mobilenetv2.yml", "ISE/folder_reid.yml"
CROPS = 32
# Widths and shapes of people that detectors cut out, in pixels and as height by width.
WIDTHS, SHAPES = (30, 200), (1.6, 3.2)


class Files(NamedTuple):
    """What ise-export and the converters write, by their paths; the network's (height, width)."""

    pixels: str
    onnx: str
    torchscript: str
    openvino: str
    size: tuple


Crops = list  # of (h, w, 3), uint8, RGB


def bgr(crops: Crops) -> Crops:
    return [np.ascontiguousarray(crop[..., ::-1]) for crop in crops]


def bicubic(crops: Crops, size: tuple) -> Crops:
    """As Embedder resizes, and Roboflow's reid where it is told to."""
    return [np.asarray(Image.fromarray(crop).resize(size[::-1], Image.Resampling.BICUBIC)) for crop in crops]


def bilinear(crops: Crops, size: tuple) -> Crops:
    """As BoxMOT resizes, which cannot be told otherwise."""
    import cv2

    return [cv2.resize(crop, size[::-1], interpolation=cv2.INTER_LINEAR) for crop in crops]


def pixels_of(crops: Crops, size: tuple) -> np.ndarray:
    """(B, 3, H, W), float32, 0..255, as Embedder's network takes them."""
    return np.stack(bicubic(crops, size)).transpose(0, 3, 1, 2).astype(np.float32)


def boxmot(path: str) -> Callable[[Crops], np.ndarray]:
    from boxmot.reid.core.runtime import ReID

    network = ReID(path)
    return lambda crops: network(bgr(crops))


def boxmot_onnx(files: Files):
    return boxmot(files.onnx)


def boxmot_opencv(files: Files):
    os.environ["BOXMOT_REID_BACKEND"] = "opencv"  # instead of ONNX Runtime
    try:
        return boxmot(files.onnx)
    finally:
        del os.environ["BOXMOT_REID_BACKEND"]


def boxmot_torchscript(files: Files):
    return boxmot(files.torchscript)


def boxmot_openvino(files: Files):
    to_openvino(files)
    return boxmot(files.openvino)


def roboflow_reid(files: Files):
    """Crops as boxes in a frame, as its users have them."""
    import supervision as sv
    from reid import ReIDModel
    from reid.preprocessing import ReIDPreprocessing

    network = ReIDModel.from_pretrained(
        architecture=torch.jit.load(files.torchscript),
        preprocessing=ReIDPreprocessing(input_size=files.size, interpolation="bicubic"),
        device="cpu",
    )

    def embed(crops: Crops) -> np.ndarray:
        frames = [(crop, np.array([[0, 0, *crop.shape[1::-1]]], np.float32)) for crop in bgr(crops)]
        return np.concatenate([network.extract_embeddings(sv.Detections(xyxy=box), frame) for frame, box in frames])

    return embed


def deep_sort(files: Files):
    """The vectors that its tracks keep, of crops side by side in a frame; the embedder is the page's."""
    import onnxruntime
    from deep_sort_realtime.deepsort_tracker import DeepSort

    session = onnxruntime.InferenceSession(files.pixels, providers=["CPUExecutionProvider"])

    class Exported:
        def predict(self, crops):
            return list(session.run(None, {"images": pixels_of(bgr(crops), files.size)})[0])

    def embed(crops: Crops) -> np.ndarray:
        tracker = DeepSort(embedder=None)
        tracker.embedder = Exported()
        height, lefts = max(len(crop) for crop in crops), np.cumsum([0] + [crop.shape[1] for crop in crops])
        frame = np.zeros((height, lefts[-1], 3), np.uint8)
        for crop, left in zip(bgr(crops), lefts):
            frame[: len(crop), left : left + crop.shape[1]] = crop
        boxes = [([int(left), 0, crop.shape[1], len(crop)], 1.0, "person") for crop, left in zip(crops, lefts)]
        return np.stack([track.features[-1] for track in tracker.update_tracks(boxes, frame=frame)])

    return embed


def to_openvino(files: Files):
    """The ONNX file by OpenVINO's converter, run with single precision."""
    import openvino

    if not os.path.exists(files.openvino):
        openvino.save_model(openvino.convert_model(files.onnx), files.openvino, compress_to_fp16=False)
        shutil.copy(files.onnx + BOXMOT_SUFFIX, files.openvino + BOXMOT_SUFFIX)
    network = openvino.Core().compile_model(files.openvino, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda crops: network(as_input(pixels_of(crops, files.size), "normalized"))[0]


class Loader(NamedTuple):
    """A program's way of taking a network: name, packages (the first one's version counts), what makes it from the files, and
    how it resizes."""

    name: str
    packages: tuple
    load: Callable[[Files], Callable[[Crops], np.ndarray]]
    resize: Callable[[Crops, tuple], Crops] = bicubic


LOADERS = (
    Loader("BoxMOT, ONNX Runtime", ("boxmot", "onnxruntime"), boxmot_onnx, bilinear),
    Loader("BoxMOT, OpenCV", ("boxmot", "cv2"), boxmot_opencv, bilinear),
    Loader("BoxMOT, TorchScript", ("boxmot",), boxmot_torchscript, bilinear),
    Loader("BoxMOT, OpenVINO", ("boxmot", "openvino"), boxmot_openvino, bilinear),
    Loader("Roboflow's reid", ("reid", "supervision"), roboflow_reid),
    Loader("deep-sort-realtime", ("deep_sort_realtime",), deep_sort),
    Loader("OpenVINO", ("openvino",), to_openvino),
)


def missing(loader: Loader) -> Optional[str]:
    """The first of its packages that cannot be imported."""
    for package in loader.packages:
        try:
            importlib.import_module(package)
        except ImportError:
            return package
    return None


def random_osnet(folder: str, crops: Crops) -> str:
    """A file of OSNet's random weights, whose batch norms have seen the crops: else all images would look alike to it."""
    cfg = load_cfg(OSNET, ["MODEL.BACKBONE.PRETRAIN", "False", "MODEL.DEVICE", "cpu"])
    torch.manual_seed(0)
    model = build_model(cfg)
    images = torch.from_numpy(pixels_of(crops, tuple(cfg.INPUT.SIZE_TEST)))
    images = (images - model.pixel_mean) / model.pixel_std
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        model.train()
        model.heads.bottleneck(model.heads.pool_layer(model.backbone(images)))
    path = os.path.join(folder, "osnet.pth")
    torch.save({"model": model.state_dict()}, path)
    return path


def embedders(args: argparse.Namespace, folder: str, crops: Crops) -> Iterator[Embedder]:
    if args.run:
        yield Embedder(args.run, args.weights, device="cpu")
        return
    yield Embedder(MOBILENET, device="cpu")  # with the ImageNet weights that its config names
    yield Embedder(OSNET, random_osnet(folder, crops), device="cpu")


def drawn_crops(folder: str) -> str:
    sys.path.insert(0, str(Path(__file__).parents[2] / "projects/SyntheticPersons"))
    from synthetic_persons import write_dataset

    return str(write_dataset(folder, size="tiny", workers=1, progress=False).path)


def read_crops(folder: str) -> Crops:
    paths = sorted(
        path for ending in ("jpg", "jpeg", "png") for path in glob(f"{folder}/**/*.{ending}", recursive=True)
    )
    if not paths:
        raise UsageError(f"--crops {folder} holds no .jpg and no .png")
    chosen = [paths[place] for place in np.linspace(0, len(paths) - 1, min(CROPS, len(paths))).astype(int)]
    return [np.asarray(decode_rgb(Path(path).read_bytes())) for path in chosen]


def reshaped(crops: Crops) -> Crops:
    """The crops, each of another size."""
    random, changed = np.random.default_rng(0), []
    for crop in crops:
        width = random.integers(*WIDTHS)
        size = int(width), round(float(width * random.uniform(*SHAPES)))
        changed.append(np.asarray(Image.fromarray(crop).resize(size, Image.Resampling.BICUBIC)))
    return changed


def written(embedder: Embedder, folder: str) -> Files:
    at = lambda name: os.path.join(folder, name)
    return Files(
        export(embedder, at("pixels.onnx")).path,
        export(embedder, at("model.onnx"), inputs="normalized").path,
        export(embedder, at("model.torchscript"), "torchscript", inputs="normalized").path,
        at("model.xml"),
        tuple(embedder.input_size),
    )


def least_cosine(one: np.ndarray, other: np.ndarray) -> str:
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return f"{(unit(np.asarray(one, np.float64)) * unit(np.asarray(other, np.float64))).sum(axis=1).min():.7f}"


def rows_of(embedder: Embedder, folder: str, crops: Crops) -> Iterator[list]:
    files = written(embedder, folder)
    own, other = bicubic(crops, files.size), reshaped(crops)
    expected, exchanged, expected_other = embedder(own), embedder(bgr(own)), embedder(other)
    network = f"{embedder.cfg.MODEL.BACKBONE.NAME.split('_')[1]} {files.size[0]} x {files.size[1]}"
    for loader in LOADERS:
        package = missing(loader)
        if package:
            yield [network, loader.name, f"{package} is not installed"]
            continue
        version = importlib.metadata.version(loader.packages[0])
        try:
            embed = loader.load(files)
            found, found_other = embed(own), embed(other)
            alike = embedder(loader.resize(other, files.size))
        except Exception as error:  # whatever another program raises is what is reported
            yield [network, loader.name, version, f"{type(error).__name__}: {str(error).splitlines()[0][:70]}"]
            continue
        pairs = (found, expected), (found_other, alike), (found_other, expected_other), (found, exchanged)
        yield [network, loader.name, version, *(least_cosine(*pair) for pair in pairs)]


def measure(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        crops = read_crops(args.crops or drawn_crops(folder))
        table = []
        for number, embedder in enumerate(embedders(args, folder, crops)):
            own_folder = os.path.join(folder, str(number))
            os.mkdir(own_folder)
            table += rows_of(embedder, own_folder, crops)
    headers = ["network", "loader", "version", "own size", "other, resized alike", "other", "colours exchanged"]
    print(tabulate(table, headers=headers, tablefmt="pipe", disable_numparse=True))


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description="Exported networks in other programs' loaders, against Embedder.")
    parser.add_argument("--run", help="output folder of a run, or a config (default: two small networks, untrained)")
    parser.add_argument("--weights", help="file of weights, for --run")
    parser.add_argument("--crops", help="folder of images (default: drawn persons)")
    return run_command(parser, measure, argv)


if __name__ == "__main__":
    sys.exit(main())
