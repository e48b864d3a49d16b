#!/usr/bin/env python3
"""Embeddings -> a searchable index: python tools/build_index.py --embeddings embeddings.npz --output index"""

import argparse
import sys

from ise_plugin.utils.command_line import run_command


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description="Build a faiss index over embeddings, as a folder on disk.")
    result.add_argument("--embeddings", required=True, help="file that tools/embed.py wrote (.npz)")
    result.add_argument(
        "--output", required=True, help="folder of the index: new, empty, or of an older index, which is replaced"
    )
    result.add_argument(
        "--kind",
        default="auto",
        choices=("auto", "exact", "ivf", "hnsw"),
        help="auto: exact up to 50,000 images, ivf beyond; hnsw is the fastest to search and slow to build",
    )
    result.add_argument(
        "--recall", type=float, default=0.97, help="of the 10 nearest, for the approximate kinds (default: 0.97)"
    )
    return result


def build(args: argparse.Namespace) -> None:
    from ise_plugin.inference import build_index, read_embeddings
    from ise_plugin.inference.index import check_place

    check_place(args.output)  # building can take long
    index = build_index(read_embeddings(args.embeddings), args.kind, args.recall)
    index.save(args.output)
    about = index.about
    print(f"{args.output}: {about['kind']} index of {len(index)} images, recall@10 {about['recall']:.3f} on a sample")


def main(argv=None) -> int:
    return run_command(parser(), build, argv)


if __name__ == "__main__":
    sys.exit(main())
