"""Embeddings of images from a finished run, or a network before training, in three lines of Python."""

import hashlib
import logging
import os
import warnings
from itertools import islice
from typing import Iterator, Optional, Sequence, Union

import numpy as np
import torch
from fastreid.data.transforms import build_transforms
from fastreid.data.transforms.transforms import ToTensor
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import Compose

from ..clustering.calibration import read_calibration
from ..config import CfgNode, load_cfg, resolve_config_file
from ..data.reading import ReadFile, UnreadableImage, decode_rgb, read_many, upright_rgb
from ..engine.checkpointing import CHOSEN, ISECheckpointer
from ..engine.start import resolve_device
from ..errors import UsageError
from ..modeling.build import build_model, resolve_weights_path
from ..utils.files import shown
from ..utils.parallel import num_threads
from ..utils.weights import first_not_finite

logger = logging.getLogger("fastreid.ise.embedder")

_CONFIG = "config.yaml"  # of a run
# Weights of a run, the first that is there: chosen without labels, else the last.
_WEIGHTS_NAMES = (CHOSEN, "model_final.pth")
# Images in a batch: large enough that starting it costs nothing, small enough for the caches of a CPU.
BATCH_SIZE = 64
_DIGEST_SIZE = 8
# Of an embedding, for divisions by it; torch's.
_LEAST_NORM = 1e-12

ImageLike = Union[str, os.PathLike, Image.Image, np.ndarray]


class EmbeddingNetwork(nn.Module):
    """Backbone, head and both normalisations of a fastreid model as one module: pixels in, unit embeddings out."""

    backbone: nn.Module
    heads: nn.Module
    mean: Tensor
    scale: Tensor

    def __init__(self, model: nn.Module):
        super().__init__()
        self.backbone, self.heads = model.get_submodule("backbone"), model.get_submodule("heads")
        self.register_buffer("mean", model.get_buffer("pixel_mean").detach().clone())
        self.register_buffer("scale", 1 / model.get_buffer("pixel_std").detach())
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), float32, RGB, 0..255 -> (B, D), float32, unit rows."""
        embeddings = self.heads(self.backbone((images - self.mean) * self.scale))
        # F.normalize to the bit; that asks for the shape, which makes a longer graph of ONNX
        return embeddings / embeddings.norm(dim=1, keepdim=True).clamp_min(_LEAST_NORM)


class Embedder:
    """The network of a finished run, or of a config before any training, as a function from images to embeddings.

    Args:
        run: output folder of a run (its config.yaml and weights are read), or a config file (``ISE/folder_reid.yml``).
        weights: file of weights, of any program in :data:`ise_plugin.modeling.layouts.LAYOUTS`; by default the run's
            model_chosen.pth, else its model_final.pth; with a config its ``MODEL.BACKBONE.PRETRAIN_PATH``.
        device: ``auto`` (CUDA, Apple's GPU, CPU), or a torch device.

    Attributes:
        run, cfg, weights: the folder or config, its configuration, the file.
        config_file: that the configuration was read from.
        trained: whether it is the network of a run.
        input_size: (height, width) that images are brought to, in pixels.
        network: :class:`EmbeddingNetwork`.
        fingerprint: hexadecimal digest of weights and input size: equal ones give the same embeddings.
        calibration: what similarities mean, as the end of the run has found it for these weights, a
            :class:`ise_plugin.clustering.calibration.Calibration`; None where it has not.

    Raises:
        UsageError: the folder holds no run; the weights are missing, another network's, or hold numbers that are not finite.

    Example::

        from ise_plugin import Embedder
        e = Embedder("out")
        v = e(["a.jpg", "b.jpg"])        # (2, D), float32, unit rows: v @ v.T are cosine similarities
    """

    def __init__(self, run: str, weights: Optional[str] = None, device: str = "auto"):
        if weights is not None and not os.path.isfile(weights):
            raise UsageError(f"--weights {shown(weights)} is no file; check the path")
        self.run = run
        self.trained = os.path.isdir(run)
        self.config_file = os.path.join(run, _CONFIG) if self.trained else resolve_config_file(run)
        self.cfg = _config(run, self.config_file, device)
        backbone = self.cfg.MODEL.BACKBONE
        backbone.PRETRAIN = not weights and not self.trained  # any other file holds all weights
        if backbone.PRETRAIN and not backbone.PRETRAIN_PATH:
            raise UsageError(f"{shown(str(run))} names no MODEL.BACKBONE.PRETRAIN_PATH; name a file with --weights")
        own = resolve_weights_path(backbone.PRETRAIN_PATH) if backbone.PRETRAIN else None
        self.weights = weights or own or _run_weights(run)
        if not self.trained:
            logger.info(f"{shown(str(run))} is a config: the network before any training, with {shown(self.weights)}")
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(self.cfg.SEED)  # of layers that no file has
            self.model = build_model(self.cfg)
        if not backbone.PRETRAIN:
            ISECheckpointer(self.model).load(self.weights, checkpointables=[])
        bad = first_not_finite(self.model)
        if bad is not None:
            raise UsageError(f"{shown(self.weights)} holds numbers that are not finite, in {bad}; take others")
        self.model.eval()
        # the test transform without its last step, which makes a tensor of one image
        steps = build_transforms(self.cfg, is_train=False).transforms
        self._transform = Compose([step for step in steps if not isinstance(step, ToTensor)])
        self._device = torch.device(self.cfg.MODEL.DEVICE)
        self.input_size = self._pixels(Image.new("RGB", (8, 16))).shape[:2]
        self.network = EmbeddingNetwork(self.model)
        network = self.network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        # on the CPU batch norms are folded into convolutions, which is measurably faster
        self._fast = traced(network, self.input_size) if self._device.type == "cpu" else network
        self.fingerprint = _fingerprint(self.weights, self.input_size)
        self.calibration = read_calibration(run, self.weights) if self.trained else None

    def __call__(self, images: Sequence[ImageLike]) -> np.ndarray:
        """Embeddings of images.

        Args:
            images: N paths, PIL images, or arrays (H, W, 3), uint8, RGB; several at once are faster than one after another. A
                picture gives the same whether it is named or opened: upright, transparency and 16-bit grey as for files.

        Returns:
            (N, D), float32, unit rows.

        Raises:
            UsageError: an image cannot be read; the message names the first, an opened one by its place.
        """
        if isinstance(images, (str, os.PathLike, Image.Image)):
            raise TypeError("give a list of images, even for one")
        images, pixels = list(images), []
        paths = [os.fspath(image) for image in images if isinstance(image, (str, os.PathLike))]
        files = read_many(paths, self._decoded, num_threads())
        for place, image in enumerate(images):
            if not isinstance(image, (str, os.PathLike)):
                pixels.append(self._pixels(_as_image(image, place)))
            elif (found := next(files)).reason is None:
                pixels.append(found.value)
            else:
                raise UsageError(f"image {found} cannot be embedded; repair or remove it")
        batches = [self._embed(pixels[start : start + BATCH_SIZE]) for start in range(0, len(pixels), BATCH_SIZE)]
        return np.concatenate(batches) if batches else np.zeros((0, self._width()), np.float32)

    def stream(self, paths: Sequence[str]) -> Iterator[ReadFile]:
        """Files with their embeddings (D,), float32, in their order; needs memory for some hundred images only."""
        files = read_many(paths, self._decoded, num_threads())
        while batch := list(islice(files, BATCH_SIZE)):
            pixels = [found.value for found in batch if found.reason is None]
            rows = iter(self._embed(pixels)) if pixels else iter(())
            yield from (found._replace(value=next(rows)) if found.reason is None else found for found in batch)

    def _decoded(self, content: bytes) -> np.ndarray:
        return self._pixels(decode_rgb(content))

    def _pixels(self, image: Image.Image) -> np.ndarray:
        return np.asarray(self._transform(image))

    def _embed(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        # a transposed view of rows of pixels is channels-last already
        images = torch.from_numpy(np.stack(pixels)).to(self._device).permute(0, 3, 1, 2).float()
        with torch.inference_mode():
            return self._fast(images).cpu().numpy()

    def _width(self) -> int:
        return self._embed([np.zeros((*self.input_size, 3), np.uint8)]).shape[1]


def _config(run: str, path: str, device: str) -> CfgNode:
    if not os.path.isfile(path):
        raise UsageError(
            f"{shown(str(run))} is no config and holds no {_CONFIG}; name the OUTPUT_DIR of a finished run"
        )
    cfg = load_cfg(path)
    cfg.MODEL.DEVICE = resolve_device(device)
    cfg.ISE.COMPILE = False
    return cfg


def _run_weights(run: str) -> str:
    for path in (os.path.join(run, name) for name in _WEIGHTS_NAMES):
        if os.path.isfile(path):
            return path
    raise UsageError(f"{shown(str(run))} holds neither {' nor '.join(_WEIGHTS_NAMES)}; has the run finished?")


def _as_image(image: Union[Image.Image, np.ndarray], place: int) -> Image.Image:
    """Of the image at a place of the caller's list."""
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        image = Image.fromarray(image) if image.size else Image.new("RGB", image.shape[1::-1])
    if not isinstance(image, Image.Image):
        kind = type(image).__name__
        raise TypeError(f"an image must be a path, a PIL image, or an array (H, W, 3) of uint8, not {kind}")
    try:
        return upright_rgb(image)
    except UnreadableImage as error:
        raise UsageError(f"images[{place}] cannot be embedded ({error}); leave it out") from error


def traced(network: nn.Module, input_size: tuple) -> torch.jit.ScriptModule:
    """An :class:`EmbeddingNetwork` on the CPU as TorchScript, for any batch size and one (height, width) in pixels.

    Parameters become constants that kernels are fused with.
    """
    # a batch of two: with one image some networks take shapes for constants
    example = torch.zeros(2, 3, *input_size).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of checks of shapes, which are constant here, and of TorchScript's future
        return torch.jit.freeze(torch.jit.trace(network, example, check_trace=False))


def _fingerprint(weights: str, input_size: tuple) -> str:
    digest = hashlib.blake2b(repr(tuple(input_size)).encode(), digest_size=_DIGEST_SIZE)
    with open(weights, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
