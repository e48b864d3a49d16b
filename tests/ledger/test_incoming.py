"""What of a batch is there already."""

import logging

import numpy as np
from ledger_helpers import FINGERPRINT, draw, dump

from ise_plugin.data.sightings import Sighting
from ise_plugin.ledger import Batch


def test_a_copy_under_another_name_is_said_once(ledger, caplog):
    caplog.set_level(logging.WARNING)
    batch, _ = draw(range(1), images=1)
    copy = batch._replace(paths=["other/name.jpg"])
    assert ledger.add(copy, FINGERPRINT).copies == {"other/name.jpg": batch.paths[0]}
    assert f"other/name.jpg is {batch.paths[0]}" in caplog.text
    caplog.clear()
    assert ledger.add(copy, FINGERPRINT).images == 0 and not caplog.text


def test_copies_within_a_batch(ledger):
    batch, _ = draw([50], images=1, seed=3)
    twice = Batch(["a.jpg", "b.jpg"], np.repeat(batch.vectors, 2, 0), batch.sightings * 2, batch.digests * 2)
    added = ledger.add(twice, FINGERPRINT)
    assert added.images == 1 and added.copies == {"b.jpg": "a.jpg"}


def test_another_picture_under_an_old_name_is_named_and_left_alone(ledger, caplog):
    before = dump(ledger)
    batch, _ = draw(range(1), images=1)
    ledger.add(batch._replace(digests=[b"x" * 32]), FINGERPRINT)
    assert "1 files are others than when they were added" in caplog.text and dump(ledger) == before


def test_names_that_are_no_utf8_come_back(ledger):
    batch, _ = draw([60], images=1, seed=3)
    ledger.add(batch._replace(paths=["cam\udcff/1.jpg"], sightings=[Sighting(camera="cam\udcff")]), FINGERPRINT)
    last = list(ledger.images())[-1]
    assert (last.path, last.camera) == ("cam\udcff/1.jpg", "cam\udcff")
