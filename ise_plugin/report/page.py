"""The report as one HTML page that needs nothing else. What it says is in ``templates``; here is what it draws."""

import os
from functools import lru_cache
from typing import Any, Optional

from ..utils.files import write_atomically
from . import figures
from .figures import Figure, Figures
from .geometry import placed
from .run_files import REPORT_NAME, Run, find_troubles, read_run

STAGES = ("extraction", "clustering", "training", "evaluation", "report")
# Figures of curves: title, what y is, lower end of y, caption, names of the curves with what was logged.
_SHARES = {"outliers": "labels/outlier_share", "largest cluster": "labels/largest_share"}
_PURITY = {"estimated purity": "labels/estimated_purity", "true purity": "labels/purity"}
_AGREEMENT = {"ARI": "labels/ari", "NMI": "labels/nmi", "purity": "labels/purity"}
_BCUBED = {f"B-cubed {part}": f"labels/bcubed_{part.lower()}" for part in ("precision", "recall", "F")}
_ERRORS = {"split identities": "labels/split_identities", "mixed clusters": "labels/mixed_clusters"}
_MINORITY = {"minority images": "labels/minority_images"}
_BLIND = {"as before (ARI)": "labels/stability", "silhouette": "labels/silhouette"}
_COSINES = {"own centroid": "labels/similarity_inside", "nearest other": "labels/similarity_to_nearest_other"}
_CAMERAS = {
    "clusters": "labels/one_camera",
    "by chance": "labels/one_camera_by_chance",
    "identities": "labels/one_camera_true",
}
_ON_CAMERAS = "clusters with images of one camera alone; by chance: cameras dealt out anew in the same numbers"
_ON_AGREEMENT = "of the images with a cluster; the V-measure equals NMI"
_ON_ERRORS = "sub-cluster error: identities in several clusters; mixed-cluster error: clusters of several identities"
_ON_PURITY = "of the images in a group, the share of its most frequent person; estimated without identities"
_ON_BLIND = "agreement with the labels before, silhouette, mean cosine with the own and the nearest other centroid"
_CURVES = (
    ("Degree of extension", "degree", 0, "", {"": "degree"}),
    ("Clusters", "clusters", 0, "", {"clusters": "clusters"}),
    ("Shares of all images", "share of the images", 0, "", _SHARES),
    ("Purity", "share", 0, _ON_PURITY, _PURITY),
    ("Agreement with true identities", "1 = equal", None, _ON_AGREEMENT, {**_AGREEMENT, **_BCUBED}),
    ("Errors of the labels", "share", 0, _ON_ERRORS, {**_ERRORS, **_MINORITY}),
    ("Clusters in one camera", "share of the clusters", 0, _ON_CAMERAS, _CAMERAS),
    ("Without identities", "", None, _ON_BLIND, {**_BLIND, **_COSINES}),
)
_LOSS_NAMES = {
    "loss_se": "sample extension",
    "loss_lp": "label preserving",
    "loss_intra": "within cameras",
    "loss_inter": "across cameras",
}


def write_report(folder: str) -> str:
    """Builds the page of a run from its files, again; returns its path."""
    path = os.path.join(folder, REPORT_NAME)
    write_atomically(path, build_page(read_run(folder)).encode())
    return path


def build_page(run: Run, arrange_last: bool = True, drawn_before: Optional[Figures] = None) -> str:
    """The whole report. What the run does not have is named in its place.

    Args:
        run: of :func:`read_run`.
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
    return render(
        "report.html",
        run=run,
        facts={**dict.fromkeys(("command", "base", "differs", "environment", "identities")), **run.facts},
        remarks=[*find_troubles(run).values(), *run.facts.get("problems", []), *run.problems],
        drawn=drawn,
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
        return escape(text).replace(".", Markup(".<wbr>")).replace("_", Markup("_<wbr>"))

    tidy = {"trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=PackageLoader(__package__), autoescape=True, undefined=StrictUndefined, **tidy)
    environment.filters["breakable"] = breakable
    return environment


def _curves(run: Run, drawing: Figures) -> list[Figure]:
    truth = run.facts.get("identities")
    parts = sorted(name for name in run.logged if name.startswith("loss_"))
    losses = {"total": "total_loss", **{_LOSS_NAMES.get(name, name): name for name in parts}}
    found = []
    for title, ylabel, low, caption, names in (("Losses", "", 0, "at the end of each epoch", losses), *_CURVES):
        if series := [(label, *run.values(name)) for label, name in names.items() if name in run.logged]:
            level = ("identities", float(truth)) if truth and title == "Clusters" else None
            found.append(drawing.draw(figures.lines, title, series, ylabel, level=level, low=low, caption=caption))
    return found + _metrics(run, drawing) + _times(run, drawing)


def _metrics(run: Run, drawing: Figures) -> list[Figure]:
    before = run.metrics("initial")
    series = []
    for name in ("mAP", "Rank-1"):
        names = name, *(f"{test_set}/{name}" for test_set in run.config.get("DATASETS.TESTS") or [])
        epochs, values = next((run.values(n) for n in names if n in run.logged), ([], []))
        if name in before:
            epochs, values = [0, *epochs], [before[name], *values]
        if epochs:
            series.append((name.replace("Rank", "rank"), epochs, values))
    caption = "epoch 0 is before training"
    return [drawing.draw(figures.lines, "Retrieval", series, "percent", low=0, caption=caption)] if series else []


def _times(run: Run, drawing: Figures) -> list[Figure]:
    timed = [entry for entry in run.history if any(f"{stage}_time" in entry for stage in STAGES)]
    seconds = {stage: [entry.get(f"{stage}_time", 0.0) for entry in timed] for stage in STAGES}
    kept = {stage: row for stage, row in seconds.items() if any(row)}
    epochs, caption = [entry["epoch"] for entry in timed], "the report's share is that of the epoch before"
    return [drawing.draw(figures.bars, "Time by stage", kept, epochs, "seconds", caption=caption)] if kept else []


def _labels(run: Run, drawing: Figures) -> list[Figure]:
    labellings = [run.labellings[epoch] for epoch in sorted(run.labellings)]
    found = []
    if series := [(f"epoch {one['epoch']}", one["sizes"]) for one in labellings if one.get("sizes")]:
        shown, caption = series[:1] + series[1:][-1:], "first and last labelling"
        found.append(drawing.draw(figures.sizes, "Sizes of the clusters", shown, caption=caption))
    name = run.config.get("ISE.PSEUDO_LABEL.DISTANCE", "Jaccard")
    to_all = "of a sample of images to all others less than 1 apart; pairs left of eps are joined"
    for one in labellings:
        if counts := one.get("distances"):
            title = f"Distances, epoch {one['epoch']}"
            found.append(drawing.draw(figures.distances, title, counts, name, caption=to_all))
        if bins := one.get("reliability"):
            whole = sum(bins["counts"])
            caption = f"{whole} pairs of an image and one near; calibration error (ECE) {bins['error']:.3f}"
            found.append(drawing.draw(figures.reliability, "Reliability of probabilities", bins, caption=caption))
    return found


def _maps(run: Run, drawing: Figures, arrange_last: bool) -> list[Figure]:
    found = []
    for epoch in sorted(run.labellings):
        points = run.labellings[epoch].get("map") or {}
        if "places" not in points and epoch == max(run.labellings) and arrange_last:
            points = placed(points, run.config.get("ISE.REPORT.MAP_METHOD", "tsne")) or {}
        if "places" in points:
            caption = f"degree of extension {points['degree']:.3f}"
            found.append(drawing.draw(figures.scatter, f"Epoch {epoch}", points, caption=caption))
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
        cmc = drawing.draw(figures.lines, f"CMC, {name}", series, ylabel, xlabel="rank") if series else None
        rows = after.get("rows") or before.get("rows") or []
        if cmc or rows:
            found.append({"data_set": name, "cmc": cmc, "rows": rows})
    return found
