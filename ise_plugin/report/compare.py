"""Runs side by side: means over seeds, their spread, and which differences exceed it."""

import math
import statistics
from typing import NamedTuple, Optional, Sequence

from tabulate import tabulate

from . import figures
from .page import render
from .run_files import Run

# Keys that do not make another setting: the seed, and where and how things are written.
_NOT_A_SETTING = ("SEED", "OUTPUT_DIR", "ISE.REPORT.", "DATALOADER.NUM_WORKERS", "MODEL.DEVICE")
# Hooks that only watch.
_WATCHING = ("RunReport", "EpochSummary", "IdentityChoice")
# What is compared: name, where it is from (results.json or the log), factor on the logged value.
QUANTITIES = (
    ("mAP %", "final", "mAP", 1),
    ("rank-1 %", "final", "Rank-1", 1),
    ("mINP %", "final", "mINP", 1),
    ("clusters", "log", "clusters", 1),
    ("outliers %", "log", "labels/outlier_share", 100),
    ("ARI", "log", "labels/ari", 1),
    ("B-cubed F", "log", "labels/bcubed_f", 1),
    ("split identities %", "log", "labels/split_identities", 100),
    ("mixed clusters %", "log", "labels/mixed_clusters", 100),
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


class Group:
    """Runs of one setting that differ in their seeds.

    Attributes:
        runs: the runs.
        title: what its setting has that others have not; set by :func:`grouped`.
    """

    def __init__(self, setting: dict):
        self.setting = setting
        self.runs: list[Run] = []
        self.title = ""

    def spread(self, source: str, name: str, factor: float = 1) -> Spread:
        """Mean and deviation of a quantity over the runs that know it."""
        values = [v * factor for v in (value_of(run, source, name) for run in self.runs) if v is not None]
        if not values:
            return Spread(math.nan, math.nan, 0)
        deviation = statistics.stdev(values) if len(values) > 1 else math.nan
        return Spread(statistics.fmean(values), deviation, len(values))


def value_of(run: Run, source: str, name: str) -> Optional[float]:
    """A quantity of a run: of results.json (``"results"``), its final metrics (``"final"``), or the log's last (``"log"``)."""
    if source == "log":
        return run.last(name)
    return (run.results if source == "results" else run.metrics("final")).get(name)


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Runs with equal settings together, in the order of their first run; named by the keys in which they differ.

    A key that one of two runs does not know (it is older) makes no difference.
    """
    groups: list[Group] = []
    for run in runs:
        setting = {k: v for k, v in run.config.items() if not k.startswith(_NOT_A_SETTING)}
        if "ISE.HOOKS" in setting:
            setting["ISE.HOOKS"] = [name for name in setting["ISE.HOOKS"] if name not in _WATCHING]
        group = next((g for g in groups if not _differing(g.setting, setting)), None)
        if group is None:
            groups.append(group := Group(setting))
        group.runs.append(run)
    differing = sorted(set().union(*(_differing(a.setting, b.setting) for a in groups for b in groups)))
    for group in groups:
        own = [f"{key} {group.setting.get(key, '–')}" for key in differing]
        group.title = ", ".join(own) or "all runs"
    return groups


def _differing(first: dict, second: dict) -> set:
    return {key for key in first.keys() & second.keys() if first[key] != second[key]}


def exceeds_spread(first: Spread, second: Spread) -> Optional[bool]:
    """Whether two means lie farther apart than both deviations together; None where a deviation is not known."""
    if math.isnan(first.deviation) or math.isnan(second.deviation):
        return None
    return abs(first.mean - second.mean) > first.deviation + second.deviation


def difference(first: Spread, second: Spread) -> str:
    """The second mean against the first, as text: marked where it exceeds the spread."""
    if not first.count or not second.count:
        return ""
    exceeds = exceeds_spread(first, second)
    remark = {None: " (one run: spread unknown)", True: " ▲ exceeds the spread", False: " within the spread"}[exceeds]
    return f"{second.mean - first.mean:+.3g}{remark}"


def comparison_rows(groups: Sequence[Group]) -> list[list[str]]:
    """One row for every quantity that some run knows: name, mean ± deviation of every group, and its difference from the
    first group."""
    rows = []
    for title, source, name, factor in QUANTITIES:
        spreads = [group.spread(source, name, factor) for group in groups]
        if any(spread.count for spread in spreads):
            row = [title, str(spreads[0])]
            for spread in spreads[1:]:
                row += [str(spread), difference(spreads[0], spread)]
            rows.append(row)
    return rows


def comparison_head(groups: Sequence[Group]) -> list[str]:
    """Headings of :func:`comparison_rows`."""
    head = ["", _heading(0, groups[0])]
    for number, group in enumerate(groups[1:], 1):
        head += [_heading(number, group), f"{_letter(number)} − A"]
    return head


def _letter(number: int) -> str:
    """A, B, ..., Z, A1, ..."""
    turn, place = divmod(number, 26)
    return chr(ord("A") + place) + (str(turn) if turn else "")


def _heading(number: int, group: Group) -> str:
    return f"{_letter(number)} ({len(group.runs)} run{'s' if len(group.runs) > 1 else ''})"


def comparison_text(groups: Sequence[Group]) -> str:
    """The table for a console."""
    names = [f"{_letter(i)}: {g.title} ({', '.join(run.folder for run in g.runs)})" for i, g in enumerate(groups)]
    table = tabulate(comparison_rows(groups), comparison_head(groups), tablefmt="pipe", disable_numparse=True)
    return "\n".join([*names, "", table])


def build_comparison(runs: Sequence[Run]) -> str:
    """The page that shows several runs: settings, a table of means, and curves of each run.

    Args:
        runs: at least one.
    """
    groups = grouped(runs)
    settings = [
        {"letter": _letter(i), "title": group.title, "names": ", ".join(run.name for run in group.runs)}
        for i, group in enumerate(groups)
    ]
    return render(
        "comparison.html",
        state=f"{len(runs)} runs, {len(groups)} settings",
        problems=[f"{run.name}: {problem}" for run in runs for problem in run.problems],
        groups=settings,
        head=comparison_head(groups),
        rows=comparison_rows(groups),
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
            drawn.append(drawing.lines(title, series, ylabel))
    return drawn


def mean_curve(curves: Sequence[tuple[list, list]]) -> tuple[list, list]:
    """(epochs, means) over the epochs that all curves which know the quantity have in common."""
    known = [dict(zip(epochs, values)) for epochs, values in curves if epochs]
    if not known:
        return [], []
    common = sorted(set.intersection(*(set(curve) for curve in known)))
    return common, [statistics.fmean(curve[epoch] for curve in known) for epoch in common]
