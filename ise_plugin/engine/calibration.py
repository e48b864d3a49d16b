"""What similarities mean to the network that made a labelling."""

from typing import Optional

import numpy as np

from ..clustering.calibration import Calibration, calibrate
from .labelling import Labelling


def calibration_of(labelling: Labelling, tracks: np.ndarray) -> Optional[Calibration]:
    """A calibration by the labels, as :func:`ise_plugin.clustering.calibration.calibrate` makes it.

    Args:
        labelling: of N images.
        tracks: (N,) int64, -1: none.
    """
    made_by = {} if labelling.eps is None else {"eps": labelling.eps, "graph": labelling.graph}
    return calibrate(labelling.features.cpu().numpy(), labelling.labels, units_of(tracks), **made_by)


def units_of(tracks: np.ndarray) -> np.ndarray:
    """(N,) int64, one number for the images of a track, and one for each image that is in none (-1)."""
    return np.where(tracks >= 0, tracks, tracks.max(initial=-1) + 1 + np.arange(len(tracks)))
