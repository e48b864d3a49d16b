"""What a ledger tells, without a change to it."""

from typing import Iterator, NamedTuple, Optional, Sequence

import numpy as np

from ..clustering.calibration import Calibration
from ..errors import UsageError
from ..utils.files import shown
from . import schema
from .batch import to_bytes, to_text, unit_keys
from .decide import Gallery, best_people, probabilities
from .store import WAIT, Change, Store
from .vectors import DTYPE, VectorCache


class Person(NamedTuple):
    """Number, name (empty: none), whether locked, how many images; the number of the person that it was merged into."""

    number: int
    name: str
    locked: bool
    images: int
    merged_into: Optional[int] = None


class Sighted(NamedTuple):
    """An image and what was decided of it; fields as in :class:`ise_plugin.data.sightings.Sighting`, ``person`` and ``candidate``
    numbers or None, ``probability`` that the person named is the right one, ``source`` who decided: init, program, person,
    retraining."""

    image: int
    path: str
    camera: Optional[str]
    track: Optional[str]
    sequence: Optional[str]
    time: Optional[float]
    verdict: str
    person: Optional[int]
    candidate: Optional[int]
    probability: Optional[float]
    source: str


class Model(NamedTuple):
    """The network that made the embeddings: its row, fingerprint, run, numbers in an embedding, what similarities mean."""

    number: int
    fingerprint: str
    run: str
    width: int
    calibration: Optional[Calibration]


class LedgerReader:
    """An open ledger, read.

    Args and errors as of :class:`ise_plugin.ledger.IdentityLedger`.
    """

    def __init__(self, path: str, wait: float = WAIT):
        self.store = Store(path, wait)
        self._vectors = VectorCache(self.store)

    def close(self) -> None:
        """Ends the use of the file."""
        self.store.close()

    @property
    def path(self) -> str:
        """Of the file."""
        return self.store.path

    # -- people

    def people(self) -> list[Person]:
        """Those with a number of their own, ascending."""
        return self._people("WHERE merged_into IS NULL")

    def require(self, number: int) -> Person:
        """What is known of a person; UsageError where there is none of that number, or it was merged into another."""
        found = next(iter(self._people("WHERE people.id = ?", (number,))), None)
        if found is None:
            raise UsageError(f"{shown(self.path)} has no person {number}; ise-identities stats counts them")
        if found.merged_into is not None:
            raise UsageError(f"person {number} was merged into {found.merged_into}; name that one")
        return found

    def _people(self, condition: str, values: tuple = ()) -> list[Person]:
        with self.store.named_errors():
            rows = self.store.connection.execute(
                "SELECT people.id, coalesce(name, ''), locked, count(decisions.id), merged_into FROM people "
                f"LEFT JOIN decisions ON decisions.person = people.id {condition} GROUP BY people.id ORDER BY people.id",
                values,
            )
            return [Person(number, name, bool(locked), *rest) for number, name, locked, *rest in rows]

    def images_of(self, person: int) -> list[int]:
        """Numbers of the images of a person, ascending."""
        with self.store.named_errors():
            rows = self.store.connection.execute("SELECT id FROM decisions WHERE person = ? ORDER BY id", (person,))
            return [image for (image,) in rows]

    # -- images

    def images(self) -> Iterator[Sighted]:
        """All of them, by number."""
        return self._sighted("")

    def image(self, number: int) -> Sighted:
        """An image and what was decided of it; UsageError where there is none of that number."""
        found = next(self._sighted("WHERE images.id = ?", (number,)), None)
        if found is None:
            raise UsageError(f"{shown(self.path)} has no image {number}; ise-identities export lists them")
        return found

    def image_numbers(self, paths: Sequence[str]) -> list[int]:
        """Of files; UsageError names the first that is not there."""
        names = [to_bytes(path) for path in paths]
        known = dict(self.store.find("SELECT path, id FROM images WHERE path", names))
        missing = [path for path, name in zip(paths, names) if name not in known]
        if missing:
            raise UsageError(f"{shown(missing[0])} is not in {shown(self.path)}; ise-identities export lists what is")
        return [known[name] for name in names]

    def units(self, images: np.ndarray) -> np.ndarray:
        """(N,) int64, one number for the images of a track."""
        found = self.store.find("SELECT id, camera, track, sequence FROM images WHERE id", images.tolist())
        rows = {image: tuple(row) for image, *row in found}
        return unit_keys([rows[image] for image in images.tolist()])

    def _sighted(self, condition: str, values: tuple = ()) -> Iterator[Sighted]:
        with self.store.named_errors():
            rows = self.store.connection.execute(
                "SELECT images.id, path, camera, track, sequence, time, verdict, person, candidate, probability, source "
                f"FROM images JOIN decisions USING (id) {condition} ORDER BY images.id",
                values,
            )
            for image, path, camera, track, sequence, *rest in rows:
                texts = map(to_text, (camera, track, sequence))
                yield Sighted(image, to_text(path) or "", *texts, *rest)  # type: ignore[arg-type]

    # -- embeddings

    def model(self, fingerprint: Optional[str] = None) -> Model:
        """The network of the embeddings; UsageError where it is not the one with this fingerprint."""
        with self.store.named_errors():
            number, own, run, width, text = self.store.connection.execute(
                "SELECT id, fingerprint, run, width, calibration FROM models ORDER BY id DESC"
            ).fetchone()
        if fingerprint is not None and own != fingerprint:
            raise UsageError(
                f"{shown(self.path)} holds embeddings of another network ({own}, not {fingerprint}); name the run that it was "
                f"made with ({shown(to_text(run) or '')}), or embed its images anew: ise-identities retrain"
            )
        return Model(number, own, to_text(run) or "", width, None if text is None else Calibration.from_json(text))

    def gallery(self) -> tuple[Gallery, np.ndarray]:
        """Embeddings with their people, and the (N,) int64 numbers of their images, ascending; not to be changed."""
        return self._vectors.gallery()

    def identify(self, vectors: np.ndarray) -> list[tuple[Optional[int], float]]:
        """Who is it? For each of N embeddings (N, D), float32, unit rows, the most similar person, None: nobody, and the
        probability that it is this one; nothing is written. UsageError where nothing tells what a similarity means."""
        model = self.model()
        if model.calibration is None:
            raise UsageError(f"{shown(self.path)} has too few people to tell what a similarity means; add more")
        gallery, _ = self.gallery()
        person, score = best_people(gallery.near(vectors), np.arange(len(vectors)), gallery)
        likely = probabilities(person, score, gallery, model.calibration)
        return [(None if number < 0 else number, chance) for number, chance in zip(person.tolist(), likely.tolist())]

    def _typical(self, person: int) -> Optional[int]:
        """The image of a person that is most like the others; None: the person has none."""
        rows = sorted(self.store.find("SELECT id, vector FROM embeddings WHERE id", self.images_of(person)))
        images = [image for image, vector in rows if vector]
        if not images:
            return rows[0][0] if rows else None
        vectors = np.array([np.frombuffer(vector, DTYPE) for _, vector in rows if vector])
        return images[int((vectors @ vectors.sum(0)).argmax())]

    # -- the file

    def changes(self) -> list[Change]:
        """What can be undone, the last one last."""
        return self.store.changes()

    def dump(self) -> Iterator[str]:
        """The content, a line for each row; equal content gives equal lines."""
        with self.store.named_errors():
            yield from schema.dump(self.store.connection)
