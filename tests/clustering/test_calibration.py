"""What similarities mean, without labels."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_helpers import draw
from scipy.sparse import block_diag

from ise_plugin.clustering.calibration import (
    BEST,
    Calibration,
    calibrate,
    nearest,
    read_calibration,
    score_people,
    write_calibration,
)
from ise_plugin.clustering.eps import LARGEST_EPS
from ise_plugin.clustering.jaccard import jaccard_graph

NUMBERS = dict(zip(Calibration.__dataclass_fields__, [0.4, 0.1, 0.8, 0.05, 60.0, -36.0, 40.0, -24.0, 0.5, 40, 400]))


@pytest.fixture(scope="module")
def found():
    batch, who = draw(range(40), images=12, spread=0.7)
    return calibrate(batch.vectors, who)


def scores_of(people, seed, known=range(40), spread=0.7):
    """Best person and score of queries against the drawn ledger."""
    ledger, who = draw(range(40), images=12, spread=spread)
    batch, own = draw(people, images=8, seed=seed, spread=spread)
    similarities, indices = nearest(batch.vectors, ledger.vectors, 256)
    person, score = score_people(similarities, who[indices], np.bincount(who)).best(len(own))
    return score, person == own


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12))
def test_scores_are_means_of_the_most_similar_images(seed, k):
    """Against a loop over people; an image beyond the k nearest counts as the k-th."""
    rng = np.random.default_rng(seed)
    everything = np.sort(rng.uniform(-1, 1, (3, 12)), axis=1)[:, ::-1]
    people = rng.integers(-1, 4, (3, 12))
    sizes = np.array([(people == person).sum(1) for person in range(4)]).T
    scored = score_people(everything[:, :k], people[:, :k], sizes)
    expected = {}
    for query in range(3):
        for person in set(people[query, :k].tolist()) - {-1}:
            near = np.where(np.arange(12) < k, everything[query], everything[query, k - 1])
            own = near[people[query] == person]
            expected[query, person] = np.mean(own[:BEST])
    assert dict(zip(zip(scored.queries.tolist(), scored.people.tolist()), scored.scores)) == pytest.approx(expected)
    best, score = scored.best(3)
    for query in range(3):
        own = {person: value for (q, person), value in expected.items() if q == query}
        assert score[query] == pytest.approx(max(own.values(), default=-1.0))
        assert own.get(int(best[query]), -1.0) == pytest.approx(score[query])


def test_false_accepts_are_no_more_than_twice_what_is_asked_and_true_ones_near_the_best(found):
    (strange, _), (known, right) = scores_of(range(100, 300), seed=5), scores_of(range(40), seed=6)
    for asked in (0.01, 0.05):
        threshold, best = found.threshold(asked), np.quantile(strange, 1 - asked)  # the second with the truth
        assert 0 < (strange >= threshold).mean() < 2 * asked
        assert (right & (known >= threshold)).mean() > 0.9 * (right & (known >= best)).mean()


def test_probabilities_are_calibrated(found):
    (known, right), (strange, _) = scores_of(range(40), seed=6), scores_of(range(100, 140), seed=7)
    scores, truth = np.r_[known, strange], np.r_[right, np.zeros(len(strange), bool)]
    prior = found.prior(scores)
    assert prior == pytest.approx(truth.mean(), abs=0.05)
    likely = found.probability(scores, prior)
    places = np.minimum((likely * 10).astype(int), 9)
    error = sum(abs(likely[places == i].sum() - truth[places == i].sum()) for i in range(10)) / len(truth)
    assert error < 0.05


def test_a_person_in_two_groups_hardly_moves_the_threshold(found):
    batch, who = draw(range(40), images=12, spread=0.7)
    split = np.where((who < 8) & (np.arange(len(who)) % 2 == 0), who + 40, who)
    assert calibrate(batch.vectors, split).threshold(0.01) == pytest.approx(found.threshold(0.01), abs=0.03)


def test_a_graph_that_is_there_serves_as_one_that_is_made(found):
    batch, who = draw(range(40), images=12, spread=0.7)
    strange = np.ones(32, np.float32) / np.sqrt(32)  # an outlier, which the graph of the labelling holds, too
    rows, labels = np.vstack([strange, batch.vectors]), np.append(-1, who)
    graph = block_diag([[[0.0]], jaccard_graph(batch.vectors, 20, max_distance=LARGEST_EPS)], "csr")
    assert calibrate(rows, labels, eps=found.eps, graph=graph) == found


def test_more_people_ask_for_more(found):
    assert found.threshold(0.01, 40) == found.threshold(0.01) < found.threshold(0.01, 4000)
    assert found.threshold(0.1) < found.threshold(0.01)
    assert found.among(40) == found and found.among(4000).probability(0.6) < found.probability(0.6)
    assert found.recognised(found.own_mean) == pytest.approx(0.5)


def test_an_image_is_not_its_own_evidence_and_nor_is_its_track():
    """Twins within tracks: the rest of the group, without them, is far."""
    batch, who = draw(range(20), images=4, spread=0.9)
    twice, people = np.repeat(batch.vectors, 2, 0), np.repeat(who, 2)
    tracks = np.repeat(np.arange(len(who)), 2)
    assert calibrate(twice, people, tracks, eps=0.5).own_mean < calibrate(twice, people, eps=0.5).own_mean - 0.1


@pytest.mark.parametrize("labels", [np.full(40, -1), np.zeros(40, int), np.arange(40)])
def test_nothing_to_learn_from(labels):
    assert calibrate(draw(range(5))[0].vectors, labels) is None


def test_by_hand():
    calibration = Calibration(**NUMBERS)
    assert calibration.threshold(0.01) == pytest.approx(0.4 + 2.326348 * 0.1)
    assert calibration.probability(0.6) == pytest.approx(0.5)
    assert calibration.probability(0.6, 0.2) == pytest.approx(0.2)
    assert calibration.pair_probability(0.6 + np.log(3) / 40) == pytest.approx(0.75)


def test_kept_beside_the_weights_it_is_of(tmp_path, caplog):
    calibration = Calibration(**NUMBERS)
    weights = tmp_path / "model.pth"
    weights.write_bytes(b"weights")
    write_calibration(str(tmp_path), calibration, str(weights))
    assert read_calibration(str(tmp_path), str(weights)) == calibration
    (tmp_path / "other.pth").write_bytes(b"others")
    assert read_calibration(str(tmp_path), str(tmp_path / "other.pth")) is None and not caplog.text
    for damage in ("{", "[]", json.dumps({"weights": "", "calibration": {**NUMBERS, "slope": float("nan")}})):
        (tmp_path / "calibration.json").write_text(damage)
        assert read_calibration(str(tmp_path), str(weights)) is None and "is damaged" in caplog.text
        caplog.clear()
    write_calibration(str(tmp_path), None, str(weights))
    assert not (tmp_path / "calibration.json").exists()
