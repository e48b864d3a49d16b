#!/usr/bin/env python3
"""Ways to the similarity that 1 % of the people who are not in a ledger reach, each beside the truth (docs/benchmarks.md).

    python tools/benchmarks/thresholds.py FILE.npz [FILE.npz ...] --seeds 3 4 5 6

Files and days are those of ledger.py; looked at after each of the three. Of each way the error of its threshold, in cosine, the
share of the people not in the ledger who reach it, and how often that is from 0.5 to 2 %. Last, how far the measure itself goes:
a threshold chosen with the truth on half of those people, on the other half.
"""

import argparse
import os
import sys
import tempfile
from collections import defaultdict
from typing import Iterator, NamedTuple, Optional

import numpy as np
from ledger import FALSE_ACCEPT, K1, Images, add_days, batch_of, plan, read
from scipy.stats import norm, t
from tabulate import tabulate

from ise_plugin.clustering import DBSCAN, jaccard_graph
from ise_plugin.clustering.calibration import NEIGHBORS, Calibration, calibrate, nearest, score_people
from ise_plugin.ledger import IdentityLedger
from ise_plugin.ledger.decide import best_people
from ise_plugin.utils.command_line import run_command

LEVEL = 1 - FALSE_ACCEPT
GOOD = (0.005, 0.02)
DRAWS = 200  # of half of the people


class Day(NamedTuple):
    """A ledger after a day: images in groups, their true people, calibration; scores and people of those who are not in it."""

    vectors: np.ndarray
    labels: np.ndarray
    people: np.ndarray
    calibration: Calibration
    strange: np.ndarray
    strangers: np.ndarray


def days(images: Images, new: int, seed: int, eps: float) -> Iterator[Day]:
    planned, _ = plan(images, new, seed)
    with tempfile.TemporaryDirectory() as folder:
        first = images.vectors[planned[0]]
        labels = DBSCAN(eps).fit_predict(jaccard_graph(first, K1, max_distance=eps))
        path = os.path.join(folder, "ledger")
        with IdentityLedger.create(path, batch_of(images, planned[0]), labels, "drawn", eps=eps) as ledger:
            for number in range(3):
                rows = np.concatenate(planned[: number + 1])
                if number:
                    ledger.add(batch_of(images, planned[number]), "drawn", FALSE_ACCEPT)
                gallery, _ = ledger.gallery()
                strangers = np.flatnonzero(~np.isin(images.people, images.people[rows]))
                near = gallery.near(images.vectors[strangers])
                strange = best_people(near, np.arange(len(strangers)), gallery)[1]
                own = np.flatnonzero(gallery.people >= 0)
                groups = np.unique(gallery.people[own], return_inverse=True)[1].reshape(-1)
                found = gallery.rows(own), groups, images.people[rows[own]]
                calibration = ledger.model().calibration
                assert calibration is not None
                yield Day(*found, calibration, strange, images.people[strangers])


def thresholds(day: Day, eps: float) -> dict[str, Optional[float]]:
    """Of each way."""
    count = int(day.labels.max()) + 1
    anew = calibrate(day.vectors, day.labels, eps=eps)
    others = Others(day.vectors)
    truth = np.unique(day.people, return_inverse=True)[1].reshape(-1)
    return {
        "the ledger's": day.calibration.threshold(FALSE_ACCEPT, count),
        "the ledger's, Student tail": student(day.calibration, count),
        "made anew": anew and anew.threshold(FALSE_ACCEPT, count),
        "made anew, Student tail": anew and student(anew, count),
        "groups": others.normal(day.labels),
        "groups, quantile": others.quantile(day.labels),
        "true people": others.normal(truth),
        "true people, quantile": others.quantile(truth),
    }


def student(calibration: Calibration, count: int) -> float:
    """The predictive distribution of one more stranger, of whom as many were seen as the calibration has people."""
    seen = calibration.people
    place = t.ppf(LEVEL ** min(1.0, seen / count), seen - 1) * np.sqrt(1 + 1 / seen)
    return calibration.strange_mean + calibration.strange_spread * float(place)


class Others:
    """The score of each image's best group beside its own; each group counts once."""

    def __init__(self, vectors: np.ndarray):
        self._near = nearest(vectors, vectors, min(NEIGHBORS, len(vectors)))

    def normal(self, groups: np.ndarray) -> float:
        scores, weights = self._scores(groups)
        mean = np.average(scores, weights=weights)
        return float(mean + np.sqrt(np.average((scores - mean) ** 2, weights=weights)) * norm.ppf(LEVEL))

    def quantile(self, groups: np.ndarray) -> float:
        scores, weights = self._scores(groups)
        order = np.argsort(scores)
        return float(scores[order][np.searchsorted(np.cumsum(weights[order]) / weights.sum(), LEVEL)])

    def _scores(self, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        similarities, places = self._near
        sizes = np.bincount(groups)
        others = np.where(groups[places] == groups[:, None], -1, groups[places])
        scores = score_people(similarities, others, sizes).best(len(groups))[1]
        return scores[scores > -1], 1 / sizes[groups][scores > -1]


def halves(day: Day, rng: np.random.Generator) -> np.ndarray:
    """(DRAWS,) false accepts of half of the people at the threshold of the other half."""
    found, people = [], np.unique(day.strangers)
    for _ in range(DRAWS):
        first = np.isin(day.strangers, rng.permutation(people)[: len(people) // 2])
        found.append((day.strange[~first] >= np.quantile(day.strange[first], LEVEL)).mean())
    return np.array(found)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("files", nargs="+", metavar="FILE.npz")
    add_days(result)
    return result


def measured(args: argparse.Namespace) -> None:
    errors, accepts, drawn = defaultdict(lambda: ([], [], [])), defaultdict(list), []
    for path in args.files:
        images = read(path)
        for seed in args.seeds:
            for number, day in enumerate(days(images, args.people, seed, args.eps)):
                right = np.quantile(day.strange, LEVEL)
                for name, found in thresholds(day, args.eps).items():
                    if found is not None:
                        errors[name][number].append(found - right)
                        accepts[name].append((day.strange >= found).mean())
                drawn.append(halves(day, np.random.default_rng(seed)))
    rows = []
    for name, rates in accepts.items():
        by_day = {f"day {n + 1}": np.mean(values) for n, values in enumerate(errors[name])}
        rows.append({"threshold": name, **by_day, **spread(np.array(rates)), "ledgers": len(rates)})
    rows.append({"threshold": "the truth's, of half of the people", **spread(np.concatenate(drawn))})
    print(tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".3f"))


def spread(rates: np.ndarray) -> dict:
    low, high = np.quantile(rates, [0.1, 0.9])
    good = ((rates >= GOOD[0]) & (rates <= GOOD[1])).mean()
    return {"accepts": rates.mean(), "10 %": low, "90 %": high, "most": rates.max(), "from 0.5 to 2 %": good}


def main(argv=None) -> int:
    return run_command(parser(), measured, argv)


if __name__ == "__main__":
    sys.exit(main())
