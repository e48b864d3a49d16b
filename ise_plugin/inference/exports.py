"""One self-contained file of a network: ONNX or TorchScript, images in, unit embeddings out, checked when it is made."""

import importlib
import io
import json
import logging
import os
import warnings
from types import ModuleType
from typing import Callable, NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor, nn

from .. import __version__
from ..config import load_cfg
from ..errors import UsageError
from ..utils.files import shown, write_atomically
from .embedder import Embedder, traced

logger = logging.getLogger("fastreid.ise.export")

# Endings of a format's files; the first is added where none is there. BoxMOT takes TorchScript by the last alone.
SUFFIXES = {"onnx": (".onnx",), "torchscript": (".pt", ".torchscript")}
FORMATS = tuple(SUFFIXES)
# What the file takes: pixels of 0 to 255, or those pixels as torchreid, BoxMOT and Roboflow's reid hand them to a network.
INPUTS = ("pixels", "normalized")
# Of RGB in 0 to 1, over ImageNet: torchvision's numbers, which these programs have as constants.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_RANGES = {
    "pixels": "RGB, 0 to 255, float32; resized with bicubic interpolation; normalisation is inside",
    "normalized": f"RGB, float32, 0 to 1, less {IMAGENET_MEAN}, divided by {IMAGENET_STD}; resized with bicubic interpolation",
}
# Of the file beside a network in which BoxMOT looks for what the network does not say.
BOXMOT_SUFFIX = ".metadata.json"
INPUT_NAME, OUTPUT_NAME = "images", "embeddings"
# The least cosine similarity between the exported and the original embedding of an image.
LEAST_COSINE = 0.9999
_CHECKED_IMAGES = 16
METADATA_NAME = "ise_plugin"
LICENCE_NOTE = (
    "The code that made this file is under Apache-2.0. The weights also depend on the images they were trained on and on the "
    "weights they started from: see that their terms allow what you do with this file."
)


class Exported(NamedTuple):
    """Where the file is, and the smallest cosine similarity that the check has found."""

    path: str
    least_cosine: float


class NormalizedInput(nn.Module):
    """A network of pixels 0..255 as one of normalised images, which are RGB in 0..1, less ImageNet's mean, by its deviation."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W), float32 -> what the network gives for their pixels."""
        return self.network(images * self.std + self.mean)


def export(embedder: Embedder, output: str, kind: str = "onnx", inputs: str = "pixels") -> Exported:
    """Writes the network of a run as one file and checks what the file computes.

    Its input ``images`` is (B, 3, H, W), float32, RGB, for any B and the H and W of the metadata; its output ``embeddings``
    (B, D), float32, unit rows. The metadata (:func:`metadata_of`) is in the file as JSON under "ise_plugin". Beside one that
    takes normalised images a small FILE.metadata.json tells BoxMOT the size, which it can read from some formats only and
    takes for 256 x 128 elsewhere.

    Args:
        embedder: of the run, on the CPU.
        output: file name; the ending of the format is added where it is missing.
        kind: "onnx" or "torchscript".
        inputs: what the file takes: "pixels" of 0..255, or "normalized" ones: (pixels / 255 - mean) / std of ImageNet.

    Raises:
        UsageError: an unknown format, a package that is missing, a file that cannot be written, or embeddings that differ from
            the original's (nothing is written then).
    """
    if kind not in FORMATS:
        raise UsageError(f"--format must be one of {', '.join(FORMATS)}, not {kind!r}")
    if inputs not in INPUTS:
        raise UsageError(f"--inputs must be one of {', '.join(INPUTS)}, not {inputs!r}")
    if not os.path.basename(output):
        raise UsageError(f"--output {output!r} names no file; give the name of the file to write")
    path = output if output.endswith(SUFFIXES[kind]) else output + SUFFIXES[kind][0]
    metadata = metadata_of(embedder, inputs)
    make, run = {"onnx": (_to_onnx, _run_onnx), "torchscript": (_to_torchscript, _run_torchscript)}[kind]
    network = embedder.network if inputs == "pixels" else NormalizedInput(embedder.network)
    content = make(network, embedder.input_size, metadata)
    least = _check(embedder.network, embedder.input_size, lambda images: run(content, as_input(images, inputs)))
    if not least >= LEAST_COSINE:
        raise UsageError(
            f"the exported network gives other embeddings (cosine similarity {least:.6f}, less than {LEAST_COSINE}); "
            f"nothing was written, try --format {FORMATS[1 - FORMATS.index(kind)]}"
        )
    write_atomically(path, content)
    if inputs == "normalized":
        size = {"model_kwargs": {"img_size": list(embedder.input_size)}}
        write_atomically(path + BOXMOT_SUFFIX, json.dumps(size).encode())
    return Exported(path, least)


def as_input(pixels: np.ndarray, inputs: str) -> np.ndarray:
    """Pixels (B, 3, H, W), RGB, 0..255 -> float32, what a file takes whose metadata has these ``inputs``."""
    pixels = np.asarray(pixels, np.float32)
    if inputs == "pixels":
        return pixels
    mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels / 255 - mean) / std


def metadata_of(embedder: Embedder, inputs: str = "pixels") -> dict:
    """What somebody who only has the file needs to know: all values are JSON."""
    cfg, (height, width) = embedder.cfg, embedder.input_size
    backbone, start = load_cfg(embedder.config_file).MODEL.BACKBONE, "random weights"
    if backbone.PRETRAIN:
        start = f"pretrained weights: {os.path.basename(backbone.PRETRAIN_PATH) or 'downloaded by fastreid (ImageNet)'}"
    training = f"trained without labels on {', '.join(cfg.DATASETS.NAMES)}" if embedder.trained else "not trained here"
    return {
        "input_height": height,
        "input_width": width,
        "inputs": inputs,
        "input_range": _RANGES[inputs],
        "backbone": f"{cfg.MODEL.BACKBONE.NAME} {cfg.MODEL.BACKBONE.DEPTH}",
        "weights": training,
        "started_from": start,
        "fingerprint": embedder.fingerprint,
        "calibration": embedder.calibration and json.loads(embedder.calibration.to_json()),
        "licence": LICENCE_NOTE,
        "version": __version__,
        "config": cfg.dump(),
    }


def _to_onnx(network: nn.Module, input_size: tuple, metadata: dict) -> bytes:
    onnx = _required("onnx")
    _required("onnxruntime")
    buffer, batch = io.BytesIO(), {0: "batch"}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of checks of shapes, which are constant here, and of this exporter's future
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, *input_size),),
            buffer,  # type: ignore[arg-type]  # the exporter takes it, its annotation does not say so
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_axes={INPUT_NAME: batch, OUTPUT_NAME: batch},
            opset_version=18,
            dynamo=False,  # the newer exporter needs another package and ten times as long, for the same embeddings
        )
    model = onnx.load_model_from_string(buffer.getvalue())
    onnx.helper.set_model_props(model, {METADATA_NAME: json.dumps(metadata)})
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _run_onnx(content: bytes, images: np.ndarray) -> np.ndarray:
    session = _required("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run([OUTPUT_NAME], {INPUT_NAME: images})[0]


def _to_torchscript(network: nn.Module, input_size: tuple, metadata: dict) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(traced(network, input_size), buffer, _extra_files={METADATA_NAME: json.dumps(metadata)})
    return buffer.getvalue()


def _run_torchscript(content: bytes, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return torch.jit.load(io.BytesIO(content))(torch.from_numpy(images)).numpy()


def _check(network: nn.Module, input_size: tuple, run: Callable[[np.ndarray], np.ndarray]) -> float:
    """The smallest cosine similarity between both embeddings of random pictures; NaN where an embedding is not finite."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (_CHECKED_IMAGES, 3, *input_size)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).numpy()
    found = np.concatenate([run(images[:1]), run(images[1:])])  # batches of different size
    return float((expected * found).sum(axis=1).min())


def read_metadata(path: str) -> dict:
    """The metadata of an exported file; UsageError where it is missing or no export of this package."""
    try:
        if path.endswith(SUFFIXES["onnx"]):
            model = _required("onnx").load(path)
            text: Optional[str] = {entry.key: entry.value for entry in model.metadata_props}.get(METADATA_NAME)
        else:
            extra = {METADATA_NAME: ""}
            torch.jit.load(path, _extra_files=extra, map_location="cpu")
            text = extra[METADATA_NAME]
        return json.loads(text or "")
    except UsageError:
        raise
    except Exception as error:  # both libraries raise many kinds for a damaged file
        raise UsageError(f"{shown(path)} holds no network that this package exported") from error


def _required(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UsageError(f"ONNX needs {package}: pip install onnx onnxruntime, or take --format torchscript") from error
