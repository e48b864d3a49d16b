"""Random streams: one independent numpy generator per thing that is drawn.

Each stream is derived from what it is for and from nothing else, so pictures do not depend on the order or on the
process in which they are made.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a random stream is for. The values are part of the generator's version: do not renumber them."""

    IDENTITY = 1
    LOOK_ALIKE = 2
    STRANGER = 3
    CAMERA = 4
    SCENE = 5
    PLAN = 6
    TRACK = 7
    IMAGE = 8


def stream(seed: int, purpose: Stream, *key: int) -> np.random.Generator:
    """A generator that depends on its arguments only.

    Args:
        seed: the data set's seed, 0 or more.
        purpose: what the stream is for.
        key: integers, 0 or more, that tell streams of one purpose apart.

    Raises:
        ValueError: the seed or a part of the key is negative.
    """
    if seed < 0 or any(part < 0 for part in key):
        raise ValueError(f"a random stream needs a seed and keys of 0 or more, got seed {seed} and key {key}")
    return np.random.default_rng(np.random.SeedSequence([seed, int(purpose), len(key), *key]))
