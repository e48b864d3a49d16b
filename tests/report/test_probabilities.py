"""What is stated of pairs beside what is true of them."""

import numpy as np
import pytest
import torch
from ledger_helpers import draw

from ise_plugin.engine.calibration import calibration_of
from ise_plugin.engine.labelling import Labelling
from ise_plugin.report.probabilities import pair_reliability

BATCH, WHO = draw(range(25), spread=0.6)


def test_the_diagram_is_that_of_a_slow_count():
    tracks = np.where(np.arange(len(WHO)) % 8 < 2, WHO, -1)
    labelling = Labelling(torch.as_tensor(BATCH.vectors), WHO // 2 * 2, None, None)  # two people in each group
    names = np.array([f"person {n}" for n in WHO])
    calibration, cosines = calibration_of(labelling, tracks), BATCH.vectors @ BATCH.vectors.T
    stated, truth = [], []
    for i in range(len(WHO)):
        nearest = sorted((j for j in range(len(WHO)) if j != i), key=lambda j: -cosines[i, j])[:10]
        for j in nearest:
            if tracks[i] < 0 or tracks[i] != tracks[j]:
                stated.append(float(calibration.pair_probability(cosines[i, j])))
                truth.append(names[i] == names[j])
    found = pair_reliability(labelling, tracks, names)
    places = np.minimum((np.array(stated) * 10).astype(int), 9)
    expected = sum(
        abs(sum(stated[i] - truth[i] for i in np.flatnonzero(places == place))) for place in range(10)
    ) / len(stated)
    assert found.counts.sum() == len(stated)
    assert np.abs(found.counts - np.bincount(places, minlength=10)).sum() <= 4  # rounding over the edge of a bin
    assert found.error == pytest.approx(expected, abs=0.005) and expected > 0.02


def test_without_groups_there_is_none():
    labelling = Labelling(torch.as_tensor(BATCH.vectors), np.full(len(WHO), -1), None, None)
    assert pair_reliability(labelling, np.full(len(WHO), -1), WHO) is None
