#!/usr/bin/env python3
"""A random part of a labelled data set in Market-1501's layout, for measurements that would take too long on the whole.

    python tools/benchmarks/parts.py --images Market-1501-v15.09.15/bounding_box_train --output datasets/market_200

--people identities to train on, and as many others to test across cameras: the first image that a camera has of one of these is
a query, the others are the gallery. Written to OUTPUT/Market-1501-v15.09.15, so FASTREID_DATASETS=OUTPUT and the configs of
Market-1501 use it. Names of images start with the identity and the camera, as Market-1501's do.
"""

import argparse
import random
import shutil
import sys
from pathlib import Path
from typing import Iterator

from ise_plugin.errors import UsageError
from ise_plugin.utils.command_line import run_command

FOLDER = "Market-1501-v15.09.15"
TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"


def person(path: Path) -> str:
    """The identity in a file name of Market-1501's pattern."""
    return path.name.split("_")[0]


def people_of(images: str, seed: int) -> tuple[dict, list]:
    """{identity: its images} of a labelled data set, and the identities in random order."""
    found: dict = {}
    for path in sorted(Path(images).glob("*.jpg")):
        found.setdefault(person(path), []).append(path)
    if not found:
        raise UsageError(f"--images {images} holds no .jpg; name the folder of a labelled data set's images")
    return found, random.Random(seed).sample(sorted(found), len(found))


def part_of(images: str, people: int, seed: int) -> Iterator[tuple[Path, str]]:
    """The images of random ``people``, each with TRAIN, and of as many others, each with QUERY or GALLERY."""
    found, order = people_of(images, seed)
    if len(order) < 2 * people:
        raise UsageError(f"--images {images} has {len(order)} identities; --people {people} takes twice as many")
    for identity in order[:people]:
        yield from ((path, TRAIN) for path in found[identity])
    for identity in order[people : 2 * people]:
        seen = set()
        for path in found[identity]:
            camera = path.name.split("_")[1][:2]
            # the first image by every camera is a query, as in Market-1501's protocol
            yield path, GALLERY if camera in seen else QUERY
            seen.add(camera)


def write(args: argparse.Namespace) -> None:
    folder = Path(args.output, FOLDER)
    if folder.exists():
        raise UsageError(f"{folder} is there already; name another --output, or remove it")
    part = list(part_of(args.images, args.people, args.seed))
    for name in (TRAIN, QUERY, GALLERY):
        (folder / name).mkdir(parents=True)
    for path, name in part:
        shutil.copy(path, folder / name)
    counts = ", ".join(f"{sum(where == name for _, where in part)} {name}" for name in (TRAIN, QUERY, GALLERY))
    print(f"{folder}: {counts}")


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="folder of a labelled data set's images")
    parser.add_argument("--people", type=int, default=200, help="identities to train on (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="which people (default: 0)")
    parser.add_argument("--output", required=True, help="folder of data sets that the part is written to")
    return run_command(parser, write, argv)


if __name__ == "__main__":
    sys.exit(main())
