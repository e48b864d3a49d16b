"""One optimisation step, in full or mixed precision, at once or in pieces, on any device."""

import contextlib
import time
from typing import Iterable, Iterator, Optional

import numpy as np
import torch
from fastreid.engine.train_loop import SimpleTrainer
from fastreid.utils import comm
from fastreid.utils.events import get_event_storage
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import distributed
from ..distributed import unwrapped
from ..errors import UsageError
from ..modeling.normalization import Layout


class TrainingStep(SimpleTrainer):
    """fastreid's SimpleTrainer whose loader comes later, with mixed precision, accumulation, and no waiting for the device.

    fastreid's own ``AMPTrainer`` needs CUDA and knows float16 only; both read every loss back at every step. Here losses
    stay on the device until :meth:`write_losses` is called.

    Args:
        model: returns a dictionary of losses in training; with ``pieces`` > 1 an :class:`ise_plugin.modeling.ISE`.
        optimizer: of its parameters.
        device: where the model is.
        precision: what the network computes in; float16 scales the loss. Parameters stay float32, and so do the head and
            the losses (:meth:`ise_plugin.modeling.ISE.forward`).
        pieces: of a batch, computed one after the other (``SOLVER.ACCUMULATE``).
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        device: torch.device,
        precision: torch.dtype = torch.float32,
        pieces: int = 1,
    ):
        super().__init__(model, data_loader=(), optimizer=optimizer, param_wrapper=None)
        self._device = device
        self._precision = precision
        self._pieces = pieces
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
        self.grad_scaler = self._scaler if self._scaler.is_enabled() else None  # fastreid's LRScheduler asks for it
        self._unwritten: list = []  # (iteration, losses on the device, seconds of waiting for data)

    def set_loader(self, loader: Optional[Iterable]) -> None:
        """Takes the batches of the next epoch from ``loader``."""
        self.data_loader = loader
        self._data_loader_iter = iter(loader or ())

    def run_step(self) -> None:
        """Loss of the next batch, gradient, step; nothing in it waits for the device."""
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self.optimizer.zero_grad()
        losses = self._whole(data) if self._pieces == 1 else self._in_pieces(data)
        self._unwritten.append((self.iter, {name: loss.detach() for name, loss in losses.items()}, data_time))
        self._scaler.step(self.optimizer)
        self._scaler.update()

    def autocast(self):
        """The context that the network computes in."""
        mixed = self._precision != torch.float32
        return torch.autocast(self._device.type, self._precision if mixed else None, enabled=mixed)

    def _whole(self, data: dict) -> dict[str, Tensor]:
        with self.autocast():
            losses = self.model(data)
        self._scaler.scale(sum(losses.values())).backward()
        return losses

    def _in_pieces(self, data: dict) -> dict[str, Tensor]:
        """The step of the whole batch with the memory of one piece (Gao et al., "Scaling Deep Contrastive Learning Batch Size
        under Memory Limited Setup", 2021): embeddings without a graph, the losses' gradient at the embeddings, and then
        piece by piece the embeddings again, with that gradient."""
        pieces = self._cut(data)
        features, states = self._embed_without_graph(pieces)
        whole = data.get("whole")
        losses = unwrapped(self.model).compute_losses(features.requires_grad_(), data["targets"], whole)
        (gradients,) = torch.autograd.grad(self._scaler.scale(sum(losses.values())), features)
        for piece, state, gradient in zip(pieces, states, gradients.split([len(p["targets"]) for p in pieces])):
            distributed = self.model is not unwrapped(self.model)
            with self.model.no_sync() if distributed and piece is not pieces[-1] else contextlib.nullcontext():
                _set_random_state(self._device, state)  # dropout must leave out what it left out before
                with self.autocast():
                    scalar = self.model({**piece, "gradients": gradient})
                scalar.backward()
        return losses

    def _cut(self, data: dict) -> list[dict]:
        """The pieces of a batch, each with whole normalisation groups where their size is a setting."""
        count, images = self._pieces, {name: values for name, values in data.items() if name != "whole"}
        layout = unwrapped(self.model).layout_of(data, len(data["targets"]))
        if layout is None:
            return split_batch(images, count)
        if any(part.group is not None for part in layout.parts):
            raise UsageError(
                "SOLVER.ACCUMULATE computes the pieces of a batch one after the other, but ISE.BN_GROUP_SIZE normalises images "
                "of several processes together; set ISE.BN_GROUP_SIZE to SOLVER.IMS_PER_BATCH / processes / SOLVER.ACCUMULATE"
            )
        bounds = [round(i * len(layout.parts) / count) for i in range(count + 1)]
        chunks = [layout.parts[a:b] for a, b in zip(bounds, bounds[1:]) if a < b]
        cut = _cut_at(images, np.cumsum([0] + [sum(part.images for part in chunk) for chunk in chunks]).tolist())
        return [{**piece, "layout": Layout(chunk, chunk is chunks[0])} for piece, chunk in zip(cut, chunks)]

    @torch.no_grad()
    def _embed_without_graph(self, pieces: list) -> tuple[Tensor, list]:
        """Unit embeddings of all pieces, (b, D), and the state of the random generators before each."""
        network = unwrapped(self.model)
        features, states = [], []
        with _statistics_kept(network), self.autocast():
            for piece in pieces:
                states.append(_random_state(self._device))
                features.append(network.embed(piece))
        return torch.cat(features), states

    def write_losses(self) -> None:
        """Reads the losses of the steps since the last call from the device, all at once, and stores them.

        Raises:
            FloatingPointError: one of them is not finite; the message names the first such step.
        """
        if not self._unwritten:
            return
        iterations, losses, data_times = zip(*self._unwritten)
        self._unwritten = []
        names = list(losses[0])
        values = torch.stack([torch.stack([loss[name] for name in names]) for loss in losses]).cpu().numpy()
        gathered = comm.gather((values, np.array(data_times)), group=distributed.host_group)
        if comm.is_main_process():
            values = np.mean([v for v, _ in gathered], axis=0)
            slowest = np.max([times for _, times in gathered], axis=0)
            self._store(iterations, names, values, slowest)
        _check_finite(iterations, names, values)

    @staticmethod
    def _store(iterations: tuple, names: list, values: np.ndarray, data_times: np.ndarray) -> None:
        storage = get_event_storage()
        now = storage.iter
        for iteration, row, data_time in zip(iterations, values, data_times):
            storage.iter = iteration
            storage.put_scalars(data_time=data_time, total_loss=row.sum(), **dict(zip(names, row)))
        storage.iter = now


def split_batch(batch: dict, pieces: int) -> list[dict]:
    """A batch cut along its first dimension into at most so many pieces of nearly equal size, in order."""
    count = max(1, min(pieces, len(batch["targets"])))
    return _cut_at(batch, [round(i * len(batch["targets"]) / count) for i in range(count + 1)])


def _cut_at(batch: dict, bounds: list[int]) -> list[dict]:
    return [{name: values[a:b] for name, values in batch.items()} for a, b in zip(bounds, bounds[1:])]


def _check_finite(iterations: tuple, names: list, values: np.ndarray) -> None:
    broken = ~np.isfinite(values).all(1)
    if broken.any():
        first = int(broken.argmax())
        parts = ", ".join(f"{name} {value}" for name, value in zip(names, values[first]))
        raise FloatingPointError(
            f"the loss is not finite at iteration={iterations[first]} ({parts}); lower SOLVER.BASE_LR, "
            f"or set SOLVER.AMP.ENABLED False"
        )


@contextlib.contextmanager
def _statistics_kept(network: nn.Module) -> Iterator[None]:
    """Normalisation with the batch's own statistics, which leave no trace in the running ones."""
    layers = [m for m in network.modules() if getattr(m, "running_mean", None) is not None and hasattr(m, "momentum")]
    momenta = [layer.momentum for layer in layers]
    counts = [layer.num_batches_tracked.clone() for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum, count in zip(layers, momenta, counts):
            layer.momentum = momentum
            layer.num_batches_tracked.copy_(count)


def _random_state(device: torch.device) -> tuple:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(device: torch.device, state: tuple) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)
