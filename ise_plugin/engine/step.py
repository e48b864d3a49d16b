"""One optimisation step, in full or mixed precision, at once or in pieces, on any device; and the optimiser it takes."""

import contextlib
import inspect
import logging
import time
from typing import Iterable, NamedTuple, Optional

import numpy as np
import torch
from fastreid.engine.train_loop import SimpleTrainer
from fastreid.solver import build as solver
from fastreid.utils import comm
from fastreid.utils.events import get_event_storage
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import UsageError
from ..modeling.normalization import Layout
from ..utils import distributed
from ..utils.distributed import unwrapped
from ..utils.logs import some_of
from ..utils.memory import advice_for_training, named_out_of_memory
from ..utils.weights import first_not_finite

logger = logging.getLogger("fastreid.ise.step")

# Devices of which a number can be read without waiting for anything.
_NEVER_WAITING = ("cpu",)
# Files of a batch that a message names; the log has all of them.
_FILES_NAMED = 3
# Devices whose fused kernels torch documents as complete (pages of torch.optim.Adam, AdamW and SGD).
_FUSED_DEVICES = ("cpu", "cuda")


class _Step(NamedTuple):
    """What is kept of a step until its losses are written."""

    iteration: int
    losses: dict  # on the device
    usable: Tensor  # (), bool, on the device
    data_time: float  # seconds of waiting for the batch
    files: list


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
        max_skipped: steps of an epoch whose loss or gradient may be no finite number; they are left out.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        device: torch.device,
        precision: torch.dtype = torch.float32,
        pieces: int = 1,
        max_skipped: int = 0,
    ):
        super().__init__(model, data_loader=(), optimizer=optimizer, param_wrapper=None)
        self._device = device
        self.precision = precision
        self._pieces = pieces
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
        # fastreid's LRScheduler, where it finds one, reads its scale from the device twice a step, to hold the rate's warm-up
        # back at steps that the scale has spoiled; without one it never waits, and the warm-up goes by steps
        self.grad_scaler = None
        self._max_skipped = max_skipped
        self._skipped = 0
        self._unwritten: list[_Step] = []

    def set_loader(self, loader: Optional[Iterable], done: int = 0) -> None:
        """Takes the batches of the next epoch from ``loader``; those ``done`` before a resume are passed over."""
        self.data_loader = loader
        self._data_loader_iter = loader.after(done) if done else iter(loader or ())
        self._skipped = self._skipped if done else 0

    def run_step(self) -> None:
        """Loss of the next batch, gradient, step; nothing in it waits for the device.

        Where loss or gradient is no finite number, weights, statistics and memory stay as they were: the device decides by
        itself, and :meth:`write_losses` tells. Optimisers without a fused kernel have to wait for it.

        Raises:
            UsageError: the memory is not enough for the batch.
        """
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self.optimizer.zero_grad()
        kept = _kept_buffers(unwrapped(self.model))
        size = len(data["targets"])
        with named_out_of_memory(lambda: advice_for_training(size, self._pieces, self.precision, self._device)):
            losses = self._whole(data) if self._pieces == 1 else self._in_pieces(data, kept)
        losses = {name: loss.detach() for name, loss in losses.items()}
        usable = self._usable(losses)
        _restore_buffers(kept, usable)
        self._unwritten.append(_Step(self.iter, losses, usable, data_time, data.get("img_paths", [])))
        self._change_weights(usable)

    def _usable(self, losses: dict) -> Tensor:
        """Whether loss and gradient are numbers to step with, on the device. Scaled gradients are the scaler's own matter."""
        total = sum(losses.values())
        if not self._scaler.is_enabled():
            gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
            total = total + torch.stack(torch._foreach_norm(gradients)).sum() if gradients else total
        return torch.isfinite(total)

    def _change_weights(self, usable: Tensor) -> None:
        if self._scaler.is_enabled():
            # a fused kernel would do it itself, after the gradient has been clipped
            self._scaler.unscale_(self.optimizer)
            self._scaler.step(self.optimizer)
            self._scaler.update()
        elif self.optimizer.defaults.get("fused"):
            self.optimizer.found_inf = (~usable).float()  # by which a scaler tells a fused kernel to do nothing
            self.optimizer.step()
        elif bool(usable):
            self.optimizer.step()

    def check_weights(self, before: str = "") -> None:
        """Raises a FloatingPointError, which starts with ``before``, where a weight or statistic is no finite number."""
        name = first_not_finite(unwrapped(self.model))
        if name is not None:
            raise FloatingPointError(f"{before}the weights {name} are not finite; lower SOLVER.BASE_LR")

    def state_dict(self) -> dict:
        """For a resumed run: the scaler, and the steps skipped in this epoch."""
        return {"scaler": self._scaler.state_dict(), "skipped": self._skipped}

    def load_state_dict(self, state: dict) -> None:
        """Takes what :meth:`state_dict` gave."""
        if state["scaler"] and self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])
        self._skipped = state["skipped"]

    def autocast(self):
        """The context that the network computes in."""
        mixed = self.precision != torch.float32
        return torch.autocast(self._device.type, self.precision if mixed else None, enabled=mixed)

    def _whole(self, data: dict) -> dict[str, Tensor]:
        with self.autocast():
            losses = self.model(data)
        self._scaler.scale(sum(losses.values())).backward()
        return losses

    def _in_pieces(self, data: dict, kept: list) -> dict[str, Tensor]:
        """The step of the whole batch with the memory of one piece (Gao et al., "Scaling Deep Contrastive Learning Batch Size
        under Memory Limited Setup", 2021): embeddings without a graph, the losses' gradient at the embeddings, and then
        piece by piece the embeddings again, with that gradient."""
        pieces = self._cut(data)
        features, states = self._embed_without_graph(pieces)
        _restore_buffers(kept, torch.zeros((), dtype=torch.bool, device=self._device))  # each piece counts once
        losses = unwrapped(self.model).compute_losses(features.requires_grad_(), data)
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
        features, states = [], []
        with self.autocast():
            for piece in pieces:
                states.append(_random_state(self._device))
                features.append(unwrapped(self.model).embed(piece))
        return torch.cat(features), states

    def write_losses(self) -> None:
        """Reads the losses of the steps since the last call from the device, all at once, and stores them.

        Raises:
            FloatingPointError: more steps of this epoch than may be were left out, or the weights are not finite; the message
                names the first such step and files of its batch.
        """
        if not self._unwritten:
            return
        steps, self._unwritten = self._unwritten, []
        names = list(steps[0].losses)
        rows = [torch.stack([*(s.losses[name].float() for name in names), s.usable.float()]) for s in steps]
        values = torch.stack(rows).cpu().numpy()
        gathered = comm.gather((values, np.array([s.data_time for s in steps])), group=distributed.host_group)
        if comm.is_main_process():
            means = np.mean([v for v, _ in gathered], axis=0)
            slowest = np.max([times for _, times in gathered], axis=0)
            kept = means[:, -1] == 1
            self._store([s.iteration for s, k in zip(steps, kept) if k], names, means[kept, :-1], slowest[kept])
        self._check_skipped([(s, row) for s, row in zip(steps, values) if not row[-1]], names)

    def _check_skipped(self, skipped: list, names: list) -> None:
        for step, row in skipped:
            self._skipped += 1
            logger.warning(f"{_described(step, names, row)}: step left out, number {self._skipped} in this epoch")
            logger.debug(f"Files of that batch: {', '.join(step.files)}")
        if not skipped:
            return
        first = _described(skipped[0][0], names, skipped[0][1])
        self.check_weights(f"{first}, and ")
        if self._skipped > self._max_skipped:
            raise FloatingPointError(
                f"{first}, one of {self._skipped} such steps in this epoch, more than ISE.MAX_SKIPPED_STEPS "
                f"{self._max_skipped}; lower SOLVER.BASE_LR, or set SOLVER.AMP.ENABLED False"
            )

    @staticmethod
    def _store(iterations: list, names: list, values: np.ndarray, data_times: np.ndarray) -> None:
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


def _described(step: _Step, names: list, row: np.ndarray) -> str:
    parts = ", ".join(f"{name} {value:g}" for name, value in zip(names, row))
    batch = some_of(step.files, _FILES_NAMED)
    return f"loss or gradient is not finite at iteration={step.iteration} ({parts}; batch: {batch})"


def _kept_buffers(network: nn.Module) -> list:
    """The buffers of a network as they are: statistics change in place, the memory is replaced. For each kind (module, name,
    buffer) after the other, and the content of all of them in one tensor: a launch for hundreds of small buffers."""
    kinds: dict = {}
    for module in network.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                kinds.setdefault((buffer.dtype, buffer.device), []).append((module, name, buffer))
    return [(entries, torch.cat([buffer.flatten() for *_, buffer in entries])) for entries in kinds.values()]


def _restore_buffers(kept: list, usable: Tensor) -> None:
    """Gives buffers their former content back unless the step can be used; a buffer stays the tensor that it was."""
    if usable.device.type in _NEVER_WAITING and usable:
        return
    for entries, content in kept:
        now = [module._buffers[name] for module, name, _ in entries]
        flat = torch.where(usable, torch.cat([buffer.flatten() for buffer in now]), content)
        chosen = [part.view(b.shape) for part, b in zip(flat.split([b.numel() for b in now]), now)]
        in_place = [(b, part) for b, part, (*_, before) in zip(now, chosen, entries) if b is before]
        if in_place:
            torch._foreach_copy_(*map(list, zip(*in_place)))
        for b, part, (module, name, before) in zip(now, chosen, entries):
            if b is not before:
                setattr(module, name, part.clone())


def _random_state(device: torch.device) -> tuple:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(device: torch.device, state: tuple) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


def build_optimizer(cfg, model: nn.Module) -> Optimizer:
    """The optimiser of ``SOLVER.OPT`` with fastreid's hyper-parameters per parameter.

    fastreid makes one group per parameter, so that neither fused nor foreach kernels have anything to batch. With
    ``SOLVER.FUSED`` parameters of equal hyper-parameters share a group, in fastreid's order, and torch's fused kernel is used
    where it has one for the device. Never fastreid's flat buffers (``compat.switch_off_contiguous_parameters`` says why).

    Raises:
        UsageError: ``SOLVER.LAYER_DECAY`` with a backbone that does not know its layers.
    """
    settings = cfg.SOLVER
    if not settings.FUSED:
        optimizer = solver.build_optimizer(cfg, model, contiguous=False)[0]
        decay_by_layer(optimizer.param_groups, model, settings.LAYER_DECAY)
        return optimizer
    groups = solver.get_default_optimizer_params(
        model,
        base_lr=settings.BASE_LR,
        weight_decay=settings.WEIGHT_DECAY,
        weight_decay_norm=settings.WEIGHT_DECAY_NORM,
        bias_lr_factor=settings.BIAS_LR_FACTOR,
        heads_lr_factor=settings.HEADS_LR_FACTOR,
        weight_decay_bias=settings.WEIGHT_DECAY_BIAS,
        freeze_layers=cfg.MODEL.FREEZE_LAYERS if settings.FREEZE_ITERS > 0 else [],
    )
    decay_by_layer(groups, model, settings.LAYER_DECAY)
    kind = getattr(torch.optim, settings.OPT)
    options = {"momentum": settings.MOMENTUM, "nesterov": settings.NESTEROV} if settings.OPT == "SGD" else {}
    if "fused" in inspect.signature(kind).parameters and torch.device(cfg.MODEL.DEVICE).type in _FUSED_DEVICES:
        options["fused"] = True
    kind = solver.maybe_add_freeze_layer(cfg, solver.maybe_add_gradient_clipping(cfg, kind))
    return kind(merge_groups(groups), **options)


def decay_by_layer(groups: list[dict], model: nn.Module, decay: float) -> None:
    """Multiplies the rates of optimiser groups of one parameter, in place: by ``decay`` to the power of the layers from
    the head, which keeps its rate, down to the parameter's (Bao et al., "BEiT", ICLR 2022)."""
    if decay == 1:
        return
    if not hasattr(model.backbone, "parameter_layers"):
        raise UsageError(
            "SOLVER.LAYER_DECAY needs a backbone that knows its layers, build_timm_backbone; else set it 1"
        )
    layers = model.backbone.parameter_layers()
    top = max(layers.values()) + 1  # the head's
    below = {p: top - layers[name] for name, p in model.backbone.named_parameters() if name in layers}
    for group in groups:
        group["lr"] *= decay ** below.get(group["params"][0], 0)


def merge_groups(groups: list[dict]) -> list[dict]:
    """Optimiser groups with equal hyper-parameters joined; groups and parameters stay in the order of their first appearance."""
    merged: dict = {}
    for group in groups:
        settings = {name: value for name, value in group.items() if name != "params"}
        key = tuple(sorted(settings.items()))
        merged.setdefault(key, {**settings, "params": []})["params"].extend(group["params"])
    return list(merged.values())
