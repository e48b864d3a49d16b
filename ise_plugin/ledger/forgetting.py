"""Forgetting a person: out of the ledger, out of what this program made beside it, and what it cannot reach."""

import glob
import json
import logging
import os
from typing import Callable, NamedTuple, Sequence

import numpy as np

from ..errors import UsageError
from ..identities.groups import CSV_NAME, SHEETS_NAME, SUMMARY_NAME, read_csv, write_identities
from ..inference.embeddings import read_embeddings, write_embeddings
from ..inference.index import SearchIndex, build_index
from ..utils.files import shown
from . import schema
from .batch import to_text
from .identity_ledger import IdentityLedger

logger = logging.getLogger("fastreid.ise.ledger")

# As close to a forgotten embedding as the same picture, written anew, may be.
_SAME = 0.999


class Forgotten(NamedTuple):
    """How many images are gone; files that were written anew without them; a line for each thing that is out of reach."""

    images: int
    files: list
    remaining: list


def forget(ledger: IdentityLedger, person: int, files: Sequence[str] = ()) -> Forgotten:
    """Deletes a person, and whoever was merged into it, from the ledger, from the identities of its run, and from files.

    It cannot be undone, and neither can what came before, because that would need what was deleted. Others' numbers stay.

    Args:
        person: its number.
        files: embeddings (.npz) and folders of indexes that may hold its images.

    Raises:
        UsageError: there is no such person; a file is neither of the two, said before anything is deleted.
    """
    ledger.require(person)
    kinds = [(_kind(path), path) for path in files]
    vectors, paths = _own(ledger, person)
    images = len(ledger.images_of(person))
    written = [path for kind, path in kinds if kind(path, vectors, paths)]
    written += _from_run(ledger.model().run, paths)
    _from_ledger(ledger, person)
    ledger.store.clean()
    return Forgotten(images, written, _out_of_reach(ledger.model().run, paths))


def _own(ledger: IdentityLedger, person: int) -> tuple[np.ndarray, set]:
    """(n, D) embeddings of a person's images and all names of their files."""
    rows = ledger.store.connection.execute(
        "SELECT vector, path FROM decisions JOIN embeddings USING (id) JOIN images USING (id) WHERE person = ?",
        (person,),
    ).fetchall()
    more = ledger.store.connection.execute(
        "SELECT path FROM copies JOIN decisions ON decisions.id = image WHERE person = ?", (person,)
    ).fetchall()
    vectors = np.array([np.frombuffer(vector, "<f4") for vector, _ in rows if vector], np.float32)
    names = {to_text(path) or "" for *_, path in [*rows, *more]}
    return vectors.reshape(-1, ledger.model().width), names


def _from_ledger(ledger: IdentityLedger, person: int) -> None:
    store = ledger.store
    run = store.connection.execute
    with store.writing("forget"):
        own = "SELECT id FROM decisions WHERE person = ?"
        run(f"DELETE FROM answers WHERE one IN ({own}) OR other IN ({own})", (person, person))
        run(f"DELETE FROM copies WHERE image IN ({own})", (person,))
        run(f"DELETE FROM embeddings WHERE id IN ({own})", (person,))
        images = [image for (image,) in run(own, (person,))]
        run("DELETE FROM decisions WHERE person = ?", (person,))
        store.connection.executemany("DELETE FROM images WHERE id = ?", [(image,) for image in images])
        merged = (
            "WITH RECURSIVE own(id) AS (SELECT ? UNION SELECT people.id FROM people JOIN own ON merged_into = own.id) "
            "SELECT id FROM own"
        )
        people = [(number,) for (number,) in run(merged, (person,)).fetchall()]
        store.connection.executemany("UPDATE decisions SET candidate = NULL WHERE candidate = ?", people)
        store.connection.executemany("UPDATE people SET merged_into = NULL WHERE id = ?", people)
        store.connection.executemany("DELETE FROM people WHERE id = ?", people)
        # what was kept to undo changes may hold the person, and so may their descriptions
        for table in schema.CONTENT:
            run(f"DELETE FROM undo_{table}")
        run("DELETE FROM changes")
        store.count("losses")
        store.count("unclean")


def _kind(path: str) -> Callable[[str, np.ndarray, set], bool]:
    """What takes people out of a file: embeddings or an index."""
    if os.path.isdir(path):
        SearchIndex.load(path)
        return _from_index
    read_embeddings(path)
    return _from_embeddings


def _is_own(paths: Sequence[str], found: np.ndarray, vectors: np.ndarray, names: set) -> np.ndarray:
    """(N,) whether images are a person's: by the name of the file, or by an embedding that is the same."""
    places = {os.path.realpath(name) for name in names}
    by_name = np.array([os.path.realpath(path) in places for path in paths], bool)
    if found.shape[1:] != vectors.shape[1:] or not len(vectors):
        return by_name
    return by_name | ((found @ vectors.T).max(1) >= _SAME)


def _from_embeddings(path: str, vectors: np.ndarray, names: set) -> bool:
    content = read_embeddings(path)
    kept = np.flatnonzero(~_is_own(content.paths, content.vectors, vectors, names))
    if len(kept) == len(content.paths):
        return False
    rest = content._replace(
        paths=[content.paths[i] for i in kept], vectors=content.vectors[kept], stamps=content.stamps[kept]
    )
    write_embeddings(path, rest)
    return True


def _from_index(path: str, vectors: np.ndarray, names: set) -> bool:
    index = SearchIndex.load(path)
    everything = index.embeddings()
    kept = np.flatnonzero(~_is_own(everything.paths, everything.vectors, vectors, names))
    if len(kept) == len(everything.paths):
        return False
    if not len(kept):
        raise UsageError(f"{shown(path)} holds nobody else; remove it")
    rest = everything._replace(
        paths=[everything.paths[i] for i in kept], vectors=everything.vectors[kept], stamps=everything.stamps[kept]
    )
    build_index(rest, index.about["kind"]).save(path)
    return True


def _from_run(run: str, names: set) -> list[str]:
    """Out of identities.csv and the contact sheets of the run that the ledger was made from."""
    table, summary = os.path.join(run, CSV_NAME), os.path.join(run, SUMMARY_NAME)
    if not run or not (os.path.isfile(table) and os.path.isfile(summary)):
        return []
    with open(summary, encoding="utf-8") as file:
        folder = json.load(file)["folder"]
    places = {os.path.realpath(name) for name in names}
    is_own = lambda name: os.path.realpath(os.path.join(folder, name)) in places
    rows = read_csv(table)
    kept = [row for row in rows if not is_own(row.path)]
    if len(kept) == len(rows):
        return []
    first = lambda row: row._replace(same_file_as="") if row.same_file_as and is_own(row.same_file_as) else row
    write_identities(run, folder, [first(row) for row in kept], {"forgotten": True})
    return [table, summary, os.path.join(run, SHEETS_NAME)]


def _out_of_reach(run: str, names: set) -> list[str]:
    """What may still know the person, a line each."""
    there = sorted(name for name in names if os.path.isfile(name))
    found = [f"your own image {shown(name)}" for name in there]
    for pattern, what in (
        ("model*.pth", "a network that was trained on the images, which may remember"),
        ("report*", "the run's report, whose pictures may show the person"),
        ("*.npz", "embeddings that were not named with --files"),
        ("log.txt*", "the run's log, which may name files"),
    ):
        found += (
            [f"{shown(path)}: {what}" for path in sorted(glob.glob(os.path.join(glob.escape(run), pattern)))]
            if run
            else []
        )
    return found
