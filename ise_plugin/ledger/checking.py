"""Whether a ledger is whole, what is lost where it is not, and saving the rest."""

import os
import sqlite3
from typing import Iterator, NamedTuple

from ..errors import UsageError
from ..utils.files import shown
from . import schema
from .batch import to_text
from .identity_ledger import IdentityLedger
from .store import DAMAGE, Store

_MOST_NAMED = 20


class Finding(NamedTuple):
    """Something that is wrong, a line; whether :func:`salvage` can help, or nothing has to be done."""

    text: str
    harmful: bool


def check(path: str) -> list[Finding]:
    """Looks at every page and row, at the links between rows, and at the files of the images.

    Returns:
        nothing for a ledger that is whole and whose files are all there.

    Raises:
        UsageError: there is no file, or it is no ledger.
    """
    try:
        ledger = IdentityLedger(path)
    except UsageError as error:
        if not os.path.isfile(path) or "damaged" not in str(error):
            raise
        return [Finding(str(error.__cause__), True)]
    with ledger:
        try:
            findings = [Finding(text, True) for text in _damage(ledger.store)]
            return findings or [Finding(text, False) for text in _vanished(ledger)]
        except (UsageError, *DAMAGE) as error:
            return [Finding(str(error.__cause__ or error), True)]


def _damage(store: Store) -> Iterator[str]:
    connection = store.connection
    for (text,) in connection.execute("PRAGMA integrity_check").fetchall():
        if text != "ok":
            yield f"the database: {text}"
    for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check").fetchall():
        yield f"{table}: row {row} names {parent} that are not there"
    for table in schema.CONTENT:
        for row in schema.unsealed(connection, table):
            yield f"{table}: row {row} does not fit its checksum{_about(store, table, row)}"
    for table in ("embeddings", "decisions"):
        missing = f"SELECT id FROM images WHERE id NOT IN (SELECT id FROM {table})"
        for (row,) in connection.execute(missing):
            yield f"{table}: image {row} has none{_about(store, table, row)}"


def _about(store: Store, table: str, row: int) -> str:
    """The file that a row is about."""
    if table not in ("images", "embeddings", "decisions"):
        return ""
    found = store.connection.execute("SELECT path FROM images WHERE id = ?", (row,)).fetchone()
    return f" ({shown(to_text(found[0]) or '')})" if found else ""


def _vanished(ledger: IdentityLedger) -> Iterator[str]:
    missing = [row.path for row in ledger.images() if not os.path.isfile(row.path)]
    for path in missing[:_MOST_NAMED]:
        yield f"{shown(path)} is not there any more; it is kept as a sighting without image"
    if len(missing) > _MOST_NAMED:
        yield f"{len(missing) - _MOST_NAMED} more files are not there any more"


def salvage(path: str, output: str) -> list[str]:
    """Writes what can still be read of a damaged ledger, and fits together, into a new one; lines on what is lost.

    Changes can no longer be undone in it.
    """
    source = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    source.create_function("seal", -1, schema.seal, deterministic=True)
    Store.create(output)
    target = Store(output)
    lost: list[str] = []
    with target.writing("repair"):
        for table in schema.CONTENT:
            lost += _copy(source, target, table)
        lost += _unlinked(target)
        for counter in schema.COUNTERS:
            table = counter.removeprefix("last_")
            if table != counter:
                target.count(counter, max(_highest(source, target, table, counter), 0))
    target.close()
    source.close()
    return lost


def _copy(source: sqlite3.Connection, target: Store, table: str) -> list[str]:
    """Rows one by one, so that one that cannot be read costs no other; lines on what is lost."""
    names, lost = schema.columns(table), []
    try:
        ids = [row for (row,) in source.execute(f"SELECT id FROM {table} ORDER BY id")]
    except DAMAGE as error:
        return [f"{table}: all or some rows ({error})"]
    for number in ids:
        try:
            *row, seal = source.execute(
                f"SELECT {', '.join(names)}, seal FROM {table} WHERE id = ?", (number,)
            ).fetchone()
            if schema.seal(*row) != seal:
                raise ValueError("it does not fit its checksum")
            target.insert(table, [tuple(row[1:])], [number])
        except (*DAMAGE, ValueError, TypeError) as error:
            lost.append(f"{table}: row {number} ({error})")
    return lost


def _unlinked(target: Store) -> list[str]:
    """Deletes rows that name others that are lost, until none does; an image without decision becomes undecided."""
    lost = []
    while broken := target.connection.execute("PRAGMA foreign_key_check").fetchall():
        for table, row, parent, _ in broken:
            target.connection.execute(f"DELETE FROM {table} WHERE id = ?", (row,))
            lost.append(f"{table}: row {row} (what it names in {parent} is lost)")
    without = "SELECT id FROM images WHERE id NOT IN (SELECT id FROM embeddings)"
    for (image,) in target.connection.execute(without).fetchall():
        for table in ("decisions", "images"):
            target.connection.execute(f"DELETE FROM {table} WHERE id = ?", (image,))
        target.connection.execute("DELETE FROM copies WHERE image = ?", (image,))
        target.connection.execute("DELETE FROM answers WHERE one = ? OR other = ?", (image, image))
        lost.append(f"images: {image}, whose embedding is lost")
    undecided = [
        row for (row,) in target.connection.execute("SELECT id FROM images WHERE id NOT IN (SELECT id FROM decisions)")
    ]
    target.insert("decisions", [("undecided", None, None, None, "repair")] * len(undecided), undecided)
    return lost + [f"decisions: what was decided of image {image}; it is undecided now" for image in undecided]


def _highest(source: sqlite3.Connection, target: Store, table: str, counter: str) -> int:
    """The last number that was given away, as far as can be told."""
    highest = target.connection.execute(f"SELECT coalesce(max(id), 0) FROM {table}").fetchone()[0]
    try:
        kept = source.execute("SELECT value FROM counters WHERE name = ?", (counter,)).fetchone()
    except DAMAGE:
        kept = None
    return max(highest, kept[0] if kept else 0)
