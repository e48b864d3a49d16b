#!/usr/bin/env python3
"""Who is it? python tools/search.py --index index query.jpg [more.jpg] --picture matches.jpg"""

import argparse
import sys

from ise_plugin.utils.command_line import run_command


def matches(text: str) -> int:
    """How many matches to give, at least 1."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return int(text)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description="Find the indexed images that are most similar to query images.")
    result.add_argument("queries", nargs="+", metavar="FILE_OR_FOLDER", help="query pictures, or folders of them")
    result.add_argument("--index", required=True, help="folder that tools/build_index.py wrote")
    result.add_argument("--run", help="output folder of the run (default: the one the embeddings were made with)")
    result.add_argument(
        "--weights", help="file of weights, if others were used for the embeddings than the run's default"
    )
    result.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    result.add_argument("-k", type=matches, default=10, help="matches per query (default: 10)")
    result.add_argument("--exact", action="store_true", help="compare with every vector, whatever the index")
    result.add_argument("--rerank", action="store_true", help="order the candidates anew by k-reciprocal re-ranking")
    result.add_argument("--candidates", type=int, default=200, help="that re-ranking orders (default: 200)")
    result.add_argument("--json", metavar="FILE", help="write the matches as JSON")
    result.add_argument(
        "--picture",
        metavar="FILE",
        help="write the first 100 queries and up to 50 matches of each as one picture (.jpg or .png)",
    )
    return result


def search(args: argparse.Namespace) -> None:
    from ise_plugin.inference.jobs import RERANKED, find_matches, picture_format, table_of, write_json, write_picture

    if args.picture is not None:
        picture_format(args.picture)  # a wrong name shall not cost the search
    found = find_matches(
        args.index, args.queries, args.run, args.weights, args.device, args.k, args.exact, args.rerank, args.candidates
    )
    print(table_of(found))
    if args.rerank:
        print(RERANKED)
    if args.json is not None:
        write_json(args.json, found)
    if args.picture is not None:
        write_picture(args.picture, found)


def main(argv=None) -> int:
    return run_command(parser(), search, argv)


if __name__ == "__main__":
    sys.exit(main())
