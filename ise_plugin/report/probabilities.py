"""Whether the probabilities that a run states come true, where identities are known."""

from typing import Optional

import numpy as np

from ..clustering.calibration import PAIR_NEIGHBORS, nearest
from ..clustering.reliability import Reliability, reliability
from ..engine.calibration import calibration_of, units_of
from ..engine.labelling import Labelling

# Images whose pairs are looked at.
_SAMPLE = 2000


def pair_reliability(labelling: Labelling, tracks: np.ndarray, identities: np.ndarray) -> Optional[Reliability]:
    """That an image and one of its nearest of other tracks are one person: what the run's calibration states, and the truth.

    Args:
        labelling: of N images; the calibration is made of its labels, without identities.
        tracks: (N,) int64, -1: none.
        identities: (N,), of any type.

    Returns:
        None where there are too few groups for a calibration.
    """
    calibration = calibration_of(labelling, tracks)
    if calibration is None:
        return None
    features, units = labelling.features.float().cpu().numpy(), units_of(tracks)
    rows = np.random.default_rng(0).permutation(len(features))[:_SAMPLE]
    similarities, found = nearest(features[rows], features, min(PAIR_NEIGHBORS + 1, len(features)))
    apart = units[found] != units[rows, None]
    same = identities[found] == identities[rows, None]
    return reliability(calibration.pair_probability(similarities[apart]), same[apart])
