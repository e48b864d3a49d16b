"""The report as one HTML page that needs nothing else: no script, no font, no request."""

from typing import Iterable, Optional, Sequence

from . import figures
from .advice import advice
from .embedding_map import placed
from .pictures import escaped
from .run_files import Run
from .style import CSS

# Everything that would leave the file or run is forbidden to the browser, whatever the page holds.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_METHOD_NAMES = {"tsne": "t-SNE", "opentsne": "openTSNE", "umap": "UMAP"}
STAGES = ("extraction", "clustering", "training", "evaluation", "report")
_SVG_MARKS = {
    "real": '<circle cx="7" cy="7" r="5" fill="var(--s0)"/>',
    "outlier": '<circle cx="7" cy="7" r="5" fill="none" stroke="var(--s0)" stroke-width="1.6"/>',
    "centroid": '<path d="M7 0 14 7 7 14 0 7Z" fill="var(--s0)" stroke="var(--ink)" stroke-width="1.6"/>',
    "support": '<path d="M2 2 12 12M12 2 2 12" stroke="var(--s0)" stroke-width="1.8"/>',
}
_METRICS = ("mAP", "Rank-1", "mINP")
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


def build_page(run: Run, arrange_last: bool = True) -> str:
    """The whole report. What the run does not have is named in its place.

    Args:
        run: as :func:`ise_plugin.report.run_files.read_run` gives it.
        arrange_last: whether the last labelling of an unfinished run gets a map although none was planned; takes a second.
    """
    pictures = run.config.get("ISE.REPORT.PICTURES", True) and figures.available()
    sections = [
        ("Summary", _summary(run)),
        ("Curves", _curves(run) if pictures else _no_pictures(run)),
        ("Labels", _labels(run) if pictures else ""),
        ("Embeddings", _maps(run, arrange_last) if pictures else ""),
        ("Clusters", _sheets(run) if pictures else ""),
        ("Retrieval", _retrieval(run, pictures)),
        ("Numbers", _numbers(run)),
        ("Configuration", _configuration(run)),
    ]
    sections = [(title, body) for title, body in sections if body]
    return document(run.name, _state(run), sections)


def document(name: str, state: str, sections: Sequence[tuple[str, str]]) -> str:
    """A page: heading, a line on its state (text), and sections of markup with a list of them at the top."""
    links = "".join(f'<a href="#{title.lower()}">{title}</a>' for title, _ in sections)
    bodies = "".join(f'<section id="{title.lower()}"><h2>{title}</h2>{body}</section>\n' for title, body in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escaped(name)} – ISE</title><style>{CSS}</style></head>\n<body><main>"
        f'<header><h1>{escaped(name)}</h1><div class="muted">{escaped(state)}</div><nav>{links}</nav></header>\n'
        f"{bodies}</main></body></html>\n"
    )


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


def _summary(run: Run) -> str:
    warnings = advice(run.history, run.epochs, run.config.get("SOLVER.BASE_LR"))
    remarks = [*warnings.values(), *run.facts.get("problems", []), *run.problems]
    tiles = [*_metric_tiles(run), *_label_tiles(run)]
    seconds = run.results.get("seconds")
    if seconds:
        tiles.append(_tile("Time", _duration(seconds), "training and evaluation"))
    missing = "" if tiles else _missing("Nothing has been measured yet.")
    return missing + _notes(remarks) + f'<div class="tiles">{"".join(tiles)}</div>' + _missing(*_what_is_missing(run))


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
        missing.append("Recorded without ISE.REPORT.ENABLED: no pictures, and no quality of the labels.")
    return missing


def _metric_tiles(run: Run) -> list:
    before, after = _first_set(run.results.get("initial")), _first_set(run.results.get("final"))
    tiles = []
    for name in _METRICS:
        if name in before and name in after:
            note = f"from {before[name]:.1f} ({after[name] - before[name]:+.1f})"
        elif name in before or name in after:
            note = "before training: not known" if name in after else "before training"
        else:
            continue
        value = after.get(name, before.get(name))
        tiles.append(_tile(name.replace("Rank", "rank"), f"{value:.1f}<small> %</small>", note))
    return tiles


def _label_tiles(run: Run) -> list:
    tiles = []
    count, truth = run.last("clusters"), run.facts.get("identities")
    if count is not None:
        tiles.append(_tile("Clusters", f"{count:.0f}", f"for {truth} identities" if truth else ""))
    for name, title, form in (
        ("labels/outlier_share", "Outliers", "{:.1%}"),
        ("labels/ari", "Adjusted Rand index", "{:.3f}"),
        ("labels/split_identities", "Split identities", "{:.0%}"),
        ("labels/mixed_clusters", "Mixed clusters", "{:.0%}"),
        ("labels/stability", "Labels as before", "{:.3f}"),
    ):
        values = run.values(name)[1]
        if values:
            note = f"from {form.format(values[0])}" if len(values) > 1 else ""
            tiles.append(_tile(title, form.format(values[-1]), note))
    return tiles


def _tile(label: str, value: str, note: str) -> str:
    """``value`` is markup, the others are text."""
    return (
        f'<div class="tile"><div class="label">{escaped(label)}</div><div class="value">{value}</div>'
        f'<div class="note">{escaped(note)}</div></div>'
    )


# ---- curves


def _curves(run: Run) -> str:
    parts = [_loss_figure(run), _lines(run, "Degree of extension", [("", "degree")], "degree", low=0)]
    truth = run.facts.get("identities")
    level = ("identities", float(truth)) if truth else None
    parts.append(_lines(run, "Clusters", [("clusters", "clusters")], "clusters", level=level, low=0))
    shares = [("outliers", "labels/outlier_share"), ("largest cluster", "labels/largest_share")]
    parts.append(_lines(run, "Shares of all images", shares, "share of the images", low=0))
    agreement = [
        ("ARI", "labels/ari"),
        ("NMI", "labels/nmi"),
        ("purity", "labels/purity"),
        ("B-cubed precision", "labels/bcubed_precision"),
        ("B-cubed recall", "labels/bcubed_recall"),
        ("B-cubed F", "labels/bcubed_f"),
    ]
    caption = "of the images with a cluster; the V-measure equals NMI"
    parts.append(_lines(run, "Agreement with true identities", agreement, "1 = equal", caption=caption))
    errors = [
        ("split identities", "labels/split_identities"),
        ("mixed clusters", "labels/mixed_clusters"),
        ("minority images", "labels/minority_images"),
    ]
    caption = "sub-cluster error: identities in several clusters; mixed-cluster error: clusters of several identities"
    parts.append(_lines(run, "Errors of the labels", errors, "share", low=0, caption=caption))
    blind = [
        ("as before (ARI)", "labels/stability"),
        ("silhouette", "labels/silhouette"),
        ("own centroid", "labels/similarity_inside"),
        ("nearest other", "labels/similarity_to_nearest_other"),
    ]
    caption = "agreement with the labels before, silhouette, mean cosine with the own and the nearest other centroid"
    parts.append(_lines(run, "Without identities", blind, "", caption=caption))
    parts += [_metric_figure(run), _time_figure(run)]
    drawn = "".join(part for part in parts if part)
    return f'<div class="grid">{drawn}</div>' if drawn else _missing("No epoch has been logged.")


def _lines(run: Run, title: str, names: Sequence, ylabel: str, level=None, low=None, caption: str = "") -> str:
    series = [(label, *run.values(name)) for label, name in names]
    series = [one for one in series if one[1]]
    return _figure(title, figures.line_figure(series, ylabel, level, low=low), caption) if series else ""


def _loss_figure(run: Run) -> str:
    parts = sorted({name for entry in run.history for name in entry if name.startswith("loss_")})
    titles = {"loss_se": "sample extension", "loss_lp": "label preserving"}
    names = [("total", "total_loss")] + [(titles.get(name, name), name) for name in parts]
    return _lines(run, "Losses", names, "", low=0, caption="at the end of each epoch")


def _metric_figure(run: Run) -> str:
    before = _first_set(run.results.get("initial"))
    series = []
    for name in ("mAP", "Rank-1"):
        found = [
            n for n in (name, *(f"{s}/{name}" for s in run.config.get("DATASETS.TESTS") or [])) if run.values(n)[0]
        ]
        epochs, values = run.values(found[0]) if found else ([], [])
        if name in before:
            epochs, values = [0, *epochs], [before[name], *values]
        if epochs:
            series.append((name.replace("Rank", "rank"), epochs, values))
    if not series:
        return ""
    return _figure("Retrieval", figures.line_figure(series, "percent", low=0), "epoch 0 is before training")


def _time_figure(run: Run) -> str:
    epochs = [entry["epoch"] for entry in run.history if any(f"{stage}_time" in entry for stage in STAGES)]
    known = {entry["epoch"]: entry for entry in run.history}
    rows = [[known[epoch].get(f"{stage}_time", 0.0) for epoch in epochs] for stage in STAGES]
    kept = [(stage, row) for stage, row in zip(STAGES, rows) if any(row)]
    if not kept:
        return ""
    svg = figures.stacked_bars([stage for stage, _ in kept], epochs, [row for _, row in kept], "seconds")
    return _figure("Time by stage", svg, "the report's share is that of the epoch before")


def _no_pictures(run: Run) -> str:
    if run.config.get("ISE.REPORT.PICTURES", True):
        return _missing(
            "No pictures: matplotlib is not installed (pip install matplotlib), then: python tools/report.py RUN"
        )
    return _missing("No pictures: ISE.REPORT.PICTURES is False.")


# ---- labels


def _labels(run: Run) -> str:
    labellings = [run.labellings[epoch] for epoch in sorted(run.labellings)]
    sizes = [(f"epoch {one['epoch']}", one["sizes"]) for one in labellings if one.get("sizes")]
    parts = []
    if sizes:
        shown = [sizes[0], sizes[-1]] if len(sizes) > 1 else sizes
        parts.append(_figure("Sizes of the clusters", figures.size_histogram(shown), "first and last labelling"))
    for one in labellings:
        if one.get("distances"):
            caption = "of a sample of images to all others with a neighbour in common; pairs left of eps are joined"
            title = f"Distances, epoch {one['epoch']}"
            parts.append(_figure(title, figures.distance_figure(one["distances"]), caption))
    if not parts:
        return _missing("No clusters were found, or the labelling was not recorded.")
    return f'<div class="grid">{"".join(parts)}</div>'


def _maps(run: Run, arrange_last: bool) -> str:
    method = run.config.get("ISE.REPORT.MAP_METHOD", "tsne")
    drawn = []
    last = max(run.labellings, default=0)
    for epoch in sorted(run.labellings):
        points = run.labellings[epoch].get("map") or {}
        if "places" not in points and epoch == last and arrange_last:
            points = placed(points, method) or {}
        if "places" in points:
            caption = f"degree of extension {points['degree']:.3f}"
            drawn.append(_figure(f"Epoch {epoch}", figures.map_figure(points), caption))
    if not drawn:
        return _missing("No map: no labelling with clusters was recorded.")
    kind = "identities" if run.facts.get("identities") else "clusters of the first labelling"
    arranged = _METHOD_NAMES.get(method, escaped(method))
    text = f"The {kind} that lie closest together at the start, by colour and number; arranged by {arranged}."
    names = ("real", "real sample"), ("outlier", "outlier"), ("centroid", "centroid"), ("support", "support sample")
    legend = "".join(f'<li><svg viewBox="0 0 14 14" aria-hidden="true">{_SVG_MARKS[k]}</svg>{t}</li>' for k, t in names)
    return f'<p class="muted">{text}</p><ul class="legend">{legend}</ul><div class="grid">{"".join(drawn)}</div>'


# ---- sheets and retrieval


def _sheets(run: Run) -> str:
    cards = [
        f'<div class="card"><h3>{escaped(sheet["title"])}</h3><p class="muted">{escaped(sheet["caption"])}</p>'
        + (
            f'<div class="rows">{"".join(map(_row, sheet["rows"]))}</div>'
            if sheet["rows"]
            else _missing("There are none.")
        )
        + "</div>"
        for sheet in run.sheets
    ]
    return f'<div class="sheets pairs">{"".join(cards)}</div>' if cards else _missing("No clusters to show.")


def _row(row: dict) -> str:
    query = _picture(row["query"], "query plain") if "query" in row else ""
    pictures = "".join(_picture(one, _look(one)) for one in row["images"])
    return f'<div class="row"><h4>{escaped(row["title"])}</h4><ul class="pictures">{query}{pictures}</ul></div>'


def _look(one: dict) -> str:
    if not one["mark"]:
        return "plain"
    return "good" if one["good"] else "bad"


def _picture(one: dict, look: str) -> str:
    name = escaped(one["name"])
    source = one.get("src") or ""
    shown = "no picture"
    if source.startswith("data:image/jpeg;base64,"):
        shown = f'<img src="{escaped(source)}" alt="{name}" loading="lazy">'
    return (
        f'<li class="{look}" title="{name}"><span class="frame">{shown}</span>'
        f"<b>{escaped(one['mark']) or '&nbsp;'}</b></li>"
    )


def _retrieval(run: Run, pictures: bool) -> str:
    cards = []
    for name, stages in run.retrieval.items():
        after, before = stages.get("after") or {}, stages.get("before") or {}
        if pictures:
            series = [
                (t, list(range(1, len(s["cmc"]) + 1)), s["cmc"]) for t, s in _named(after, before) if s.get("cmc")
            ]
            percent = [(t, x, [100 * value for value in y]) for t, x, y in series]
            if percent:
                svg = figures.line_figure(percent, "percent of the queries with a match", xlabel="rank")
                cards.append(f'<div class="grid">{_figure(f"CMC, {name}", svg, "")}</div>')
        rows = "".join(map(_row, after.get("rows") or before.get("rows") or []))
        if rows and pictures:
            text = "✓ same identity by another camera, ✗ another identity; from the worst query to the best of a sample"
            head = f'<h3>Ranked, {escaped(name)}</h3><p class="muted">{text}</p>'
            cards.append(f'<div class="card">{head}<div class="rows">{rows}</div></div>')
    if cards:
        return f'<div class="sheets">{"".join(cards)}</div>'
    return _missing("No evaluation was recorded.") if pictures else ""


def _named(after: dict, before: dict) -> list:
    return [("after training" if before else "so far", after), ("before", before)]


# ---- numbers and configuration


def _numbers(run: Run) -> str:
    columns = [column for column in _COLUMNS if run.values(column[0])[0]]
    if not columns:
        return _missing("No epoch has been logged.")
    head = "".join(f'<th class="number">{title}</th>' for _, title, _ in columns)
    rows = ""
    for entry in run.history:
        cells = (form.format(entry[name]) if name in entry else "" for name, _, form in columns)
        rows += "<tr>" + "".join(f'<td class="number">{cell}</td>' for cell in cells) + "</tr>"
    return f'<div class="card scroll"><table><tr>{head}</tr>{rows}</table></div>'


def _configuration(run: Run) -> str:
    command, base = run.facts.get("command"), run.facts.get("base")
    cards = []
    if command:
        cards.append(f'<div class="card"><h3>The same again</h3><pre>{escaped(command)}</pre></div>')
    differs = run.facts.get("differs") or []
    if base:
        table = _table(["key", base, "this run"], differs) if differs else _missing("Nothing.")
        cards.append(f'<div class="card"><h3>What differs from {escaped(base)}</h3>{table}</div>')
    if run.facts.get("environment"):
        cards.append(f'<div class="card"><h3>Environment</h3>{_table([], run.facts["environment"])}</div>')
    if run.config:
        rows = [[key, run.config[key]] for key in sorted(run.config)]
        every = f"<details><summary>All {len(rows)} keys</summary>{_table([], rows)}</details>"
        cards.append(f'<div class="card"><h3>Full configuration</h3>{every}</div>')
    return f'<div class="sheets">{"".join(cards)}</div>' if cards else _missing("The configuration was not recorded.")


def _table(head: Sequence, rows: Iterable[Sequence]) -> str:
    """Text in, markup out."""
    top = "<tr>" + "".join(f"<th>{escaped(cell)}</th>" for cell in head) + "</tr>" if head else ""
    body = "".join(
        "<tr>" + "".join(f'<td class="wrap">{_breakable(cell)}</td>' for cell in row) + "</tr>" for row in rows
    )
    return f'<table class="fixed">{top}{body}</table>'


def _breakable(text: object) -> str:
    """Markup that may break a long key behind its dots and underscores."""
    return escaped(text).replace(".", ".<wbr>").replace("_", "_<wbr>")


def _figure(title: str, svg: str, caption: str) -> str:
    """``svg`` is markup, the others are text."""
    below = f"<figcaption>{escaped(caption)}</figcaption>" if caption else ""
    return f"<figure><h3>{escaped(title)}</h3>{svg}{below}</figure>"


def _notes(texts: Sequence[str]) -> str:
    return '<ul class="notes">' + "".join(f"<li>{escaped(text)}</li>" for text in texts) + "</ul>" if texts else ""


def _missing(*texts: str) -> str:
    return "".join(f'<p class="missing">{escaped(text)}</p>' for text in texts)


def _first_set(metrics: Optional[dict]) -> dict:
    """Metrics of the first test set."""
    if not isinstance(metrics, dict):
        return {}
    if "mAP" in metrics:
        return metrics
    return next((values for values in metrics.values() if isinstance(values, dict)), {})


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}<small> h</small> {minutes}<small> min</small>"
    return f"{minutes}<small> min</small> {seconds}<small> s</small>" if minutes else f"{seconds}<small> s</small>"
