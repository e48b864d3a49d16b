"""One optimisation step."""

from typing import Iterable, Optional

from fastreid.engine.train_loop import SimpleTrainer
from torch import nn
from torch.optim import Optimizer


class TrainingStep(SimpleTrainer):
    """fastreid's SimpleTrainer whose loader comes later: pseudo labels make a new one every epoch.

    Args:
        model: returns a dictionary of losses in training.
        optimizer: of its parameters.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer):
        super().__init__(model, data_loader=(), optimizer=optimizer, param_wrapper=None)

    def set_loader(self, loader: Optional[Iterable]) -> None:
        """Takes the batches of the next epoch from ``loader``."""
        self.data_loader = loader
        self._data_loader_iter = iter(loader or ())
