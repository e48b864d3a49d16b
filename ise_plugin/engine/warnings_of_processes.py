"""Warnings of a run with several processes: the first one writes, and names the others only where they say something else."""

import logging

from fastreid.engine.hooks import HookBase
from fastreid.utils import comm

from ..utils import distributed

logger = logging.getLogger("fastreid.ise.processes")


class Warnings(logging.Handler):
    """Keeps the messages of warnings and errors, each once."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages: dict = {}  # message -> None, in the order of their first appearance

    def emit(self, record: logging.LogRecord) -> None:
        self.messages[record.getMessage()] = None


_kept = Warnings()


def keep_warnings() -> None:
    """From now on; may be called more than once."""
    logging.getLogger("fastreid").addHandler(_kept)


class TellWarnings(HookBase):
    """After every epoch the first process logs what the others have warned of and it has not."""

    def __init__(self):
        self._known: set = set()
        keep_warnings()

    def after_epoch(self) -> None:
        messages, _kept.messages = list(_kept.messages), {}
        gathered = comm.gather(messages, group=distributed.host_group)
        if gathered:
            self._log(gathered)
            _kept.messages = {}  # what was logged just now

    def _log(self, gathered: list) -> None:
        own, *others = gathered
        self._known.update(own)
        sayers: dict = {}
        for process, messages in enumerate(others, start=1):
            for message in messages:
                sayers.setdefault(message, []).append(process)
        for message, processes in sayers.items():
            if message not in self._known:
                logger.warning(f"process {', '.join(map(str, processes))}: {message}")
        self._known.update(sayers)
