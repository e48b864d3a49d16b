"""The embeddings of a ledger in memory, which follow the file."""

import numpy as np

from ..errors import UsageError
from ..utils.files import shown
from .decide import Gallery
from .schema import seal
from .store import CHECK, Store

_READ_AT_ONCE = 1 << 16  # embeddings: 64 MiB of 256 numbers
_DECISIONS_AT_ONCE = 1 << 18  # numbers are read as float64, which holds them up to 2^53
DTYPE = "<f4"  # as in the file


class VectorCache:
    """Embeddings by ascending number of their image, in parts that are never put together.

    Derived from the file and nothing else: what is new there is read and appended; after a loss (undo, forget, another network)
    everything is read anew. So a kill can leave nothing behind that does not fit.
    """

    def __init__(self, store: Store):
        self._store = store
        self._parts: list = []
        self._images = np.empty(0, np.int64)
        self._losses = -1

    def gallery(self) -> tuple[Gallery, np.ndarray]:
        """Embeddings with their people, and the numbers of their images.

        Raises:
            UsageError: an embedding does not fit its checksum.
        """
        self._follow()
        people, trust = np.full(len(self._images), -1, np.int64), np.ones(len(self._images))
        with self._store.named_errors():
            cursor = self._store.connection.execute(
                "SELECT id, person, coalesce(probability, 1) FROM decisions WHERE person IS NOT NULL"
            )
            while block := cursor.fetchmany(_DECISIONS_AT_ONCE):
                images, persons, chances = np.array(block).T
                there = np.isin(images, self._images)  # what has no embedding is left out
                places = np.searchsorted(self._images, images[there])
                people[places], trust[places] = persons[there], chances[there]
        owned = people >= 0
        _, of, sizes = np.unique(people[owned], return_inverse=True, return_counts=True)
        means = np.bincount(of.reshape(-1), trust[owned], minlength=len(sizes)) / sizes
        return Gallery(self._parts, people, means), self._images

    def _follow(self) -> None:
        losses = self._store.counter("losses")
        if losses != self._losses:
            self._parts, self._images, self._losses = [], np.empty(0, np.int64), losses
        last = int(self._images[-1]) if len(self._images) else 0
        with self._store.named_errors():
            rows = self._store.connection.execute(
                "SELECT id, model, vector, seal FROM embeddings WHERE id > ? AND length(vector) ORDER BY id", (last,)
            )
            while block := rows.fetchmany(_READ_AT_ONCE):
                self._check(block)
                numbers = np.array([row[0] for row in block], np.int64)
                vectors = np.frombuffer(b"".join(row[2] for row in block), DTYPE).reshape(len(block), -1)
                self._images = np.r_[self._images, numbers]
                self._parts.append(vectors.astype(np.float32))

    def _check(self, block: list) -> None:
        bad = [image for image, model, vector, kept in block if seal(image, model, vector) != kept]
        if bad:
            where = f"{shown(self._store.path)}: the embedding of image {bad[0]}"
            raise UsageError(f"{where} is damaged; {CHECK.format(shown(self._store.path))}")
