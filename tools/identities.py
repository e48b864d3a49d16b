#!/usr/bin/env python3
"""Keeps the safe groups of a run: python tools/identities.py --run out --min-confidence 0.8 --output safe"""

import argparse
import json
import os
import sys

from ise_plugin.errors import UsageError
from ise_plugin.utils.command_line import run_command


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description="Write identities.csv and contact sheets anew with less confident groups counted as outliers, or "
        "compare the groups with images whose identities are known."
    )
    result.add_argument("--run", required=True, help="output folder of the run, with identities.csv")
    result.add_argument("--min-confidence", type=float, default=0.0, help="of the groups to keep, 0 to 1 (default: 0)")
    result.add_argument("--output", help="folder to write to")
    result.add_argument(
        "--score", metavar="TRUTH_CSV", help="columns path (as in identities.csv) and identity, of some images"
    )
    return result


def keep(args: argparse.Namespace) -> None:
    from ise_plugin.identities.groups import CSV_NAME, SUMMARY_NAME, keep_safe, read_csv, table_of, write_identities
    from ise_plugin.identities.score import read_truth, score_of

    if not 0 <= args.min_confidence <= 1:
        raise UsageError(f"--min-confidence must be from 0 to 1, not {args.min_confidence}")
    if not (args.output or args.score):
        raise UsageError("nothing to do; name --output, --score, or both")
    rows = keep_safe(read_csv(os.path.join(args.run, CSV_NAME)), args.min_confidence)
    if args.score:
        print(table_of(score_of(rows, read_truth(args.score))))
    if not args.output:
        return
    if os.path.realpath(args.output) == os.path.realpath(args.run):
        raise UsageError("--output is the run itself, whose identities would be lost; name another folder")
    folder = _folder_of_images(os.path.join(args.run, SUMMARY_NAME))
    try:
        os.makedirs(args.output, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {args.output!r} cannot be made ({error.strerror}); name another folder") from error
    print(table_of(write_identities(args.output, folder, rows, {"min_confidence": args.min_confidence})))


def _folder_of_images(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            folder = os.fspath(json.load(file)["folder"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read ({error}); name a finished run") from error
    if not os.path.isdir(folder):
        raise UsageError(
            f"the images were in {folder!r}, which is no folder any more; call this where it is, or write "
            f"the new place into {path}"
        )
    return folder


def main(argv=None) -> int:
    return run_command(parser(), keep, argv)


if __name__ == "__main__":
    sys.exit(main())
