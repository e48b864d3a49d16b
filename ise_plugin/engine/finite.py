"""Whether what a network holds are numbers."""

from typing import Optional

import torch
from torch import nn


def first_not_finite(model: nn.Module) -> Optional[str]:
    """The first weight or statistic that is no finite number, by its name; None where all are. Waits for the device once."""
    entries = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    finite = torch.stack([torch.isfinite(value).all() for value in entries.values()]).cpu()
    return None if finite.all() else list(entries)[int((~finite).nonzero()[0])]
