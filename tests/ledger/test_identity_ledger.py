"""People in a file: what is added, corrected and undone."""

import logging
import shutil
import sqlite3

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_helpers import FINGERPRINT, draw, dump

from ise_plugin.data.sightings import Sighting
from ise_plugin.errors import UsageError
from ise_plugin.ledger import Batch, IdentityLedger


def verdicts(ledger, batch):
    rows = {row.path: row for row in ledger.images()}
    return [rows[path] for path in batch.paths]


def test_a_new_ledger_has_a_person_for_each_group(ledger):
    assert [(person.number, person.images, person.name) for person in ledger.people()] == [
        (n, 8, "") for n in range(1, 13)
    ]
    assert {row.source for row in ledger.images()} == {"init"}


def test_outliers_of_a_run_are_undecided(tmp_path):
    batch, who = draw(range(12))
    labels = np.where(np.arange(len(who)) % 8 == 0, -1, who)
    with IdentityLedger.create(str(tmp_path / "l"), batch, labels, FINGERPRINT) as ledger:
        rows = list(ledger.images())
        assert [row.person is None for row in rows] == (labels < 0).tolist()
        assert {row.verdict for row in rows if row.person is None} == {"undecided"}


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


def test_who_is_it_writes_nothing(ledger):
    before = dump(ledger)
    batch, who = draw([3, 5, 90], images=1, seed=8)
    (first, second), (third, fourth), (_, chance) = ledger.identify(batch.vectors)
    assert (first, third) == (4, 6) and min(second, fourth) > 0.9 > 0.1 > chance
    assert dump(ledger) == before


def test_groups_that_are_unsure_of_themselves_make_what_is_like_them_unsure(tmp_path):
    batch, who = draw(range(12))
    for trust in (1.0, 0.5):
        labels = np.unique(who, return_inverse=True)[1]
        path = str(tmp_path / f"{trust}")
        with IdentityLedger.create(path, batch, labels, FINGERPRINT, "", np.full(len(who), trust)) as ledger:
            assert ledger.identify(draw([3], images=1, seed=8)[0].vectors)[0][1] == pytest.approx(trust, abs=0.02)


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


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda b: b._replace(paths=b.paths[1:]), "do not fit"),
        (
            lambda b: b._replace(vectors=b.vectors[:, 1:] / np.linalg.norm(b.vectors[:, 1:], axis=1)[:, None]),
            "31 numbers",
        ),
        (lambda b: b._replace(vectors=b.vectors * 2), "unit length"),
        (lambda b: b._replace(vectors=b.vectors * np.nan), "finite"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(ledger, change, message):
    before = dump(ledger)
    with pytest.raises(UsageError, match=message):
        ledger.add(change(draw([1], seed=1)[0]), FINGERPRINT)
    assert dump(ledger) == before


def test_a_network_of_another_digest_is_refused_with_the_command(ledger):
    with pytest.raises(UsageError, match="another network.*ise-identities retrain"):
        ledger.add(draw([1], seed=1)[0], "fedcba")


def test_a_failed_creation_leaves_nothing(tmp_path):
    batch, who = draw(range(3))
    with pytest.raises(UsageError):
        IdentityLedger.create(str(tmp_path / "l"), batch._replace(vectors=batch.vectors * 2), who, FINGERPRINT)
    assert list(tmp_path.iterdir()) == []


# -- corrections


def test_merged_people_are_one_and_the_other_number_points_there(ledger):
    ledger.merge(2, 5, 7)
    assert len(ledger.images_of(2)) == 24 and 5 not in [p.number for p in ledger.people()]
    with pytest.raises(UsageError, match="person 5 was merged into 2"):
        ledger.name(5, "Ada")
    with pytest.raises(UsageError, match="itself"):
        ledger.merge(2, 2)


def test_a_split_makes_a_person_with_a_new_number(ledger):
    own = ledger.images_of(4)
    assert ledger.split(4, own[:3]) == 13
    assert ledger.images_of(13) == own[:3] and ledger.images_of(4) == own[3:]
    with pytest.raises(UsageError, match="were said to be two people"):
        ledger.merge(4, 13)


@pytest.mark.parametrize("images", [[], [1, 2, 3, 4, 5, 6, 7, 8], [1, 9]])
def test_a_split_takes_some_of_the_persons_images(ledger, images):
    with pytest.raises(UsageError, match="person 1 has 8 images"):
        ledger.split(1, images)


def test_locked_people_stay_as_they_are(ledger):
    ledger.lock(3)
    for change in (
        lambda: ledger.merge(1, 3),
        lambda: ledger.merge(3, 1),
        lambda: ledger.split(3, ledger.images_of(3)[:1]),
    ):
        with pytest.raises(UsageError, match="person 3 is locked"):
            change()
    ledger.lock(3, False)
    ledger.merge(1, 3)


def test_numbers_are_never_given_twice(ledger):
    assert ledger.split(1, ledger.images_of(1)[:2]) == 13
    ledger.undo()
    assert ledger.split(1, ledger.images_of(1)[:2]) == 14


def test_an_earlier_change_is_undone_where_nothing_builds_on_it(ledger):
    ledger.name(1, "Ada")
    ledger.name(2, "Bo")
    ledger.name(2, "Cy")
    first, second, _ = ledger.changes()
    with pytest.raises(UsageError, match="builds on it"):
        ledger.undo(second.number)
    ledger.undo(first.number)
    assert [p.name for p in ledger.people()[:2]] == ["", "Cy"]


def test_people_that_a_later_change_names_stay(ledger):
    batch, _ = draw([70], seed=1)
    ledger.add(batch, FINGERPRINT)
    add = ledger.changes()[-1].number
    ledger.decide_by_person(ledger.images_of(1)[:1], 13)
    before = dump(ledger)
    with pytest.raises(UsageError, match="cannot be undone"):
        ledger.undo(add)
    assert dump(ledger) == before


def test_nothing_to_undo(ledger):
    with pytest.raises(UsageError, match="no change to undo"):
        ledger.undo()
    with pytest.raises(UsageError, match="change 5 is none"):
        ledger.name(1, "Ada")
        ledger.undo(5)


BATCHES = [draw(people, images=3, seed=seed)[0] for seed, people in enumerate([(0, 1), (30, 31), (1, 31, 32)], 10)]
numbers = st.integers(1, 16)
STEPS = st.one_of(
    st.tuples(st.just("add"), st.sampled_from(range(3))),
    st.tuples(st.just("merge"), numbers, numbers),
    st.tuples(st.just("split"), numbers, st.integers(1, 3)),
    st.tuples(st.just("name"), numbers, st.text(st.characters(blacklist_categories=["Cs"]), max_size=3)),
    st.tuples(st.just("lock"), numbers, st.booleans()),
    st.tuples(st.just("answer"), st.integers(1, 100), st.integers(1, 100), st.booleans()),
    st.tuples(st.just("assign"), st.integers(1, 100), st.one_of(st.none(), numbers)),
    st.tuples(st.just("undo")),
)


def take(ledger, step):
    kind, *values = step
    if kind == "add":
        ledger.add(BATCHES[values[0]], FINGERPRINT)
    elif kind == "split":
        ledger.split(values[0], ledger.images_of(values[0])[: values[1]])
    elif kind == "assign":
        ledger.decide_by_person([values[0]], values[1])
    else:
        getattr(ledger, kind)(*values)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, min_size=1, max_size=8))
def test_any_changes_undone_give_the_ledger_before_them(template, tmp_path_factory, steps):
    path = shutil.copy(template, tmp_path_factory.mktemp("ledger") / "l")
    with IdentityLedger(path) as ledger:
        before: dict = {}  # number of a change -> content before it
        for step in steps:
            content, last = dump(ledger), ledger.changes()[-1:]
            try:
                take(ledger, step)
            except UsageError:
                assert dump(ledger) == content  # refused: nothing happened
                continue
            if step[0] == "undo":
                assert dump(ledger) == before.pop(last[0].number)
            elif ledger.changes()[-1:] != last:
                before[ledger.changes()[-1].number] = content
            else:
                assert dump(ledger) == content
            _consistent(path)
        while ledger.changes():
            assert ledger.undo().number == max(before)
            assert dump(ledger) == before.pop(max(before))


def _consistent(path):
    """By SQL of its own: every image with a decision and an embedding, nobody's number with images of a merged person."""
    with sqlite3.connect(path) as other:
        count = lambda query: other.execute(query).fetchone()[0]
        images = count("SELECT count(*) FROM images")
        assert images == count("SELECT count(*) FROM decisions") == count("SELECT count(*) FROM embeddings")
        merged = "SELECT count(*) FROM decisions JOIN people ON people.id IN (person, candidate) WHERE merged_into IS NOT NULL"
        assert count(merged) == 0
        assert not other.execute("PRAGMA foreign_key_check").fetchall()
