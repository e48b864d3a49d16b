"""What is decided of images that come in."""

import numpy as np
from ledger_helpers import FINGERPRINT, draw, dump

from ise_plugin.data.sightings import Sighting


def verdicts(ledger, batch):
    rows = {row.path: row for row in ledger.images()}
    return [rows[path] for path in batch.paths]


def test_images_of_known_people_are_known(ledger):
    batch, who = draw(range(6), images=4, seed=1)
    ledger.add(batch, FINGERPRINT)
    found = verdicts(ledger, batch)
    right = [row.person == person + 1 for row, person in zip(found, who)]
    assert np.mean(right) > 0.9 and {row.source for row in found} == {"program"}
    assert all(row.person == person + 1 for row, person in zip(found, who) if row.verdict == "known")


def test_new_people_are_grouped_with_their_like_and_get_the_next_numbers(ledger):
    batch, who = draw(range(20, 24), images=8, seed=1)
    added = ledger.add(batch, FINGERPRINT)
    assert added.people == [13, 14, 15, 16] and added.new == 32
    groups = {(row.person, person) for row, person in zip(verdicts(ledger, batch), who)}
    assert len(groups) == 4 and {number for number, _ in groups} == set(added.people)


def test_a_grown_ledger_is_calibrated_anew(ledger):
    old = ledger.model().calibration
    ledger.add(draw(range(20, 26), seed=1)[0], FINGERPRINT)  # half as many again
    assert ledger.model().calibration == old  # by what was there before
    ledger.add(draw([1], images=2, seed=2)[0], FINGERPRINT)
    assert (old.people, ledger.model().calibration.people) == (12, 18)
    ledger.undo()
    assert ledger.model().calibration == old


def test_one_image_of_nobody_is_undecided_until_its_like_come(ledger):
    batch, _ = draw([30], images=12, seed=1)
    first = ledger.add(batch.of([0]), FINGERPRINT)
    assert (first.known, first.new, first.undecided) == (0, 0, 1)
    rest = ledger.add(batch.of(range(1, 12)), FINGERPRINT)
    assert rest.images == 11 and rest.new == 12
    assert {row.person for row in verdicts(ledger, batch)} == {13}


def test_a_track_decides_together(ledger):
    batch, who = draw([3, 40], images=4, seed=5, tracks=True)
    blurred = batch.vectors.copy()
    noise = np.random.default_rng(1).normal(size=blurred.shape[1])
    blurred[1] = noise / np.linalg.norm(noise)  # one image of the track shows nothing
    alone = batch._replace(vectors=blurred, sightings=[Sighting()] * 8)
    ledger.add(alone, FINGERPRINT)
    assert verdicts(ledger, alone)[1].person is None
    ledger.undo()
    ledger.add(batch._replace(vectors=blurred), FINGERPRINT)
    found = verdicts(ledger, batch)
    assert {row.person for row in found[:4]} == {4} and len({row.probability for row in found[:4]}) == 1
    assert {row.person for row in found[4:]} == {13}


def test_adding_again_changes_nothing(ledger):
    batch, _ = draw(range(10, 14), seed=1)
    ledger.add(batch, FINGERPRINT)
    before, changes = dump(ledger), ledger.changes()
    assert ledger.add(batch, FINGERPRINT).images == 0
    assert dump(ledger) == before and ledger.changes() == changes
