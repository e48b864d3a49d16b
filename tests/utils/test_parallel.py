"""Cores and threads: how many there are, what falls to a process, how threads wait."""

import os
import subprocess
import sys

import pytest
from helpers import REPOSITORY

import ise_plugin.utils.parallel as parallel
from ise_plugin.utils.parallel import available_cores, share_cores

# a fresh interpreter's threads, in torch, in what is loaded already, and in what is loaded later
THREADS_AFTER_SHARING = """
import numpy, torch
from threadpoolctl import threadpool_info
import ise_plugin.utils.parallel as parallel
parallel.available_cores = lambda: 6
parallel.share_cores(2)
import faiss
print(torch.get_num_threads(), faiss.omp_get_max_threads(), *{pool["num_threads"] for pool in threadpool_info()})
"""


def python(code, **environment):
    """What a fresh interpreter prints and complains of; of OpenMP's variables it has those given here alone."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "MKL_"))}
    environment = {**inherited, "PYTHONPATH": str(REPOSITORY), **environment}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)


@pytest.mark.parametrize(
    "files, cores",
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu.max": "6400000 100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
    ],
)
def test_cores_are_those_of_the_affinity_and_of_the_control_group(monkeypatch, tmp_path, files, cores):
    (tmp_path / "cpu").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(content + "\n")
    monkeypatch.setattr(parallel, "_CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert available_cores() == cores


@pytest.mark.parametrize(
    "processes, asked, by_torchrun, threads",
    [
        (2, "1", True, 4),  # torchrun's own choice
        (16, "1", True, 1),
        (2, "2", True, None),  # the user's
        (1, "1", True, None),  # torchrun sets it for several processes alone
        (2, "1", False, None),
        (4, None, False, 2),  # each of four would take all
        (1, None, False, None),  # torch's choice is no more than there are
    ],
)
def test_a_process_takes_its_share_of_the_cores(monkeypatch, processes, asked, by_torchrun, threads):
    taken = []
    monkeypatch.setattr(parallel, "available_cores", lambda: 8)
    monkeypatch.setattr(parallel, "threadpool_limits", lambda limit: None)
    monkeypatch.setattr(parallel.torch, "get_num_threads", lambda: 8 if asked is None else int(asked))
    monkeypatch.setattr(parallel.torch, "set_num_threads", taken.append)
    monkeypatch.setenv("OMP_NUM_THREADS", asked or "")
    if by_torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    else:
        monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    share_cores(processes)
    assert taken == [threads] * (threads is not None)


def test_the_share_reaches_every_library():
    found = python(THREADS_AFTER_SHARING, OMP_NUM_THREADS="1", TORCHELASTIC_RUN_ID="none").stdout.split()
    assert set(found) == {"3"}


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings GNU's OpenMP along on Linux alone")
@pytest.mark.parametrize(
    "environment, spins", [({}, 1000), ({"GOMP_SPINCOUNT": "7"}, 7), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_threads_soon_sleep_unless_told_otherwise(environment, spins):
    said = python("import ise_plugin, torch", OMP_DISPLAY_ENV="verbose", **environment).stderr
    assert (f"GOMP_SPINCOUNT = '{spins}'" in said) == (spins is not None) and "GOMP_SPINCOUNT" in said
