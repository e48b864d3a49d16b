"""People in a file: what is added, corrected and undone."""

import shutil
import sqlite3

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_helpers import FINGERPRINT, draw, dump

from ise_plugin.errors import UsageError
from ise_plugin.ledger import IdentityLedger


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
