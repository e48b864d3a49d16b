"""What is asked first."""

import shutil

import numpy as np
import pytest
from ledger_helpers import FINGERPRINT, draw

from ise_plugin.clustering.quality import b_cubed, outliers_alone
from ise_plugin.errors import UsageError
from ise_plugin.ledger import IdentityLedger
from ise_plugin.ledger.answers import Question
from ise_plugin.ledger.questions import MOST_OTHERS, SHOWN, Questions

BATCH, WHO = draw(range(30), spread=0.35)
WRONG = WHO.copy()
WRONG[(WHO < 10) & (np.arange(len(WHO)) % 8 < 4)] += 100  # ten people in two halves each
WRONG[(WHO >= 10) & (WHO < 16)] //= 2  # two people in each of three groups
WRONG[-24::8] = -1  # three images in no group


@pytest.fixture(scope="module")
def wrong_template(tmp_path_factory):
    path = tmp_path_factory.mktemp("questions") / "l"
    labels = np.where(WRONG < 0, -1, np.unique(WRONG, return_inverse=True)[1])
    IdentityLedger.create(str(path), BATCH, labels, FINGERPRINT).close()
    return path


@pytest.fixture
def wrong(wrong_template, tmp_path):
    with IdentityLedger(shutil.copy(wrong_template, tmp_path / "l")) as made:
        yield made


def truth(question):
    """By most of the images that are shown."""
    seen = [np.bincount(WHO[np.array(part.shown) - 1]).argmax() for part in (question.about, *question.others)]
    return [bool(person == seen[0]) for person in seen[1:]]


def f_of(ledger):
    return b_cubed(outliers_alone(np.array([row.person or -1 for row in ledger.images()])), WHO)[2]


def labels_of(ledger):
    return np.array([row.person or -row.image for row in ledger.images()])


def test_answers_of_the_truth_put_the_groups_right(wrong):
    questions, f = Questions(wrong), [f_of(wrong)]
    for _ in range(25):
        found = questions.first(1)
        if not found:
            break
        assert not questions.answer(found[0], truth(found[0]))
        f.append(f_of(wrong))
    assert f[0] < 0.9 and f[-1] == 1
    # the most valuable come first
    gained = np.diff(f)
    assert gained[: len(gained) // 2].sum() > 1.5 * gained[len(gained) // 2 :].sum() > 0


def test_a_question(wrong):
    questions = Questions(wrong).first(20)
    pairs = [frozenset((q.about.images, part.images)) for q in questions for part in q.others]
    assert len(set(pairs)) == len(pairs)
    gains = [question.gain for question in questions]
    assert gains == sorted(gains, reverse=True) and gains[-1] > 0
    for question in questions:
        assert 0 < len(question.others) <= MOST_OTHERS
        for part in (question.about, *question.others):
            assert set(part.shown) <= set(part.images) and len(part.shown) == min(SHOWN, len(part.images))
            assert {wrong.image(image).person for image in part.images} == {part.person}
        # a half is asked about its other half, and with whole people otherwise
        halves = [part for part in question.others if part.own]
        assert [part.person for part in halves] in ([], [question.about.person])
        whole = set(question.about.images).union(*(part.images for part in halves))
        assert whole == set(wrong.images_of(question.about.person))


def test_the_value_of_a_question_is_what_its_answers_would_put_right(wrong):
    question = Questions(wrong).first(1)[0]
    a = np.array([len(question.about.images)] * len(question.others))
    a += [len(p.images) * 0 if p.own else sum(len(q.images) for q in question.others if q.own) for p in question.others]
    b = np.array([len(part.images) for part in question.others])
    chance = np.array([1 - part.probability if part.own else part.probability for part in question.others])
    assert question.gain == pytest.approx((chance * 2 * a * b / (a + b)).sum(), rel=1e-3)


def test_what_was_answered_is_not_asked_again(wrong):
    questions = Questions(wrong)
    for said in (False, None, True):
        first = questions.first(1)[0]._replace()
        questions.answer(first, [said] * len(first.others))
        again = {(q.about.person, p.images) for q in questions.first(100) for p in q.others}
        if said is not True:
            assert not {(first.about.person, part.images) for part in first.others if not part.own} & again
    # neither by another who opens the ledger, but for what was left unsure
    assert Questions(wrong).first(1)[0].others != first.others


def test_after_an_answer_only_what_it_touches_is_counted_anew_and_the_same_comes_out(wrong):
    kept = Questions(wrong)
    for _ in range(6):
        question = kept.first(1)[0]
        kept.answer(question, truth(question))
        wrong.undo() if question.about.images[0] % 2 else None
        kept.first(1)
        fresh = Questions(wrong)
        fresh.first(1)
        one, other = kept._likeness, fresh._likeness
        assert np.array_equal(one.labels, other.labels) and np.array_equal(one.sizes, other.sizes)
        assert np.allclose(one._within, other._within, atol=0.02) and np.allclose(one._sums, other._sums, atol=1e-4)
        assert {n: (*cut.one, -1, *cut.other) for n, cut in one.cuts.items()} == {
            n: (*cut.one, -1, *cut.other) for n, cut in other.cuts.items()
        }


def test_locked_people_are_not_asked_about(wrong):
    for person in wrong.people():
        wrong.lock(person.number)
    assert Questions(wrong).first(5) == []


def test_one_image_or_no_people(tmp_path):
    batch, _ = draw([1], images=3)
    with IdentityLedger.create(str(tmp_path / "l"), batch, np.full(3, -1), FINGERPRINT) as ledger:
        assert Questions(ledger).first(1) == []
    with IdentityLedger.create(str(tmp_path / "m"), batch.of([0]), np.zeros(1, int), FINGERPRINT) as ledger:
        assert Questions(ledger).first(1) == []


def test_answers_that_do_not_fit(wrong):
    questions = Questions(wrong)
    found = questions.first(1)[0]
    assert isinstance(found, Question)
    with pytest.raises(UsageError, match="do not fit"):
        questions.answer(found, [True] * (len(found.others) + 1))
