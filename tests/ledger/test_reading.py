"""What a ledger tells without a change."""

import numpy as np
import pytest
from ledger_helpers import FINGERPRINT, draw, dump

from ise_plugin.errors import UsageError
from ise_plugin.ledger import IdentityLedger


def test_who_is_it_writes_nothing(ledger):
    before = dump(ledger)
    batch, who = draw([3, 5, 90], images=1, seed=8)
    (first, second), (third, fourth), (_, chance) = ledger.identify(batch.vectors)
    assert (first, third) == (4, 6) and min(second, fourth) > 0.9 > 0.1 > chance
    assert dump(ledger) == before


def test_groups_that_are_unsure_of_themselves_make_what_is_like_them_unsure(tmp_path):
    batch, who = draw(range(12))
    for trust in (1.0, 0.5):
        labels = np.unique(who, return_inverse=True)[1]
        path = str(tmp_path / f"{trust}")
        with IdentityLedger.create(path, batch, labels, FINGERPRINT, "", np.full(len(who), trust)) as ledger:
            assert ledger.identify(draw([3], images=1, seed=8)[0].vectors)[0][1] == pytest.approx(trust, abs=0.02)


def test_a_network_of_another_digest_is_refused_with_the_command(ledger):
    with pytest.raises(UsageError, match="another network.*ise-identities retrain"):
        ledger.add(draw([1], seed=1)[0], "fedcba")


def test_numbers_of_more_files_than_one_query_takes(tmp_path):
    batch, who = draw(range(700), images=1)
    with IdentityLedger.create(str(tmp_path / "l"), batch, who, FINGERPRINT) as ledger:
        assert ledger.image_numbers(batch.paths[::-1]) == list(range(700, 0, -1))
        with pytest.raises(UsageError, match="nowhere.jpg is not in"):
            ledger.image_numbers([*batch.paths, "nowhere.jpg"])
