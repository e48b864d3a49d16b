"""What a run has left in its folder, as far as it can be read: a run may be interrupted, old, or partly deleted."""

import json
import os
from dataclasses import dataclass, field
from typing import Optional

import yaml

from ..config import flat
from ..errors import UsageError

# Where the report's own data lie, inside the run's folder.
FOLDER = "report"
FACTS, RETRIEVAL, SHEETS, LATEST = "run.json", "retrieval.json", "sheets.json", "latest.json"
REPORT_NAME = "report.html"
# One labelling, with the epoch counted from 1.
LABELLING_NAME = "labelling_{:04d}.json"
_LABELLING_PREFIX = "labelling_"
# The files without which a folder is no run's.
_SIGNS_OF_A_RUN = ("metrics.json", "results.json", "config.yaml", os.path.join(FOLDER, FACTS))


@dataclass
class Run:
    """A run as its files tell it.

    Attributes:
        folder: its OUTPUT_DIR.
        config: key -> value, flat ("SOLVER.MAX_EPOCH").
        facts: what the report's hook wrote at the start: command, environment, images, differences from the base config.
        results: results.json.
        history: one dictionary of logged values per epoch, in order; ``epoch`` is counted from 1.
        labellings: epoch -> what was kept of its labelling.
        sheets: of the last labelling.
        retrieval: data set -> ``before`` and ``after`` training.
        problems: files that could not be read, one line each.
    """

    folder: str
    config: dict = field(default_factory=dict)
    facts: dict = field(default_factory=dict)
    results: dict = field(default_factory=dict)
    history: list = field(default_factory=list)
    labellings: dict = field(default_factory=dict)
    sheets: list = field(default_factory=list)
    retrieval: dict = field(default_factory=dict)
    problems: list = field(default_factory=list)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return os.path.basename(os.path.abspath(self.folder))

    @property
    def epochs(self) -> int:
        """Epochs that the schedule has; those done where that is not known."""
        return self.config.get("SOLVER.MAX_EPOCH") or len(self.history)

    @property
    def epochs_done(self) -> int:
        """The last epoch that came to its end."""
        done = [entry["epoch"] for entry in self.history if "lr" in entry]
        return max(done, default=0)

    def metrics(self, stage: str) -> dict:
        """Those of the first test set in results.json; ``stage`` is "initial" or "final"."""
        found = self.results.get(stage)
        if not isinstance(found, dict):
            return {}
        if "mAP" in found:
            return found
        return next((values for values in found.values() if isinstance(values, dict)), {})

    def values(self, name: str) -> tuple[list, list]:
        """(epochs, values) of one logged quantity, where it is known."""
        known = [(entry["epoch"], entry[name]) for entry in self.history if entry.get(name) is not None]
        return [epoch for epoch, _ in known], [value for _, value in known]

    def last(self, name: str) -> Optional[float]:
        """The last known value of a logged quantity."""
        values = self.values(name)[1]
        return values[-1] if values else None


def read_run(folder: str) -> Run:
    """Reads what there is.

    Raises:
        UsageError: the folder is not there, or holds nothing of a run.
    """
    if not os.path.isdir(folder):
        raise UsageError(f"{folder} is not a folder; name the OUTPUT_DIR of a run")
    if not any(os.path.exists(os.path.join(folder, name)) for name in _SIGNS_OF_A_RUN):
        raise UsageError(f"{folder} holds no run: none of {', '.join(_SIGNS_OF_A_RUN)} is there; name an OUTPUT_DIR")
    run = Run(folder)
    run.facts = _read_json(run, FACTS, {})
    run.results = _read_json(run, os.path.join(os.pardir, "results.json"), {})
    run.config = _read_config(run)
    run.history = _history(_read_metrics(run), run.config.get("ISE.ITERS_PER_EPOCH") or 1)
    run.retrieval = _read_json(run, RETRIEVAL, {})
    run.sheets = _read_json(run, SHEETS, [])
    for name in _names_of_labellings(run):
        labelling = _read_json(run, name, {})
        if "epoch" in labelling:
            run.labellings.setdefault(labelling["epoch"], labelling)
    return run


def is_ours(name: str) -> bool:
    """Whether a file of the report's folder has been written by the report."""
    return name in (FACTS, RETRIEVAL, SHEETS, LATEST) or name.startswith(_LABELLING_PREFIX)


def _names_of_labellings(run: Run) -> list:
    """Those of chosen epochs first: they hold more than the latest one."""
    folder = os.path.join(run.folder, FOLDER)
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return [n for n in names if n.startswith(_LABELLING_PREFIX) and n.endswith(".json")] + [LATEST]


def _read_json(run: Run, name: str, default):
    path = os.path.normpath(os.path.join(run.folder, FOLDER, name))
    if not os.path.exists(path):
        return default
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError) as error:
        run.problems.append(f"{os.path.basename(path)} cannot be read ({error})")
        return default
    if not isinstance(content, type(default)):
        run.problems.append(
            f"{os.path.basename(path)} holds a {type(content).__name__} instead of what the report writes; left out"
        )
        return default
    return content


def _read_config(run: Run) -> dict:
    text = run.facts.get("config")
    path = os.path.join(run.folder, "config.yaml")
    try:
        if text is None and os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                text = file.read()
        return flat(yaml.safe_load(text) or {}) if text else {}
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        run.problems.append(f"config.yaml cannot be read ({' '.join(str(error).split())})")
        return {}


def _read_metrics(run: Run) -> list:
    """The lines of metrics.json; a resumed or repeated run appends to what was there, and what it repeats counts."""
    path = os.path.join(run.folder, "metrics.json")
    if not os.path.exists(path):
        return []
    lines, broken = [], 0
    with open(path, encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
                iteration = line["iteration"]
            except (ValueError, KeyError, TypeError):
                broken += 1
                continue
            while lines and lines[-1]["iteration"] >= iteration:
                lines.pop()
            lines.append(line)
    if broken:
        run.problems.append(f"{broken} lines of metrics.json cannot be read; left out")
    return lines


def _history(lines: list, steps: int) -> list:
    epochs = {}
    for line in lines:
        number = int(line["iteration"]) // steps + 1
        values = {name: value for name, value in line.items() if isinstance(value, (int, float)) and value == value}
        epochs.setdefault(number, {}).update(values, epoch=number)
    return [epochs[number] for number in sorted(epochs)]
