"""Stated probabilities beside what is true."""

import numpy as np
import pytest

from ise_plugin.clustering.reliability import reliability


@pytest.mark.parametrize("bins", [1, 4, 10])
def test_bins_are_those_of_a_slow_count(bins):
    rng = np.random.default_rng(bins)
    stated = np.r_[rng.random(200) ** 2, 0.0, 1.0, 0.5]
    truth = rng.random(len(stated)) < stated**2
    found, error = reliability(stated, truth, bins), 0.0
    for number in range(bins):
        last = number == bins - 1
        own = [i for i, p in enumerate(stated) if number <= p * bins and (last or p * bins < number + 1)]
        assert found.counts[number] == len(own)
        if not own:
            assert np.isnan(found.stated[number]) and np.isnan(found.true[number])
            continue
        mean, share = (sum(float(values[i]) for i in own) / len(own) for values in (stated, truth))
        assert (found.stated[number], found.true[number]) == pytest.approx((mean, share))
        error += abs(mean - share) * len(own) / len(stated)
    assert found.error == pytest.approx(error) and error > 0.05


def test_what_comes_true_as_often_as_it_is_stated_has_no_error():
    stated = np.repeat([0.25, 0.75], 4)
    assert reliability(stated, np.array([1, 0, 0, 0, 1, 1, 1, 0], bool)).error == 0
    assert reliability(np.ones(3), np.zeros(3, bool)).error == 1


def test_nothing_stated():
    assert np.isnan(reliability(np.empty(0), np.empty(0, bool)).error)
