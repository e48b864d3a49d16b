"""The network that crops are embedded by: of a run, of a config before training, or an exported file."""

import os
from itertools import islice
from typing import Iterator, Optional, Sequence, Union

import numpy as np
from PIL import Image

from ..data.reading import ReadFile, decode_rgb, read_many
from ..errors import UsageError
from ..inference.embedder import BATCH_SIZE, Embedder
from ..inference.exports import as_input, read_metadata
from ..utils.files import digest_of, shown
from ..utils.parallel import num_threads

_ENDING = ".onnx"
# Hexadecimal digits of the fingerprint, as many as an Embedder's has.
_DIGITS = 16


class ExportedNetwork:
    """A file that ``ise-export --format onnx`` wrote, with the part of :class:`ise_plugin.Embedder` that embedding files needs.

    Args:
        path: of the file.
        device: "cpu", or "auto" or "cuda" for a GPU where onnxruntime has one.

    Attributes:
        run, weights: the path. input_size: (height, width) in pixels. fingerprint: of the file's content.

    Raises:
        UsageError: onnxruntime is not installed, or the file is no such export.
    """

    def __init__(self, path: str, device: str = "auto"):
        try:
            import onnxruntime
        except ImportError as error:
            raise UsageError(
                "an exported network needs onnxruntime; install it with: pip install onnx onnxruntime"
            ) from error
        about = read_metadata(path)
        self.run = self.weights = os.path.abspath(path)
        self.input_size = int(about["input_height"]), int(about["input_width"])
        self._inputs = about.get("inputs", "pixels")  # older files do not say it
        self.fingerprint = digest_of(path)[:_DIGITS]
        wanted = ["CPUExecutionProvider"] if device == "cpu" else ["CUDAExecutionProvider", "CPUExecutionProvider"]
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        self._session = onnxruntime.InferenceSession(path, providers=providers)

    def __call__(self, paths: Sequence[str]) -> np.ndarray:
        """(N, D) float32, unit rows, of files; UsageError where one cannot be read."""
        found = list(self.stream(paths))
        for file in found:
            if file.reason is not None:
                raise UsageError(f"image {file} cannot be embedded; repair or remove it")
        return np.stack([file.value for file in found]) if found else np.zeros((0, self._width()), np.float32)

    def stream(self, paths: Sequence[str]) -> Iterator[ReadFile]:
        """Files with their embeddings, in their order; needs memory for some hundred images only."""
        files = read_many(paths, self._pixels, num_threads())
        while batch := list(islice(files, BATCH_SIZE)):
            pixels = [found.value for found in batch if found.reason is None]
            rows = iter(self._embed(np.stack(pixels))) if pixels else iter(())
            yield from (found._replace(value=next(rows)) if found.reason is None else found for found in batch)

    def _pixels(self, content: bytes) -> np.ndarray:
        height, width = self.input_size
        return np.asarray(decode_rgb(content).resize((width, height), Image.Resampling.BICUBIC))

    def _embed(self, pixels: np.ndarray) -> np.ndarray:
        return self._session.run(None, {"images": as_input(pixels.transpose(0, 3, 1, 2), self._inputs)})[0]

    def _width(self) -> int:
        return self._embed(np.zeros((1, *self.input_size, 3), np.uint8)).shape[1]


Network = Union[Embedder, ExportedNetwork]


def load_network(model: str, weights: Optional[str] = None, device: str = "auto") -> Network:
    """A network by the folder of its run, its config, or its exported file."""
    if model.lower().endswith(_ENDING):
        if weights is not None:
            raise UsageError(f"{shown(model)} holds its weights; leave out --weights")
        if not os.path.isfile(model):
            raise UsageError(f"{shown(model)} is no file; check the path")
        return ExportedNetwork(model, device)
    return Embedder(model, weights, device)
