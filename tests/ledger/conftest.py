"""A ledger of twelve drawn people: as a file to be copied, and as one open for a test."""

import shutil

import pytest
from ledger_helpers import new_ledger

from ise_plugin.ledger import IdentityLedger


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "people.ledger"
    new_ledger(path).close()
    return path


@pytest.fixture
def ledger(template, tmp_path):
    with IdentityLedger(shutil.copy(template, tmp_path / "people.ledger")) as made:
        yield made
