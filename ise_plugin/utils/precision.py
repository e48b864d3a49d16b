"""Float32 as it is written, on GPUs that would round it."""

from contextlib import contextmanager
from typing import Any, Iterator


@contextmanager
def without_tf32(backend: Any) -> Iterator[None]:
    """No TF32 (10 bits of 23) inside, for one kind of operation.

    Args:
        backend: what of ``torch.backends`` has the setting: ``cuda.matmul``, ``cudnn``, or ``cudnn.conv``.
    """
    # reading the older switch raises an error where a program has set the newer one (PyTorch 2.9)
    name, off = ("fp32_precision", "ieee") if hasattr(backend, "fp32_precision") else ("allow_tf32", False)
    before = getattr(backend, name)
    setattr(backend, name, off)
    try:
        yield
    finally:
        setattr(backend, name, before)
