"""Neighbours among all that a ledger holds."""

import numpy as np

from ise_plugin.ledger.decide import Gallery

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
