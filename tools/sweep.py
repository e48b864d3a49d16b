#!/usr/bin/env python3
"""Trains a grid of settings and seeds, and makes one table and one picture of them:

    python tools/sweep.py --grid projects/Ablation/parts.yml --output logs/ablation --jobs 2
    python tools/sweep.py --config-file ISE/synthetic_mobilenetv2.yml --axis ISE.SUPPORT.NUM_NEIGHBORS 1 2 3 --seeds 0 1 2

The same command goes on where it was stopped: what is done is not done again, what is half done goes on from its last
checkpoint. Another grid in the same folder adds its runs. A folder with a run of other keys is named, never used.
"""

import argparse
import os
import shlex
import sys
from collections import Counter
from pathlib import Path

from ise_plugin.utils.command_line import run_command

TRAIN = [sys.executable, str(Path(__file__).with_name("train_net.py"))]
# exit code where a run has failed
FAILED = 1


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument(
        "--grid", metavar="FILE", help="YAML with config, seeds, keys, axes, metrics (docs/howto/sweeps.md)"
    )
    result.add_argument("--config-file", nargs="+", default=[], metavar="FILE", help="one, or several side by side")
    result.add_argument(
        "--axis",
        nargs="+",
        action="append",
        default=[],
        metavar="KEY VALUE",
        help="a key and its values; again for another",
    )
    result.add_argument("--seeds", nargs="+", type=int, default=[], help="default: 0")
    result.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="keys of all runs")
    result.add_argument("--metrics", nargs="+", default=[], help='columns; an unknown one, such as "?", gets the list')
    result.add_argument("--output", default="logs/sweep", help="folder of the runs and the table (default: logs/sweep)")
    result.add_argument("--name", help="of the table's files (default: that of the grid's file, else sweep)")
    result.add_argument(
        "--jobs", type=int, default=1, help="runs at a time, each with its share of the cores (default: 1)"
    )
    result.add_argument(
        "--dry-run", action="store_true", help="start nothing: what there is to do, and the table of what is done"
    )
    return result


def sweep(args: argparse.Namespace) -> int:
    from ise_plugin.errors import UsageError
    from ise_plugin.sweep import gather, read_grid, run_jobs

    if args.jobs < 1:
        raise UsageError(f"--jobs must be at least 1, not {args.jobs}")
    grid = read_grid(args.grid, args.config_file, args.axis, args.opts, args.seeds, args.metrics)
    settings = grid.settings(args.output)
    jobs = list({job.folder: job for setting in settings for job in setting.jobs.values()}.values())
    states = Counter(job.state() for job in jobs)  # before anything starts: a folder with other keys ends it here
    print(f"{len(jobs)} runs: {', '.join(f'{count} {state}' for state, count in states.items())}", flush=True)
    failed = {}
    if not args.dry_run:
        os.makedirs(args.output, exist_ok=True)
        try:
            failed = run_jobs(jobs, TRAIN, args.jobs, say=lambda line: print(line, flush=True))
        except KeyboardInterrupt:
            print(f"the runs are saved in {args.output}; the same command goes on", file=sys.stderr)
            raise
    rows = gather(settings, grid.metrics)
    name = args.name or (Path(args.grid).stem if args.grid else "sweep")
    show(rows, grid.metrics, os.path.join(args.output, name), shlex.join(["ise-sweep", *args.words]))
    for folder, error in failed.items():
        print(f"failed: {folder}: {error}", file=sys.stderr)
    return FAILED if failed else 0


def show(rows, metrics, path: str, command: str) -> None:
    """Prints the table; writes it and the picture."""
    from ise_plugin.report.figures import available
    from ise_plugin.sweep.table import markdown, write_tables

    if not any(row.values for row in rows):
        print("no run is done yet: no table")
        return
    print(f"\n{markdown(rows, metrics)}\n")
    files = write_tables(path, rows, metrics, command)
    if available():
        from ise_plugin.sweep.picture import draw

        files.append(f"{path}.png")
        draw(files[-1], rows, metrics, command)
    else:
        print("no picture: matplotlib is not installed (pip install matplotlib)", file=sys.stderr)
    print("Table:", ", ".join(files))


def main(argv=None) -> int:
    asked = parser()
    asked.set_defaults(words=sys.argv[1:] if argv is None else argv)
    return run_command(asked, sweep, argv)


if __name__ == "__main__":
    sys.exit(main())
