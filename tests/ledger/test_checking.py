"""Damage is named, and the rest is saved; never a wrong answer in silence."""

import random
import re
import shutil
import sqlite3

import numpy as np
import pytest
from ledger_helpers import FINGERPRINT, draw, dump

from ise_plugin.errors import UsageError
from ise_plugin.ledger import IdentityLedger
from ise_plugin.ledger.checking import check, salvage


def spoil(path, statement, *values):
    with sqlite3.connect(path) as other:
        other.execute(statement, values)


def test_files_that_are_gone_are_named_and_do_no_harm(template):
    findings = check(template)
    assert len(findings) == 21 and not any(finding.harmful for finding in findings)
    assert "crops/0/0000_000.jpg is not there any more" in findings[0].text and "76 more" in findings[-1].text


@pytest.mark.parametrize(
    "statement, named",
    [
        ("UPDATE embeddings SET vector = zeroblob(128) WHERE id = 9", "embeddings: row 9 does not fit.*0001_000.jpg"),
        ("UPDATE decisions SET person = 5 WHERE id = 9", "decisions: row 9 does not fit its checksum"),
        ("UPDATE people SET name = 'Eve' WHERE id = 5", "people: row 5 does not fit its checksum"),
        ("DELETE FROM decisions WHERE id = 9", "decisions: image 9 has none.*0001_000.jpg"),
        ("DELETE FROM people WHERE id = 5", "decisions: row 33 names people that are not there"),
    ],
)
def test_rows_that_were_changed_by_another_hand_are_named(template, tmp_path, statement, named):
    path = shutil.copy(template, tmp_path / "l")
    spoil(path, statement)
    findings = check(path)
    assert findings and all(finding.harmful for finding in findings)
    assert any(re.search(named, finding.text) for finding in findings)
    lost = salvage(str(path), str(tmp_path / "saved"))
    assert lost and not any(finding.harmful for finding in check(tmp_path / "saved"))


def test_a_damaged_embedding_is_never_compared_with(template, tmp_path):
    path = shutil.copy(template, tmp_path / "l")
    spoil(path, "UPDATE embeddings SET vector = (SELECT vector FROM embeddings WHERE id = 1) WHERE id = 9")
    with IdentityLedger(path) as ledger, pytest.raises(UsageError, match="embedding of image 9 is damaged.*check"):
        ledger.add(draw([1], seed=1)[0], FINGERPRINT)


def test_what_is_saved_is_what_was_there(template, tmp_path):
    salvage(str(template), str(tmp_path / "saved"))
    with IdentityLedger(template) as before, IdentityLedger(tmp_path / "saved") as after:
        assert dump(after) == dump(before)
        assert after.split(1, after.images_of(1)[:1]) == 13


def test_flipped_bytes_anywhere_are_found_or_harmless(template, tmp_path):
    """Of a file with bytes overwritten every answer is refused, or the right one."""
    content = template.read_bytes()
    with IdentityLedger(template) as ledger:
        right = dump(ledger)
    found, moments = 0, random.Random(0)
    used = [i for i, byte in enumerate(content[:-64]) if byte]
    for number in range(25):
        path = tmp_path / f"{number}"
        start = moments.choice(used)
        damaged = content[:start] + moments.randbytes(64) + content[start + 64 :]
        path.write_bytes(damaged)
        try:
            findings = [finding for finding in check(path) if finding.harmful]
        except UsageError:  # not even the header
            findings = ["no ledger"]
        found += bool(findings)
        if not findings:
            with IdentityLedger(path) as ledger:
                assert dump(ledger) == right
    assert found > 15


def test_a_truncated_ledger_is_saved_in_part(template, tmp_path):
    path = tmp_path / "l"
    content = template.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4 // 16384 * 16384])
    assert any(finding.harmful for finding in check(path))
    try:
        salvage(str(path), str(tmp_path / "saved"))
    except (UsageError, sqlite3.DatabaseError):
        return
    assert not any(finding.harmful for finding in check(tmp_path / "saved"))


def test_people_and_images_after_a_loss(template, tmp_path):
    path = shutil.copy(template, tmp_path / "l")
    spoil(path, "UPDATE embeddings SET vector = x'00' WHERE id IN (1, 2)")
    lost = salvage(str(path), str(tmp_path / "saved"))
    assert len(lost) == 4  # two embeddings, and their images
    with IdentityLedger(tmp_path / "saved") as ledger:
        assert ledger.images_of(1) == [3, 4, 5, 6, 7, 8]
        assert np.sum([person.images for person in ledger.people()]) == 94
