"""Many epochs: what a run holds of memory, files and shared memory does not grow."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from reliability_runs import times

EPOCHS = times(6, 300)
# the allocator's and numba's caches, and arrays of another size at every labelling, come to rest by then
WARM_UP = times(3, 100)
# of the resident memory after the warm-up
MAX_GROWTH = 0.02


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="reads what Linux says of the process")
@pytest.mark.timeout(0)
def test_memory_and_files_stay_flat(runs):
    options = ("SOLVER.MAX_EPOCH", EPOCHS, "ISE.ITERS_PER_EPOCH", 2, "DATALOADER.NUM_WORKERS", 1, "TEST.EVAL_PERIOD", 5)
    options += (
        "SOLVER.CHECKPOINT_PERIOD",
        10,
        "ISE.CHECKPOINT_SECONDS",
        5,
        "ISE.REPORT.PICTURES",
        False,
    )
    options += ("ISE.COLLAPSE.LABELLINGS", 0, "SOLVER.STEPS", "[1]")
    assert runs.run("long", options=options, measure=True) == 0, runs.log("long")
    rows = [json.loads(line) for line in Path(runs.folder / "long.usage").read_text().splitlines()]
    assert len(rows) == EPOCHS
    flat = {name: np.array([row[name] for row in rows[WARM_UP:]], float) for name in rows[0]}
    half = len(flat["resident"]) // 2
    growth = np.median(flat["resident"][half:]) / np.median(flat["resident"][:half]) - 1
    print(
        f"{EPOCHS} epochs: resident memory {flat['resident'][0] / 2**20:.0f} MiB after epoch {WARM_UP + 1}, "
        f"{flat['resident'][-1] / 2**20:.0f} at the end ({growth:+.2%} from half to half); "
        f"open files {flat['files'][0]:.0f} to {flat['files'].max():.0f}; "
        f"shared memory {flat['shared'][0] / 2**20:.1f} to {flat['shared'].max() / 2**20:.1f} MiB"
    )
    assert flat["files"].max() <= flat["files"][0] + 1
    assert flat["shared"].max() <= flat["shared"][0] + 2**20
    if EPOCHS >= 100:  # over a few epochs caches still fill
        assert growth < MAX_GROWTH
