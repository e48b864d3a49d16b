"""From files and folders to a store of embeddings."""

import os
from typing import NamedTuple, Optional, Sequence

from ..clustering._parallel import progress_bar
from ..data.image_files import find_images
from ..data.reading import Problem
from ..data.tolerance import check_share
from .embeddings import FORMATS, Embeddings, EmbeddingStore, check_parquet


class EmbeddingJob(NamedTuple):
    """What :func:`embed_files` did: the embeddings, how many of them are new, and the files that gave none."""

    embeddings: Embeddings
    new: int
    problems: list


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
    embedder,
    inputs: Sequence[str],
    output: str,
    formats: Sequence[str] = FORMATS,
    max_bad_share: float = 0.05,
    show_progress: Optional[bool] = None,
) -> EmbeddingJob:
    """Embeds files and the pictures of folders, or what is missing of them, and writes the result.

    Args:
        embedder: :class:`ise_plugin.Embedder`.
        inputs: files and folders.
        output: path without ending.
        formats: some of "npz" and "parquet".
        max_bad_share: of the files that may be unreadable, in [0, 1].
        show_progress: True or False overrules the look at the terminal.

    Raises:
        UsageError: too many files are unreadable; what was embedded until then is kept for the next run. Or see
            :class:`EmbeddingStore` and :func:`list_files`.
    """
    if "parquet" in formats:
        check_parquet()
    paths = list_files(inputs)
    store = EmbeddingStore(output, embedder.fingerprint, os.fspath(embedder.run))
    missing = store.missing(paths)
    problems: list[Problem] = []
    try:
        with progress_bar(len(missing), "embedding", unit="img", show=show_progress) as bar:
            for found in embedder.stream(missing):
                bar.update()
                if found.reason is None:
                    store.add(found.path, found.embedding)
                else:
                    problems.append(Problem(found.path, found.reason))
                    check_share(problems, len(paths), max_bad_share, "--max-bad-share")
    finally:
        store.flush()
    bad = {problem.path for problem in problems}
    result = store.finish([path for path in paths if path not in bad], formats)
    return EmbeddingJob(result, len(missing) - len(problems), problems)
