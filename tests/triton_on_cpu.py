"""The few words of Triton that the kernels use, carried out one program after the other with torch on the CPU.

What it checks: formulas, addresses, masks. What it does not: that Triton's compiler takes the kernels.
"""

import importlib.util
import itertools
import sys
import types
from collections import Counter
from pathlib import Path
from unittest import mock

import torch

from ise_plugin import modeling


class Pointer:
    """To places of a tensor."""

    def __init__(self, memory, offset=0):
        self.memory, self.offset, self.dtype = memory, offset, types.SimpleNamespace(element_ty=memory.dtype)

    def __add__(self, offset):
        return Pointer(self.memory, self.offset + offset)

    def at(self, mask):
        offset, mask = torch.broadcast_tensors(torch.as_tensor(self.offset), mask)
        assert ((offset[mask] >= 0) & (offset[mask] < len(self.memory))).all(), "outside of the tensor"
        return offset[mask], mask


class Kernel:
    """A function that ``triton.jit`` decorates; ``launches`` counts all of them, which compute only where ``computes``."""

    launches: Counter = Counter()
    computes = True

    def __init__(self, function):
        self.function = function

    def __getitem__(self, grid):
        def launch(*args, **constants):
            Kernel.launches[self.function.__name__] += 1
            if not self.computes:
                return
            given = [Pointer(_flat(a)) if isinstance(a, torch.Tensor) else a for a in args]
            given = [
                torch.tensor(a) if isinstance(a, int) else a for a in given
            ]  # a division of two is no Python division
            for place in itertools.product(*map(range, grid)):
                language.place, language.grid = place, grid
                self.function(*given, **constants)

        return launch


def _flat(tensor):
    """The numbers of a dense tensor as they lie in memory."""
    return tensor.as_strided((tensor.numel(),), (1,))


def load(pointer, mask, other):
    offset, mask = pointer.at(mask)
    values = torch.full(mask.shape, other, dtype=pointer.memory.dtype)
    values[mask] = pointer.memory[offset]
    return values


def store(pointer, values, mask):
    offset, mask = pointer.at(mask)
    pointer.memory[offset] = values.expand(mask.shape)[mask].to(pointer.memory.dtype)


language = types.ModuleType("triton.language")
language.constexpr = int
language.float32, language.int64 = torch.float32, torch.int64
language.program_id = lambda axis: torch.tensor(language.place[axis])
language.num_programs = lambda axis: language.grid[axis]
language.arange, language.where, language.sqrt = torch.arange, torch.where, torch.sqrt
language.zeros = lambda shape, dtype: torch.zeros(shape, dtype=dtype)
language.minimum = lambda a, b: torch.minimum(*map(torch.as_tensor, (a, b)))
language.maximum = lambda a, b: torch.maximum(*map(torch.as_tensor, (a, b)))
language.sum = lambda values, axis: values.sum(axis)
language.load, language.store = load, store

triton = types.ModuleType("triton")
triton.jit, triton.cdiv, triton.language = Kernel, lambda a, b: -(-a // b), language


def load_kernels():
    """The package's kernels, carried out by this module. Nothing else sees it: torch would take it for Triton."""
    path = Path(modeling.__file__).with_name("_normalization_kernels.py")
    spec = importlib.util.spec_from_file_location("normalization_kernels_on_cpu", path)
    kernels = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {"triton": triton, "triton.language": language}):
        spec.loader.exec_module(kernels)
    return kernels
