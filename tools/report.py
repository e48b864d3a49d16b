#!/usr/bin/env python3
"""Rebuilds the report of a run, or compares runs: python tools/report.py RUN [RUN ...]"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ise_plugin.errors import UsageError
from ise_plugin.report.compare import build_comparison, comparison_text, grouped
from ise_plugin.report.hook import write_report
from ise_plugin.report.run_files import read_run
from ise_plugin.utils.files import write_atomically


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="One run: its report.html anew, from its files. Several: a table, and one page that compares them; "
        "runs that differ only in their seed count as one setting."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="output folder of a run")
    parser.add_argument(
        "--output", default="comparison.html", help="the page that compares several runs (default: comparison.html)"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    try:
        if len(args.runs) == 1:
            print(f"Report: {write_report(args.runs[0])}")
            return 0
        runs = [read_run(folder) for folder in args.runs]
        print(comparison_text(grouped(runs)))
        write_atomically(args.output, build_comparison(runs).encode())
        print(f"\nComparison: {Path(args.output)}")
    except (UsageError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return UsageError.EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main())
