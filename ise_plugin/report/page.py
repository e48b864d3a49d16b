"""The report as one HTML page that needs nothing else. What it looks like is in ``templates``; here is what it says."""

import os
from functools import lru_cache
from typing import Any, Optional

from ..utils.files import write_atomically
from . import figures
from .figures import Figure, Figures
from .geometry import placed
from .run_files import REPORT_NAME, Run, read_run
from .troubles import find_troubles

STAGES = ("extraction", "clustering", "training", "evaluation", "report")
_METHOD_NAMES = {"tsne": "t-SNE", "opentsne": "openTSNE", "umap": "UMAP"}
_METRICS = ("mAP", "Rank-1", "mINP")
# Tiles of the summary: logged name, title, format.
_LABEL_TILES = (
    ("labels/outlier_share", "Outliers", "{:.1%}"),
    ("labels/ari", "Adjusted Rand index", "{:.3f}"),
    ("labels/split_identities", "Split identities", "{:.0%}"),
    ("labels/mixed_clusters", "Mixed clusters", "{:.0%}"),
    ("labels/stability", "Labels as before", "{:.3f}"),
)
# Figures of curves: title, what y is, lower end of y, caption, names of the curves with what was logged.
_SHARES = {"outliers": "labels/outlier_share", "largest cluster": "labels/largest_share"}
_AGREEMENT = {"ARI": "labels/ari", "NMI": "labels/nmi", "purity": "labels/purity"}
_BCUBED = {f"B-cubed {part}": f"labels/bcubed_{part.lower()}" for part in ("precision", "recall", "F")}
_ERRORS = {"split identities": "labels/split_identities", "mixed clusters": "labels/mixed_clusters"}
_MINORITY = {"minority images": "labels/minority_images"}
_BLIND = {"as before (ARI)": "labels/stability", "silhouette": "labels/silhouette"}
_COSINES = {"own centroid": "labels/similarity_inside", "nearest other": "labels/similarity_to_nearest_other"}
_ON_AGREEMENT = "of the images with a cluster; the V-measure equals NMI"
_ON_ERRORS = "sub-cluster error: identities in several clusters; mixed-cluster error: clusters of several identities"
_ON_BLIND = "agreement with the labels before, silhouette, mean cosine with the own and the nearest other centroid"
_CURVES = (
    ("Degree of extension", "degree", 0, "", {"": "degree"}),
    ("Clusters", "clusters", 0, "", {"clusters": "clusters"}),
    ("Shares of all images", "share of the images", 0, "", _SHARES),
    ("Agreement with true identities", "1 = equal", None, _ON_AGREEMENT, {**_AGREEMENT, **_BCUBED}),
    ("Errors of the labels", "share", 0, _ON_ERRORS, {**_ERRORS, **_MINORITY}),
    ("Without identities", "", None, _ON_BLIND, {**_BLIND, **_COSINES}),
)
_LOSS_NAMES = {"loss_se": "sample extension", "loss_lp": "label preserving"}
# Columns of the table of epochs: logged name, heading, format.
_COLUMNS = (
    ("epoch", "epoch", "{:.0f}"),
    ("clusters", "clusters", "{:.0f}"),
    ("labels/outlier_share", "outliers", "{:.1%}"),
    ("labels/stability", "as before", "{:.3f}"),
    ("labels/silhouette", "silhouette", "{:.3f}"),
    ("labels/ari", "ARI", "{:.3f}"),
    ("labels/nmi", "NMI", "{:.3f}"),
    ("labels/purity", "purity", "{:.3f}"),
    ("labels/bcubed_f", "B-cubed F", "{:.3f}"),
    ("labels/split_identities", "split identities", "{:.1%}"),
    ("labels/pieces_per_split_identity", "pieces", "{:.2f}"),
    ("labels/mixed_clusters", "mixed clusters", "{:.1%}"),
    ("labels/minority_images", "in the minority", "{:.1%}"),
    ("total_loss", "loss", "{:.3f}"),
    ("degree", "degree", "{:.3f}"),
    ("lr", "learning rate", "{:.1e}"),
    ("mAP", "mAP %", "{:.2f}"),
    ("Rank-1", "rank-1 %", "{:.2f}"),
)


def write_report(folder: str) -> str:
    """Builds the page of a run from its files, again; returns its path.

    Raises:
        UsageError: the folder holds no run, or cannot be written to.
    """
    path = os.path.join(folder, REPORT_NAME)
    write_atomically(path, build_page(read_run(folder)).encode())
    return path


def build_page(run: Run, arrange_last: bool = True, drawn_before: Optional[Figures] = None) -> str:
    """The whole report. What the run does not have is named in its place.

    Args:
        run: as :func:`ise_plugin.report.run_files.read_run` gives it.
        arrange_last: whether the last labelling of an unfinished run gets a map although none was planned; takes a second.
        drawn_before: the figures of the page before this one.
    """
    drawn = None
    if run.config.get("ISE.REPORT.PICTURES", True) and figures.available():
        drawing = drawn_before or Figures()
        drawn = {
            "curves": _curves(run, drawing),
            "labels": _labels(run, drawing),
            "maps": _maps(run, drawing, arrange_last),
            "retrievals": _retrievals(run, drawing),
        }
    columns = [column for column in _COLUMNS if run.values(column[0])[0]]
    return render(
        "report.html",
        run=run,
        facts={**dict.fromkeys(("command", "base", "differs", "environment", "identities")), **run.facts},
        state=_state(run),
        remarks=[*find_troubles(run).values(), *run.facts.get("problems", []), *run.problems],
        tiles=[*_metric_tiles(run), *_label_tiles(run), *_time_tile(run)],
        unknown=_what_is_missing(run),
        drawn=drawn,
        map_method=_METHOD_NAMES.get(method := run.config.get("ISE.REPORT.MAP_METHOD", "tsne"), method),
        columns=[title for _, title, _ in columns],
        epochs=[
            [form.format(entry[name]) if name in entry else "" for name, _, form in columns] for entry in run.history
        ],
    )


def render(template: str, **content: Any) -> str:
    """A page as text that UTF-8 can hold; whatever the content is, it is shown and never markup."""
    # names of files may hold what JSON and encodings do not: that becomes a question mark
    return _templates().get_template(template).render(content).encode("utf-8", "replace").decode()


@lru_cache(maxsize=1)
def _templates() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # late: training starts without it
    from markupsafe import Markup, escape

    def breakable(text: object) -> Markup:
        dots = escape(text).replace(".", Markup(".<wbr>"))
        return dots.replace("_", Markup("_<wbr>"))

    loader = PackageLoader(__package__)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["breakable"] = breakable
    return environment


def _state(run: Run) -> str:
    done, all_epochs = run.epochs_done, run.epochs
    if not run.history:
        progress = "nothing was logged"
    elif done >= all_epochs:
        progress = f"finished, {all_epochs} epoch{'s' if all_epochs > 1 else ''}"
    else:
        progress = f"epoch {done} of {all_epochs} done; running or interrupted"
    parts = [progress, ", ".join(run.config.get("DATASETS.NAMES") or [])]
    parts.append(f"{run.facts['images']:,} training images" if "images" in run.facts else "")
    return " · ".join(part for part in parts if part)


# ---- summary


def _what_is_missing(run: Run) -> list:
    missing = []
    if not run.results.get("final"):
        since = "Not evaluated since training began." if run.results.get("initial") else "No evaluation yet."
        empty = run.config.get("DATASETS.TESTS") == []
        missing.append("No evaluation: DATASETS.TESTS is empty." if empty else since)
    elif not run.results.get("initial"):
        missing.append("Not evaluated before training: ISE.EVAL_BEFORE_TRAIN is False.")
    if "identities" in run.facts and not run.facts["identities"]:
        missing.append("True identities of the training images are not known: no comparison with them.")
    if not run.facts:
        missing.append("Recorded without RunReport in ISE.HOOKS: no pictures, and no quality of the labels.")
    return missing


def _tile(label: str, value: str, unit: str = "", note: str = "") -> dict:
    return {"label": label, "value": [(value, unit)], "note": note}


def _metric_tiles(run: Run) -> list:
    before, after = run.metrics("initial"), run.metrics("final")
    tiles = []
    for name in _METRICS:
        if name in before and name in after:
            note = f"from {before[name]:.1f} ({after[name] - before[name]:+.1f})"
        elif name in before or name in after:
            note = "before training: not known" if name in after else "before training"
        else:
            continue
        value = after.get(name, before.get(name))
        tiles.append(_tile(name.replace("Rank", "rank"), f"{value:.1f}", "%", note))
    return tiles


def _label_tiles(run: Run) -> list:
    tiles = []
    count, truth = run.last("clusters"), run.facts.get("identities")
    if count is not None:
        tiles.append(_tile("Clusters", f"{count:.0f}", note=f"for {truth} identities" if truth else ""))
    for name, title, form in _LABEL_TILES:
        if values := run.values(name)[1]:
            note = f"from {form.format(values[0])}" if len(values) > 1 else ""
            tiles.append(_tile(title, form.format(values[-1]), note=note))
    return tiles


def _time_tile(run: Run) -> list:
    if not run.results.get("seconds"):
        return []
    minutes, seconds = divmod(round(run.results["seconds"]), 60)
    hours, minutes = divmod(minutes, 60)
    value = [(minutes, "min"), (seconds, "s")] if minutes else [(seconds, "s")]
    if hours:
        value = [(hours, "h"), (minutes, "min")]
    return [{"label": "Time", "value": value, "note": "training and evaluation"}]


# ---- figures


def _curves(run: Run, drawing: Figures) -> list[Figure]:
    def lines(title, ylabel, low, caption, names: dict) -> list[Figure]:
        series = [(label, *run.values(name)) for label, name in names.items()]
        series = [one for one in series if one[1]]
        level = ("identities", float(truth)) if truth and title == "Clusters" else None
        return [drawing.lines(title, series, ylabel, level, low=low, caption=caption)] if series else []

    truth = run.facts.get("identities")
    parts = sorted({name for entry in run.history for name in entry if name.startswith("loss_")})
    losses = {"total": "total_loss", **{_LOSS_NAMES.get(name, name): name for name in parts}}
    found = lines("Losses", "", 0, "at the end of each epoch", losses)
    for curve in _CURVES:
        found += lines(*curve)
    return found + _metrics(run, drawing) + _times(run, drawing)


def _metrics(run: Run, drawing: Figures) -> list[Figure]:
    before = run.metrics("initial")
    series = []
    for name in ("mAP", "Rank-1"):
        names = name, *(f"{test_set}/{name}" for test_set in run.config.get("DATASETS.TESTS") or [])
        epochs, values = next((run.values(n) for n in names if run.values(n)[0]), ([], []))
        if name in before:
            epochs, values = [0, *epochs], [before[name], *values]
        if epochs:
            series.append((name.replace("Rank", "rank"), epochs, values))
    caption = "epoch 0 is before training"
    return [drawing.lines("Retrieval", series, "percent", low=0, caption=caption)] if series else []


def _times(run: Run, drawing: Figures) -> list[Figure]:
    timed = [entry for entry in run.history if any(f"{stage}_time" in entry for stage in STAGES)]
    seconds = {stage: [entry.get(f"{stage}_time", 0.0) for entry in timed] for stage in STAGES}
    kept = {stage: row for stage, row in seconds.items() if any(row)}
    epochs, caption = [entry["epoch"] for entry in timed], "the report's share is that of the epoch before"
    return [drawing.bars("Time by stage", list(kept), epochs, list(kept.values()), "seconds", caption)] if kept else []


def _labels(run: Run, drawing: Figures) -> list[Figure]:
    labellings = [run.labellings[epoch] for epoch in sorted(run.labellings)]
    found = []
    if sizes := [(f"epoch {one['epoch']}", one["sizes"]) for one in labellings if one.get("sizes")]:
        shown = [sizes[0], sizes[-1]] if len(sizes) > 1 else sizes
        found.append(drawing.sizes("Sizes of the clusters", shown, "first and last labelling"))
    name = run.config.get("ISE.PSEUDO_LABEL.DISTANCE", "Jaccard")
    caption = "of a sample of images to all others with a neighbour in common; pairs left of eps are joined"
    for one in labellings:
        if one.get("distances"):
            found.append(drawing.distances(f"Distances, epoch {one['epoch']}", one["distances"], name, caption))
    return found


def _maps(run: Run, drawing: Figures, arrange_last: bool) -> list[Figure]:
    found = []
    for epoch in sorted(run.labellings):
        points = run.labellings[epoch].get("map") or {}
        if "places" not in points and epoch == max(run.labellings) and arrange_last:
            points = placed(points, run.config.get("ISE.REPORT.MAP_METHOD", "tsne")) or {}
        if "places" in points:
            found.append(drawing.map(f"Epoch {epoch}", points, f"degree of extension {points['degree']:.3f}"))
    return found


def _retrievals(run: Run, drawing: Figures) -> list[dict]:
    """``data_set``, ``cmc`` (a figure or None) and ``rows`` of every test set that has one of the two."""
    found = []
    for name, stages in run.retrieval.items():
        after, before = stages.get("after") or {}, stages.get("before") or {}
        series = [
            (title, list(range(1, len(stage["cmc"]) + 1)), [100 * share for share in stage["cmc"]])
            for title, stage in (("after training" if before else "so far", after), ("before", before))
            if stage.get("cmc")
        ]
        ylabel = "percent of the queries with a match"
        cmc = drawing.lines(f"CMC, {name}", series, ylabel, xlabel="rank") if series else None
        rows = after.get("rows") or before.get("rows") or []
        if cmc or rows:
            found.append({"data_set": name, "cmc": cmc, "rows": rows})
    return found
