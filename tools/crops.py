#!/usr/bin/env python3
"""Frames and a tracker's MOT files -> crops with cameras and tracks: python tools/crops.py --output crops MOT17/train/*"""

import argparse
import os
import sys

from ise_plugin.utils.command_line import run_command


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description="Cut tracked people out of frames. Writes a folder of crops and a table of their cameras, tracks and "
        "frames for training; goes on where an interrupted call has stopped, sequence by sequence."
    )
    result.add_argument("sequences", nargs="+", metavar="SEQUENCE", help="folders with img1/000001.jpg and so on")
    result.add_argument("--output", required=True, help="folder for the crops")
    result.add_argument(
        "--rows",
        default="gt/gt.txt",
        help="the MOT file in each sequence, or a path with {} for the sequence's name: results/{}.txt (default: gt/gt.txt)",
    )
    result.add_argument("--every", type=int, default=1, help="cut only frames whose number is a multiple (default: 1)")
    result.add_argument(
        "--camera",
        default="",
        help="regular expression whose group is the camera in a sequence's name (default: the name)",
    )
    return result


def cut(args: argparse.Namespace) -> None:
    from ise_plugin.data.mot import TABLE_NAME, cut_crops

    count = cut_crops(args.sequences, args.output, args.rows, args.every, args.camera)
    table = os.path.join(args.output, TABLE_NAME)
    print(f"{count} crops; train with DATASETS.FOLDER.ROOT {args.output} DATASETS.FOLDER.CAMERA_CSV {table}")


def main(argv=None) -> int:
    return run_command(parser(), cut, argv)


if __name__ == "__main__":
    sys.exit(main())
