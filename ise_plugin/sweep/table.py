"""What came of a sweep: a row for each setting, means and spread over the seeds; as Markdown, CSV and JSON."""

import csv
import io
import json
import math
from dataclasses import dataclass
from typing import Optional, Sequence

from tabulate import tabulate

from ..errors import UsageError
from ..report.compare import Spread, difference, spread_of, value_of
from ..report.run_files import read_run
from ..utils.files import write_atomically
from .grid import DONE, METRICS, Setting

# A mean minus that of the first row.
_AGAINST_FIRST = "{} − first row"


@dataclass
class Row:
    """A setting and the numbers of those of its runs that are done.

    Attributes:
        values: seed -> metric -> number; None where a run does not know it.
    """

    setting: Setting
    values: dict[int, dict[str, Optional[float]]]

    def spread(self, metric: str) -> Spread:
        """Mean, standard deviation and number of the runs that know the metric."""
        return spread_of([value for run in self.values.values() if (value := run[metric]) is not None])


def gather(settings: Sequence[Setting], metrics: Sequence[str]) -> list[Row]:
    """The rows of a sweep's table, from the folders of its runs; runs that are not done, or are of other keys, are left out."""
    return [
        Row(setting, {seed: _numbers(job.folder, metrics) for seed, job in setting.jobs.items() if _done(job)})
        for setting in settings
    ]


def _done(job) -> bool:
    try:
        return job.state() == DONE
    except UsageError:
        return False


def _numbers(folder: str, metrics: Sequence[str]) -> dict[str, Optional[float]]:
    run = read_run(folder)
    return {metric: value_of(run, *METRICS[metric][1:]) for metric in metrics}


def known_metrics(rows: Sequence[Row], metrics: Sequence[str]) -> list[str]:
    """Those that some run knows."""
    return [metric for metric in metrics if any(row.spread(metric).count for row in rows)]


def markdown(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """Mean ± standard deviation over seeds; the last column compares the first metric after training with the first row's."""
    axes, metrics = _axes(rows), known_metrics(rows, metrics)
    leading = next((metric for metric in metrics if METRICS[metric][1] != "initial"), None)
    head = [*axes, "runs", *(METRICS[metric][0] for metric in metrics)]
    if leading and len(rows) > 1:
        head.append(_AGAINST_FIRST.format(leading))
    table = []
    for row in rows:
        done, asked = len(row.values), len(row.setting.jobs)
        cells = [row.setting.title[axis] for axis in axes]
        cells += [
            str(done) if done == asked else f"{done} of {asked}",
            *(str(row.spread(metric)) for metric in metrics),
        ]
        if leading and len(rows) > 1:
            cells.append("" if row is rows[0] else difference(rows[0].spread(leading), row.spread(leading)))
        table.append(cells)
    return tabulate(table, head, tablefmt="pipe", disable_numparse=True)


def _axes(rows: Sequence[Row]) -> list[str]:
    return list(rows[0].setting.title) if rows else []


def content_of(rows: Sequence[Row], metrics: Sequence[str], command: str) -> dict:
    """What the JSON file holds: the command, and for each setting its keys, and the numbers of every run, their mean and
    standard deviation (None with fewer than two)."""
    number = lambda value: None if math.isnan(value) else value
    found = []
    for row in rows:
        spreads = {metric: row.spread(metric) for metric in metrics}
        found.append(
            {
                "setting": row.setting.title,
                "keys": row.setting.keys,
                "seeds": list(row.setting.jobs),
                "runs": {str(seed): values for seed, values in row.values.items()},
                "mean": {metric: number(spread.mean) for metric, spread in spreads.items()},
                "deviation": {metric: number(spread.deviation) for metric, spread in spreads.items()},
            }
        )
    return {"command": command, "metrics": list(metrics), "rows": found}


def comma_separated(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """A line for each setting: its values on the axes, runs, and mean and deviation of each metric, full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_axes(rows), "runs", *(name for m in metrics for name in (m, f"{m} deviation"))])
    for row in rows:
        numbers = [value for metric in metrics for value in row.spread(metric)[:2]]
        cells = ["" if math.isnan(value) else repr(value) for value in numbers]
        writer.writerow([*row.setting.title.values(), len(row.values), *cells])
    return text.getvalue()


def write_tables(path: str, rows: Sequence[Row], metrics: Sequence[str], command: str) -> list[str]:
    """Writes ``path`` + .md, .csv, .json; returns their names."""
    page = f"    {command}\n\n{markdown(rows, metrics)}\n"
    content = json.dumps(content_of(rows, metrics, command), indent=1) + "\n"
    files = {".md": page, ".csv": comma_separated(rows, metrics), ".json": content}
    for ending, text in files.items():
        write_atomically(path + ending, text.encode())
    return [path + ending for ending in files]
