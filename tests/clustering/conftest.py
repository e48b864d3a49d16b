"""The recorded distances and labels of the released program."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def recordings() -> list:
    folder = Path(__file__).parents[1] / "data" / "conformance"
    files = sorted(folder.glob("jaccard_*.npz"))
    assert files, f"no recordings in {folder}"
    return [dict(np.load(file)) for file in files]
