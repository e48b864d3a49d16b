"""The tables of a ledger, as SQLite has them.

Content is what :func:`dump` tells. Beside each table of it stands one of the same columns that keeps the rows as they were
before a change, which is all that undoing needs: rows that the change has touched go, those that were there come back.
"""

import json
import zlib
from sqlite3 import Connection
from typing import Any, Iterator

APPLICATION = 0x49534531  # "ISE1", in SQLite's header
VERSION = 1
PAGE_SIZE = 16384  # bytes; an embedding of 256 numbers is 1 KiB, and a page of 4 KiB would hold three

# Table -> columns -> what SQL says of them. ``seal``, a checksum of the row kept by triggers, comes after them. Names of files,
# cameras, tracks and sequences are bytes (os.fsencode), because a name need not be UTF-8.
CONTENT = {
    # The network: digest, folder of its run, numbers in an embedding, calibration as JSON.
    "models": {
        "fingerprint": "TEXT NOT NULL UNIQUE",
        "run": "BLOB",
        "width": "INTEGER NOT NULL",
        "calibration": "TEXT",
    },
    "people": {"name": "TEXT", "locked": "INTEGER NOT NULL", "merged_into": "INTEGER REFERENCES people"},
    "images": {
        "path": "BLOB NOT NULL UNIQUE",
        "digest": "BLOB UNIQUE",  # SHA-256 of the file
        "camera": "BLOB",
        "track": "BLOB",
        "sequence": "BLOB",
        "time": "REAL",
    },
    # Other names of files with the same bytes.
    "copies": {"path": "BLOB NOT NULL UNIQUE", "image": "INTEGER NOT NULL REFERENCES images"},
    # Of the image with this id: float32, little-endian, unit length; empty where a new network found no file any more.
    "embeddings": {"model": "INTEGER NOT NULL REFERENCES models", "vector": "BLOB NOT NULL"},
    # Of the image with this id. candidate: the most likely person of an undecided image.
    "decisions": {
        "verdict": "TEXT NOT NULL CHECK (verdict IN ('known', 'new', 'undecided'))",
        "person": "INTEGER REFERENCES people CHECK ((person IS NULL) = (verdict = 'undecided'))",
        "candidate": "INTEGER REFERENCES people",
        "probability": "REAL",
        "source": "TEXT NOT NULL",
    },
    # What people said of pairs of images.
    "answers": {
        "one": "INTEGER NOT NULL REFERENCES images",
        "other": "INTEGER NOT NULL REFERENCES images",
        "same": "INTEGER NOT NULL CHECK (same IN (0, 1))",
    },
}
_OF_IMAGES = ("embeddings", "decisions")  # whose ids are those of images
_OTHER = """
CREATE TABLE changes (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, at TEXT NOT NULL, summary TEXT NOT NULL);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX decisions_of_person ON decisions (person);
CREATE INDEX decisions_of_candidate ON decisions (candidate) WHERE candidate IS NOT NULL;
CREATE INDEX people_merged_into ON people (merged_into) WHERE merged_into IS NOT NULL;
CREATE INDEX images_of_track ON images (track) WHERE track IS NOT NULL;
CREATE INDEX copies_of_image ON copies (image);
CREATE INDEX answers_of_one ON answers (one);
CREATE INDEX answers_of_other ON answers (other);
"""
# Never go back, whatever is undone: numbers given away, changes of the content, losses of embeddings (after one, embeddings read
# before must be read anew); whether the bytes of what was forgotten still have to be cleaned out.
COUNTERS = (*(f"last_{table}" for table in CONTENT if table not in _OF_IMAGES), "revision", "losses", "unclean")


def columns(table: str) -> list[str]:
    """Of a table of the content, with id and without seal."""
    return ["id", *CONTENT[table]]


def create(connection: Connection) -> None:
    """Makes the tables in an empty database, within the caller's transaction."""
    for table, described in CONTENT.items():
        own = " REFERENCES images" if table in _OF_IMAGES else ""
        parts = [
            f"id INTEGER PRIMARY KEY{own}",
            *(f"{name} {what}" for name, what in described.items()),
            "seal INTEGER",
        ]
        connection.execute(f"CREATE TABLE {table} ({', '.join(parts)})")
        kept = ", ".join([*columns(table), "seal"])
        connection.execute(
            f"CREATE TABLE undo_{table} (change INTEGER NOT NULL, existed INTEGER NOT NULL, {kept}, PRIMARY KEY (change, id))"
        )
        connection.execute(f"CREATE INDEX undo_{table}_id ON undo_{table} (id)")
    for statement in filter(str.strip, _OTHER.split(";")):
        connection.execute(statement)
    connection.executemany("INSERT INTO counters VALUES (?, 0)", [(name,) for name in COUNTERS])
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def seal(*values: Any) -> int:
    """Checksum of a row: CRC-32 of its values, one after another."""
    total = 0
    for value in values:
        total = zlib.crc32(value if isinstance(value, bytes) else repr(value).encode(), total)
    return total


def keep_seals(connection: Connection) -> None:
    """Every row that is written from now on by this connection gets its checksum."""
    connection.create_function("seal", -1, seal, deterministic=True)
    for table in CONTENT:
        values = _values("NEW", table)
        for event in ("INSERT", "UPDATE"):
            connection.execute(
                f"CREATE TEMP TRIGGER seal_{table}_{event} AFTER {event} ON main.{table} BEGIN "
                f"UPDATE {table} SET seal = seal({values}) WHERE id = NEW.id; END"
            )


def _values(row: str, table: str) -> str:
    return ", ".join(f"{row}.{name}" for name in columns(table))


def start_recording(connection: Connection, change: int) -> None:
    """From now on the first touch of a row keeps it as it was. Before, not after: a seal is a change of the row as well."""
    for table in CONTENT:
        names = f"change, existed, {', '.join(columns(table))}, seal"
        kept = f"INSERT OR IGNORE INTO undo_{table} ({names}) SELECT {change}, 1, {_values('OLD', table)}, OLD.seal"
        absent = f"INSERT OR IGNORE INTO undo_{table} (change, existed, id) SELECT {change}, 0, NEW.id"
        for event, statement in (("INSERT", absent), ("UPDATE", kept), ("DELETE", kept)):
            connection.execute(
                f"CREATE TEMP TRIGGER record_{table}_{event} BEFORE {event} ON main.{table} BEGIN {statement}; END"
            )


def stop_recording(connection: Connection) -> None:
    """Ends :func:`start_recording`."""
    for table in CONTENT:
        for event in ("INSERT", "UPDATE", "DELETE"):
            connection.execute(f"DROP TRIGGER IF EXISTS temp.record_{table}_{event}")


def restore(connection: Connection, change: int) -> None:
    """Rows as they were before a change; what was kept for it goes."""
    for table in CONTENT:
        touched = f"SELECT id FROM undo_{table} WHERE change = ?"
        connection.execute(f"DELETE FROM {table} WHERE id IN ({touched})", (change,))
    for table in CONTENT:
        names = ", ".join(columns(table))
        kept = f"SELECT {names} FROM undo_{table} WHERE change = ? AND existed"
        connection.execute(f"INSERT INTO {table} ({names}) {kept}", (change,))
        connection.execute(f"DELETE FROM undo_{table} WHERE change = ?", (change,))
    connection.execute("DELETE FROM changes WHERE id = ?", (change,))


def touched_later(connection: Connection, change: int) -> list[int]:
    """Later changes that touched a row that this one has touched, ascending."""
    found: set[int] = set()
    for table in CONTENT:
        rows = connection.execute(
            f"SELECT DISTINCT later.change FROM undo_{table} AS own JOIN undo_{table} AS later "
            "ON later.id = own.id AND later.change > own.change WHERE own.change = ?",
            (change,),
        )
        found.update(number for (number,) in rows)
    return sorted(found)


def unsealed(connection: Connection, table: str) -> Iterator[int]:
    """Ids of the rows whose checksum does not fit them."""
    values = ", ".join(columns(table))
    return (row for (row,) in connection.execute(f"SELECT id FROM {table} WHERE seal IS NOT seal({values})"))


def dump(connection: Connection) -> Iterator[str]:
    """The content, a line of JSON for every row in a fixed order: equal content gives equal lines. Bytes are hexadecimal."""
    shown = lambda value: value.hex() if isinstance(value, bytes) else value
    for table in CONTENT:
        names = columns(table)
        for row in connection.execute(f"SELECT {', '.join(names)} FROM {table} ORDER BY id"):
            yield json.dumps({"table": table, **dict(zip(names, map(shown, row)))})


def touched(connection: Connection, change: int) -> bool:
    """Whether rows were kept for a change."""
    return any(
        connection.execute(f"SELECT 1 FROM undo_{table} WHERE change = ? LIMIT 1", (change,)).fetchone()
        for table in CONTENT
    )
