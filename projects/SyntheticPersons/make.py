#!/usr/bin/env python
"""Writes the drawn person data set: python projects/SyntheticPersons/make.py --size demo"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from synthetic_persons import MAX_CAMERAS, MIN_CAMERAS, SIZES, STANDARD_STRENGTH, folder_name, write_dataset

USAGE_ERROR = 2  # exit code, as argparse's


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Draw person crops in Market-1501's layout, from a seed.")
    parser.add_argument("--size", choices=list(SIZES), default="demo", help="how large (default: demo)")
    parser.add_argument(
        "--seed", type=int, default=0, help="other seeds: other people, scenes and cameras (default: 0)"
    )
    parser.add_argument(
        "--cameras", type=int, default=MAX_CAMERAS, help=f"{MIN_CAMERAS} to {MAX_CAMERAS} (default: {MAX_CAMERAS})"
    )
    parser.add_argument(
        "--camera-strength",
        type=float,
        default=STANDARD_STRENGTH,
        help="how much the cameras' colours and backgrounds differ, 1 or more (default: 1)",
    )
    parser.add_argument(
        "--output",
        default=os.getenv("FASTREID_DATASETS", "datasets"),
        help="folder of data sets; synthetic_persons_<size> is made in it (default: FASTREID_DATASETS, else datasets)",
    )
    parser.add_argument("--workers", type=int, default=None, help="processes that draw (default: usable cores)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    try:
        written = write_dataset(
            Path(args.output) / folder_name(args.size),
            args.size,
            args.seed,
            args.cameras,
            args.workers,
            strength=args.camera_strength,
        )
    except (ValueError, OSError) as error:
        print(f"SyntheticPersons: {error}", file=sys.stderr)
        return USAGE_ERROR
    counts = ", ".join(f"{count} {part}" for part, count in written.counts.items())
    done = "already there" if written.reused else f"written in {written.seconds:.1f} s"
    print(f"{written.path}: {done} ({counts} images)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
