#!/usr/bin/env python3
"""The purity that is estimated without identities, against the truth (docs/benchmarks.md).

python tools/benchmarks/purity.py runs RUN [RUN ...]        # of every epoch, from metrics.json
python tools/benchmarks/purity.py fit FILE.npz [FILE ...]   # of clusterings of parts of what ISE.REPORT.KEEP_EMBEDDINGS kept
"""

import argparse
from pathlib import Path
from typing import Iterator, NamedTuple

import numpy as np
from tabulate import tabulate

from ise_plugin.clustering import DBSCAN, jaccard_graph, quality
from ise_plugin.clustering.purity import REACH, cohesion, estimate_purities
from ise_plugin.report.run_files import read_run

# K1, K2, MIN_SAMPLES, and what DBSCAN is given.
SETTINGS = ((20, 6, 4), (30, 6, 4), (20, 3, 2))
EPS = (0.3, 0.45, 0.6, "auto")
# Of each file: name of the part, people, images of a person at most.
PARTS = (
    ("60 people", 60, None),
    ("200 people", 200, None),
    ("people of 6 images", 150, 6),
    ("people of most images", 30, None),
)
USUAL = ("60 people", "200 people")
BAR = 0.10


class Clustering(NamedTuple):
    """One labelling of a part: purity as it is and as it is estimated; size, cohesion and purity of its clusters."""

    file: str
    part: str
    true: float
    estimated: float
    sizes: np.ndarray
    cohesion: np.ndarray
    purities: np.ndarray


def part_of(identities: np.ndarray, people: int, most: int | None, largest: bool, seed: int) -> np.ndarray:
    """Indices of the images of a part."""
    random = np.random.default_rng(seed)
    names, counts = np.unique(identities, return_counts=True)
    pool = names[np.argsort(-counts)[: 3 * people]] if largest else names
    kept = random.permutation(np.flatnonzero(np.isin(identities, random.permutation(pool)[:people])))
    if most is not None:
        order = np.argsort(identities[kept], kind="stable")
        _, first, inverse = np.unique(identities[kept][order], return_index=True, return_inverse=True)
        kept = kept[order][np.arange(len(kept)) - first[inverse] < most]
    return np.sort(kept)


def clusterings(path: str) -> Iterator[Clustering]:
    """Every part, setting and eps of a file."""
    content = np.load(path)
    features, identities = content["features"].astype(np.float32), content["identities"]
    for number, (part, people, most) in enumerate(PARTS):
        for k1, k2, min_samples in SETTINGS:
            chosen = part_of(identities, people, most, "most" in part, number + k1 + k2)
            graph, truth = jaccard_graph(features[chosen], k1, k2, REACH), identities[chosen]
            for eps in EPS:
                labels = DBSCAN(eps, min_samples).fit_predict(graph)
                if labels.max() < 1:
                    continue
                sizes, inside = np.bincount(labels[labels >= 0]), labels >= 0
                _, people_of = np.unique(truth, return_inverse=True)
                counts = np.zeros((len(sizes), people_of.max() + 1))
                np.add.at(counts, (labels[inside], people_of[inside]), 1)
                estimated = np.average(estimate_purities(labels, graph), weights=sizes)
                found = quality.purity(labels, truth), float(estimated), sizes, cohesion(labels, graph)
                yield Clustering(Path(path).stem, part, *found, counts.max(1) / sizes)


def fitted(found: list[Clustering]) -> np.ndarray:
    """(slope, offset) by logistic regression over clusters, every clustering with the same weight in sum."""
    x = np.concatenate([one.cohesion for one in found])
    x, y = np.stack([x, np.ones_like(x)], 1), np.concatenate([one.purities for one in found])
    weights, beta = np.concatenate([one.sizes / one.sizes.sum() for one in found]), np.zeros(2)
    for _ in range(30):  # Newton's steps
        p = 1 / (1 + np.exp(-x @ beta))
        beta = beta + np.linalg.solve((x.T * (weights * p * (1 - p))) @ x, x.T @ (weights * (y - p)))
    return beta


def applied(beta: np.ndarray, one: Clustering) -> float:
    return float(np.average(1 / (1 + np.exp(-(beta[0] * one.cohesion + beta[1]))), weights=one.sizes))


def row(name: str, errors: list) -> list:
    errors = np.array(errors)
    size = np.abs(errors)
    return [
        name,
        len(errors),
        f"{errors.mean():+.3f}",
        f"{size.mean():.3f}",
        f"{size.max():.3f}",
        f"{(size <= BAR).mean():.0%}",
    ]


HEAD = ["", "labellings", "mean error", "mean size of the error", "largest", f"within {BAR:.2f}"]


def fit(files: list[str]) -> None:
    found = [one for path in files for one in clusterings(path)]
    names = list(dict.fromkeys(one.file for one in found))
    rows = []
    for name in names:
        without = fitted([one for one in found if one.file != name]) if len(names) > 1 else None
        own = [one for one in found if one.file == name and one.part in USUAL]
        unseen = [] if without is None else [f"{np.mean([abs(applied(without, o) - o.true) for o in own]):.3f}"]
        rows.append([*row(name, [one.estimated - one.true for one in own]), *unseen])
    print("parts of", " and ".join(USUAL))
    print(tabulate(rows, [*HEAD, "fitted without this file"], tablefmt="pipe"))
    rows = [row(p, [o.estimated - o.true for o in found if o.part == p]) for p in dict.fromkeys(o.part for o in found)]
    print(tabulate([*rows, row("all", [o.estimated - o.true for o in found])], HEAD, tablefmt="pipe"))
    print("slope, offset of all:", fitted(found).round(2))


def true_purities(folder: str, history: list) -> dict:
    """epoch -> purity, as the report logged it, or by kept labels and the number that file names begin with (0002_c1s1_x.jpg)."""
    known = {entry["epoch"]: entry["labels/purity"] for entry in history if "labels/purity" in entry}
    for path in sorted(Path(folder).glob("embeddings_*.npz")):
        kept, epoch = np.load(path), int(path.stem[-4:])
        people = np.array([Path(str(name)).name.split("_")[0] for name in kept["paths"]])
        known.setdefault(epoch, quality.purity(kept["labels"], people))
    return known


def runs(folders: list[str]) -> None:
    rows, every = [], []
    for folder in folders:
        run = read_run(folder)
        true, found = true_purities(folder, run.history), dict(zip(*run.values("labels/estimated_purity")))
        epochs = sorted(true.keys() & found.keys())
        if errors := [found[epoch] - true[epoch] for epoch in epochs]:
            ends = " → ".join(f"{true[epoch]:.2f} ({found[epoch]:.2f})" for epoch in (epochs[0], epochs[-1]))
            rows.append([*row(run.name, errors), ends])
            every += errors
    rows.append(row("all", every))
    print(tabulate(rows, [*HEAD, "true (estimated), first and last epoch"], tablefmt="pipe"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("runs", "fit"))
    parser.add_argument("paths", nargs="+")
    args = parser.parse_args()
    {"runs": runs, "fit": fit}[args.what](args.paths)


if __name__ == "__main__":
    main()
