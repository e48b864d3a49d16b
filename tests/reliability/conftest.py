"""What the tests of faults share: one uninterrupted tiny run."""

import pytest
from reliability_runs import Runs


@pytest.fixture(scope="package")
def runs(datasets_folder, tmp_path_factory):
    """Tiny runs in processes of their own; the one called "whole" is done."""
    runs = Runs(datasets_folder, tmp_path_factory.mktemp("runs"))
    assert runs.run("whole") == 0, runs.log("whole")
    return runs
