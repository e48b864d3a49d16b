"""One optimisation step, in full or mixed precision, on any device."""

import logging
import time
from typing import Iterable, Optional

import torch
from fastreid.engine.train_loop import SimpleTrainer
from torch import nn
from torch.optim import Optimizer

logger = logging.getLogger("fastreid.ise.step")


class TrainingStep(SimpleTrainer):
    """fastreid's SimpleTrainer whose loader comes later (pseudo labels make a new one every epoch), with mixed precision.

    fastreid's own ``AMPTrainer`` needs CUDA and knows float16 only.

    Args:
        model: returns a dictionary of losses in training.
        optimizer: of its parameters.
        device: where the model is.
        precision: what the network computes in; float16 scales the loss. Parameters stay float32, and so do the head and
            the losses (:meth:`ise_plugin.modeling.ISE.forward`).
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, device: torch.device, precision: torch.dtype = torch.float32
    ):
        super().__init__(model, data_loader=(), optimizer=optimizer, param_wrapper=None)
        self._device_type = device.type
        self._precision = precision
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
        self.grad_scaler = self._scaler if self._scaler.is_enabled() else None  # fastreid's LRScheduler asks for it

    def set_loader(self, loader: Optional[Iterable]) -> None:
        """Takes the batches of the next epoch from ``loader``."""
        self.data_loader = loader
        self._data_loader_iter = iter(loader or ())

    def run_step(self) -> None:
        """Loss of the next batch, gradient, step. A loss that is not finite raises FloatingPointError before the step."""
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        mixed = self._precision != torch.float32
        with torch.autocast(self._device_type, self._precision if mixed else None, enabled=mixed):
            losses = self.model(data)
        self.optimizer.zero_grad()
        self._scaler.scale(sum(losses.values())).backward()
        self._write_metrics(losses, data_time)
        self._scaler.step(self.optimizer)
        self._scaler.update()


def choose_precision(device: torch.device, mixed: bool) -> torch.dtype:
    """What to compute in: float32, or for ``SOLVER.AMP.ENABLED`` the half precision that the device is fast in.

    Says what it chose, and why, where mixed precision was asked for.
    """
    if not mixed:
        return torch.float32
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        choice, reason = (torch.bfloat16, "this GPU has it") if fast else (torch.float16, "this GPU has no bfloat16")
    elif device.type == "cpu":
        fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        choice, reason = (
            (torch.bfloat16, "this CPU has it") if fast else (torch.float32, "this CPU has no bfloat16 arithmetic")
        )
    else:
        choice, reason = torch.float32, f"mixed precision on {device.type} has not been tried"
    logger.info(f"SOLVER.AMP.ENABLED: computing in {str(choice).removeprefix('torch.')}, because {reason}")
    return choice
