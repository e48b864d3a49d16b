"""One file on disk, one change at a time: transactions, who writes, undoing.

The database keeps a rollback journal, not a write-ahead log: beside the file nothing stays of what was deleted from it.
"""

import json
import logging
import os
import socket
import sqlite3
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import Iterable, Iterator, NamedTuple, Optional, Sequence

from ..errors import UsageError
from ..utils.files import shown, write_atomically
from . import schema

logger = logging.getLogger("fastreid.ise.ledger")

# Seconds that a second writer waits before it says so, and then until it gives up.
_PATIENCE, WAIT = 1.0, 60.0
_CACHE_KIB = 1 << 16
_VALUES = 500  # in one query: SQLite may have been built to take 999
# What reading a damaged file raises: the second where text in it, or in SQLite's own message, is no text.
DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)
CHECK = "ise-identities check --ledger {} says what is lost"


class Change(NamedTuple):
    """What was done: number, kind (a command of ise-identities), moment (ISO 8601, UTC), a line of text."""

    number: int
    kind: str
    at: str
    summary: str


class Store:
    """An open ledger file.

    Every change is one transaction; with it the rows that it touches are kept as they were.

    Args:
        path: of the file.
        wait: seconds to wait for another writer.

    Raises:
        UsageError: no such file, another program's, of another version, or damaged.
    """

    def __init__(self, path: str, wait: float = WAIT):
        path = os.fspath(path)
        if not os.path.isfile(path):
            raise UsageError(f"{shown(path)} is no ledger; ise-identities init makes one")
        self.path, self._wait, self._depth = path, wait, 0
        self._change: Optional[int] = None
        self.connection = _connect(path)
        with self.named_errors():
            found = self._pragma("application_id"), self._pragma("user_version")
            if found[0] != schema.APPLICATION:
                raise UsageError(f"{shown(path)} is a database, but no ledger; ise-identities init makes one")
            if found[1] != schema.VERSION:
                raise UsageError(
                    f"{shown(path)} is a ledger of version {found[1]}, this program reads {schema.VERSION}"
                )
            schema.keep_seals(self.connection)

    @classmethod
    def create(cls, path: str) -> None:
        """An empty ledger; UsageError where something is, or where it cannot be made."""
        if os.path.lexists(path):
            raise UsageError(f"{shown(path)} is there already; name another --ledger, or remove it")
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))  # of people: nobody else's to read
        except OSError as error:
            raise UsageError(f"{shown(path)} cannot be made ({error.strerror}); name another --ledger") from error
        connection = _connect(path)
        connection.execute(f"PRAGMA page_size = {schema.PAGE_SIZE}")
        connection.execute("BEGIN IMMEDIATE")
        schema.create(connection)
        connection.execute("COMMIT")
        connection.close()

    def close(self) -> None:
        """Ends the use of the file."""
        self.connection.close()

    def _pragma(self, name: str) -> int:
        return self.connection.execute(f"PRAGMA {name}").fetchone()[0]

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """SQLite's errors as one line that says what to do."""
        try:
            yield
        except sqlite3.OperationalError as error:
            reason = f"cannot be used ({error})"
            raise UsageError(f"{shown(self.path)} {reason}; free it, or some space, and try again") from error
        except sqlite3.IntegrityError as error:
            raise UsageError(f"{shown(self.path)}: {error}; {CHECK.format(shown(self.path))}") from error
        except DAMAGE as error:
            reason = f"is no ledger, or damaged ({error})"
            raise UsageError(f"{shown(self.path)} {reason}; {CHECK.format(shown(self.path))}") from error

    # -- writing

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """One transaction: all of it is there afterwards, or, after an exception or a kill, nothing. Within another, part of it.

        Raises:
            UsageError: another process has not finished writing after ``wait`` seconds; the message says which.
        """
        if self._depth:
            yield
            return
        with self.named_errors():
            self._begin()
            self._depth = 1
            try:
                self._say_who(what)
                self.connection.execute("PRAGMA defer_foreign_keys = ON")
                yield
                self.count("revision")
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise
            finally:
                self._depth = 0
                with suppress(OSError):
                    os.remove(self._writer)

    def _begin(self) -> None:
        for patience in (_PATIENCE, self._wait):
            self.connection.execute(f"PRAGMA busy_timeout = {round(min(patience, self._wait) * 1000)}")
            try:
                self.connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) and "busy" not in str(error):
                    raise
                busy = error
            if patience != self._wait:
                logger.warning(f"{shown(self.path)} is being written by {self._who()}; waiting up to {self._wait:g} s")
        raise UsageError(
            f"{shown(self.path)} has been written by {self._who()} for {self._wait:g} s; try again when it has ended"
        ) from busy

    @property
    def _writer(self) -> str:
        return f"{self.path}.writer"

    def _say_who(self, what: str) -> None:
        """For those who wait. SQLite's own lock decides; this only names its owner."""
        about = {"process": os.getpid(), "host": socket.gethostname(), "doing": what, "since": now()}
        with suppress(UsageError):
            write_atomically(self._writer, json.dumps(about).encode())

    def _who(self) -> str:
        try:
            with open(self._writer, encoding="utf-8") as file:
                about = json.load(file)
            return f"process {about['process']} on {about['host']} ({about['doing']}, since {about['since']})"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    @contextmanager
    def change(self, kind: str, summary: str = "") -> Iterator[int]:
        """A transaction that can be undone; gives the number of the change. Nothing is recorded where nothing was touched.

        Within another change it is a part of that: an exception takes back this part alone.
        """
        if self._change is not None:
            with self._part():
                yield self._change
            return
        with self.writing(kind):
            row = self.connection.execute(
                "INSERT INTO changes (kind, at, summary) VALUES (?, ?, ?)", (kind, now(), summary)
            )
            number = row.lastrowid
            assert number is not None
            schema.start_recording(self.connection, number)
            self._change = number
            try:
                yield number
            finally:
                self._change = None
                schema.stop_recording(self.connection)
            if not schema.touched(self.connection, number):
                self.connection.execute("DELETE FROM changes WHERE id = ?", (number,))

    @contextmanager
    def _part(self) -> Iterator[None]:
        self.connection.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            self.connection.execute("ROLLBACK TO part")
            raise
        finally:
            self.connection.execute("RELEASE part")

    def describe(self, change: int, summary: str) -> None:
        """Says what a change has come to, within it."""
        self.connection.execute("UPDATE changes SET summary = ? WHERE id = ?", (summary, change))

    def count(self, name: str, by: int = 1) -> int:
        """Raises a counter within a transaction; its value before."""
        before = self.counter(name)
        self.connection.execute("UPDATE counters SET value = value + ? WHERE name = ?", (by, name))
        return before

    def counter(self, name: str) -> int:
        """The value of one of :data:`.schema.COUNTERS`."""
        return self.connection.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()[0]

    def find(self, query: str, values: Sequence) -> list[tuple]:
        """Rows of a query, which ends with a column, where that is one of the values; in no order."""
        found = []
        with self.named_errors():
            for start in range(0, len(values), _VALUES):
                block = values[start : start + _VALUES]
                found += self.connection.execute(f"{query} IN ({', '.join('?' * len(block))})", block).fetchall()
        return found

    def next_ids(self, table: str, count: int) -> range:
        """So many ids that no row of the table has had, given away."""
        start = self.count(f"last_{table}", count) + 1
        return range(start, start + count)

    def insert(self, table: str, rows: Iterable[tuple], ids: Optional[Sequence[int]] = None) -> list[int]:
        """Adds rows within a transaction; their ids, the next ones where none are given."""
        if ids is None:
            rows = list(rows)
            ids = self.next_ids(table, len(rows))
        names = schema.columns(table)
        places = ", ".join("?" * len(names))
        self.connection.executemany(
            f"INSERT INTO {table} ({', '.join(names)}) VALUES ({places})",
            ((number, *row) for number, row in zip(ids, rows)),
        )
        return list(ids)

    # -- undoing

    def changes(self) -> list[Change]:
        """Those that can be undone, the first one first."""
        with self.named_errors():
            rows = self.connection.execute("SELECT id, kind, at, summary FROM changes ORDER BY id")
            return [Change(*row) for row in rows]

    def undo(self, number: Optional[int] = None) -> Change:
        """Takes a change back, by default the last one.

        Raises:
            UsageError: there is no such change, or a later one builds on it.
        """
        with self.writing("undo"):
            known = {change.number: change for change in self.changes()}
            if not known:
                raise UsageError(f"{shown(self.path)} has no change to undo")
            number = max(known) if number is None else number
            if number not in known:
                raise UsageError(f"change {number} is none of {shown(self.path)}; ise-identities stats lists them")
            later = schema.touched_later(self.connection, number)
            if later:
                raise UsageError(f"change {number} cannot be undone before change {later[-1]}, which builds on it")
            schema.restore(self.connection, number)
            self.count("losses")
            if self.connection.execute("PRAGMA foreign_key_check").fetchone():
                raise UsageError(f"change {number} cannot be undone before later ones that name its people or images")
            return known[number]

    def clean(self) -> None:
        """Leaves no byte of what was deleted in the file: SQLite writes zeros over it, and the file is written anew."""
        with self.named_errors():
            self.connection.execute("VACUUM")
            self.connection.execute("UPDATE counters SET value = 0 WHERE name = 'unclean'")


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    for setting in (
        "foreign_keys = ON",
        "secure_delete = ON",
        "journal_mode = DELETE",
        "synchronous = FULL",
        "trusted_schema = OFF",
        f"cache_size = -{_CACHE_KIB}",
    ):
        with suppress(*DAMAGE):  # a file that is no database: the first reading names it
            connection.execute(f"PRAGMA {setting}")
    return connection


def now() -> str:
    """The moment, ISO 8601, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
