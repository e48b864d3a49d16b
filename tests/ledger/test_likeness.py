"""Likeness of people, and a person in two."""

import numpy as np
import pytest

from ise_plugin.ledger.decide import Gallery
from ise_plugin.ledger.likeness import NEAR, Likeness, cut_in_two


def test_likeness_is_the_mean_cosine_over_pairs():
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
