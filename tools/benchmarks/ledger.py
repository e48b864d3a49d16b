#!/usr/bin/env python3
"""A ledger over three days, on embeddings of labelled images (docs/benchmarks.md).

    python tools/benchmarks/ledger.py FILE.npz [FILE.npz ...] --seeds 0 1 2
    python tools/benchmarks/ledger.py --size 1000000 --width 256

Each file is one that tools/embed.py wrote, of images named as Market-1501's are (0002_c1s1_000451_03.jpg: identity, camera).
Three days of --people new people each; of everybody who came before, some images come again. One camera is new on day 3. The
ledger begins with a labelling of day 1. People who never come are the ones who must not be recognised; new taken: the
images of people when they first come that went to somebody. With --size: seconds for
1,000 images into a ledger of so many drawn embeddings, a fifth of them of new people, and for 1,000 more; beside them the seconds
that a core has worked for it.
"""

import argparse
import os
import re
import resource
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np
from tabulate import tabulate

from ise_plugin.clustering import DBSCAN, generate_pseudo_labels, jaccard_graph
from ise_plugin.clustering.calibration import score_people
from ise_plugin.clustering.purity import REACH, estimate_purities
from ise_plugin.clustering.quality import adjusted_rand_index, outliers_alone
from ise_plugin.clustering.reliability import reliability
from ise_plugin.data.sightings import Sighting
from ise_plugin.ledger import Batch, IdentityLedger
from ise_plugin.ledger.decide import Gallery, best_people, probabilities
from ise_plugin.utils.command_line import run_command

NAME = re.compile(r"(-?\d+)_c(\d+)s(\d+)_(\d+)_")
FALSE_ACCEPT = 0.01
NEW_SHARE = 0.6  # of a person's images that come on the first day; the rest on the days after
K1 = 20
BLOCK = 1 << 16


class Images(NamedTuple):
    vectors: np.ndarray
    people: np.ndarray
    cameras: np.ndarray
    paths: list


def read(path: str) -> Images:
    content = np.load(path)
    parsed = [NAME.match(os.path.basename(str(name))) for name in content["paths"]]
    kept = np.array([i for i, found in enumerate(parsed) if found and int(found[1]) > 0])
    people, cameras = np.array([[int(parsed[i][1]), int(parsed[i][2])] for i in kept]).T
    return Images(content["embeddings"][kept], people, cameras, [str(content["paths"][i]) for i in kept])


def batch_of(images: Images, rows: np.ndarray) -> Batch:
    seen = [Sighting(camera=str(images.cameras[i])) for i in rows]
    digests = [int(i).to_bytes(32, "big") for i in rows]
    return Batch([images.paths[i] for i in rows], images.vectors[rows], seen, digests)


def plan(images: Images, people: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Rows of each of three days, and of people who never come."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.unique(images.people))
    day = np.full(len(images.people), -1)
    for number in range(3):
        own = np.flatnonzero(np.isin(images.people, order[number * people : (number + 1) * people]))
        late = rng.random(len(own)) > NEW_SHARE
        day[own] = np.where(late, rng.integers(number, 3, len(own)), number)
    day[(day >= 0) & (images.cameras == images.cameras.max())] = 2  # a camera that is new on the third
    strangers = np.flatnonzero(~np.isin(images.people, order[: 3 * people]))
    return [np.flatnonzero(day == number) for number in range(3)], strangers


def run(path: str, people: int, seed: int, eps: float) -> dict:
    """One row of the table."""
    images = read(path)
    days, strangers = plan(images, people, seed)
    with tempfile.TemporaryDirectory() as folder:
        graph = jaccard_graph(images.vectors[days[0]], K1, max_distance=REACH)
        labels = DBSCAN(eps).fit_predict(graph)
        likely = np.r_[estimate_purities(labels, graph), np.nan][labels]
        first = batch_of(images, days[0])
        ledger = IdentityLedger.create(os.path.join(folder, "ledger"), first, labels, "drawn", "", likely, eps)
        kept, taken = [], []
        for number, rows in enumerate(days[1:], 1):
            before = {row.path: row.person for row in ledger.images() if row.person is not None}
            old = {person.number for person in ledger.people()}
            ledger.add(batch_of(images, rows), "drawn", FALSE_ACCEPT)
            after = {row.path: row.person for row in ledger.images()}
            kept.append(np.mean([after[name] == person for name, person in before.items()]))
            come = rows[~np.isin(images.people[rows], images.people[np.concatenate(days[:number])])]
            taken += [after[images.paths[i]] in old for i in come]
        found = measure(ledger, images, np.concatenate(days), strangers, eps)
        ledger.close()
    return {"file": os.path.basename(path), "seed": seed, "kept": min(kept), **found, "new taken": np.mean(taken)}


def measure(ledger: IdentityLedger, images: Images, rows: np.ndarray, strangers: np.ndarray, eps: float) -> dict:
    person = {row.path: row.person for row in ledger.images()}
    labels = np.array([person[images.paths[i]] or -1 for i in rows])
    anew = generate_pseudo_labels(images.vectors[rows], eps=eps, k1=K1)
    ari = [adjusted_rand_index(outliers_alone(found), images.people[rows]) for found in (labels, anew)]
    names = {
        number: np.bincount(images.people[rows][labels == number]).argmax() for number in np.unique(labels[labels > 0])
    }
    gallery, _ = ledger.gallery()  # its images are in the order of the rows
    calibration = ledger.model().calibration
    threshold = calibration.threshold(FALSE_ACCEPT, len(names))
    best, strange = best_people(gallery.near(images.vectors[strangers]), np.arange(len(strangers)), gallery)
    # each known image against the ledger without it
    sizes = dict(zip(*np.unique(labels, return_counts=True)))
    whose = np.array([i for i, label in enumerate(labels) if label > 0 and sizes[label] > 3])
    own, known = leave_out(gallery, whose)
    right = np.array([names.get(number) == images.people[rows[i]] for number, i in zip(own.tolist(), whose)])
    chosen = np.quantile(strange, 1 - FALSE_ACCEPT)  # with the truth
    accepted = lambda limit: (right & (known >= limit)).mean()
    scores, truth = np.r_[known, strange], np.r_[right, np.zeros(len(strange), bool)]
    people = np.r_[own, best]
    likely = probabilities(people, scores, gallery, calibration)
    return {
        "ARI": ari[0],
        "anew": ari[1],
        "false accepts": (strange >= threshold).mean(),
        "true accepts": accepted(threshold),
        "of the best": accepted(threshold) / accepted(chosen),
        "ECE": reliability(likely, truth).error,
    }


def leave_out(gallery: Gallery, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) best person of each of some images of a ledger against the rest, and the score."""
    numbers, people = np.unique(gallery.people, return_inverse=True)
    people = people.reshape(-1) - int(numbers[0] < 0)
    numbers = numbers[numbers >= 0]
    sizes = np.tile(np.bincount(people[people >= 0], minlength=len(numbers)), (len(places), 1))
    sizes[np.arange(len(places)), people[places]] -= 1
    near = gallery.near(gallery.rows(places))
    found = np.where(near.places == places[:, None], -1, people[near.places])
    person, score = score_people(near.similarities, found, sizes).best(len(places))
    return np.where(person >= 0, numbers[person], -1), score


def drawn_batch(who: np.ndarray, start: int, width: int, rng: np.random.Generator) -> Batch:
    """Images of people (numbers), whose embeddings lie around a direction for each."""
    centers = np.random.default_rng(0).normal(size=(int(who.max()) + 1, width)).astype(np.float32)
    vectors = rng.standard_normal((len(who), width), np.float32)
    for block in np.array_split(np.arange(len(who)), -(-len(who) // BLOCK)):
        some = centers[who[block]] + 0.7 * vectors[block]
        vectors[block] = some / np.linalg.norm(some, axis=1, keepdims=True)
    paths = [f"{start + i:09d}.jpg" for i in range(len(who))]
    return Batch(paths, vectors, [Sighting()] * len(who), [(start + i).to_bytes(32, "big") for i in range(len(who))])


def size(count: int, width: int) -> dict:
    """Seconds for 1,000 images into a ledger of so many, a fifth of them of people who are new; and for 1,000 more."""
    rng = np.random.default_rng(0)
    people = max(2, count // 30)
    who = np.arange(count) % people
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "ledger")
        begun = time.perf_counter()
        IdentityLedger.create(path, drawn_batch(who, 0, width, rng), who, "drawn", eps=0.5).close()
        made, seconds, added = time.perf_counter(), [], []
        with IdentityLedger(path) as ledger:
            for number in range(2):
                new = people + 20 * number + np.arange(1000) % 20
                coming = np.where(np.arange(1000) < 800, rng.integers(0, people, 1000), new)
                batch = drawn_batch(coming, count + 1000 * number, width, rng)
                start, used = time.perf_counter(), time.process_time()
                added.append(ledger.add(batch, "drawn"))
                seconds += [time.perf_counter() - start, time.process_time() - used]
        megabytes = os.path.getsize(path) / 1e6
    names = ("add 1,000 s", "of a core", "1,000 more s", "of one core")
    verdicts = {"known": sum(one.known for one in added), "new": sum(one.new for one in added)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    times = {"init s": made - begun, **dict(zip(names, seconds))}
    return {"images": count, **times, **verdicts, "file MB": megabytes, "peak GB": peak}


def add_days(result: argparse.ArgumentParser) -> None:
    """The arguments that say what three days are."""
    result.add_argument("--people", type=int, default=25, help="new ones each day (default: 25)")
    result.add_argument("--eps", type=float, default=0.5, help="of the labelling (default: 0.5)")
    result.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("files", nargs="*", metavar="FILE.npz")
    add_days(result)
    result.add_argument("--size", type=int, nargs="*", default=[], help="images in a ledger of drawn embeddings")
    result.add_argument("--width", type=int, default=256)
    return result


def measured(args: argparse.Namespace) -> None:
    rows = [run(path, args.people, seed, args.eps) for path in args.files for seed in args.seeds]
    rows += [size(count, args.width) for count in args.size]
    print(tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".3f"))


def main(argv=None) -> int:
    return run_command(parser(), measured, argv)


if __name__ == "__main__":
    sys.exit(main())
