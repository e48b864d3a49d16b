"""The few numbers that a run is about, in one file."""

import json
import os
from typing import Optional

from tabulate import tabulate

from ..utils.files import write_atomically

METRICS = ("mAP", "mINP", "Rank-1", "Rank-5", "Rank-10")
FILE_NAME = "results.json"
# what a resumed run needs to go on
_KEPT = ("initial", "final", "best", "best_metric", "seconds")


class Results:
    """``OUTPUT_DIR/results.json``: metrics before training, after it, and at their best, in percent.

    Args:
        output_dir: folder of the file.
        save_to_disk: False on all ranks but the first.

    Attributes:
        path: of the file.
        initial, final, best: dictionaries of the metrics, or None as long as there are none. With several test sets one
            such dictionary under each set's name. ``best`` also says its ``epoch``, counted from 1.
        seconds: wall-clock seconds of training and evaluation, those before a resume included.
    """

    def __init__(self, output_dir: str, save_to_disk: bool = True):
        self.path = os.path.join(output_dir, FILE_NAME)
        self._save_to_disk = save_to_disk
        self.initial: Optional[dict] = None
        self.final: Optional[dict] = None
        self.best: Optional[dict] = None
        self.best_metric = -1.0
        self.seconds = 0.0

    def record_initial(self, metrics: dict) -> None:
        """Metrics before the first step."""
        self.initial = _selected(metrics)

    def record(self, metrics: dict, metric: float, epoch: int) -> bool:
        """Takes the metrics after an epoch; returns whether they are the best so far.

        Args:
            metrics: what fastreid's evaluator returns, or one such dictionary per test set.
            metric: the number to compare runs by (fastreid's "metric": mean of mAP and rank-1, in percent).
            epoch: counted from 0.
        """
        self.final = _selected(metrics)
        if metric <= self.best_metric:
            return False
        self.best_metric = metric
        self.best = dict(self.final, epoch=epoch + 1)
        return True

    def write(self) -> None:
        """Writes the file; keys without a value are left out."""
        if not self._save_to_disk:
            return
        content = {"initial": self.initial, "final": self.final, "best": self.best, "seconds": round(self.seconds, 1)}
        content = {key: value for key, value in content.items() if value is not None}
        write_atomically(self.path, (json.dumps(content, indent=2) + "\n").encode())

    def table(self) -> str:
        """The rows as text; empty where nothing was evaluated."""
        rows = []
        for name in ("initial", "final", "best"):
            for data_set, metrics in _per_data_set(getattr(self, name)):
                label = f"{name} (epoch {self.best['epoch']})" if name == "best" else name
                rows.append([label + (f", {data_set}" if data_set else "")] + [metrics[m] for m in METRICS])
        if not rows:
            return ""
        return tabulate(rows, headers=["", *(f"{m} %" for m in METRICS)], floatfmt=".2f", tablefmt="pipe")

    def state_dict(self) -> dict:
        """For a resumed run."""
        return {name: getattr(self, name) for name in _KEPT}

    def load_state_dict(self, state: dict) -> None:
        """Takes the values of :meth:`state_dict`."""
        for name in _KEPT:
            setattr(self, name, state[name])


def _selected(metrics: dict) -> dict:
    if "mAP" in metrics:
        return {name: float(metrics[name]) for name in METRICS}
    return {data_set: _selected(values) for data_set, values in metrics.items()}


def _per_data_set(metrics: Optional[dict]) -> list:
    if not metrics:
        return []
    if "mAP" in metrics:
        return [("", metrics)]
    return [(name, values) for name, values in metrics.items() if isinstance(values, dict)]
