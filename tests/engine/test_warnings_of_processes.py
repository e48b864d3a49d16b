"""What the first process logs of the others' warnings."""

import logging

import pytest
from fastreid.utils import comm

from ise_plugin.engine import warnings_of_processes
from ise_plugin.engine.warnings_of_processes import TellWarnings


@pytest.fixture
def epoch(monkeypatch):
    """Ends an epoch in which the other processes have warned as told; gives what is logged now."""
    warnings_of_processes._kept.messages = {}
    hook = TellWarnings()

    def end(caplog, *others):
        monkeypatch.setattr(comm, "gather", lambda own, **options: [own, *others])
        caplog.clear()
        hook.after_epoch()
        return [record.getMessage() for record in caplog.records]

    yield end
    logging.getLogger("fastreid").removeHandler(warnings_of_processes._kept)


def test_warnings_are_named_where_they_differ(epoch, caplog):
    logger = logging.getLogger("fastreid.ise.something")
    logger.warning("small batches")
    logger.info("no warning")
    assert epoch(caplog, ["small batches"], ["small batches", "image lost"], ["image lost", "no room"]) == [
        "process 2, 3: image lost",
        "process 3: no room",
    ]
    assert epoch(caplog, ["small batches"], [], ["image lost"]) == []  # said before
    logger.warning("late")
    assert epoch(caplog, ["late", "later"], [], []) == ["process 1: later"]


def test_other_processes_log_nothing(epoch, caplog, monkeypatch):
    logging.getLogger("fastreid").warning("here")
    monkeypatch.setattr(comm, "gather", lambda own, **options: [])
    caplog.clear()
    TellWarnings().after_epoch()
    assert not caplog.records and warnings_of_processes._kept.messages == {}
