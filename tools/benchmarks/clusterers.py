#!/usr/bin/env python3
"""Every clusterer with every distance on the same embeddings of labelled images (docs/benchmarks.md).

    python tools/benchmarks/clusterers.py FILE.npz [FILE.npz ...] --eps auto
    python tools/benchmarks/clusterers.py --sizes 12936 --distances Jaccard --eps 0.5

Each file is one that ISE.REPORT.KEEP_EMBEDDINGS kept or tools/embed.py wrote, of images named as Market-1501's are
(0002_c1s1_000451_03.jpg: identity, camera). Adjusted Rand index over all images, every outlier being a group of its own, and over
the clustered ones; clusters; outliers; the eps that was used; seconds of graph and clustering, the neighbour search left out.
KMeans is told the true number of identities, and half and twice of it. --sizes draws embeddings as clustering.py does.
"""

import argparse
import re
import sys
import time
from pathlib import Path
from typing import Any, Iterator

import numpy as np
from clustering import NOISE_LEVELS, synthetic_embeddings
from tabulate import tabulate

from ise_plugin.clustering import (
    DBSCAN,
    HDBSCAN,
    Agglomerative,
    CameraJaccard,
    Cosine,
    Euclidean,
    Infomap,
    Jaccard,
    KMeans,
    SelfPacedDBSCAN,
    quality,
)
from ise_plugin.clustering.constraints import fit_constrained
from ise_plugin.neighbors import exact
from ise_plugin.utils.command_line import run_command

DISTANCES = {"Jaccard": Jaccard, "CameraJaccard": CameraJaccard, "Cosine": Cosine, "Euclidean": Euclidean}
DIM = 256  # of drawn embeddings
NAME = re.compile(r"(-?\d+)_c(\d+)")
WITH_EPS = (DBSCAN, SelfPacedDBSCAN, Agglomerative, Infomap)
HEAD = ("ARI", "of the clustered", "clusters", "outliers", "eps", "seconds")


def distances(features: np.ndarray, cameras: np.ndarray, args: argparse.Namespace) -> Iterator[tuple]:
    """Name and distances of every kind, and the seconds that making them took."""
    for name in args.distances:
        kind: Any = DISTANCES[name](**{"k1": args.k1, "k2": args.k2} if "Jaccard" in name else {})
        wanted = {"cameras": cameras} if getattr(kind, "wants", ()) else {}
        find = getattr(kind, "find_neighbors", None)
        neighbors = find(exact, features, **wanted) if find else exact(features, args.k1)
        begin = time.perf_counter()
        found = kind(features, neighbors, **wanted)
        yield name, found, time.perf_counter() - begin


def clusterers(identities: int, args: argparse.Namespace) -> Iterator[tuple]:
    """Name and clusterer, of each that is tried."""
    for kind in WITH_EPS:
        for eps in args.eps:
            yield f"{kind.__name__}, eps {eps}", kind(eps if eps == "auto" else float(eps), args.min_samples)
    yield "HDBSCAN", HDBSCAN(args.min_samples)
    for count in (identities // 2, identities, 2 * identities):
        yield f"KMeans, {count}", KMeans(count, args.min_samples)


def row(clusterer: Any, found: Any, features: np.ndarray, people: np.ndarray) -> list:
    """ARI, ARI of the clustered, clusters, outliers, eps, seconds."""
    begin = time.perf_counter()
    graph = found.within(clusterer.max_distance)
    labels = fit_constrained(clusterer, graph, None, clusterer.max_distance, features=features)
    seconds = time.perf_counter() - begin
    together = quality.adjusted_rand_index(quality.outliers_alone(labels), people)
    clustered = f"{quality.adjusted_rand_index(labels, people):.3f}" if labels.max() >= 0 else ""
    eps = f"{clusterer.eps_:.2f}" if hasattr(clusterer, "eps_") else ""
    return [f"{together:.3f}", clustered, labels.max() + 1, f"{(labels < 0).mean():.0%}", eps, f"{seconds:.2f}"]


def sets(args: argparse.Namespace) -> Iterator[tuple]:
    """Name, features, identities and cameras of all files and drawn sets."""
    for path in map(Path, args.files):
        content = np.load(path)
        features = content["features" if "features" in content else "embeddings"]
        named = [NAME.match(Path(str(name)).name).groups() for name in content["paths"]]
        yield f"{path.parent.name}/{path.stem}", features, *np.array(named, np.int64).T
    for size in args.sizes:
        for level in NOISE_LEVELS:
            features, people = synthetic_embeddings(size, DIM, level)
            yield f"drawn, {level} noise", features, people, np.full(size, -1)


def measure(args: argparse.Namespace) -> None:
    for title, features, people, cameras in sets(args):
        count = len(np.unique(people))
        few = features[: 10 * args.k1]  # so that nothing is compiled while a clock runs
        DBSCAN(0.5).fit_predict(Jaccard(args.k1, args.k2)(few, exact(few, args.k1)).within(0.5))
        print(f"\n{title}: {len(people)} images of {count} identities\n")
        for name, found, made in distances(features, cameras, args):
            rows = [[who, *row(each, found, features, people)] for who, each in clusterers(count, args)]
            print(
                tabulate(rows, (f"{name} ({made:.2f} s)", *HEAD), tablefmt="pipe", disable_numparse=True),
                "\n",
                flush=True,
            )


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE.npz")
    parser.add_argument("--sizes", type=int, nargs="+", default=[], help="numbers of drawn embeddings")
    parser.add_argument("--distances", nargs="+", choices=DISTANCES, default=list(DISTANCES), help="(default: all)")
    parser.add_argument("--eps", nargs="+", default=["auto"], help="numbers, or auto (the default)")
    parser.add_argument("--min-samples", type=int, default=4, help="ISE.PSEUDO_LABEL.MIN_SAMPLES (default: 4)")
    parser.add_argument("--k1", type=int, default=20, help="neighbours (default: 20)")
    parser.add_argument("--k2", type=int, default=4, help="neighbours whose weights are averaged (default: 4)")
    return run_command(parser, measure, argv)


if __name__ == "__main__":
    sys.exit(main())
