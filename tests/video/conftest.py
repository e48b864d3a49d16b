"""What the tests of videos share."""

import numpy as np
import pytest
from video_helpers import SIZE


@pytest.fixture(scope="session")
def pictures():
    """40 frames of noise with a stripe that tells which they are: brightness 6 x number."""
    random = np.random.default_rng(0)
    found = random.integers(0, 255, (40, SIZE[1], SIZE[0], 3), dtype=np.uint8)
    found[:, :32] = 6 * np.arange(1, 41, dtype=np.uint8)[:, None, None, None]
    return found
