#!/usr/bin/env python3
"""From a folder to identities, measured on persons whose file names say nothing.

    python tools/benchmarks/folder.py identities --seeds 0 1 2 --sets 0:6 1:4 2:3 --told nothing cameras tracks
    python tools/benchmarks/folder.py eps --sets 0:6 1:4 2:3 --eps auto 0.4 0.5 0.6
    python tools/benchmarks/folder.py photographs --images Market-1501-v15.09.15/bounding_box_train --people 60 200 750
    python tools/benchmarks/folder.py photographs_eps --images Market-1501-v15.09.15/bounding_box_train

identities: the training images of data sets SEED:CAMERAS of the size `demo`, each in one folder, under random names; trained
on with configs/ISE/folder.yml, told nothing, or by a CSV cameras, or cameras, tracks and frames. Adjusted Rand index against the
truth over the images that are no outliers, and over all.
eps: the demonstration on data sets SEED:CAMERAS with each eps; final mAP, and how far auto is from the best.
photographs: random parts of a labelled data set, so many people each, in one folder without cameras, with --config; adjusted Rand
index over all images, every outlier being a group of its own. Names start with the identity, as Market-1501's do.
photographs_eps: parts of 200 people with each eps; mAP across cameras among 200 others of the same images.
Data sets, runs and results are kept in --work, and what is there already is not done again.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

from parts import GALLERY, QUERY, TRAIN, part_of, people_of, person

from ise_plugin.config import AUTO
from ise_plugin.errors import UsageError
from ise_plugin.identities.groups import read_csv
from ise_plugin.identities.score import score_of
from ise_plugin.sweep import Job, run_jobs
from ise_plugin.utils.command_line import run_command

REPOSITORY = Path(__file__).parents[2]
DATASET = "synthetic_persons_demo"


def train(config: str, output: Path, data: Path, *opts: str) -> None:
    """A run of tools/train_net.py, unless it has been done; its console output goes to OUTPUT.txt."""
    job = Job(str(REPOSITORY / "configs/ISE" / config), dict(zip(opts[0::2], opts[1::2])), str(output))
    command = [sys.executable, str(REPOSITORY / "tools/train_net.py")]
    failed = run_jobs([job], command, environment={"FASTREID_DATASETS": str(data)}, say=lambda line: None)
    if failed:
        raise UsageError(f"a training failed: {failed[job.folder]}; see {output}.txt")


def dataset(work: Path, seed: int, cameras: int, *options: str) -> Path:
    """Folder of data sets that holds the one drawn with these options of make.py."""
    root = work / f"data_{seed}_{cameras}"
    command = [sys.executable, str(REPOSITORY / "projects/SyntheticPersons/make.py"), "--size", "demo"]
    command += ["--seed", str(seed), "--cameras", str(cameras), "--output", str(root), *options]
    if subprocess.call(command):
        raise UsageError(f"the data set {root / DATASET} could not be drawn")
    return root


def nameless_folder(work: Path, seed: int, cameras: int) -> tuple[Path, dict, dict]:
    """Training images of a data set under random names: their folder, CSVs of what is told of them, and name -> identity."""
    source = dataset(work, seed, cameras) / DATASET / "bounding_box_train"
    folder = work / f"crops_{seed}_{cameras}"
    folder.mkdir(exist_ok=True)
    names, truth, known = random.Random(0), {}, []
    for path in sorted(source.iterdir()):
        name = f"{names.getrandbits(64):016x}{path.suffix}"
        shutil.copy(path, folder / name)
        walk, frame, _ = path.stem.rsplit("_", 2)
        truth[name], camera = walk.split("_c")
        known.append((name, camera[0], walk, int(frame)))
    tables = {"cameras": ("path,camera", 2), "tracks": ("path,camera,track,frame", 4)}
    for told, (header, columns) in tables.items():
        rows = (",".join(map(str, row[:columns])) for row in known)
        (work / f"{folder.name}_{told}.csv").write_text("\n".join([header, *rows, ""]))
    return folder, {told: work / f"{folder.name}_{told}.csv" for told in tables}, truth


def photographs(args: argparse.Namespace) -> dict:
    found: dict = {}
    for people in args.people:
        for seed in args.seeds:
            images, order = people_of(args.images, seed)
            folder, names, truth = args.work / f"photographs_{people}_{seed}", random.Random(seed), {}
            folder.mkdir(exist_ok=True)
            for path in (path for identity in order[:people] for path in images[identity]):
                name = f"{names.getrandbits(64):016x}{path.suffix}"
                truth[name] = person(path)
                shutil.copy(path, folder / name)
            run = args.work / f"{Path(args.config).stem}_{people}_{seed}"
            train(args.config, run, args.work, "DATASETS.FOLDER.ROOT", str(folder), "SEED", str(seed), *args.opts)
            name = f"{people} people, seed {seed}"
            found[name] = score_of(read_csv(str(run / "identities.csv")), truth)
            print(f"{name}: {found[name]}", flush=True)
    return found


def photographs_eps(args: argparse.Namespace) -> dict:
    found: dict = {}
    for seed in args.seeds:
        folders = {name: args.work / f"eps_{seed}" / name for name in (TRAIN, QUERY, GALLERY)}
        for path, name in part_of(args.images, 200, seed):
            home = folders[name] / person(path)
            home.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, home)
        opts = ["DATASETS.FOLDER.ROOT", folders[TRAIN], "DATASETS.FOLDER.CAMERA_REGEX", "_(c[0-9])s", "SEED", seed]
        opts += ["DATASETS.FOLDER.QUERY", folders[QUERY], "DATASETS.FOLDER.GALLERY", folders[GALLERY]]
        opts += ["DATASETS.TESTS", "('Folder',)", "ISE.REPORT.PICTURES", "False", *args.opts]
        for value in args.eps:
            run = args.work / f"photographs_eps_{seed}_{value}"
            train(args.config, run, args.work, *map(str, opts), "ISE.PSEUDO_LABEL.EPS", value)
            final = round(json.loads((run / "results.json").read_text())["final"]["mAP"], 2)
            found.setdefault(seed, {})[value] = final
            print(f"part {seed}, eps {value}: mAP {final}", flush=True)
    return found


def identities(args: argparse.Namespace) -> dict:
    found = {}
    for which in args.sets:
        folder, tables, truth = nameless_folder(args.work, *map(int, which.split(":")))
        for told in args.told:
            opts = ["DATASETS.FOLDER.CAMERA_CSV", str(tables[told])] if told in tables else []
            for seed in args.seeds:
                run = args.work / f"{folder.name}_{told}_{seed}"
                own = ["DATASETS.FOLDER.ROOT", str(folder), "SEED", str(seed)]
                train("folder.yml", run, args.work, *own, *opts, *args.opts)
                name = f"data {which}, told {told}, seed {seed}"
                found[name] = score_of(read_csv(str(run / "identities.csv")), truth)
                print(f"{name}: {found[name]}", flush=True)
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
    parts = {"identities": identities, "eps": eps, "photographs": photographs, "photographs_eps": photographs_eps}
    print(json.dumps(parts[args.part](args), indent=1))


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("identities", "eps", "photographs", "photographs_eps"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the training")
    parser.add_argument("--sets", nargs="+", default=["0:6", "1:4", "2:3"], metavar="SEED:CAMERAS")
    parser.add_argument("--told", nargs="+", default=["nothing", "cameras"], choices=["nothing", "cameras", "tracks"])
    parser.add_argument("--eps", nargs="+", default=[AUTO, "0.4", "0.5", "0.6"])
    parser.add_argument("--images", default="", help="folder of a labelled data set's training images")
    parser.add_argument("--people", type=int, nargs="+", default=[60, 200, 750])
    parser.add_argument("--config", default="folder.yml", help="config of the folder, below configs/ISE")
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="further keys of those runs")
    parser.add_argument("--work", default="logs/benchmark_folder")
    return run_command(parser, measure, argv)


if __name__ == "__main__":
    sys.exit(main())
