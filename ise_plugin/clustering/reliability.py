"""How far stated probabilities are from what comes true."""

from typing import NamedTuple

import numpy as np


class Reliability(NamedTuple):
    """A reliability diagram.

    Attributes:
        counts: (B,) int64, statements in each of B bins of equal width over [0, 1].
        stated: (B,) their mean probability; NaN where there is none.
        true: (B,) the share of them that is true; NaN where there is none.
    """

    counts: np.ndarray
    stated: np.ndarray
    true: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance of the two, weighted by the counts; NaN without a statement.

        Source: Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015.
        """
        filled = self.counts > 0
        gaps = np.abs(self.stated - self.true)[filled]
        return float(np.average(gaps, weights=self.counts[filled])) if filled.any() else float("nan")


def reliability(probabilities: np.ndarray, truth: np.ndarray, bins: int = 10) -> Reliability:
    """The diagram of N statements.

    Args:
        probabilities: (N,) in [0, 1].
        truth: (N,) bool.
    """
    place = np.minimum((np.asarray(probabilities) * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, values, minlength=bins) for values in (probabilities, truth)]
    means = [np.divide(one, counts, out=np.full(bins, np.nan), where=counts > 0) for one in sums]
    return Reliability(counts, *means)
