#!/usr/bin/env python3
"""Rebuilds the report of a run, or compares runs: python tools/report.py RUN [RUN ...]"""

import argparse
import sys

from ise_plugin.utils.command_line import run_command


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description="One run: its report.html anew, from its files. Several: a table, and one page that compares them; "
        "runs that differ only in their seed count as one setting."
    )
    result.add_argument("runs", nargs="+", metavar="RUN", help="output folder of a run")
    result.add_argument(
        "--output", default="comparison.html", help="the page that compares several runs (default: comparison.html)"
    )
    return result


def report(args: argparse.Namespace) -> None:
    from ise_plugin.report.compare import build_comparison, comparison_text, grouped
    from ise_plugin.report.page import write_report
    from ise_plugin.report.run_files import read_run
    from ise_plugin.utils.files import write_atomically

    if len(args.runs) == 1:
        print(f"Report: {write_report(args.runs[0])}")
        return
    runs = [read_run(folder) for folder in args.runs]
    print(comparison_text(grouped(runs)))
    write_atomically(args.output, build_comparison(runs).encode())
    print(f"\nComparison: {args.output}")


def main(argv=None) -> int:
    return run_command(parser(), report, argv)


if __name__ == "__main__":
    sys.exit(main())
