#!/usr/bin/env python3
"""From a folder to identities, measured on drawn persons whose names say nothing.

    python tools/benchmarks/folder.py identities --seeds 0 1 2
    python tools/benchmarks/folder.py eps --sets 0:6 1:4 2:3 --eps auto 0.4 0.5 0.6

identities: the training images of the data set `demo` in one folder, under random names; trained on with configs/ISE/folder.yml,
once without cameras and once with a CSV of them. Adjusted Rand index against the truth over the images that are no outliers.
eps: the demonstration on data sets SEED:CAMERAS with each eps; final mAP, and how far auto is from the best.
Data sets, runs and results are kept in --work, and what is there already is not done again.
"""

import argparse
import csv
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

from sklearn.metrics import adjusted_rand_score

from ise_plugin.config import AUTO
from ise_plugin.errors import UsageError
from ise_plugin.utils.command_line import run_command

REPOSITORY = Path(__file__).parents[2]
DATASET = "synthetic_persons_demo"


def train(config: str, output: Path, data: Path, *opts: str) -> None:
    """A run of tools/train_net.py, unless it has been done; its console output goes to OUTPUT.txt."""
    if (output / "results.json").exists():
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(REPOSITORY / "tools/train_net.py")]
    command += ["--config-file", str(REPOSITORY / "configs/ISE" / config), *opts, "OUTPUT_DIR", str(output)]
    with open(f"{output}.txt", "w") as log:
        code = subprocess.call(
            command, env={**os.environ, "FASTREID_DATASETS": str(data)}, stdout=log, stderr=subprocess.STDOUT
        )
    if code:
        raise UsageError(f"a training ended with exit code {code}; see {log.name}")


def dataset(work: Path, seed: int, cameras: int) -> Path:
    """Folder of data sets that holds the drawn one."""
    root = work / f"data_{seed}_{cameras}"
    command = [sys.executable, str(REPOSITORY / "projects/SyntheticPersons/make.py"), "--size", "demo"]
    command += ["--seed", str(seed), "--cameras", str(cameras), "--output", str(root)]
    if subprocess.call(command):
        raise UsageError(f"the data set {root / DATASET} could not be drawn")
    return root


def nameless_folder(work: Path) -> tuple[Path, Path, dict]:
    """Training images under random names: their folder, the CSV of their cameras, and name -> identity."""
    source = dataset(work, 0, 6) / DATASET / "bounding_box_train"
    folder, cameras = work / "crops", work / "cameras.csv"
    folder.mkdir(exist_ok=True)
    names, truth = random.Random(0), {}
    with open(cameras, "w") as file:
        print("path,camera", file=file)
        for path in sorted(source.iterdir()):
            name = f"{names.getrandbits(64):016x}{path.suffix}"
            shutil.copy(path, folder / name)
            identity, rest = path.name.split("_c")
            truth[name] = identity
            print(f"{name},{rest[0]}", file=file)
    return folder, cameras, truth


def agreement(run: Path, truth: dict) -> dict:
    with open(run / "identities.csv") as file:
        rows = list(csv.DictReader(file))
    inliers = [row for row in rows if row["outlier"] == "0"]
    labels = [row["cluster"] for row in inliers]
    return {
        "ari": round(adjusted_rand_score([truth[row["path"]] for row in inliers], labels), 3),
        "outliers_percent": round(100 * (1 - len(inliers) / len(rows)), 2),
        "groups": len(set(labels)),
        "true": len(set(truth.values())),
    }


def identities(args: argparse.Namespace) -> dict:
    folder, cameras, truth = nameless_folder(args.work)
    found = {}
    for name, opts in {"alone": [], "cameras": ["DATASETS.FOLDER.CAMERA_CSV", str(cameras)]}.items():
        for seed in args.seeds:
            run = args.work / f"{name}_{seed}"
            train("folder.yml", run, args.work, "DATASETS.FOLDER.ROOT", str(folder), *opts, "SEED", str(seed))
            found[f"{name}, seed {seed}"] = agreement(run, truth)
            print(f"{name}, seed {seed}: {found[f'{name}, seed {seed}']}", flush=True)
    return found


def eps(args: argparse.Namespace) -> dict:
    found = {}
    for which in args.sets:
        seed, cameras = map(int, which.split(":"))
        data = dataset(args.work, seed, cameras)
        for value in args.eps:
            for training_seed in args.seeds:
                run = args.work / f"eps_{seed}_{cameras}_{value}_{training_seed}"
                opts = ("ISE.PSEUDO_LABEL.EPS", value, "ISE.EVAL_BEFORE_TRAIN", "False", "SEED", str(training_seed))
                train("synthetic_mobilenetv2.yml", run, data, *opts, "ISE.REPORT.PICTURES", "False")
                final = round(json.loads((run / "results.json").read_text())["final"]["mAP"], 2)
                found.setdefault(which, {}).setdefault(value, []).append(final)
                print(f"data {which}, eps {value}, seed {training_seed}: mAP {final}", flush=True)
    for values in found.values():
        means = {value: sum(each) / len(each) for value, each in values.items()}
        if AUTO in means:
            values["auto below the best"] = round(max(means.values()) - means[AUTO], 2)
    return found


def measure(args: argparse.Namespace) -> None:
    args.work = Path(args.work).resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    print(json.dumps({"identities": identities, "eps": eps}[args.part](args), indent=1))


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("identities", "eps"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the training")
    parser.add_argument("--sets", nargs="+", default=["0:6", "1:4", "2:3"], metavar="SEED:CAMERAS")
    parser.add_argument("--eps", nargs="+", default=[AUTO, "0.4", "0.5", "0.6"])
    parser.add_argument("--work", default="logs/benchmark_folder")
    return run_command(parser, measure, argv)


if __name__ == "__main__":
    sys.exit(main())
