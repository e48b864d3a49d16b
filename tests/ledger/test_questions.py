"""What is asked first, and what becomes of the answers."""

import shutil

import numpy as np
import pytest
from ledger_helpers import FINGERPRINT, draw, dump

from ise_plugin.clustering.quality import b_cubed, outliers_alone
from ise_plugin.errors import UsageError
from ise_plugin.ledger import IdentityLedger
from ise_plugin.ledger.likeness import NEAR, Likeness, cut_in_two
from ise_plugin.ledger.questions import MOST_OTHERS, SHOWN, Question, Questions, Said, apply

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


def test_likeness_is_the_mean_cosine_over_pairs():
    from ise_plugin.ledger.decide import Gallery

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    people, cameras = np.arange(60) // 12 + 1, np.arange(60) % 2
    people[-2:] = -1
    likeness = Likeness()
    likeness.follow(Gallery([rows[:25], rows[25:]], people, np.ones(5)), cameras, True)
    clean = rows - np.stack([rows[cameras == camera].mean(0) for camera in (0, 1)])[cameras]
    clean /= np.linalg.norm(clean, axis=1, keepdims=True)

    def mean(a, b):
        return np.mean([clean[i] @ clean[j] for i in a for j in b if i != j])

    groups = {label: np.flatnonzero(people == label) for label in range(1, 6)} | {-59: [58], -60: [59]}
    inside = {label: mean(own, own) for label, own in groups.items() if label > 0}
    usual = np.average(list(inside.values()), weights=[len(groups[label]) for label in inside])
    within = lambda label: max(
        (inside.get(label, 0) * (size := len(groups[label]) * (label > 0)) + 5 * usual) / (size + 5), 1e-6
    )
    for one, other in ((1, 2), (5, 3), (4, -60)):
        expected = mean(groups[one], groups[other]) / np.sqrt(within(one) * within(other))
        assert likeness.between(np.array([one]), np.array([other]))[0] == pytest.approx(expected, rel=1e-3)
    assert likeness.labels.tolist() == [-60, -59, 1, 2, 3, 4, 5]
    assert len(likeness.edges) == 10 + 5 * 2 <= 5 * NEAR  # every pair with a person


def test_cut_in_two():
    rows = np.repeat(np.eye(3, dtype=np.float32), [5, 200, 3], 0)
    first = cut_in_two(np.concatenate([rows[:5], rows[-3:]]))
    assert set(first[:5]) != set(first[5:]) and len(set(first[:5])) == len(set(first[5:])) == 1
    many = cut_in_two(rows[:205])
    assert set(many[:5]) != set(many[5:])
    assert 0 < cut_in_two(np.ones((4, 2), np.float32) / 2**0.5).sum() < 4


# -- answers


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
