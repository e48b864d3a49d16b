"""SIGTERM and SIGINT: the run saves at the next good moment, and ends."""

import logging
import os
import signal
import threading
import time
from contextlib import contextmanager
from typing import Iterator, Optional, Sequence

import torch
import torch.distributed as dist
from fastreid.utils import comm

from ..utils.distributed import world_size

logger = logging.getLogger("fastreid.ise.interruption")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# torchrun passes on to its processes what the terminal has sent them already: one wish, not two
_ECHO_SECONDS = 1.0
# What a process may wish for after a step; of all processes' wishes the largest holds.
NOTHING, SAVE, STOP = 0, 1, 2


class Interrupted(BaseException):
    """A signal has ended the run; what is needed to go on is on the disk. No Exception: nothing on the way may get over it."""

    def __init__(self, number: int):
        super().__init__(f"ended by {signal.Signals(number).name}; go on with --resume")
        self.exit_code = 128 + number


class Interruption:
    """Takes SIGTERM and SIGINT while it is entered. The first is a wish to stop, a later one ends the process at once.

    Attributes:
        signal: the signal that has come, or None.
        granted: whether what is needed to go on is saved, so that the run may end; whoever saves sets it.
    """

    def __init__(self):
        self.signal: Optional[int] = None
        self.granted = False
        self._when = 0.0
        self._may_raise = False

    def __enter__(self) -> "Interruption":
        self._process = os.getpid()
        self._handlers = _set_handlers(dict.fromkeys(_SIGNALS, self._take))
        return self

    def __exit__(self, *_) -> None:
        _set_handlers(self._handlers)

    def _take(self, number: int, _frame) -> None:
        if os.getpid() != self._process:  # a loader's worker: the batch it works on is still wanted
            return
        if self.signal is not None:
            if time.monotonic() - self._when > _ECHO_SECONDS:
                os._exit(128 + number)
            return
        self.signal, self._when = number, time.monotonic()
        logger.warning(f"{signal.Signals(number).name}: saving and stopping; once more ends the run at once")
        if self._may_raise:
            raise Interrupted(number)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Work that may be left in the middle: a signal raises :class:`Interrupted` there and then.

        With several processes it waits as anywhere else: the others would wait for this one for ever.
        """
        self._may_raise = world_size() == 1
        if self._may_raise and self.signal is not None:
            raise Interrupted(self.signal)
        try:
            yield
        finally:
            self._may_raise = False

    def agreed(self, wish: int = NOTHING) -> int:
        """The largest wish of all processes, this one's signal included; all of them ask after the same steps."""
        wish = STOP if self.signal is not None else wish
        if world_size() == 1:
            return wish
        wishes = torch.tensor(wish)
        dist.all_reduce(wishes, dist.ReduceOp.MAX, group=comm._get_global_gloo_group())  # no device is waited for
        return int(wishes)

    def end_if_granted(self) -> None:
        """Raises :class:`Interrupted` once what was done is saved."""
        if self.granted:
            comm.synchronize()  # whoever watches the processes ends all when the first one ends, and one may be saving still
            raise Interrupted(self.signal or signal.SIGTERM)  # without one: another process has it


@contextmanager
def passed_on(processes: Sequence) -> Iterator[None]:
    """SIGTERM and SIGINT for this process go on to those of multiprocessing that it has started, which save and end."""

    def pass_on(number: int, _frame) -> None:
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, number)

    handlers = _set_handlers(dict.fromkeys(_SIGNALS, pass_on))
    try:
        yield
    finally:
        _set_handlers(handlers)


def _set_handlers(handlers: dict) -> dict:
    """Sets the handlers of signals and returns those before; does nothing outside the main thread, the only one that may."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number, handler in handlers.items()}
