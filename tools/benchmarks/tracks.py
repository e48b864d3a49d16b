#!/usr/bin/env python3
"""What tracks are worth in clustering, on embeddings of labelled images (docs/benchmarks.md).

    python tools/benchmarks/tracks.py FILE.npz [FILE.npz ...] --seeds 0 1 2

Each file is one that ISE.REPORT.KEEP_EMBEDDINGS kept or tools/embed.py wrote, of images named as Market-1501's are
(0002_c1s1_000451_03.jpg: identity, camera, sequence, frame). Tracks are runs of neighbouring frames of one identity in one
camera and sequence. Clustered without tracks, with them, and with --switched of them continued by the next track of another
person in the same camera. Adjusted Rand index over all images, every outlier being a group of its own, and over the clustered
ones; hard cannot-links that the labels violate; switched tracks that were cut, and others that were.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tabulate import tabulate

from ise_plugin.clustering import DBSCAN, jaccard_graph, quality
from ise_plugin.clustering.constraints import Constraints, fit_constrained, track_constraints
from ise_plugin.utils.command_line import run_command

NAME = re.compile(r"(-?\d+)_c(\d+)s(\d+)_(\d+)_")
SEQUENCE = 1e7  # between the times of two sequences: more than the frames of one


class Images(NamedTuple):
    features: np.ndarray
    people: np.ndarray
    cameras: np.ndarray
    times: np.ndarray
    tracks: np.ndarray


def read(path: str, gap: float) -> Images:
    """Embeddings and what the file names say; frames further apart than ``gap`` are in two tracks."""
    content = np.load(path)
    parsed = [NAME.match(Path(str(name)).name).groups() for name in content["paths"]]
    people, cameras, sequences, frames = np.array(parsed, dtype=np.int64).T
    times = sequences * SEQUENCE + frames
    order = np.lexsort((times, cameras, people))
    new = (np.diff(people[order]) != 0) | (np.diff(cameras[order]) != 0) | (np.diff(times[order]) > gap)
    tracks = np.empty(len(order), np.int64)
    tracks[order] = np.r_[0, np.cumsum(new)]
    features = content["features" if "features" in content else "embeddings"]
    return Images(features, people, cameras, times, tracks)


def switched(images: Images, share: float, seed: int) -> tuple[np.ndarray, set]:
    """Tracks of which a share goes on as the next one of another person in the same camera, and which these are."""
    count = images.tracks.max() + 1
    first, last = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(first, images.tracks, images.times)
    np.maximum.at(last, images.tracks, images.times)
    person, camera = np.empty(count, np.int64), np.empty(count, np.int64)
    person[images.tracks], camera[images.tracks] = images.people, images.cameras
    tracks, free, found = images.tracks.copy(), np.ones(count, bool), set()
    for one in np.random.default_rng(seed).permutation(count):
        later = free & free[one] & (camera == camera[one]) & (person != person[one]) & (first > last[one])
        if len(found) < round(share * count) and later.any():
            other = int(np.where(later, first, np.inf).argmin())
            free[[one, other]] = False
            tracks[images.tracks == other] = one
            found.add(int(one))
    return tracks, found


def row(images: Images, graph, name: str, tracks: np.ndarray | None, bad: set, args) -> list:
    constraints, clusterer = None, DBSCAN(args.eps, args.min_samples)
    if tracks is not None:
        weight = args.weight
        constraints = track_constraints(images.features, images.cameras, tracks, images.times, weight=weight)
    labels = fit_constrained(clusterer, graph, constraints, clusterer.max_distance)
    together = quality.adjusted_rand_index(quality.outliers_alone(labels), images.people)
    scores = [f"{together:.3f}", f"{quality.adjusted_rand_index(labels, images.people):.3f}", labels.max() + 1]
    scores += [f"{(labels < 0).mean():.0%}", f"{clusterer.eps_:.2f}"]
    return [name, *scores, *said(constraints, labels, tracks, bad)]


def said(constraints: Constraints | None, labels: np.ndarray, tracks: np.ndarray | None, bad: set) -> list:
    if constraints is None or tracks is None:
        return []
    cut = {each.track for each in constraints.cuts}
    others = np.flatnonzero(np.bincount(tracks) > 1).size - len(bad)
    found = f"{len(cut & bad)} of {len(bad)} ({len(cut & bad) / len(bad):.0%})" if bad else ""
    return [f"{constraints.violated(labels)} of {len(constraints.apart)}", found, f"{len(cut - bad) / others:.1%}"]


def measure(args: argparse.Namespace) -> None:
    rows = []
    for path in args.files:
        images, name = read(path, args.gap), f"{Path(path).parent.name}/{Path(path).stem}"
        graph = jaccard_graph(images.features, args.k1, args.k2, DBSCAN(args.eps).max_distance)
        rows.append(row(images, graph, f"{name}: no tracks", None, set(), args))
        rows.append(row(images, graph, f"{images.tracks.max() + 1} tracks", images.tracks, set(), args))
        for seed in args.seeds:
            tracks, bad = switched(images, args.switched, seed)
            rows.append(row(images, graph, f"{args.switched:.0%} switched, seed {seed}", tracks, bad, args))
    head = ["", "ARI", "of the clustered", "clusters", "outliers", "eps", "violated", "switched, cut", "others, cut"]
    print(tabulate(rows, head, tablefmt="pipe", disable_numparse=True))


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE.npz")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the choice of switched tracks")
    parser.add_argument("--switched", type=float, default=0.05, help="share of the tracks (default: 0.05)")
    parser.add_argument("--gap", type=float, default=100, help="frames that part two tracks (default: 100)")
    parser.add_argument("--weight", type=float, default=1.0, help="of the constraints; below 1 they are soft")
    parser.add_argument("--eps", type=lambda text: text if text == "auto" else float(text), default="auto")
    parser.add_argument("--min-samples", type=int, default=4)
    parser.add_argument("--k1", type=int, default=20)
    parser.add_argument("--k2", type=int, default=4)
    return run_command(parser, measure, argv)


if __name__ == "__main__":
    sys.exit(main())
