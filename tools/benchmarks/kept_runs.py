#!/usr/bin/env python3
"""What a ledger makes of labels that runs have kept, where identities are known (docs/benchmarks.md).

    python tools/benchmarks/kept_runs.py logs/a/embeddings_0012.npz logs/b/embeddings_0012.npz

Each file is one that ISE.REPORT.KEEP_EMBEDDINGS kept. Of each: adjusted Rand index of its labels, and the calibration error (ECE)
of the probability that two near images are one person, as the report shows it. Of each two files of the same images, in both
directions: a ledger of the first one's labels takes those of the second, as ise-identities retrain does; the share of images
with a person that keep it, of all and of those that were right (of the identity that most of their person's images are of, and
whose most images this person has), and how many people are new or have no image any more.
"""

import argparse
import itertools
import os
import sys
import tempfile

import numpy as np
import torch
from tabulate import tabulate

from ise_plugin.clustering.quality import adjusted_rand_index, outliers_alone
from ise_plugin.data.sightings import Sighting
from ise_plugin.engine.labelling import Labelling
from ise_plugin.ledger import Batch, IdentityLedger
from ise_plugin.ledger.retraining import relabel
from ise_plugin.report.probabilities import pair_reliability
from ise_plugin.utils.command_line import run_command


def quality(path: str) -> dict:
    """One row of the first table."""
    kept = np.load(path)
    labelling = Labelling(torch.as_tensor(kept["features"]), kept["labels"], None, None)
    found = pair_reliability(labelling, kept["tracks"], kept["identities"])
    ari = adjusted_rand_index(outliers_alone(kept["labels"]), np.unique(kept["identities"], return_inverse=True)[1])
    return {"run": short(path), "ARI": ari, "pairs": int(found.counts.sum()), "ECE": found.error}


def retrained(first: str, second: str) -> dict:
    """One row of the second table."""
    old, new = np.load(first), np.load(second)
    paths = old["paths"].tolist()
    batch = Batch(paths, old["features"], [Sighting(str(c)) for c in old["cameras"]], [None] * len(paths))
    with tempfile.TemporaryDirectory() as folder:
        with IdentityLedger.create(os.path.join(folder, "ledger"), batch, old["labels"], "first") as ledger:
            done = relabel(ledger, new["paths"].tolist(), new["features"], new["labels"], "second")
            people = len(ledger.people()) - len(done.new)
    moved = np.isin(np.arange(len(paths)) + 1, [image for image, before, _ in done.moved if before is not None])
    right = rightly(old["labels"], old["identities"])
    kept = {"kept": done.kept, "of the right": (~moved[right]).mean()}
    told = {"people": people, "new": len(done.new), "without image": len(done.gone)}
    return {"ledger of": short(first), "retrained by": short(second), **kept, **told}


def rightly(labels: np.ndarray, identities: np.ndarray) -> np.ndarray:
    """(N,) bool, images of the most frequent identity of their group, whose most images this group has."""
    of = np.unique(identities, return_inverse=True)[1]
    shared = np.zeros((labels.max() + 1, of.max() + 1), np.int64)
    np.add.at(shared, (labels[labels >= 0], of[labels >= 0]), 1)
    right = shared[labels, of] == np.maximum(shared.max(1)[labels], shared.max(0)[of])
    return right & (labels >= 0)


def short(path: str) -> str:
    return os.path.basename(os.path.dirname(os.path.abspath(path)))


def pairs(files: list) -> list:
    images = {path: tuple(sorted(np.load(path)["paths"].tolist())) for path in files}
    return [pair for pair in itertools.permutations(files, 2) if images[pair[0]] == images[pair[1]]]


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("files", nargs="+", metavar="FILE.npz")
    return result


def measured(args: argparse.Namespace) -> None:
    for rows in ([quality(path) for path in args.files], [retrained(*pair) for pair in pairs(args.files)]):
        print(tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".3f"), "\n")


def main(argv=None) -> int:
    return run_command(parser(), measured, argv)


if __name__ == "__main__":
    sys.exit(main())
