"""What the tests of faults share: one uninterrupted tiny run."""

import pytest
from reliability_runs import Runs


@pytest.fixture(scope="package")
def runs(datasets_folder, tmp_path_factory):
    """Tiny runs in processes of their own; the one called "whole" is done."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FASTREID_DATASETS", "PYTHONPATH"):
            patch.setenv(name, "")  # Runs sets them; afterwards they are as before
        runs = Runs(datasets_folder, tmp_path_factory.mktemp("runs"))
        assert runs.run("whole") == 0, runs.log("whole")
        yield runs
