#!/usr/bin/env python3
"""What cameras are worth as evidence, where embeddings follow cameras rather than people.

    python tools/benchmarks/cameras.py --seeds 0 1 2
    python tools/benchmarks/cameras.py --images datasets/Market-1501-v15.09.15 --config market_mobilenetv2.yml

Drawn persons SEED:CAMERAS with cameras of --strength (projects/SyntheticPersons/make.py --camera-strength), or with --images one
data set in Market-1501's layout, which the config must name. Trained on without evidence (plain), with the keys of --opts
(evidence), and with these and cameras dealt out anew among the training images (shuffled). Final mAP; of the last labels the
share of clusters that lie in one camera, the images by the largest camera of their cluster, purity, adjusted Rand index of the
clustered images; the same of the true people. True cameras count, also where the run was given others.
Data sets, runs and results are kept in --work, and what is there already is not done again: other keys need another folder.
"""

import argparse
import json
import random
import re
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Iterator

import numpy as np
from folder import dataset, train
from parts import person
from tabulate import tabulate

from ise_plugin.clustering import quality
from ise_plugin.errors import UsageError
from ise_plugin.utils.command_line import run_command

CAMERA = re.compile(r"_c(\d+)")
TRAIN, OTHERS = "bounding_box_train", ("query", "bounding_box_test")
PLAIN, EVIDENCE, SHUFFLED = "plain", "evidence", "shuffled"
COMMON = ("ISE.EVAL_BEFORE_TRAIN", "False", "ISE.REPORT.PICTURES", "False", "ISE.REPORT.KEEP_EMBEDDINGS", "(-1,)")
COLUMNS = {"mAP": 2, "one camera": 1, "largest camera": 1, "purity": 1, "ARI": 3}  # decimals


def shuffled(data: Path, work: Path) -> Path:
    """The data set as links, the camera in each training image's name being that of another one, drawn at random."""
    copy = work / f"{data.parent.name}_shuffled" / data.name
    if (copy / OTHERS[-1]).exists():  # made last
        return copy
    images = sorted((data / TRAIN).glob("*.jpg"))
    cameras = [CAMERA.search(path.name)[0] for path in images]
    random.Random(0).shuffle(cameras)
    (copy / TRAIN).mkdir(parents=True, exist_ok=True)
    for path, camera in zip(images, cameras):
        link = copy / TRAIN / CAMERA.sub(camera, path.name, count=1)
        link.unlink(missing_ok=True)
        link.symlink_to(path)
    if len(list((copy / TRAIN).iterdir())) != len(images):
        raise UsageError(f"two images of {data / TRAIN} have one name but for the camera; shuffle another data set")
    for name in OTHERS:
        (copy / name).symlink_to(data / name)
    return copy


def seen(labels: np.ndarray, paths: list) -> list[float]:
    """Percent of clusters in one camera, of images by the largest camera of their cluster; purity; adjusted Rand index."""
    names = [Path(path).resolve() for path in paths]  # links to images: their names are true
    people = np.array([person(name) for name in names])
    cameras = np.array([int(CAMERA.search(name.name)[1]) for name in names])
    one_camera = quality.camera_spread(labels, cameras).one_camera
    scores = [one_camera, quality.purity(labels, cameras), quality.purity(labels, people)]
    return [100.0 * score for score in scores] + [quality.adjusted_rand_index(labels, people)]


def result_of(run: Path) -> list[float]:
    """The row of a finished run, in the order of COLUMNS."""
    content = np.load(sorted(run.glob("embeddings_*.npz"))[-1])
    return [json.loads((run / "results.json").read_text())["final"]["mAP"], *seen(content["labels"], content["paths"])]


def truth(data: Path) -> list[float]:
    """The same of the true people, without mAP."""
    paths = sorted((data / TRAIN).glob("*.jpg"))
    return seen(np.unique([person(path) for path in paths], return_inverse=True)[1], paths)


def said(run: Path) -> str:
    """What the run logged of the evidence."""
    lines = (run / "log.txt").read_text().splitlines()
    return next((line.split("ISE.EVIDENCE", 1)[1] for line in lines if "ISE.EVIDENCE" in line and "uses" in line), "")


def data_sets(args: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    if args.images:
        yield Path(args.images).name, Path(args.images).resolve()
        return
    for which in args.sets:
        seed, cameras = map(int, which.split(":"))
        root = dataset(args.work, seed, cameras, "--camera-strength", str(args.strength))
        yield which.replace(":", "_"), next(root.glob("synthetic_persons_*"))


def summary(rows: list[list[float]]) -> list[str]:
    """Means of the last columns, with the standard deviation over training seeds where there are several."""
    columns = zip(list(COLUMNS.values())[-len(rows[0]) :], zip(*rows))
    spread = lambda values, digits: f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return [f"{mean(values):.{digits}f}{spread(values, digits)}" for digits, values in columns]


def measure(args: argparse.Namespace) -> None:
    args.work = Path(args.work).resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    table = []
    for name, data in data_sets(args):
        for variant in args.variants:
            source = shuffled(data, args.work) if variant == SHUFFLED else data
            opts = [*COMMON, *args.common, *([] if variant == PLAIN else args.opts)]
            rows = []
            for seed in args.seeds:
                run = args.work / f"{name}_{variant}_{seed}"
                train(args.config, run, source.parent, *opts, "SEED", str(seed))
                rows.append(result_of(run))
                found = ", ".join(f"{column} {value:.3f}" for column, value in zip(COLUMNS, rows[-1]))
                print(f"{name}, {variant}, seed {seed}: {found}{said(run)}", flush=True)
            table.append([name, variant, *summary(rows)])
        table.append([name, "true people", "", *summary([truth(data)])])
    print(tabulate(table, ["data", "", *COLUMNS], tablefmt="pipe", disable_numparse=True))


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the training")
    parser.add_argument("--sets", nargs="+", default=["0:6", "1:4", "2:3"], metavar="SEED:CAMERAS")
    parser.add_argument("--strength", type=float, default=2.0, help="of the drawn cameras (default: 2)")
    parser.add_argument("--images", default="", help="a data set in Market-1501's layout instead of drawn ones")
    parser.add_argument("--config", default="synthetic_mobilenetv2.yml", help="below configs/ISE")
    parser.add_argument(
        "--variants", nargs="+", default=[PLAIN, EVIDENCE, SHUFFLED], choices=[PLAIN, EVIDENCE, SHUFFLED]
    )
    parser.add_argument("--opts", nargs="+", default=["ISE.EVIDENCE", "auto"], metavar="KEY VALUE", help="the evidence")
    parser.add_argument("--common", nargs="*", default=[], metavar="KEY VALUE", help="keys of all runs")
    parser.add_argument("--work", default="logs/benchmark_cameras")
    return run_command(parser, measure, argv)


if __name__ == "__main__":
    sys.exit(main())
