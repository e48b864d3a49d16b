"""Identities that last: a ledger of people, what was seen of them, and what was decided of it."""

import os
from typing import NamedTuple, Optional, Sequence

import numpy as np

from ..errors import UsageError
from ..utils.files import shown
from .adding import add_again, add_new, fill
from .batch import Batch, check_batch, to_text
from .decide import KNOWN, NEW, UNDECIDED
from .incoming import keep_copies, look_up
from .reading import LedgerReader
from .store import Change, Store

FALSE_ACCEPT = 0.01


class Added(NamedTuple):
    """What :meth:`IdentityLedger.add` made of a batch: images that were new; of them, and of undecided ones before, how many are
    known, new, undecided now; numbers of new people; other names of known files."""

    images: int
    known: int
    new: int
    undecided: int
    people: list
    copies: dict


class IdentityLedger(LedgerReader):
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

    def __enter__(self) -> "IdentityLedger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
            new, copies = look_up(ledger.store, batch)
            likely = None if probabilities is None else probabilities[new]
            with ledger.store.writing("init"):
                fill(ledger.store, batch.of(new), labels[new], fingerprint, run, likely, eps)
                keep_copies(ledger.store, copies)
        except BaseException:
            os.remove(path)
            raise
        return ledger

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
            new, copies = look_up(self.store, batch)
            counts, people = add_new(self, batch.of(new), model, false_accept, apart)
            keep_copies(self.store, copies)
            found = Added(len(new), counts[KNOWN], counts[NEW], counts[UNDECIDED], people, copies)
            self.store.describe(
                change, f"{found.images} images: {found.known} known, {found.new} new, {found.undecided} undecided"
            )
        return found

    def decide_again(self, images: Sequence[int], false_accept: float = FALSE_ACCEPT) -> list[int]:
        """Decides of images that are nobody's, as :meth:`add` does of new ones; numbers of new people. Others stay."""
        with self.store.change("add", f"{len(images)} images again"):
            return add_again(self, images, false_accept)

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
