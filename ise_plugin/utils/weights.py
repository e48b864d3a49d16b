"""Files of weights: read without running anything, checked against their digest, fetched only over TLS.

Imports no fastreid: :mod:`ise_plugin.compat` hands these functions to fastreid's own readers.
"""

import argparse
import hashlib
import http.client
import importlib
import os
import re
import urllib.request
import zipfile
from typing import Any, Optional

import numpy as np
import torch

from ..errors import UsageError
from .files import write_atomically

# numpy 2 has moved the function that its older pickles call by the old name
_NUMPY_SCALAR = (np._core if hasattr(np, "_core") else np.core).multiarray.scalar
# fastreid's own checkpoints hold the metric as a numpy scalar, those of DINO and its heirs their command line as a plain
# namespace; nothing else is let in beside tensors and plain containers
_SAFE_GLOBALS = [
    argparse.Namespace,
    np.dtype,
    np.float64,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
    type(np.dtype(np.int64)),
    _NUMPY_SCALAR,
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
]
# a file of torch.save is a zip archive; its comment, which every reader passes over, says the digest of all before it
_TAG = b"sha256:"
_TAG_LENGTH = len(_TAG) + 2 * hashlib.sha256().digest_size
_COMMENT_LENGTH_SIZE = 2
# names like resnet50-19c8e357.pth: what torch.hub calls check_hash, the first digits of the SHA-256
_DIGEST_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")
_SAFETENSORS = ".safetensors"
_BLOCK = 1 << 20
_SECONDS_WITHOUT_DATA = 60


class DamagedWeights(UsageError):
    """A file of weights that is missing, damaged, or holds what may not be read."""


def sealed(content: bytes) -> bytes:
    """A file of ``torch.save`` with the digest of its bytes at its end, where any reader of such files passes over it."""
    assert content[-_COMMENT_LENGTH_SIZE:] == bytes(_COMMENT_LENGTH_SIZE), "an archive with a comment already"
    content = content[:-_COMMENT_LENGTH_SIZE] + _TAG_LENGTH.to_bytes(_COMMENT_LENGTH_SIZE, "little")
    return content + _TAG + hashlib.sha256(content).hexdigest().encode()


def load_checkpoint_file(path: str) -> Any:
    """Reads a file of ``torch.save``, or of safetensors by its ending, onto the CPU; only tensors, numbers, text and plain
    containers are let in.

    A file that this program wrote is compared with its digest first; in any other the check sums of its parts are, which
    torch itself passes over.

    Raises:
        DamagedWeights: the file is missing, is no checkpoint, is not as it was written, or holds anything else.
    """
    path, cause = os.fspath(path), None
    if not os.path.isfile(path):
        raise DamagedWeights(f"weights file {path} is not there; check the path")
    if path.endswith(_SAFETENSORS):
        return _load_safetensors(path)
    try:
        problem = _problem(path)
        if problem is None:
            with torch.serialization.safe_globals(_SAFE_GLOBALS):
                return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make torch, zipfile and pickle raise nearly anything
        cause, problem = error, "it is damaged or no file of torch.save"
        refused = [line.strip() for line in str(error).splitlines() if "Unsupported global" in line or "GLOBAL" in line]
        if isinstance(error, OSError) and error.strerror:
            problem = error.strerror
        elif refused:
            problem = f"it holds more than tensors: {refused[0]}"
    raise DamagedWeights(f"weights file {path} is not a checkpoint that can be read safely ({problem})") from cause


def _load_safetensors(path: str) -> dict:
    try:
        reader = importlib.import_module("safetensors.torch")
    except ImportError as error:
        raise UsageError(f"weights file {path} needs safetensors: pip install safetensors") from error
    try:
        return reader.load_file(path)
    except Exception as error:  # the library's own kinds, and those of the file system
        raise DamagedWeights(f"weights file {path} is no file of safetensors, or it is damaged ({error})") from error


def _problem(path: str) -> Optional[str]:
    """What the digest, or the archive's own check sums, say against a file."""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END) - _TAG_LENGTH
        file.seek(max(0, end))
        tag = file.read()
        if end > 0 and tag.startswith(_TAG):
            file.seek(0)
            digest = hashlib.sha256()
            while block := file.read(min(_BLOCK, end - file.tell())):
                digest.update(block)
            return None if digest.hexdigest().encode() == tag[len(_TAG) :] else "its digest is not that of its content"
    if not zipfile.is_zipfile(path):
        return None  # a file in torch's older format, or none at all: reading it will tell
    with zipfile.ZipFile(path) as archive:
        if archive.comment:
            return "its digest is cut off or damaged"
        broken = archive.testzip()
    return None if broken is None else f"its part {broken} is damaged"


def weights_cache() -> str:
    """The folder where fastreid looks for downloaded weights."""
    cache = os.getenv("XDG_CACHE_HOME", "~/.cache")
    return os.path.join(os.path.expanduser(os.getenv("TORCH_HOME", os.path.join(cache, "torch"))), "checkpoints")


def fetch_weights(url: str, name: Optional[str] = None) -> str:
    """The file of pretrained weights that an address means, from the cache or, once, from the network.

    Args:
        url: https only; its file name holds the first digits of the SHA-256, as torch.hub's do.
        name: of the file in the cache; that of the address by default.

    Raises:
        UsageError: it is not in the cache and cannot be downloaded and checked; says which file to put where.
    """
    name = name or url.split("/")[-1]
    path = os.path.join(weights_cache(), name)
    if os.path.isfile(path):
        return path
    place = f"put it there by hand as {path}, name a file in MODEL.BACKBONE.PRETRAIN_PATH, or set MODEL.BACKBONE.PRETRAIN False"
    wanted = _DIGEST_IN_NAME.search(url)
    if not url.startswith("https://") or not wanted:
        raise UsageError(f"pretrained weights {url} are not downloaded without TLS or a digest in the name; {place}")
    try:
        os.makedirs(weights_cache(), exist_ok=True)
        content = _download(url, wanted[1])
    except (OSError, http.client.HTTPException) as error:
        reason = " ".join(str(getattr(error, "reason", None) or error).split())
        raise UsageError(f"pretrained weights {url} cannot be downloaded ({reason}); {place}") from error
    write_atomically(path, content)
    return path


def _download(url: str, wanted: str) -> bytes:
    with urllib.request.urlopen(url, timeout=_SECONDS_WITHOUT_DATA) as answer:
        if not answer.geturl().startswith("https://"):
            raise OSError("the server leads away from TLS")
        content = answer.read()
    digest = hashlib.sha256(content).hexdigest()
    if not digest.startswith(wanted):
        raise OSError(f"its SHA-256 starts with {digest[: len(wanted)]}, not {wanted}")
    return content


def first_not_finite(model: torch.nn.Module) -> Optional[str]:
    """The first weight or statistic that is no finite number, by its name; None where all are. Waits for the device once."""
    entries = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    finite = torch.stack([torch.isfinite(value).all() for value in entries.values()]).cpu()
    return None if finite.all() else list(entries)[int((~finite).nonzero()[0])]
