"""Seeds of the parts of a run."""

import numpy as np


def epoch_seed(seed: int, epoch: int, process: int = 0) -> int:
    """A seed for one epoch and process, unrelated to that of the next, in 0..2**32-1.

    Every epoch starts its random numbers from here, so that a run resumed at an epoch's end goes on as it would have.
    """
    return int(np.random.SeedSequence([seed, epoch, process]).generate_state(1)[0])
