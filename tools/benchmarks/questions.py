#!/usr/bin/env python3
"""What answers are worth: a ledger's questions, answered by the truth (docs/howto/ledger.md).

    python tools/benchmarks/questions.py FILE.npz [FILE.npz ...] --questions 100
    python tools/benchmarks/questions.py --size 100000 --width 256

Each file is one that tools/embed.py wrote, of images named as Market-1501's are (0002_c1s1_000451_03.jpg: identity, camera). The
ledger begins with a labelling of all of them. An answer is what is seen: of the images that a question shows of two parts,
whether most are of one person. Three orders: the ledger's own; the same questions, about people drawn at random; and people and
others drawn at random. Of each, the share of the gap of B-cubed F to 1 that is closed; undecided images count as people of one
image. With --size: seconds until the first question of so many drawn embeddings, to write an answer, and to the next question;
beside them the seconds that a core has worked for it.
"""

import argparse
import os
import sys
import tempfile
import time

import numpy as np
from ledger import Images, batch_of, drawn_batch, read
from tabulate import tabulate

from ise_plugin.clustering import DBSCAN, jaccard_graph
from ise_plugin.clustering.quality import b_cubed, outliers_alone
from ise_plugin.clustering.reliability import reliability
from ise_plugin.ledger import IdentityLedger
from ise_plugin.ledger.answers import Question
from ise_plugin.ledger.questions import Questions
from ise_plugin.utils.command_line import run_command

K1 = 20
ORDERS = ("best", "any person", "random")
ENOUGH = 10**6  # more questions than there are people


def f_of(ledger: IdentityLedger, people: np.ndarray) -> float:
    labels = np.array([row.person or -1 for row in ledger.images()])
    return b_cubed(outliers_alone(labels), people)[2]


def truth(question: Question, people: np.ndarray) -> list[bool]:
    seen = [np.bincount(people[np.array(part.shown) - 1]).argmax() for part in (question.about, *question.others)]
    return [bool(person == seen[0]) for person in seen[1:]]


def asked(questions: Questions, order: str, others: int, rng: np.random.Generator):
    if order == "best":
        found = questions.first(1)
        return found[0]._replace(others=found[0].others[:others]) if found else None
    found = questions.first(ENOUGH)
    if not found:
        return None
    one = found[rng.integers(len(found))]
    if order == "random":
        parts = [part for question in found for part in (question.about, *question.others) if not part.own]
        drawn = {p.images: p for p in (parts[i] for i in rng.permutation(len(parts))[: 4 * others])}
        one = one._replace(others=tuple(p for p in drawn.values() if p.person is None or p.person != one.about.person))
    return one._replace(others=one.others[:others])


def run(path: str, order: str, count: int, others: int, eps: float, seed: int) -> dict:
    """One row of the table."""
    images = crops(read(path))
    labels = DBSCAN(eps).fit_predict(jaccard_graph(images.vectors, K1, max_distance=eps))
    rng, closed, chances, right = np.random.default_rng(seed), [], [], []
    with tempfile.TemporaryDirectory() as folder:
        first = batch_of(images, np.arange(len(labels)))
        with IdentityLedger.create(os.path.join(folder, "ledger"), first, labels, "drawn", eps=eps) as ledger:
            start, questions = f_of(ledger, images.people), Questions(ledger)
            for number in range(1, count + 1):
                question = asked(questions, order, others, rng)
                if question is None:
                    break
                said = truth(question, images.people)
                chances += [part.probability for part in question.others]
                right += said
                questions.answer(question, said)
                if number % max(1, count // 4) == 0:
                    closed.append((f_of(ledger, images.people) - start) / (1 - start))
    shown = {f"after {count // 4 * (i + 1)}": share for i, share in enumerate(closed)}
    error = reliability(np.array(chances), np.array(right)).error if order != "random" else float("nan")
    row = {"file": os.path.basename(path), "order": order, "images": len(labels), "F": start, **shown}
    return {**row, "pairs": len(chances), "ECE": error}


def crops(images: Images) -> Images:
    """Those of training alone, where the data set has a folder of them."""
    kept = np.flatnonzero(["query" not in path and "_test" not in path for path in images.paths])
    vectors, people, cameras, paths = images
    return Images(vectors[kept], people[kept], cameras[kept], [paths[i] for i in kept])


def size(count: int, width: int) -> dict:
    """Seconds to a question of a ledger of so many drawn embeddings, whose people are each in two groups."""
    rng = np.random.default_rng(0)
    who = np.arange(count) % max(2, count // 30)
    labels = np.where(rng.random(count) < 0.05, -1, 2 * who + (rng.random(count) < 0.4))
    with tempfile.TemporaryDirectory() as folder:
        batch = drawn_batch(who, 0, width, rng)
        with IdentityLedger.create(os.path.join(folder, "ledger"), batch, labels, "drawn", eps=0.5) as ledger:
            questions, seconds = Questions(ledger), []
            begun, used = time.perf_counter(), time.process_time()
            found = questions.first(1)
            first, first_cpu = time.perf_counter() - begun, time.process_time() - used
            for _ in range(10):
                same = [bool(said) for said in truth(found[0], who)]
                begun = time.perf_counter()
                questions.answer(found[0], same)
                written, used = time.perf_counter(), time.process_time()
                found = questions.first(1)
                ended = time.perf_counter(), time.process_time()
                seconds.append((written - begun, ended[0] - written, ended[1] - used))
    answer, following, cpu = zip(*seconds)
    return {
        "images": count,
        "first s": first,
        "of a core": first_cpu,
        "answer s": np.median(answer),
        "next s": np.median(following),
        "of one core": np.median(cpu),
        "slowest next s": max(following),
    }


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("files", nargs="*", metavar="FILE.npz")
    result.add_argument("--questions", type=int, default=100)
    result.add_argument("--others", type=int, default=8, help="at most so many in a question; 1: pairs (default: 8)")
    result.add_argument("--eps", type=float, default=0.5, help="of the labelling (default: 0.5)")
    result.add_argument("--seeds", type=int, nargs="+", default=[0], help="of what is random (default: 0)")
    result.add_argument("--orders", nargs="+", choices=ORDERS, default=ORDERS)
    result.add_argument("--size", type=int, nargs="*", default=[], help="images in a ledger of drawn embeddings")
    result.add_argument("--width", type=int, default=256)
    return result


def measured(args: argparse.Namespace) -> None:
    rows = [
        run(path, order, args.questions, args.others, args.eps, seed)
        for path in args.files
        for order in args.orders
        for seed in (args.seeds[:1] if order == "best" else args.seeds)  # nothing is random in the ledger's own
    ]
    rows += [size(count, args.width) for count in args.size]
    print(tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".3f"))


def main(argv=None) -> int:
    return run_command(parser(), measured, argv)


if __name__ == "__main__":
    sys.exit(main())
