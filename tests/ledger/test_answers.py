"""What becomes of answers."""

import pytest
from ledger_helpers import FINGERPRINT, draw, dump

from ise_plugin.errors import UsageError
from ise_plugin.ledger.answers import Said, apply


def images(ledger, person):
    return ledger.images_of(person)


def test_an_answer_is_one_change(ledger):
    before = dump(ledger)
    lone = ledger.add(draw([40], images=1, seed=9)[0], FINGERPRINT)
    assert lone.undecided == 1
    middle, half = dump(ledger), tuple(images(ledger, 1)[:3])
    said = [Said(8, 9, (), True), Said(8, 97, (), True), Said(8, 17, (), False), Said(8, 1, half, False)]
    assert apply(ledger, [said]) == []
    assert images(ledger, 13) == list(half)
    assert images(ledger, 1) == [*range(4, 17), 97]  # the halves parted first, then the others joined
    with pytest.raises(UsageError, match="were said to be two people"):
        ledger.merge(1, 3)
    ledger.undo()
    assert dump(ledger) == middle
    ledger.undo()
    assert dump(ledger) == before


def test_who_has_a_name_keeps_the_number(ledger):
    ledger.name(5, "Ada")
    apply(ledger, [[Said(images(ledger, 2)[0], images(ledger, 5)[0], (), True)]])
    assert ledger.require(5).images == 16


def test_what_cannot_be_taken_is_named_and_the_rest_is_taken(ledger):
    ledger.lock(2)
    refused = apply(ledger, [[Said(1, 9, (), True), Said(1, 17, (), True)], [Said(1, 9999, (), True)]])
    assert len(refused) == 2 and "person 2 is locked" in refused[0] and "no image 9999" in refused[1]
    assert ledger.require(1).images == 16 and len(ledger.changes()) == 2
