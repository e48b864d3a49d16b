"""From files and folders to a store of embeddings."""

import os
import re
from typing import NamedTuple, Sequence

import numpy as np

from ..data.image_files import check_share, find_images
from ..data.reading import Problem
from ..errors import UsageError
from ..utils.files import shown
from ..utils.parallel import progress_bar
from .embedder import Embedder
from .embeddings import FORMATS, Embeddings, EmbeddingStore, check_parquet

_ENDING = re.compile(rf"\.({'|'.join(FORMATS)})$", re.IGNORECASE)


class EmbeddingJob(NamedTuple):
    """What :func:`embed_files` did.

    Attributes:
        embeddings: of all files.
        new: how many of them were not there before.
        problems: the files that gave none.
        files: that were written.
    """

    embeddings: Embeddings
    new: int
    problems: list
    files: list


def list_files(inputs: Sequence[str]) -> list[str]:
    """Files as they are, folders as the pictures in them; each path once, in the order given.

    Raises:
        UsageError: a folder holds no picture. A file that is not there turns up when it is read.
    """
    found: dict = {}
    for path in inputs:
        files = [os.path.join(path, name) for name in find_images(path)] if os.path.isdir(path) else [path]
        found.update(dict.fromkeys(files))
    return list(found)


def embed_files(
    embedder: Embedder,
    inputs: Sequence[str],
    output: str,
    formats: Sequence[str] = FORMATS,
    max_bad_share: float = 0.05,
) -> EmbeddingJob:
    """Embeds files and the pictures of folders, or what is missing of them, and writes the result.

    Args:
        embedder: of the run.
        inputs: files and folders.
        output: path without ending (.npz or .parquet at its end is left out).
        formats: some of "npz" and "parquet".
        max_bad_share: of the files that may be unreadable, in [0, 1].

    Raises:
        UsageError: too many files are unreadable, or the network gives no finite numbers; what was embedded until then is
            kept for the next run. A share outside [0, 1], or an output without a name. Or see :class:`EmbeddingStore` and
            :func:`list_files`.
    """
    base = _without_ending(output)
    if not 0 <= max_bad_share <= 1:
        raise UsageError(f"--max-bad-share must be from 0 to 1, not {max_bad_share}")
    if "parquet" in formats:
        check_parquet()
    paths = list_files(inputs)
    store = EmbeddingStore(base, embedder.fingerprint, os.fspath(embedder.run), embedder([]).shape[1])
    problems: list[Problem] = []
    try:
        missing = store.missing(paths)
        with progress_bar(len(missing), "embedding", unit="img") as bar:
            for found in embedder.stream(missing):
                bar.update()
                if found.embedding is not None:
                    _check_finite(found.embedding, found.path, embedder.weights)
                    store.add(found.path, found.embedding)
                else:
                    problems.append(Problem(found.path, found.reason or ""))
                    check_share(problems, len(paths), max_bad_share, "--max-bad-share", stopped=True)
    finally:
        store.pause()
    bad = {problem.path for problem in problems}
    result = store.finish([path for path in paths if path not in bad], formats)
    return EmbeddingJob(result, len(missing) - len(problems), problems, [f"{base}.{kind}" for kind in formats])


def _without_ending(output: str) -> str:
    base = _ENDING.sub("", output)
    if os.path.basename(base) in ("", ".", ".."):
        raise UsageError(f"--output {output!r} names no file; give a path without ending, as in folder/embeddings")
    return base


def _check_finite(vector: np.ndarray, path: str, weights: str) -> None:
    if not np.isfinite(vector).all():
        raise UsageError(
            f"{shown(os.fspath(weights))} gives no finite numbers for {shown(path)}; its training has failed, "
            "choose other weights"
        )
