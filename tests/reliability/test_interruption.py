"""A run that is killed or asked to stop, at any moment, ends after a resume as if nothing had been."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import CONFIGS, REPOSITORY
from reliability_runs import LONG, OPTIONS, same_outcome, times

KINDS = {"write": times(1, 20), "label": times(1, 12), "step": times(1, 8)}
BY_THE_CLOCK = times(1, 10)


@pytest.mark.timeout(0)
def test_a_killed_run_ends_as_the_whole_run(runs):
    """SIGKILL between any two pieces of a file, in labelling, between steps; and whenever the clock says so."""
    rng = np.random.default_rng(0)
    facts = runs.facts("whole")
    moments = [(kind, int(n)) for kind, cases in KINDS.items() for n in rng.integers(facts["counts"][kind], size=cases)]
    equal = 0
    for number, moment in enumerate(moments):
        name = f"killed_{number}"
        assert runs.run(name, kill_at=moment) == -signal.SIGKILL, moment
        equal += _ends_as_the_whole_run(runs, name)
    for number, share in enumerate(rng.random(BY_THE_CLOCK)):
        name = f"killed_by_clock_{number}"
        process = runs.start(name)
        time.sleep(share * facts["seconds"])
        process.kill()
        process.join()
        equal += _ends_as_the_whole_run(runs, name)
    total = len(moments) + BY_THE_CLOCK
    print(f"SIGKILL: {equal} of {total} runs ended with the uninterrupted run's weights and results")
    assert equal == total


def _ends_as_the_whole_run(runs, name) -> bool:
    assert runs.run(name, resume=True) == 0, runs.log(name)
    leftovers = [file for file in os.listdir(runs.folder / name) if file.endswith(".tmp")]
    same = same_outcome(runs.outcome(name), runs.outcome("whole")) and not leftovers
    shutil.rmtree(runs.folder / name)
    return same


def _torchrun(runs, folder, resume=False):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(REPOSITORY / "tools/train_net.py"), "--config-file", str(CONFIGS / "ISE/synthetic_tiny.yml")]
    command += ["--resume"] * resume + [*OPTIONS, "OUTPUT_DIR", str(folder)]
    environment = {**os.environ, "FASTREID_DATASETS": runs.datasets, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(not LONG, reason="a minute; make test-long runs it")
@pytest.mark.timeout(0)
def test_two_processes_go_on_to_the_bit(runs):
    whole, cut = runs.folder / "two_whole", runs.folder / "two_cut"
    process = _torchrun(runs, whole)
    assert process.wait() == 0, process.stderr.read()
    process = _torchrun(runs, cut)
    while not any(cut.glob("model_0001_*.pth")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.terminate()  # torchrun passes it on to both
    process.wait()
    assert not (cut / "model_final.pth").exists()
    process = _torchrun(runs, cut, resume=True)
    assert process.wait() == 0, process.stderr.read()
    assert same_outcome(runs.outcome(cut.name), runs.outcome(whole.name))
