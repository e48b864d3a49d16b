"""A network trained anew: people keep their numbers, and corrections hold."""

import numpy as np
import pytest
from ledger_helpers import draw, dump

from ise_plugin.clustering import DBSCAN, jaccard_graph
from ise_plugin.clustering.constraints import fit_constrained, track_constraints
from ise_plugin.errors import UsageError
from ise_plugin.ledger.retraining import corrections, relabel

BATCH, WHO = draw(range(12))


def again(ledger, labels, paths=BATCH.paths, vectors=BATCH.vectors[:, ::-1]):
    return relabel(ledger, paths, vectors, np.asarray(labels), "another", "run2")


def people_of(ledger):
    return [row.person for row in ledger.images()]


def test_groups_get_the_numbers_of_their_people_in_whatever_order(ledger):
    ledger.name(5, "Ada")
    shuffled = np.random.default_rng(0).permutation(12)[WHO]
    order = np.random.default_rng(1).permutation(96)
    found = again(ledger, shuffled[order], [BATCH.paths[i] for i in order], BATCH.vectors[order])
    assert found == (1.0, [], [], []) and people_of(ledger) == (WHO + 1).tolist()
    assert ledger.people()[4].name == "Ada" and ledger.model().fingerprint == "another"
    kept = np.concatenate(ledger._vectors.gallery()[0].vectors)
    assert np.array_equal(kept, BATCH.vectors)


def test_the_assignment_keeps_the_most_images(ledger):
    """Group 0 has 5 images of person 1 and 4 of person 2, group 1 has 3 of person 1: 4 + 3 is more than 5."""
    labels = WHO + 10
    labels[:5], labels[5:8], labels[8:12], labels[12:16] = 0, 1, 0, -1
    found = again(ledger, labels)
    assert people_of(ledger)[:16] == [2] * 5 + [1] * 3 + [2] * 4 + [None] * 4
    assert found.kept == pytest.approx(1 - 9 / 96) and found.new == found.gone == []
    assert found.moved == [(n, 1, 2) for n in range(1, 6)] + [(n, 2, None) for n in range(13, 17)]


def test_a_person_in_two_groups_keeps_one_number_and_gets_a_new_one(ledger):
    labels = WHO.copy()
    labels[5:8] = 99
    assert again(ledger, labels).new == [13]
    assert people_of(ledger)[:8] == [1] * 5 + [13] * 3


def test_two_people_in_one_group(ledger):
    found = again(ledger, np.where(WHO == 1, 0, WHO))
    assert found.gone == [2] and people_of(ledger)[:16] == [1] * 16


def test_undone_to_the_byte(ledger):
    ledger.lock(2)
    before = dump(ledger)
    again(ledger, np.where(WHO == 3, 0, WHO))
    assert dump(ledger) != before
    ledger.undo()
    assert dump(ledger) == before


def test_locked_people_keep_their_images(ledger):
    ledger.lock(2)
    labels = WHO.copy()
    labels[WHO == 1] = -1  # no group at all
    again(ledger, labels)
    assert ledger.images_of(2) == list(range(9, 17))


def test_files_that_are_gone_stay_whose_they_are(ledger, caplog):
    again(ledger, WHO[1:], BATCH.paths[1:], BATCH.vectors[1:])
    assert "1 images of the ledger are not among these" in caplog.text
    assert ledger.images_of(1) == list(range(1, 9))
    assert len(ledger._vectors.gallery()[0].people) == 95
    ledger.merge(2, 1)  # nothing trips over it


def test_images_that_the_run_did_not_see(ledger):
    """They stay whose they are; nobody's are decided of by the new network."""
    later, who = draw([3, 90], images=1, seed=7)
    ledger.add(
        later._replace(vectors=np.roll(later.vectors, 5, 1)), "0123456789abcdef"
    )  # like nobody, as it was seen then
    assert people_of(ledger)[-2:] == [None, None]
    ledger.answer(1, 17, False)
    ledger.merge(1, 2)
    before = dump(ledger)
    seen = np.ones(98, bool)
    seen[[0, 96, 97]] = False
    paths, vectors = [*BATCH.paths, *later.paths], np.concatenate([BATCH.vectors, later.vectors])
    labels = np.r_[np.where(WHO == 1, 0, WHO), -1, -1]
    labels[0] = -1
    relabel(ledger, paths, vectors, labels, "another", "run2", seen=seen)
    found = people_of(ledger)
    assert found[0] == 1 and found[96] == 4 and found[97] is None
    assert found[1:96] == np.where(WHO == 1, 1, WHO + 1)[1:].tolist()
    ledger.undo()
    assert dump(ledger) == before


def test_labels_that_do_not_hold_to_a_correction_are_refused(ledger):
    ledger.answer(1, 9, True)
    before = dump(ledger)
    with pytest.raises(UsageError, match="do not hold to 1 corrections; train with ISE.CORRECTIONS"):
        again(ledger, WHO)
    assert dump(ledger) == before
    again(ledger, np.where(WHO == 1, 0, WHO))


def test_corrections_as_pairs(ledger):
    ledger.answer(1, 9, True)
    ledger.answer(17, 25, False)
    ledger.split(4, [25, 26])
    ledger.lock(6)
    ledger.lock(7)
    links, apart = corrections(ledger, BATCH.paths)
    pairs = lambda found: {tuple(sorted((a + 1, b + 1))) for a, b in found.tolist()}
    locked = {(n, n + 1) for n in [*range(41, 48), *range(49, 56)]}
    assert pairs(links) == {(1, 9), (25, 26)} | locked
    assert pairs(apart) == {(17, 25), (41, 49)} | {(25, n) for n in range(27, 33)}


def test_what_follows_from_images_that_are_not_there(ledger):
    ledger.answer(1, 9, True)
    ledger.answer(9, 17, True)
    ledger.answer(9, 25, False)
    links, apart = corrections(ledger, [BATCH.paths[0], BATCH.paths[16], BATCH.paths[24]])
    assert links.tolist() == [[0, 1]] and apart.tolist() == [[0, 2]]


def test_a_new_labelling_with_them_violates_none(ledger):
    rng = np.random.default_rng(0)
    for a, b in rng.choice(96, (12, 2), replace=False).tolist():
        ledger.answer(a + 1, b + 1, bool(WHO[a] == WHO[b]))
    ledger.merge(2, 9)  # a wrong one holds as well
    ledger.split(3, [17, 18])
    ledger.lock(5)
    said = corrections(ledger, BATCH.paths)
    nothing = np.full(96, -1)
    held = track_constraints(BATCH.vectors, nothing, nothing, nothing * np.nan, said=said)
    labels = fit_constrained(DBSCAN(0.5), jaccard_graph(BATCH.vectors, 10, max_distance=0.5), held, 0.5)
    plain = DBSCAN(0.5).fit_predict(jaccard_graph(BATCH.vectors, 10, max_distance=0.5))
    assert said.violated(labels) == 0 < said.violated(plain)
    again(ledger, labels)
