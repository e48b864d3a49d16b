"""Figures as inline SVG. Colours are the page's CSS variables, so a figure follows light and dark; equal data, equal text.

matplotlib is imported when the first figure is drawn: training starts without it, and runs without it.
"""

import importlib.util
import io
import os
import re
from typing import Callable, NamedTuple, Optional, Sequence

import numpy as np

from .geometry import CENTROID, REAL, SUPPORT

# Drawn at the width that a phone shows, so that text keeps its size there. Points, which the page takes as pixels.
_WIDTH, _HEIGHT, _MAP_HEIGHT = 400, 250, 380
_POINTS_PER_INCH = 72
# Room around the axes, in points: numbers at the left, the title above, below it numbers, a label and rows of the legend. Fixed,
# because measuring it takes as long as drawing does.
_LEFT, _RIGHT, _TOP, _BELOW, _LEGEND_ROW = 44, 12, 26, 42, 18
# Colours that matplotlib draws with, each replaced by a variable of the page (``templates/style.css``).
INK, MUTED, GRID, PAPER = "#010101", "#020202", "#030303", "#040404"
SERIES = tuple(f"#0500{i:02x}" for i in range(8))
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "card", **{c: f"s{i}" for i, c in enumerate(SERIES)}}
# Lines are told apart by marks and dashes as well.
_MARKS = "os^DvPX*"
_DASHES = ("-", "--", "-.", ":", (0, (6, 1)), (0, (1, 1)), "--", "-.")
# With more epochs than this, marks would hide the lines.
_MOST_MARKS = 25
_STYLE_FILE = os.path.join(os.path.dirname(__file__), "templates", "figures.mplstyle")
_LEGEND_COLUMNS = 3
# Rows of a timeline that can have a name beside them.
_MOST_ROW_NAMES = 14
# Fonts and styles are the page's own.
_NOT_FOR_THE_PAGE = re.compile(
    r"<metadata>.*?</metadata>|<defs>\s*<style[^>]*>.*?</style>\s*</defs>|font-family: [^;\"]*;?", re.DOTALL
)

Series = tuple[str, Sequence[float], Sequence[float]]  # name, x, y


class Figure(NamedTuple):
    """What the templates show: ``svg`` is markup, the others are text."""

    title: str
    svg: str
    caption: str = ""


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


class Figures:
    """Draws the figures of a page, and remembers each under its title: one whose data are those of the last page, as
    most are, is not drawn again. ``reuse`` keeps curves and bars for other data as well: drawing takes time."""

    def __init__(self) -> None:
        self.reuse = False
        self._drawn: dict = {}

    def draw(self, paint: Callable, title: str, *data, caption: str = "", **options) -> Figure:
        """A figure by :func:`lines`, :func:`bars`, :func:`sizes`, :func:`distances`, :func:`reliability`, :func:`timeline` or
        :func:`scatter`."""
        before, svg = self._drawn.get(title, (None, ""))
        if before is None or before != (data, options) and not (self.reuse and paint in (lines, bars)):
            svg = _draw(paint, *data, **options)
            self._drawn[title] = (data, options), svg
        return Figure(title, svg, caption)


def _draw(paint: Callable, *data, **options) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Drawing

    height = _MAP_HEIGHT if paint is scatter else _HEIGHT
    with matplotlib.rc_context({"svg.hashsalt": paint.__name__}, _STYLE_FILE):
        figure = Drawing(figsize=(_WIDTH / _POINTS_PER_INCH, height / _POINTS_PER_INCH))
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        paint(axes, *data, **options)
        if paint is not scatter:
            _make_room(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _embedded(buffer.getvalue())


def _embedded(svg: str) -> str:
    """The drawing alone, with the page's colours, and without names that another figure of the page may have as well."""
    svg = _NOT_FOR_THE_PAGE.sub("", svg[svg.index("<svg") :])
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img" aria-hidden="true">', svg, count=1
    )
    svg = re.sub("|".join(_VARIABLES), lambda found: f"var(--{_VARIABLES[found.group()]})", svg)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found.group() if found.group(1) in used else "", svg)
    svg = svg.replace("xlink:href", "href").replace("<defs>\n", "<defs>")
    # hundredths of a pixel are enough; text between tags stays, an axis may need a third place
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag.group()), svg)
    return re.sub(r"\s*\n\s*", "\n", svg).strip()


def lines(
    axes,
    series: Sequence[Series],
    ylabel: str,
    level: Optional[tuple[str, float]] = None,
    xlabel: str = "epoch",
    low: Optional[float] = None,
) -> None:
    """Curves; one with the name "" gets no legend.

    Args:
        level: name and height of a dotted line across.
        low: the lower end of the y axis; None leaves it to the data.
    """
    for i, (name, x, y) in enumerate(series):
        mark = _MARKS[i] if len(x) <= _MOST_MARKS else None
        axes.plot(x, y, color=SERIES[i], marker=mark, linestyle=_DASHES[i], label=name or "_", clip_on=False)
    if level is not None:
        axes.axhline(level[1], color=MUTED, linestyle=":", linewidth=1.5, label=level[0])
    if low is not None:
        axes.set_ylim(bottom=low)
    _label(axes, xlabel, ylabel, whole_numbers=True)


def bars(axes, parts: dict[str, Sequence[float]], epochs: Sequence[int], ylabel: str) -> None:
    """One bar per epoch, put together from the heights of every named part."""
    bottom = np.zeros(len(epochs))
    for i, (name, height) in enumerate(parts.items()):
        axes.bar(epochs, height, bottom=bottom, color=SERIES[i], label=name, width=0.8, edgecolor=PAPER, linewidth=0.5)
        bottom += height
    _label(axes, "epoch", ylabel, whole_numbers=True)


def sizes(axes, series: Sequence[tuple[str, Sequence[int]]]) -> None:
    """How many clusters there are of which size: an outline for each named list of sizes, the last one filled."""
    largest = max(max(values, default=1) for _, values in series)
    bins = np.arange(0.5, largest + 1.5, max(1, round(largest / 40)))
    bins = np.append(bins, bins[-1] + (bins[1] - bins[0] if len(bins) > 1 else 1))
    for i, (name, values) in enumerate(series):
        style = {"histtype": "step", "edgecolor": SERIES[1], "fill": False, "linewidth": 1.6}
        if i == len(series) - 1:
            style = {"histtype": "stepfilled", "color": SERIES[0], "alpha": 0.55}
        axes.hist(values, bins, label=name, **style)
    _label(axes, "images in the cluster", "clusters")


def distances(axes, histogram: dict, distance: str) -> None:
    """:func:`ise_plugin.report.geometry.distance_histogram` of the distance of that name, with eps as an upright line."""
    from matplotlib.ticker import NullLocator

    names = {"same": "same identity", "different": "different identities", "all": "pairs"}
    for i, name in enumerate(n for n in names if n in histogram):
        counts, edges = np.maximum(histogram[name], 1), histogram["edges"]
        axes.stairs(counts, edges, baseline=1, color=SERIES[i], alpha=0.45, fill=True, label=names[name])
        axes.stairs(counts, edges, baseline=None, color=SERIES[i], linestyle=_DASHES[i], linewidth=1.6)
    if histogram["eps"] is not None:
        axes.axvline(histogram["eps"], color=INK, linewidth=1.6, label=f"eps {histogram['eps']:.3g}")
    axes.set(xlim=(0, 1), yscale="log")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda count, _: f"{count:.0f}" if count < 1000 else f"{count / 1000:.0f}k")
    _label(axes, f"{distance} distance", "pairs")


def reliability(axes, bins: dict) -> None:
    """Of each bin of stated probabilities the share that is true: ``stated``, ``true`` and ``counts``, lists; the area of a mark
    is the share of all statements."""
    axes.plot([0, 1], [0, 1], color=MUTED, linestyle=":", linewidth=1.5, label="calibrated")
    shares = np.array(bins["counts"]) / max(1, sum(bins["counts"]))
    axes.plot(bins["stated"], bins["true"], color=SERIES[0], linewidth=1.2, label="pairs")
    axes.scatter(bins["stated"], bins["true"], s=12 + 300 * shares, color=SERIES[0], alpha=0.7, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    _label(axes, "stated probability", "share that is true")


def timeline(axes, bars: Sequence[tuple[str, Sequence[tuple[str, float, float]]]], names: Sequence[str]) -> None:
    """A row for each name, the first at the top; of each named series (of whom, from, to) a bar."""
    place = {name: row for row, name in enumerate(names)}
    for i, (label, spans) in enumerate(bars):
        rows, starts, widths = [place[n] for n, _, _ in spans], [a for _, a, _ in spans], [b - a for _, a, b in spans]
        color = SERIES[i % len(SERIES)]
        axes.barh(rows, widths, left=starts, color=color, label=label, height=0.7, edgecolor=PAPER, linewidth=0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    step = -(-len(names) // _MOST_ROW_NAMES)
    axes.set_yticks(range(0, len(names), step), names[::step])
    _label(axes, "seconds", "person", whole_numbers=True)


def scatter(axes, points: dict) -> None:
    """:func:`ise_plugin.report.geometry.placed`: circles are real samples (hollow: outliers), diamonds centroids, crosses
    support samples; colour and number are the group."""
    places, group = np.asarray(points["places"]), np.asarray(points["group"])
    kind, outlier = np.asarray(points["kind"]), np.asarray(points["outlier"])
    for number in np.unique(group):
        color = SERIES[number % len(SERIES)]
        draw = lambda where, **style: axes.scatter(*places[(group == number) & where].T, **style)  # noqa: E731
        draw(kind == SUPPORT, marker="x", s=22, color=color, linewidths=1.1, alpha=0.8)
        draw((kind == REAL) & ~outlier, marker="o", s=34, color=color, edgecolors=PAPER, linewidths=0.6)
        draw((kind == REAL) & outlier, marker="o", s=30, facecolors="none", edgecolors=color, linewidths=1.2)
        draw(kind == CENTROID, marker="D", s=64, color=color, edgecolors=INK, linewidths=1.4)
        middle = np.median(places[(group == number) & (kind == REAL)], axis=0)
        style = {"weight": "bold", "color": INK, "fontsize": 12}
        axes.annotate(str(number + 1), middle, xytext=(7, 7), textcoords="offset points", **style)
    axes.grid(False)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.margins(0.06)


def _label(axes, xlabel: str, ylabel: str, whole_numbers: bool = False) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(xlabel)
    axes.set_title(ylabel, loc="left", fontsize=12, color=MUTED)  # beside the axis it would take width
    if whole_numbers:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))


def _make_room(axes) -> None:
    """Places the axes, and the legend below them."""
    handles, _ = axes.get_legend_handles_labels()
    rows = -(-len(handles) // _LEGEND_COLUMNS)
    bottom = _BELOW + rows * _LEGEND_ROW
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - bottom
    axes.set_position((_LEFT / _WIDTH, bottom / _HEIGHT, width / _WIDTH, height / _HEIGHT))
    if handles:
        corner = _RIGHT / _WIDTH, 0
        axes.figure.legend(handles=handles, loc="lower left", ncols=_LEGEND_COLUMNS, bbox_to_anchor=corner)
