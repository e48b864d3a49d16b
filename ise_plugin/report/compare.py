"""Runs side by side: means over seeds, their spread, and which differences exceed it."""

import math
import statistics
from dataclasses import dataclass, field
from typing import NamedTuple, Optional, Sequence

from tabulate import tabulate

from . import figures
from .page import render
from .run_files import Run

# Keys that do not make another setting: the seed, and where and how things are written.
_NOT_A_SETTING = ("SEED", "OUTPUT_DIR", "ISE.IMPORT", "ISE.REPORT.", "DATALOADER.NUM_WORKERS", "MODEL.DEVICE")
# Hooks that only watch.
_WATCHING = ("RunReport", "EpochSummary", "IdentityChoice")
# What is compared: title, source ("results": results.json, "initial" and "final": its metrics before and after training, "log":
# the last value logged), name there, factor on its value.
QUANTITIES = (
    ("mAP before training %", "initial", "mAP", 1),
    ("mAP %", "final", "mAP", 1),
    ("rank-1 %", "final", "Rank-1", 1),
    ("mINP %", "final", "mINP", 1),
    ("clusters", "log", "clusters", 1),
    ("outliers %", "log", "labels/outlier_share", 100),
    ("estimated purity", "log", "labels/estimated_purity", 1),
    ("ARI", "log", "labels/ari", 1),
    ("B-cubed F", "log", "labels/bcubed_f", 1),
    ("split identities %", "log", "labels/split_identities", 100),
    ("mixed clusters %", "log", "labels/mixed_clusters", 100),
    ("one-camera clusters %", "log", "labels/one_camera", 100),
    ("minutes", "results", "seconds", 1 / 60),
)
# What has curves: title, logged name, what y is, factor.
_CURVES = (
    ("mAP", "mAP", "percent", 1),
    ("Adjusted Rand index", "labels/ari", "ARI", 1),
    ("Clusters", "clusters", "clusters", 1),
    ("Outliers", "labels/outlier_share", "percent outliers", 100),
    ("Split identities", "labels/split_identities", "percent split identities", 100),
    ("Mixed clusters", "labels/mixed_clusters", "percent mixed clusters", 100),
    ("Clusters in one camera", "labels/one_camera", "percent one-camera clusters", 100),
)


class Spread(NamedTuple):
    """Values of one quantity over the seeds of a group. ``deviation`` is that of a sample; NaN with one value."""

    mean: float
    deviation: float
    count: int

    def __str__(self) -> str:
        if not self.count:
            return "–"
        return f"{self.mean:.3g}" if math.isnan(self.deviation) else f"{self.mean:.4g} ± {self.deviation:.2g}"


def spread_of(values: Sequence[float]) -> Spread:
    """Mean and standard deviation of numbers, of which there may be one or none."""
    mean = statistics.fmean(values) if values else math.nan
    return Spread(mean, statistics.stdev(values) if len(values) > 1 else math.nan, len(values))


@dataclass
class Group:
    """Runs of one setting that differ in their seeds. The title is what this setting has that others have not."""

    setting: dict
    runs: list[Run] = field(default_factory=list)
    title: str = ""

    def spread(self, source: str, name: str, factor: float = 1) -> Spread:
        """Mean and deviation over the runs that know the quantity; the arguments are as in :data:`QUANTITIES`."""
        values = [value for run in self.runs if (value := value_of(run, source, name, factor)) is not None]
        return spread_of(values)


def value_of(run: Run, source: str, name: str, factor: float = 1) -> Optional[float]:
    """One number of a run, None where it does not know it; the arguments are as in :data:`QUANTITIES`."""
    metrics = {stage: run.metrics(stage).get for stage in ("initial", "final")}
    value = {**metrics, "results": run.results.get, "log": run.last}[source](name)
    return None if value is None else factor * value


def setting_of(config: dict) -> dict:
    """What of a flat configuration makes a setting: seed, places, and hooks that only watch are left out."""
    setting = {key: value for key, value in config.items() if not key.startswith(_NOT_A_SETTING)}
    if "ISE.HOOKS" in setting:
        setting["ISE.HOOKS"] = [name for name in setting["ISE.HOOKS"] if name not in _WATCHING]
    return setting


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Runs with equal settings together, in the order of their first run; named by the keys in which they differ.

    A key that one of two runs does not know (it is older) makes no difference.
    """
    groups: list[Group] = []
    for run in runs:
        setting = setting_of(run.config)
        group = next((g for g in groups if not differing(g.setting, setting)), None)
        if group is None:
            groups.append(group := Group(setting))
        group.runs.append(run)
    keys = sorted(set().union(*(differing(a.setting, b.setting) for a in groups for b in groups)))
    for group in groups:
        group.title = ", ".join(f"{key} {group.setting.get(key, '–')}" for key in keys) or "all runs"
    return groups


def differing(first: dict, second: dict) -> set:
    """Keys that both know, with other values."""
    return {key for key in first.keys() & second.keys() if first[key] != second[key]}


def difference(first: Spread, second: Spread) -> str:
    """The second mean against the first, as text: marked where they lie farther apart than both deviations together."""
    if not first.count or not second.count:
        return ""
    apart, both = second.mean - first.mean, first.deviation + second.deviation
    if math.isnan(both):
        return f"{apart:+.3g} (one run: spread unknown)"
    return f"{apart:+.3g}{' ▲ exceeds the spread' if abs(apart) > both else ' within the spread'}"


def comparison_table(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """Headings, and one row for every quantity that some run knows: name, mean ± deviation of every group, and its difference
    from the first group."""
    head, rows = [""], []
    for i, group in enumerate(groups):
        head.append(f"{_letter(i)} ({len(group.runs)} run{'s' if len(group.runs) > 1 else ''})")
        head += [f"{_letter(i)} − A"] if i else []
    for title, source, name, factor in QUANTITIES:
        first, *others = (group.spread(source, name, factor) for group in groups)
        if any(spread.count for spread in (first, *others)):
            cells = [text for spread in others for text in (str(spread), difference(first, spread))]
            rows.append([title, str(first), *cells])
    return head, rows


def _letter(number: int) -> str:
    """A, B, ..., Z, A1, ..."""
    turn, place = divmod(number, 26)
    return chr(ord("A") + place) + (str(turn) if turn else "")


def comparison_text(groups: Sequence[Group]) -> str:
    """The table for a console."""
    names = [f"{_letter(i)}: {g.title} ({', '.join(run.folder for run in g.runs)})" for i, g in enumerate(groups)]
    head, rows = comparison_table(groups)
    return "\n".join([*names, "", tabulate(rows, head, tablefmt="pipe", disable_numparse=True)])


def build_comparison(runs: Sequence[Run]) -> str:
    """The page that shows one run or more: settings, a table of means, and curves."""
    groups = grouped(runs)
    head, rows = comparison_table(groups)
    return render(
        "comparison.html",
        state=f"{len(runs)} runs, {len(groups)} settings",
        problems=[f"{run.name}: {problem}" for run in runs for problem in run.problems],
        groups=[(_letter(i), group) for i, group in enumerate(groups)],
        head=head,
        rows=rows,
        curves=_curves(groups) if figures.available() else None,
    )


def _curves(groups: Sequence[Group]) -> list[figures.Figure]:
    drawing, drawn = figures.Figures(), []
    for title, name, ylabel, factor in _CURVES:
        series = []
        for number, group in enumerate(groups[: len(figures.SERIES)]):
            epochs, means = mean_curve([run.values(name) for run in group.runs])
            if epochs:
                series.append((_letter(number), epochs, [factor * value for value in means]))
        if series:
            drawn.append(drawing.draw(figures.lines, title, series, ylabel))
    return drawn


def mean_curve(curves: Sequence[tuple[list, list]]) -> tuple[list, list]:
    """(epochs, means) over the epochs that all curves which know the quantity have in common."""
    known = [dict(zip(epochs, values)) for epochs, values in curves if epochs]
    if not known:
        return [], []
    common = sorted(set.intersection(*(set(curve) for curve in known)))
    return common, [statistics.fmean(curve[epoch] for curve in known) for epoch in common]
