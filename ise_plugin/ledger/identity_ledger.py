"""Identities that last: a ledger of people, what was seen of them, and what was decided of it."""

import logging
import os
from collections import Counter
from typing import Iterable, Iterator, NamedTuple, Optional, Sequence

import numpy as np

from ..clustering.calibration import MOST_IMAGES, Calibration, calibrate
from ..errors import UsageError
from ..utils.files import shown
from ..utils.logs import some_of
from . import schema
from .batch import Batch, check_batch, image_rows, to_bytes, to_text, unit_keys
from .decide import CONTEXT, KNOWN, NEW, UNDECIDED, Decided, Gallery, best_people, decide, probabilities
from .store import WAIT, Change, Store
from .vectors import DTYPE, VectorCache

logger = logging.getLogger("fastreid.ise.ledger")

FALSE_ACCEPT = 0.01
# The calibration is made anew when there are so many times the people that it rests on.
_GROWTH = 1.2
_NAMED_IN_MESSAGES = 3


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


class Added(NamedTuple):
    """What :meth:`IdentityLedger.add` made of a batch: images that were new; of them, and of undecided ones before, how many are
    known, new, undecided now; numbers of new people; other names of known files."""

    images: int
    known: int
    new: int
    undecided: int
    people: list
    copies: dict


class Model(NamedTuple):
    """The network that made the embeddings: its row, fingerprint, run, numbers in an embedding, what similarities mean."""

    number: int
    fingerprint: str
    run: str
    width: int
    calibration: Optional[Calibration]


class IdentityLedger:
    """People, their images and what was decided, in one SQLite file.

    Numbers of people are never given twice, whatever is undone or forgotten. Every change is one transaction, and :meth:`undo`
    takes it back, all but :meth:`forget`.

    Args:
        path: of the file; :meth:`create` makes one.
        wait: seconds to wait for another writer.

    Raises:
        UsageError: there is no ledger at that path, it is of another version, or damaged; or, in each change, another process
            writes for longer than ``wait``.

    Example::

        with IdentityLedger("people.ledger") as ledger:
            ledger.name(12, "Ada")
            ledger.merge(12, 31)
            ledger.undo()
    """

    def __init__(self, path: str, wait: float = WAIT):
        self.store = Store(path, wait)
        self._vectors = VectorCache(self.store)

    def __enter__(self) -> "IdentityLedger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the use of the file."""
        self.store.close()

    @property
    def path(self) -> str:
        """Of the file."""
        return self.store.path

    # -- making and filling

    @classmethod
    def create(
        cls,
        path: str,
        batch: Batch,
        labels: np.ndarray,
        fingerprint: str,
        run: str = "",
        probabilities: Optional[np.ndarray] = None,
        eps: Optional[float] = None,
    ) -> "IdentityLedger":
        """A ledger of the groups that a run has found. Not there at all, where this fails.

        Args:
            path: where nothing is yet.
            batch: N images.
            labels: (N,) int64; a person for each, -1: undecided.
            fingerprint, run: of the network (:attr:`ise_plugin.Embedder.fingerprint`) and the folder it is from.
            probabilities: (N,) that the group is the right one, where known.
            eps: of the labelling, where known.
        """
        check_batch(batch, None)
        Store.create(path)
        try:
            ledger = cls(path)
            (batch, labels, probabilities), copies = ledger._without_copies(batch, labels, probabilities)
            with ledger.store.writing("init"):
                ledger._fill(batch, labels, fingerprint, run, probabilities, eps)
                ledger._keep_copies(copies)
        except BaseException:
            os.remove(path)
            raise
        return ledger

    def _fill(
        self,
        batch: Batch,
        labels: np.ndarray,
        fingerprint: str,
        run: str,
        probabilities: Optional[np.ndarray],
        eps: Optional[float],
    ) -> None:
        units = unit_keys([row[2:5] for row in image_rows(batch)])
        calibration = calibrate(batch.vectors, labels, units, eps=eps)
        if calibration is None:
            logger.warning("there are too few groups to tell what a similarity means; add leaves everything undecided")
        text = calibration and calibration.to_json()
        model = self.store.insert("models", [(fingerprint, to_bytes(run), batch.vectors.shape[1], text)])[0]
        kept = np.unique(labels[labels >= 0])
        people = self.store.insert("people", [(None, 0, None)] * len(kept))
        images = self._insert_images(batch, model)
        rows = []
        for place, label in enumerate(labels.tolist()):
            likely = None if probabilities is None or label < 0 else float(probabilities[place])
            person = people[np.searchsorted(kept, label)] if label >= 0 else None
            rows.append((UNDECIDED if person is None else NEW, person, None, likely, "init"))
        self.store.insert("decisions", rows, images)

    def _insert_images(self, batch: Batch, model: int) -> list[int]:
        images = self.store.insert("images", image_rows(batch))
        vectors = batch.vectors.astype(DTYPE)
        self.store.insert("embeddings", [(model, vector.tobytes()) for vector in vectors], images)
        return images

    def _without_copies(self, batch: Batch, *more: Optional[np.ndarray]) -> tuple[tuple, dict]:
        """The batch, and arrays beside it, without what is there already; other names of files that are: name -> image."""
        paths, digests = self._known_files()
        taken, copies, changed = [], {}, []
        mine: dict = {}
        for place, (path, digest) in enumerate(zip(map(to_bytes, batch.paths), batch.digests)):
            if path in paths:
                known = paths[path]
                changed += [batch.paths[place]] * (None not in (known, digest) and known != digest)
            elif digest is not None and digest in digests:
                copies[batch.paths[place]] = digests[digest]
            elif digest is not None and digest in mine:
                copies[batch.paths[place]] = batch.paths[mine[digest]]
            else:
                taken.append(place)
                mine[digest] = place
            paths.setdefault(path, digest)
        if changed:
            names = some_of([shown(path) for path in changed], _NAMED_IN_MESSAGES)
            logger.warning(
                f"{len(changed)} files are others than when they were added: {names}; give new pictures new names"
            )
        rest = [None if array is None else array[taken] for array in more]
        return (batch.of(taken), *rest), copies

    def _known_files(self) -> tuple[dict, dict]:
        """path -> digest, of images and of copies; digest -> path of the image."""
        with self.store.named_errors():
            rows = self.store.connection.execute("SELECT path, digest FROM images").fetchall()
            others = self.store.connection.execute(
                "SELECT copies.path, digest FROM copies JOIN images ON images.id = copies.image"
            ).fetchall()
        return dict(rows + others), {digest: to_text(path) for path, digest in rows if digest is not None}

    def _keep_copies(self, copies: dict) -> None:
        """Other names of known files, said once: next time they are known."""
        if not copies:
            return
        number = {path: image for image, path in self.store.connection.execute("SELECT id, path FROM images")}
        self.store.insert("copies", [(to_bytes(path), number[to_bytes(first)]) for path, first in copies.items()])
        named = [f"{shown(path)} is {shown(first)}" for path, first in copies.items()]
        logger.warning(f"{len(copies)} files are there under another name: {some_of(named, _NAMED_IN_MESSAGES)}")

    # -- adding

    def add(
        self,
        batch: Batch,
        fingerprint: str,
        false_accept: float = FALSE_ACCEPT,
        apart: Sequence[tuple[str, str]] = (),
    ) -> Added:
        """Decides of images that are not there yet, and of undecided ones that they are like: known, new, or undecided.

        Adding what is there changes nothing. See :func:`.decide.decide`.

        Args:
            fingerprint: of the network that made the embeddings.
            false_accept: share of people who are not in the ledger that may be taken for somebody, in (0, 1).
            apart: pairs of paths of the batch whose tracks are two people, seen at once; they never become one.

        Raises:
            UsageError: embeddings of another network than the ledger's.
        """
        if not 0 < false_accept < 1:
            raise UsageError(f"--false-accept must be between 0 and 1, not {false_accept}")
        with self.store.change("add") as change:
            model = self.model(fingerprint)
            check_batch(batch, model.width)
            (batch,), copies = self._without_copies(batch)
            counts, people = self._add(batch, model, false_accept, apart) if len(batch.paths) else (Counter(), [])
            self._keep_copies(copies)
            found = Added(len(batch.paths), counts[KNOWN], counts[NEW], counts[UNDECIDED], people, copies)
            self.store.describe(
                change, f"{found.images} images: {found.known} known, {found.new} new, {found.undecided} undecided"
            )
        return found

    def _add(
        self, batch: Batch, model: Model, false_accept: float, apart: Sequence[tuple[str, str]]
    ) -> tuple[Counter, list]:
        gallery, numbers = self.gallery()
        near = gallery.nearest(batch.vectors, min(CONTEXT, len(numbers)))[1] if len(numbers) else np.empty(0, np.int64)
        near = np.unique(near)
        waiting = self._tracks_of(numbers[near[gallery.people[near] < 0]])
        images = self._insert_images(batch, model.number)
        if model.calibration is None:
            self.store.insert("decisions", [(UNDECIDED, None, None, None, "program")] * len(images), images)
            return Counter({UNDECIDED: len(images)}), []
        places = np.searchsorted(numbers, waiting)
        vectors = np.concatenate([gallery.rows(places), batch.vectors]) if len(waiting) else batch.vectors
        calibration = self._fresh(model, gallery, numbers)
        everything = np.r_[waiting, images].astype(np.int64)
        units = self._units(everything)
        unit_of = dict(zip(batch.paths, units[len(waiting) :].tolist()))
        known = {(unit_of[a], unit_of[b]) for a, b in apart if a in unit_of and b in unit_of}
        pairs = np.array(sorted(known), np.int64).reshape(-1, 2)
        self._delete_decisions(waiting)
        return self._write(everything, decide(vectors, units, gallery, calibration, false_accept, pairs))

    def _write(self, images: np.ndarray, decided: Decided) -> tuple[Counter, list]:
        """Writes what was decided of images that have no decision; counts of verdicts, numbers of new people."""
        groups = range(int(decided.people[decided.verdicts == NEW].max(initial=-1)) + 1)
        people = self.store.insert("people", [(None, 0, None)] * len(groups))
        rows = _decision_rows(images, decided, people)
        self.store.insert("decisions", [row for _, row in rows], [image for image, _ in rows])
        return Counter(row[0] for _, row in rows), people

    def decide_again(self, images: Sequence[int], false_accept: float = FALSE_ACCEPT) -> list[int]:
        """Decides of images that are nobody's, as :meth:`add` does of new ones; numbers of new people. Others stay."""
        with self.store.change("add", f"{len(images)} images again"):
            model, (gallery, numbers) = self.model(), self.gallery()
            places = np.flatnonzero(np.isin(numbers, images) & (gallery.people < 0))
            if model.calibration is None or not len(places):
                return []
            waiting = numbers[places]
            self._delete_decisions(waiting)
            vectors, units = gallery.rows(places), self._units(waiting)
            return self._write(waiting, decide(vectors, units, gallery, model.calibration, false_accept))[1]

    def _fresh(self, model: Model, gallery: Gallery, images: np.ndarray) -> Calibration:
        """The calibration, made anew where it rests on far fewer people than there are and could rest on more."""
        old, people = model.calibration, len(gallery.trust)
        assert old is not None
        if old.images >= MOST_IMAGES or people < _GROWTH * old.people:
            return old
        rows = self.store.connection.execute("SELECT id FROM decisions WHERE source = 'person' AND person IS NOT NULL")
        sure = np.isin(images, [image for (image,) in rows])
        found = calibrate(np.concatenate(gallery.vectors), gallery.people, self._units(images), sure, old.eps)
        if found is None:
            return old
        self.store.connection.execute("UPDATE models SET calibration = ? WHERE id = ?", (found.to_json(), model.number))
        return found

    def identify(self, vectors: np.ndarray) -> list[tuple[Optional[int], float]]:
        """Who is it? For each of N embeddings (N, D), float32, unit rows, the most similar person, None: nobody, and the
        probability that it is this one; nothing is written. UsageError where nothing tells what a similarity means."""
        model = self.model()
        if model.calibration is None:
            raise UsageError(f"{shown(self.path)} has too few people to tell what a similarity means; add more")
        gallery, _ = self.gallery()
        person, score = best_people(vectors, np.arange(len(vectors)), gallery)
        likely = probabilities(person, score, gallery, model.calibration)
        return [(None if number < 0 else number, chance) for number, chance in zip(person.tolist(), likely.tolist())]

    def _units(self, images: np.ndarray) -> np.ndarray:
        """(N,) one number for the images of a track."""
        rows = self._rows_of("SELECT id, camera, track, sequence FROM images", images)
        return unit_keys([rows[image] for image in images.tolist()])

    def _tracks_of(self, images: np.ndarray) -> np.ndarray:
        """Undecided images and the other undecided ones of their tracks, ascending."""
        rows = self._rows_of("SELECT id, camera, track, sequence FROM images", images)
        found = set(images.tolist())
        for camera, track, sequence in {row for row in rows.values() if row[1] is not None}:
            same = self.store.connection.execute(
                "SELECT id FROM images JOIN decisions USING (id) WHERE track = ? AND camera IS ? AND sequence IS ? "
                "AND person IS NULL",
                (track, camera, sequence),
            )
            found.update(image for (image,) in same)
        return np.array(sorted(found), np.int64)

    def _rows_of(self, query: str, images: np.ndarray) -> dict[int, tuple]:
        """First column -> the other columns, of some images."""
        found = {}
        for image in images.tolist():
            number, *rest = self.store.connection.execute(f"{query} WHERE id = ?", (image,)).fetchone()
            found[number] = tuple(rest)
        return found

    def _delete_decisions(self, images: Iterable) -> None:
        self.store.connection.executemany("DELETE FROM decisions WHERE id = ?", [(int(image),) for image in images])

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

    # -- corrections

    def merge(self, kept: int, *others: int) -> None:
        """Says that people are one, who keeps the first number; the other numbers stay theirs and point to it.

        Raises:
            UsageError: an unknown, merged or locked person, or answers that say that they are two.
        """
        with self.store.change("merge", f"{', '.join(map(str, others))} into {kept}"):
            self._free(kept, *others)
            for other in others:
                if other == kept:
                    raise UsageError(f"person {kept} cannot be merged into itself; name two people")
                pair = self._typical(kept), self._typical(other)
                against = self._said_apart(kept, other)
                if against:
                    raise UsageError(
                        f"{kept} and {other} were said to be two people ({shown(against[0])} and {shown(against[1])}); "
                        "undo that, or split what differs first"
                    )
                run = self.store.connection.execute
                run(
                    "UPDATE decisions SET person = ?, source = 'person', probability = 1 WHERE person = ?",
                    (kept, other),
                )
                run("UPDATE decisions SET candidate = ? WHERE candidate = ?", (kept, other))
                run("UPDATE people SET merged_into = ? WHERE id = ?", (kept, other))
                if None not in pair:
                    self.store.insert("answers", [(*pair, 1)])

    def split(self, person: int, images: Sequence[int]) -> int:
        """Says that some images of a person are somebody else's, all of them one person's; the number of that new person.

        Raises:
            UsageError: an unknown or locked person, an image that is not this person's, or all of them.
        """
        with self.store.change("split", f"{len(images)} images from {person}"):
            self._free(person)
            own = self.images_of(person)
            taken = sorted(set(images))
            strange = [image for image in taken if image not in own]
            if strange or not 0 < len(taken) < len(own):
                reason = (
                    f"image {strange[0]} is not of person {person}" if strange else "some images must go, and some stay"
                )
                raise UsageError(f"{reason}; person {person} has {len(own)} images")
            new = self.store.insert("people", [(None, 0, None)])[0]
            self.store.connection.executemany(
                "UPDATE decisions SET person = ?, source = 'person', verdict = 'new', probability = 1 WHERE id = ?",
                [(new, image) for image in taken],
            )
            # of answers that linked the two the split is the later word
            self._forget_links(taken, own)
            self.store.insert("answers", [(a, b, 1) for a, b in zip(taken, taken[1:])])
            rest = [image for image in own if image not in set(taken)]
            self.store.insert("answers", [(taken[0], image, 0) for image in rest])
        return new

    def answer(self, one: int, other: int, same: bool) -> None:
        """Says of two images that they show one person, or two. Their people stay as they are until they are labelled anew,
        or merged or split; the answer is held to then."""
        with self.store.change("answer", f"{one} and {other}: {'one person' if same else 'two'}"):
            for image in (one, other):
                self.image(image)
            if one == other:
                raise UsageError(f"image {one} is one image; name two")
            pair = min(one, other), max(one, other)
            self.store.connection.execute(
                "DELETE FROM answers WHERE (one = ? AND other = ?) OR (other = ? AND one = ?)", (*pair, *pair)
            )
            self.store.insert("answers", [(*pair, int(same))])

    def decide_by_person(self, images: Sequence[int], person: Optional[int]) -> int:
        """Says whose some images are; None: a new person's. Gives the number."""
        with self.store.change("assign", f"{len(images)} images to {person or 'a new person'}"):
            if person is None:
                person = self.store.insert("people", [(None, 0, None)])[0]
            self._free(person)
            for image in images:
                owner = self.image(image).person
                if owner is not None:
                    self._free(owner)
            self.store.connection.executemany(
                "UPDATE decisions SET verdict = 'known', person = ?, candidate = NULL, probability = 1, source = 'person' "
                "WHERE id = ?",
                [(person, image) for image in images],
            )
        return person

    def name(self, person: int, name: str) -> None:
        """Gives a person a name; an empty one takes it away. UsageError where it cannot be written as UTF-8."""
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"the name {name!r} holds what no text does; write it anew") from error
        with self.store.change("name", f"{person}"):
            self.require(person)
            self.store.connection.execute("UPDATE people SET name = ? WHERE id = ?", (name or None, person))

    def lock(self, person: int, locked: bool = True) -> None:
        """Holds to a person's images: no merge, split or labelling changes them; images may still be added."""
        with self.store.change("lock" if locked else "unlock", f"{person}"):
            self.require(person)
            self.store.connection.execute("UPDATE people SET locked = ? WHERE id = ?", (int(locked), person))

    def undo(self, change: Optional[int] = None) -> Change:
        """Takes back a change, by default the last; UsageError where a later one builds on it."""
        return self.store.undo(change)

    def _free(self, *people: int) -> None:
        for number in people:
            if self.require(number).locked:
                raise UsageError(f"person {number} is locked; ise-identities lock --off {number} opens it")

    def require(self, number: int) -> Person:
        """What is known of a person; UsageError where there is none of that number, or it was merged into another."""
        found = next(iter(self._people("WHERE people.id = ?", (number,))), None)
        if found is None:
            raise UsageError(f"{shown(self.path)} has no person {number}; ise-identities stats counts them")
        if found.merged_into is not None:
            raise UsageError(f"person {number} was merged into {found.merged_into}; name that one")
        return found

    def image(self, number: int) -> Sighted:
        """An image and what was decided of it; UsageError where there is none of that number."""
        found = next(self._sighted("WHERE images.id = ?", (number,)), None)
        if found is None:
            raise UsageError(f"{shown(self.path)} has no image {number}; ise-identities export lists them")
        return found

    def _typical(self, person: int) -> Optional[int]:
        """The image of a person that is most like the others."""
        rows = self._rows_of("SELECT id, vector FROM embeddings", np.array(self.images_of(person), np.int64))
        images = [image for image, (vector,) in rows.items() if vector]
        if not images:
            return next(iter(rows), None)
        vectors = np.array([np.frombuffer(rows[image][0], DTYPE) for image in images])
        return images[int((vectors @ vectors.sum(0)).argmax())]

    def _said_apart(self, one: int, other: int) -> Optional[tuple[str, str]]:
        """Names of two images of two people that were said to be two people's."""
        query = (
            "SELECT a.path, b.path FROM answers JOIN decisions x ON x.id = one JOIN decisions y ON y.id = other "
            "JOIN images a ON a.id = one JOIN images b ON b.id = other WHERE NOT same "
            "AND ((x.person = ? AND y.person = ?) OR (y.person = ? AND x.person = ?))"
        )
        row = self.store.connection.execute(query, (one, other, one, other)).fetchone()
        return row and tuple(map(to_text, row))

    def _forget_links(self, taken: Sequence[int], own: Sequence[int]) -> None:
        """Deletes the answers that images of one side and of the other are one person's."""
        inside, rest = set(taken), set(own) - set(taken)
        rows = self.store.connection.execute("SELECT id, one, other FROM answers WHERE same").fetchall()
        crossing = [(n,) for n, a, b in rows if (a in inside and b in rest) or (b in inside and a in rest)]
        self.store.connection.executemany("DELETE FROM answers WHERE id = ?", crossing)

    # -- reading

    def people(self) -> list[Person]:
        """Those with a number of their own, ascending."""
        return self._people("WHERE merged_into IS NULL")

    def _people(self, condition: str, values: tuple = ()) -> list[Person]:
        with self.store.named_errors():
            rows = self.store.connection.execute(
                "SELECT people.id, coalesce(name, ''), locked, count(decisions.id), merged_into FROM people "
                f"LEFT JOIN decisions ON decisions.person = people.id {condition} GROUP BY people.id ORDER BY people.id",
                values,
            )
            return [Person(number, name, bool(locked), *rest) for number, name, locked, *rest in rows]

    def images(self) -> Iterator[Sighted]:
        """All of them, by number."""
        return self._sighted("")

    def gallery(self) -> tuple[Gallery, np.ndarray]:
        """Embeddings with their people, and the (N,) int64 numbers of their images, ascending; not to be changed."""
        return self._vectors.gallery(np.empty(0, np.int64))

    def images_of(self, person: int) -> list[int]:
        """Numbers of the images of a person, ascending."""
        with self.store.named_errors():
            rows = self.store.connection.execute("SELECT id FROM decisions WHERE person = ? ORDER BY id", (person,))
            return [image for (image,) in rows]

    def image_numbers(self, paths: Sequence[str]) -> list[int]:
        """Of files; UsageError names the first that is not there."""
        known = {path: image for image, path in self.store.connection.execute("SELECT id, path FROM images")}
        missing = [path for path in paths if to_bytes(path) not in known]
        if missing:
            raise UsageError(f"{shown(missing[0])} is not in {shown(self.path)}; ise-identities export lists what is")
        return [known[to_bytes(path)] for path in paths]

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

    def changes(self) -> list[Change]:
        """What can be undone, the last one last."""
        return self.store.changes()

    def dump(self) -> Iterator[str]:
        """The content, a line for each row; equal content gives equal lines."""
        with self.store.named_errors():
            yield from schema.dump(self.store.connection)


def _decision_rows(images: np.ndarray, decided: Decided, people: Sequence[int]) -> list[tuple]:
    """(image, row of the table of decisions); groups of new people get their numbers."""
    rows = []
    for image, verdict, person, candidate, probability in zip(images.tolist(), *map(np.ndarray.tolist, decided)):
        number = None if person < 0 else people[person] if verdict == NEW else person
        rows.append((image, (verdict, number, None if candidate < 0 else candidate, round(probability, 6), "program")))
    return rows
