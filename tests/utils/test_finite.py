"""The first entry of a network that is no finite number."""

import pytest
from torch import nn

from ise_plugin.utils.weights import first_not_finite


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["0.weight", "1.running_var"])
def test_weights_and_statistics_are_named(name, value):
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    assert first_not_finite(network) is None
    network.state_dict()[name].view(-1)[1] = value
    assert first_not_finite(network) == name
