"""Images on their way into a ledger, and how names of files and cameras are kept."""

import os
from typing import NamedTuple, Optional, Sequence

import numpy as np

from ..data.sightings import Sighting
from ..errors import UsageError


class Batch(NamedTuple):
    """N images with their embeddings.

    Attributes:
        paths: N file names.
        vectors: (N, D) float32, unit rows.
        sightings: what is known of each: camera, track, sequence, time.
        digests: SHA-256 of each file, 32 bytes; None: unknown, so that a copy of it is not noticed.
    """

    paths: Sequence[str]
    vectors: np.ndarray
    sightings: Sequence[Sighting]
    digests: Sequence[Optional[bytes]]

    def of(self, rows: Sequence[int]) -> "Batch":
        """Some of them."""
        pick = lambda values: [values[i] for i in rows]
        return Batch(pick(self.paths), self.vectors[list(rows)], pick(self.sightings), pick(self.digests))


def check_batch(batch: Batch, width: Optional[int]) -> None:
    """UsageError where lengths differ, or embeddings are no finite unit rows of the ledger's width."""
    vectors = batch.vectors
    if vectors.ndim != 2 or not len(batch.paths) == len(vectors) == len(batch.sightings) == len(batch.digests):
        raise UsageError(f"{len(batch.paths)} paths do not fit embeddings of shape {vectors.shape}; give one for each")
    if width is not None and vectors.shape[1] != width:
        raise UsageError(f"embeddings have {vectors.shape[1]} numbers, those of the ledger {width}; use its network")
    if not np.isfinite(vectors).all() or not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):
        raise UsageError("embeddings are no finite numbers of unit length; embed the images anew")


def to_bytes(text: Optional[str]) -> Optional[bytes]:
    """As a ledger keeps a name that a file system gave."""
    return None if text is None else os.fsencode(str(text))


def to_text(content: Optional[bytes]) -> Optional[str]:
    """What :func:`to_bytes` took."""
    return None if content is None else os.fsdecode(content)


def image_rows(batch: Batch) -> list[tuple]:
    """Rows of the table of images."""
    return [
        (to_bytes(path), digest, to_bytes(seen.camera), to_bytes(seen.track), to_bytes(seen.sequence), seen.time)
        for path, digest, seen in zip(batch.paths, batch.digests, batch.sightings)
    ]


def unit_keys(rows: Sequence[tuple]) -> np.ndarray:
    """(N,) int64, from (camera, track, sequence) of N images: one number for those of a track, else one for each."""
    numbers: dict = {}
    keys = [(*row, None) if row[1] is not None else (place,) for place, row in enumerate(rows)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
