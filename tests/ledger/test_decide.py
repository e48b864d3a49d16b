"""Neighbours among all that a ledger holds, and what is decided by them."""

import numpy as np
import pytest
from ledger_helpers import draw

from ise_plugin.clustering.calibration import Calibration
from ise_plugin.ledger.decide import Gallery, best_people, decide

ROWS = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
ROWS /= np.linalg.norm(ROWS, axis=1, keepdims=True)
PEOPLE = np.arange(30) % 5


def test_neighbours_in_parts_are_those_of_the_whole():
    queries, rows = ROWS[30:], ROWS[:30]
    found = Gallery([rows[:1], rows[1:20], rows[20:]], PEOPLE, np.ones(5)).near(queries)
    expected = np.argsort(-(queries @ rows.T), axis=1)
    assert np.array_equal(found.places, expected)
    assert np.allclose(found.similarities, np.take_along_axis(queries @ rows.T, expected, 1), atol=1e-6)


def test_an_empty_ledger_has_no_neighbours():
    found = Gallery([], np.empty(0, np.int64), np.empty(0)).near(ROWS)
    assert found.similarities.shape == found.places.shape == (40, 0)


def known_people():
    batch, who = draw(range(12))
    return Gallery([batch.vectors], who + 1, np.ones(12))


def that_accepts(count, scores):
    """A calibration, which accepts so many of these scores where half of the strangers may be."""
    limit = np.sort(scores)[::-1][count - 1 : count + 1].mean()
    odds = (40.0, -40.0 * (limit + 0.3))  # even odds far above the limit
    return Calibration(limit, 0.05, limit + 0.6, 0.05, *odds, 0.0, 0.0, 0.5, 12, 96)


@pytest.mark.parametrize("accepted", [1, 3])
def test_a_group_of_a_new_person_is_new_as_a_whole_though_some_of_it_look_like_somebody(accepted):
    gallery, (batch, _) = known_people(), draw([30], images=8, seed=1)
    near, alone = gallery.near(batch.vectors), np.arange(8)
    calibration = that_accepts(accepted, best_people(near, alone, gallery)[1])
    decided = decide(batch.vectors, alone, near, gallery, calibration, 0.5)
    assert set(decided.verdicts) == {"new"} and set(decided.people) == {0}
    assert (decided.probabilities > 0.5).all() and len(set(decided.probabilities)) == 1


def test_a_group_that_is_mostly_recognised_is_known_as_a_whole():
    gallery, (batch, _) = known_people(), draw([5], images=8, seed=1)
    near, alone = gallery.near(batch.vectors), np.arange(8)
    calibration = that_accepts(5, best_people(near, alone, gallery)[1])
    decided = decide(batch.vectors, alone, near, gallery, calibration, 0.5)
    assert set(decided.verdicts) == {"known"} and set(decided.people) == {6}
