"""Hooks that tests of faults name in ISE.HOOKS."""

import os
import signal
from pathlib import Path

from fastreid.engine.hooks import HookBase

from ise_plugin.utils.distributed import rank


class KillProcess1(HookBase):
    """SIGKILL for the second process in the second epoch of the first attempt, the third of the second, and so on; each process
    leaves ``process_ID``."""

    def __init__(self, cfg):
        self._output = Path(cfg.OUTPUT_DIR)

    def before_step(self) -> None:
        (self._output / f"process_{os.getpid()}").touch()
        if rank() == 1 and self.trainer.epoch == int(os.environ["TORCHELASTIC_RESTART_COUNT"]) + 1:
            os.kill(os.getpid(), signal.SIGKILL)
