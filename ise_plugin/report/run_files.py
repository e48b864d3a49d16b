"""What a run has left in its folder, as far as it can be read (a run may be interrupted, old, or partly deleted), and the signs
of trouble in its numbers."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import yaml

from ..clustering.purity import MIXED
from ..config import AUTO, flat
from ..errors import UsageError

# Where the report's own data lie, inside the run's folder.
FOLDER = "report"
FACTS, RETRIEVAL, SHEETS, LATEST = "run.json", "retrieval.json", "sheets.json", "latest.json"
EVIDENCE = "evidence.json"
REPORT_NAME = "report.html"
# One labelling, with the epoch counted from 1.
LABELLING_NAME = "labelling_{:04d}.json"
_LABELLING_PREFIX = "labelling_"
# The files without which a folder is no run's.
_SIGNS_OF_A_RUN = ("metrics.json", "results.json", "config.yaml", os.path.join(FOLDER, FACTS))

# A labelling with less than this share of the clusters before it is a collapse.
_COLLAPSE = 0.5
# Share of all images that one cluster of persons should not reach.
_LARGEST_CLUSTER = 0.2
# Outliers: in first epochs up to half of the images are normal.
_MANY_OUTLIERS = 0.6
# Labels still change: adjusted Rand index below this, for so many labellings in the second half of training.
_UNSETTLED, _LABELLINGS = 0.6, 3
# MIN_SAMPLES below which every pair is a cluster.
_FEWEST_SAMPLES = 2
# Clusterers of the package that read EPS.
_WITH_EPS = ("DBSCAN", "SelfPacedDBSCAN", "Agglomerative", "Infomap")
_BETTER_START = "start from weights that have seen people (MODEL.BACKBONE.PRETRAIN_PATH)"
# Learning rate over the one in the config: the paper's schedule ends at a hundredth.
_SPENT = 0.005


@dataclass
class Run:
    """A run as its files tell it.

    Attributes:
        folder: its OUTPUT_DIR.
        config: key -> value, flat ("SOLVER.MAX_EPOCH").
        facts: what the report's hook wrote at the start: command, environment, images, differences from the base config.
        results, identities: results.json, and identities.json, which the hook IdentityChoice writes.
        history: one dictionary of logged values per epoch, in order; ``epoch`` is counted from 1.
        labellings: epoch -> what was kept of its labelling.
        evidence: what the last labelling does with cameras and with the constraints of tracks, where they are known.
        sheets: of the last labelling.
        retrieval: data set -> ``before`` and ``after`` training.
        problems: files that could not be read, one line each.
    """

    folder: str
    config: dict = field(default_factory=dict)
    facts: dict = field(default_factory=dict)
    results: dict = field(default_factory=dict)
    identities: dict = field(default_factory=dict)
    history: list = field(default_factory=list)
    labellings: dict = field(default_factory=dict)
    evidence: dict = field(default_factory=dict)
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
        return max((entry["epoch"] for entry in self.history if "lr" in entry), default=0)

    def metrics(self, stage: str) -> dict:
        """Those of the first test set in results.json; ``stage`` is "initial" or "final"."""
        found = self.results.get(stage)
        if not isinstance(found, dict):
            return {}
        if "mAP" in found:
            return found
        return next((values for values in found.values() if isinstance(values, dict)), {})

    @property
    def verdict(self) -> dict:
        """Of identities.json: ``lines`` of text and ``rows`` of a table; empty where there is none."""
        found = self.identities.get("verdict")
        return found if isinstance(found, dict) else {}

    @property
    def logged(self) -> set:
        """Names of the quantities that some epoch has logged."""
        return {name for entry in self.history for name in entry}

    def values(self, name: str) -> tuple[list, list]:
        """(epochs, values) of one logged quantity, where it is known."""
        known = [(entry["epoch"], entry[name]) for entry in self.history if entry.get(name) is not None]
        return [epoch for epoch, _ in known], [value for _, value in known]

    def last(self, name: str) -> Optional[float]:
        """The last known value of a logged quantity."""
        return next(reversed(self.values(name)[1]), None)


def read_run(folder: str) -> Run:
    """Reads what there is; a folder without a run, or a metrics.json that cannot be opened, raises a UsageError."""
    if not os.path.isdir(folder):
        raise UsageError(f"{folder} is not a folder; name the OUTPUT_DIR of a run")
    if not any(os.path.exists(os.path.join(folder, name)) for name in _SIGNS_OF_A_RUN):
        raise UsageError(f"{folder} holds no run: none of {', '.join(_SIGNS_OF_A_RUN)} is there; name an OUTPUT_DIR")
    run = Run(folder)
    run.facts = _read_json(run, FACTS, {})
    run.results = _read_json(run, os.path.join(os.pardir, "results.json"), {})
    run.identities = _read_json(run, os.path.join(os.pardir, "identities.json"), {})
    run.config = _read_config(run)
    run.history = _history(_read_metrics(run), run.config.get("ISE.ITERS_PER_EPOCH") or 1)
    run.retrieval = _read_json(run, RETRIEVAL, {})
    run.evidence = _read_json(run, EVIDENCE, {})
    run.sheets = _read_json(run, SHEETS, [])
    chosen = sorted(path.name for path in Path(folder, FOLDER).glob(f"{_LABELLING_PREFIX}*.json"))
    for name in (*chosen, LATEST):  # those of chosen epochs first: they hold more than the latest one
        labelling = _read_json(run, name, {})
        if "epoch" in labelling:
            run.labellings.setdefault(labelling["epoch"], labelling)
    return run


def is_ours(name: str) -> bool:
    """Whether a file of the report's folder has been written by the report."""
    return name in (FACTS, RETRIEVAL, EVIDENCE, SHEETS, LATEST) or name.startswith(_LABELLING_PREFIX)


def _read_json(run: Run, name: str, default):
    path = Path(
        os.path.normpath(os.path.join(run.folder, FOLDER, name))
    )  # FOLDER is not there without the report's hook
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except (OSError, ValueError) as error:
        run.problems.append(f"{path.name} cannot be read ({error})")
        return default
    if not isinstance(content, type(default)):
        run.problems.append(f"{path.name} holds a {type(content).__name__} instead of what the report writes; left out")
        return default
    return content


def _read_config(run: Run) -> dict:
    try:
        text = run.facts.get("config") or Path(run.folder, "config.yaml").read_text(encoding="utf-8")
        return flat(yaml.safe_load(text) or {})
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        run.problems.append(f"config.yaml cannot be read ({' '.join(str(error).split())})")
        return {}


def _read_metrics(run: Run) -> list:
    """The lines of metrics.json; a resumed or repeated run appends to what was there, and what it repeats counts."""
    path = Path(run.folder, "metrics.json")
    try:
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); make it readable, or name another run") from error
    lines, broken = [], 0
    for text in texts:
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
    epochs: dict = {}
    for line in lines:
        number = int(line["iteration"]) // steps + 1
        values = {name: value for name, value in line.items() if isinstance(value, (int, float)) and value == value}
        epochs.setdefault(number, {}).update(values, epoch=number)
    return [epochs[number] for number in sorted(epochs)]


def find_troubles(run: Run) -> dict[str, str]:
    """What a person should look at after the last epoch: a short name of each trouble -> one line with what to try, of what
    this run's configuration has."""
    found: dict[str, str] = {}
    if not run.history:
        return found
    now, base_lr = run.history[-1], run.config.get("SOLVER.BASE_LR")
    stepped = run.config.get("SOLVER.SCHED", "MultiStepLR") == "MultiStepLR"
    clusters = run.values("clusters")[1]
    if "clusters" in now and len(clusters) > 1 and clusters[-1] < _COLLAPSE * clusters[-2]:
        found["collapse"] = (
            f"clusters fell from {clusters[-2]:.0f} to {clusters[-1]:.0f}, because they merge; "
            f"try {_other_eps(run, 'smaller')}a smaller SOLVER.BASE_LR"
        )
    if (share := now.get("labels/largest_share", 0)) > _LARGEST_CLUSTER:
        found["one large cluster"] = (
            f"one cluster holds {share:.0%} of all images; try {_other_eps(run, 'smaller')}{_BETTER_START}"
        )
    if (share := now.get("labels/outlier_share", 0)) > _MANY_OUTLIERS:
        found["many outliers"] = (
            f"{share:.0%} of the images are outliers and are not trained on; {_fewer_outliers(run)}"
        )
    late = [value for epoch, value in zip(*run.values("labels/stability")) if 2 * epoch > run.epochs]
    if "labels/stability" in now and len(late) >= _LABELLINGS and max(late[-_LABELLINGS:]) < _UNSETTLED:
        found["labels do not settle"] = (
            f"for {_LABELLINGS} labellings the labels have changed much each time (adjusted Rand index with those before: "
            f"{late[-1]:.2f}); try a smaller SOLVER.BASE_LR{' or earlier SOLVER.STEPS' if stepped else ''}"
        )
    if base_lr and now["epoch"] < run.epochs and now.get("lr", base_lr) < _SPENT * base_lr:
        found["learning rate spent"] = (
            f"the learning rate is {now['lr']:.1e}, only {now['lr'] / base_lr:.1%} of SOLVER.BASE_LR, with "
            f"{run.epochs - now['epoch']} epochs to go; try {'later SOLVER.STEPS' if stepped else 'a larger SOLVER.ETA_MIN_LR'}"
            " or fewer SOLVER.MAX_EPOCH"
        )
    return found


def _other_eps(run: Run, direction: str) -> str:
    """'a smaller ISE.PSEUDO_LABEL.EPS (0.5 now), or ', said to somebody whose clusterer has one."""
    if run.config.get("ISE.PSEUDO_LABEL.CLUSTERER", "DBSCAN") not in _WITH_EPS:
        return ""
    eps = run.config.get("ISE.PSEUDO_LABEL.EPS")
    if eps != AUTO:
        return f"a {direction} ISE.PSEUDO_LABEL.EPS{'' if eps is None else f' ({eps:g} now)'}, or "
    chosen = run.last("labels/eps")
    than = "" if chosen is None else f", {direction} than the {chosen:.2f} that was chosen"
    return f"ISE.PSEUDO_LABEL.EPS as a number{than}, or "


def _fewer_outliers(run: Run) -> str:
    """A larger eps helps where the groups are pure; where they are mixed already, it would only mix them more."""
    purity, least = run.last("labels/estimated_purity"), run.config.get("ISE.PSEUDO_LABEL.MIN_SAMPLES", 0)
    if purity is not None and purity < MIXED:
        return f"the groups are mixed already (estimated purity {purity:.2f}), so a larger eps would not help: {_BETTER_START}"
    fewer = f"ISE.PSEUDO_LABEL.MIN_SAMPLES below {least}" if least > _FEWEST_SAMPLES else _BETTER_START
    return f"try {_other_eps(run, 'larger')}{fewer}"
