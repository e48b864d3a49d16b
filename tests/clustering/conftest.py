"""The recorded distances and labels of the released program."""

import numpy as np
import pytest
from helpers import RECORDINGS


@pytest.fixture(scope="session")
def recordings() -> list:
    files = sorted(RECORDINGS.glob("jaccard_*.npz"))
    assert files, f"no recordings in {RECORDINGS}"
    return [dict(np.load(file)) for file in files]
