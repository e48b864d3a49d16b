"""A sweep as one picture: a panel for each metric, a line for each setting, with every run, mean and spread."""

import textwrap
from typing import Sequence

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..utils.files import written_whole
from .grid import METRICS
from .table import Row, known_metrics

# Inches, but for _PANELS in a row.
_PANELS, _PANEL, _ROW, _TITLE, _BELOW, _LETTER, _SIDE, _LINE = 3, 2.4, 0.3, 0.42, 0.4, 0.075, 0.2, 0.14
_DPI = 150
_INK, _MUTED, _GRID, _RUN, _MEAN = "#222222", "#666666", "#dddddd", "#7aa6c2", "#0b5394"
_FONT, _SMALL = 9.5, 7.5
_LETTERS_PER_INCH = 15  # of the small fixed-width font


def draw(path: str, rows: Sequence[Row], metrics: Sequence[str], command: str) -> None:
    """Writes a PNG: small dots are runs, the large one is their mean, the bar one standard deviation to either side; below it
    the command.

    Args:
        rows: some of which have runs that are done.
        metrics: panels, from left to right; those that no run knows, or that are older than the training, are left out.
    """
    metrics = [metric for metric in known_metrics(rows, metrics) if METRICS[metric][1] != "initial"]
    names = [", ".join(row.setting.title.values()) for row in rows]
    axes = ", ".join(rows[0].setting.title)
    left = 2 * _SIDE + _LETTER * max(map(len, [axes, *names]))
    width, panel = left + _PANEL * min(_PANELS, len(metrics)), _TITLE + _ROW * len(rows) + _BELOW
    said = textwrap.wrap(command, int((width - 2 * _SIDE) * _LETTERS_PER_INCH), subsequent_indent="    ")
    height = panel * -(-len(metrics) // _PANELS) + _LINE * len(said) + 2 * _LINE
    style = {"font.size": _FONT, "text.color": _INK, "axes.edgecolor": _GRID, "axes.linewidth": 0.8}
    with matplotlib.rc_context(style):
        figure = Figure((width, height), dpi=_DPI, facecolor="white")
        FigureCanvasAgg(figure)
        for number, metric in enumerate(metrics):
            line, column = divmod(number, _PANELS)
            x, y = left + _PANEL * column, height - panel * line - _TITLE - _ROW * len(rows)
            place = x / width, y / height, (_PANEL - _SIDE) / width, _ROW * len(rows) / height
            _panel(figure.add_axes(place), rows, metric, names if column == 0 else [""] * len(rows))
            if column == 0:
                top = y + _ROW * len(rows) + 0.09
                figure.text((left - 0.09) / width, top / height, axes, ha="right", color=_MUTED)
        place = _SIDE / width, _LINE / height
        figure.text(*place, "\n".join(said), family="monospace", size=_SMALL, color=_MUTED)
        with written_whole(path) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})


def _panel(axes, rows: Sequence[Row], metric: str, names: Sequence[str]) -> None:
    for place, row in enumerate(rows):
        values = [value for run in row.values.values() if (value := run[metric]) is not None]
        mean, deviation, count = row.spread(metric)
        axes.plot(values, [place] * len(values), "o", color=_RUN, markersize=3, zorder=2)
        if count:
            bar = None if count == 1 else deviation
            axes.errorbar(mean, place, xerr=bar, fmt="o", color=_MEAN, markersize=6, capsize=3, linewidth=1.4, zorder=3)
    axes.set_title(METRICS[metric][0], loc="left", fontsize=_FONT, color=_INK)
    axes.set(ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)), yticklabels=names)
    axes.locator_params(axis="x", nbins=4)
    axes.tick_params(length=0, labelcolor=_INK)
    axes.tick_params(axis="x", labelsize=_SMALL + 1, labelcolor=_MUTED)
    axes.grid(True, axis="x", color=_GRID, linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_axisbelow(True)
