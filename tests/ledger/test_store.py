"""One file, one change at a time: kills, two writers, other people's files."""

import json
import logging
import os
import random
import re
import shutil
import sqlite3
import time
from contextlib import contextmanager

import pytest
from helpers import HANG, forkserver
from ledger_helpers import FINGERPRINT, change_forever, draw, dump, new_ledger, write_slowly

from ise_plugin.errors import UsageError
from ise_plugin.ledger import IdentityLedger
from ise_plugin.ledger.store import Store

KILLS = 50 if os.environ.get("ISE_TEST_LONG") else 6
FEW_KILLS = 20  # fewer may all fall between two changes

logger = logging.getLogger(__name__)


@contextmanager
def other_process(target, *arguments):
    """It runs, and has said so; it is killed at the end."""
    context = forkserver()
    ready = context.Event()
    process = context.Process(target=target, args=(ready, *map(str, arguments)))
    process.start()
    try:
        assert ready.wait(HANG)
        yield process
    finally:
        process.kill()
        process.join()


def unnumbered(dumped):
    """Without the numbers of answers, which go on from one merge to the next."""
    return re.sub(r'("table": "answers", "id": )\d+', r"\1", dumped)


@pytest.mark.parametrize("kind", ["add", "merge", "forget"])
def test_a_kill_leaves_a_change_whole_or_absent(template, tmp_path, kind):
    path, moments = tmp_path / "people.ledger", random.Random(kind)
    shutil.copy(template, path)
    with IdentityLedger(path) as ledger:
        states = {dump(ledger)}
        if kind == "add":
            ledger.add(draw([0, 1, 30], images=4, seed=4)[0], FINGERPRINT)
            whole = ledger.changes()[0].summary
        elif kind == "merge":
            ledger.merge(1, 2, 3)
            states.add(dump(ledger))
    struck = 0
    for _ in range(KILLS):
        shutil.copy(template, path)
        with other_process(change_forever, path, kind):
            time.sleep(moments.uniform(0, 0.1))
        struck += os.path.exists(f"{path}-journal")
        with IdentityLedger(path) as ledger:  # the next one rolls back what was not finished
            for pragma in ("integrity_check", "foreign_key_check"):
                assert ledger.store.connection.execute(f"PRAGMA {pragma}").fetchall() in ([], [("ok",)])
            found, changes = dump(ledger), ledger.changes()
            if kind == "add":
                # numbers of images and people go on from kill to kill, so the whole change is told by what it says and holds
                assert found in states or (changes[0].summary == whole and found.count('"table": "images"') == 96 + 12)
            elif kind == "merge":
                assert unnumbered(found) in map(unnumbered, states)
            else:
                assert found in states or all(person.number != 3 for person in ledger.people())
    logger.info(f"{kind}: {struck} of {KILLS} kills left something to roll back")
    assert struck or KILLS < FEW_KILLS


def test_a_second_writer_waits(template, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    path = shutil.copy(template, tmp_path / "l")
    with other_process(write_slowly, path, 2.5) as first, IdentityLedger(path) as ledger:
        ledger.name(1, "Ada")
        assert ledger.people()[0].name == "Ada"
    assert f"is being written by process {first.pid}" in caplog.text and "a long change" in caplog.text


def test_a_second_writer_says_who_writes_when_it_gives_up(template, tmp_path):
    path = shutil.copy(template, tmp_path / "l")
    with other_process(write_slowly, path, HANG) as first, IdentityLedger(path, wait=0.2) as ledger:
        assert len(ledger.people()) == 12  # reading goes on
        with pytest.raises(UsageError, match=rf"written by process {first.pid} on .* \(a long change, since"):
            ledger.name(1, "Ada")
    with IdentityLedger(path, wait=0.2) as ledger:
        ledger.name(1, "Ada")
    assert not os.path.exists(f"{path}.writer")


def test_an_error_within_a_change_leaves_nothing(template, tmp_path):
    with IdentityLedger(shutil.copy(template, tmp_path / "l")) as ledger:
        before = dump(ledger)
        with pytest.raises(KeyError):
            with ledger.store.change("test"):
                ledger.store.connection.execute("UPDATE people SET name = 'x'")
                raise KeyError
        assert dump(ledger) == before and not ledger.changes()
        ledger.name(1, "Ada")


def test_no_ledger(tmp_path):
    with pytest.raises(UsageError, match="is no ledger; ise-identities init makes one"):
        Store(tmp_path / "nowhere")
    (tmp_path / "text").write_text("no database" * 100)
    with pytest.raises(UsageError, match="is no ledger, or damaged"):
        Store(tmp_path / "text")
    with sqlite3.connect(tmp_path / "other") as other:
        other.execute("CREATE TABLE t (x)")
    with pytest.raises(UsageError, match="a database, but no ledger"):
        Store(tmp_path / "other")


def test_a_ledger_of_a_later_version(template, tmp_path):
    path = shutil.copy(template, tmp_path / "l")
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 2")
    with pytest.raises(UsageError, match="of version 2, this program reads 1"):
        Store(path)


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "l").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        new_ledger(tmp_path / "l")
    assert (tmp_path / "l").read_text() == "mine"


def test_a_ledger_is_nobody_elses_to_read(template):
    assert os.stat(template).st_mode & 0o077 == 0


def test_embeddings_in_memory_follow_another_writer(template, tmp_path):
    path = shutil.copy(template, tmp_path / "l")
    with IdentityLedger(path) as one, IdentityLedger(path) as other:
        gallery = lambda: one._vectors.gallery()[0]
        assert len(gallery().people) == 96
        other.add(draw([30], seed=3)[0], FINGERPRINT)
        assert len(gallery().people) == 104 and gallery().people[-1] == 13
        other.undo()
        other.add(draw([31], images=5, seed=3)[0], FINGERPRINT)
        expected = [json.loads(line)["vector"] for line in one.dump() if '"table": "embeddings"' in line]
        assert [row.tobytes().hex() for part in gallery().vectors for row in part] == expected
