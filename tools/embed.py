#!/usr/bin/env python3
"""Images or folders -> embeddings: python tools/embed.py --run out --output embeddings my_crops more/picture.jpg"""

import argparse
import sys
import time

from ise_plugin.utils.command_line import run_command

FORMATS = ("npz", "parquet")


def formats(text: str) -> list:
    """The formats in "npz,parquet", each once."""
    result = list(dict.fromkeys(text.split(",")))
    if not set(result) <= set(FORMATS):
        raise argparse.ArgumentTypeError(f"{text!r} is none of npz, parquet, and npz,parquet")
    return result


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description="Embed images with the network of a finished run, or of a config before any training. Writes OUTPUT.npz "
        "and OUTPUT.parquet; goes on where an interrupted call has stopped, and embeds only new and changed files."
    )
    result.add_argument("inputs", nargs="+", metavar="FILE_OR_FOLDER", help="pictures, or folders of any depth")
    result.add_argument(
        "--run", required=True, help="output folder of the run, or a config: its network before training"
    )
    result.add_argument("--output", required=True, help="name of the result; the endings are added")
    result.add_argument("--weights", help="file of weights (default: the run's own; a config's PRETRAIN_PATH)")
    result.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    result.add_argument(
        "--formats", type=formats, default=FORMATS, help="npz, parquet, or both with a comma (default: npz,parquet)"
    )
    result.add_argument(
        "--max-bad-share", type=float, default=0.05, help="share of files that may be unreadable (default: 0.05)"
    )
    return result


def embed(args: argparse.Namespace) -> None:
    from ise_plugin import Embedder
    from ise_plugin.inference.jobs import embed_files

    embedder = Embedder(args.run, args.weights, args.device)
    start = time.perf_counter()
    job = embed_files(embedder, args.inputs, args.output, args.formats, args.max_bad_share)
    seconds = time.perf_counter() - start
    vectors = job.embeddings.vectors
    print(
        f"{len(vectors)} embeddings of {vectors.shape[1]} numbers in {' and '.join(job.files)}, {job.new} of them new"
    )
    if job.new:
        print(f"{seconds:.1f} s with reading and writing, {job.new / seconds:.0f} images/s")
    if job.problems:
        print(f"{len(job.problems)} files were left out:")
        for problem in job.problems:
            print(f"  {problem}")


def main(argv=None) -> int:
    return run_command(parser(), embed, argv)


if __name__ == "__main__":
    sys.exit(main())
