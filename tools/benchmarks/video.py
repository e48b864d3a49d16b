#!/usr/bin/env python3
"""People over three drawn cameras: identities, memory, speed, kills (docs/howto/video.md).

    python tools/benchmarks/video.py --output bench --seeds 31 32 33              # trains, hours on a CPU
    python tools/benchmarks/video.py --output bench --seeds 31 --model ISE/folder.yml   # without training
    python tools/benchmarks/video.py --output bench --seeds 31 --memory --kills 20

Draws projects/tracker/world.py's videos, 20 people who come and go in front of three cameras, gives the boxes without tracks to
ise-video, and compares with the truth by the identity measures of the library ``trackers``: over all cameras as one sequence, so
that somebody must have one number everywhere. Beside it, the same tracks linked by the cosine of their mean embeddings by the
stock network (ImageNet), at the threshold that is best by the truth.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from tabulate import tabulate

from ise_plugin.utils.command_line import run_command

REPOSITORY = Path(__file__).parents[2]
STOCK = "ISE/folder.yml"
COMMAND = [sys.executable, str(REPOSITORY / "tools/video.py")]
THRESHOLDS = np.arange(0.02, 1.0, 0.02)  # cosine distances
MEMORY_MINUTES = (1, 10)
FOLDER_TRAINING = ["--config", "ISE/folder.yml"]


def world(args: argparse.Namespace, seed: int) -> Path:
    """The folder with a world's videos, drawn if it is not there."""
    folder = args.output / f"world_{seed}"
    if not (folder / "done").exists():
        draw = [sys.executable, str(REPOSITORY / "projects/tracker/world.py"), "--output", str(folder)]
        subprocess.run(
            [*draw, "--seed", str(seed), "--seconds", str(args.seconds)], check=True, stdout=subprocess.DEVNULL
        )
        (folder / "done").touch()
    return folder


def command(folder: Path, output: Path, words: list, videos: list | None = None) -> list:
    videos = sorted(map(str, folder.glob("*.mp4"))) if videos is None else videos
    told = ["--boxes", str(folder / "boxes/{}.txt"), "--first-frame", "1", "--output", str(output)]
    return [*COMMAND, "identities", *videos, *told, *words]


def read_mot(path: Path) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Frame -> numbers (n,) and boxes (n, 4): left, top, right, bottom."""
    rows = np.atleast_2d(np.loadtxt(path, delimiter=",", usecols=range(6), ndmin=2))
    rows[:, 4:6] += rows[:, 2:4]
    return {
        int(frame): (rows[rows[:, 0] == frame, 1].astype(int), rows[rows[:, 0] == frame, 2:6])
        for frame in set(rows[:, 0])
    }


def measure(truth: dict, found: dict) -> dict:
    """Identity measures over all cameras; pairs of boxes with one number in one frame."""
    from trackers.eval.box import box_iou
    from trackers.eval.identity import compute_identity_metrics

    nothing = np.empty(0, int), np.empty((0, 4))
    ids, numbers, overlaps, clashes = [], [], [], 0
    for camera, frames in truth.items():
        for frame in sorted(set(frames) | set(found.get(camera, {}))):
            (own, boxes), (other, others) = frames.get(frame, nothing), found.get(camera, {}).get(frame, nothing)
            ids.append(own)
            numbers.append(other)
            empty = not len(own) or not len(other)
            overlaps.append(np.zeros((len(own), len(other))) if empty else box_iou(boxes, others, box_format="xyxy"))
            clashes += len(other) - len(set(other.tolist()))
    metrics = compute_identity_metrics(ids, numbers, overlaps)
    errors = int(metrics["IDFN"] + metrics["IDFP"])
    return {
        "IDF1": float(metrics["IDF1"]),
        "errors": errors,
        "clashes": clashes,
        "people": len(set(np.concatenate(numbers))),
    }


def linked(output: Path, truth: dict) -> dict:
    """The best that cosine linking of tracks by the stock network can do: the threshold with the highest IDF1."""
    from ise_plugin.data.mot import read_source
    from ise_plugin.video.people import tracked_boxes

    content = np.load(output / "embeddings.npz")
    vectors = dict(zip(map(str, content["paths"]), content["embeddings"]))
    rows: dict = defaultdict(list)
    for camera in truth:
        for name, track, _ in read_source(str(output / "crops" / camera))["crops"]:
            rows[camera, track].append(vectors[os.path.abspath(output / "crops" / camera / name)])
    tracks = list(rows)
    means = np.stack([np.mean(rows[track], axis=0) for track in tracks])
    tree = linkage(means, "average", metric="cosine")
    best: dict = {"IDF1": -1.0}
    for threshold in THRESHOLDS:
        numbers = dict(zip(tracks, fcluster(tree, threshold, "distance").tolist()))
        found = {
            camera: with_numbers(tracked_boxes(str(output / "crops" / camera)), camera, numbers) for camera in truth
        }
        measured = {**measure(truth, found), "threshold": round(float(threshold), 2)}
        best = max(best, measured, key=lambda each: each["IDF1"])
    return best


def with_numbers(boxes, camera: str, numbers: dict) -> dict:
    frames: dict = defaultdict(lambda: ([], []))
    for row in boxes:
        if (camera, row.track) in numbers:
            left, top, width, height = row.box
            frames[row.frame][0].append(numbers[camera, row.track])
            frames[row.frame][1].append((left, top, left + width, top + height))
    return {frame: (np.array(own), np.array(corners)) for frame, (own, corners) in frames.items()}


def identities(args: argparse.Namespace) -> None:
    """The table of the seeds."""
    table = []
    for seed in args.seeds:
        folder = world(args, seed)
        truth = {path.stem: read_mot(path) for path in sorted((folder / "truth").glob("*.txt"))}
        stock = args.output / f"stock_{seed}"
        seconds = timed(command(folder, stock, ["--model", STOCK]))
        crops = sum(1 for _ in (stock / "crops").rglob("*.jpg"))
        rows = {
            "cosine linking, best threshold": linked(stock, truth),
            "ise-video, stock network": found_in(stock, truth),
        }
        rows["ise-video, stock network"]["crops per second"] = round(crops / seconds, 1)
        if args.model != STOCK:
            own = args.output / (f"trained_{seed}" if args.model is None else f"model_{seed}")
            words = FOLDER_TRAINING if args.model is None else ["--model", args.model]
            seconds = timed(command(folder, own, words))
            rows["ise-video, trained" if args.model is None else args.model] = {
                **found_in(own, truth),
                "minutes": round(seconds / 60, 1),
            }
        table += [{"seed": seed, "how": name, **row} for name, row in rows.items()]
        print(tabulate(table, headers="keys", tablefmt="pipe", floatfmt=".3f"), flush=True)


def found_in(output: Path, truth: dict) -> dict:
    return measure(truth, {camera: read_mot(output / "identities" / f"{camera}.txt") for camera in truth})


def timed(words: list) -> float:
    start = time.perf_counter()
    subprocess.run(words, check=True)
    return time.perf_counter() - start


def memory(args: argparse.Namespace) -> None:
    """Most resident memory of the whole command, one process, for recordings of one and of ten minutes."""
    folder, table = world(args, args.seeds[0]), []
    for minutes in MEMORY_MINUTES:
        long = args.output / f"minutes_{minutes}"
        shutil.rmtree(long, ignore_errors=True)
        (long / "boxes").mkdir(parents=True)
        repeated(folder, long, round(minutes * 60 / args.seconds))
        words = command(long, long / "out", ["--model", STOCK, "--processes", "1"])
        process = subprocess.Popen(words)
        _, code, usage = os.wait4(process.pid, 0)
        if code:
            raise SystemExit(code)
        table.append({"minutes": minutes, "resident memory in MB": round(usage.ru_maxrss / 1024)})
    print(tabulate(table, headers="keys", tablefmt="pipe"))


def repeated(folder: Path, output: Path, times: int) -> None:
    """The first video and its boxes, one after another so many times; packets are copied."""
    import av

    with av.open(str(folder / "cam1.mp4")) as source, av.open(str(output / "cam1.mp4"), "w") as target:
        template = source.streams.video[0]
        stream = target.add_stream_from_template(template)
        span, frames = template.duration, template.frames
        for turn in range(times):
            source.seek(0)
            for packet in source.demux(template):
                if packet.dts is not None:
                    packet.pts, packet.dts, packet.stream = packet.pts + turn * span, packet.dts + turn * span, stream
                    target.mux(packet)
    rows = [line.split(",", 1) for line in (folder / "boxes/cam1.txt").read_text().splitlines()]
    text = "".join(f"{int(frame) + turn * frames},{rest}\n" for turn in range(times) for frame, rest in rows)
    (output / "boxes/cam1.txt").write_text(text)


def kills(args: argparse.Namespace) -> None:
    """SIGKILL at random moments, each time taken up again; in the end all is as without."""
    folder, whole, killed = world(args, args.seeds[0]), args.output / "whole", args.output / "killed"
    words = ["--model", STOCK] if args.model else FOLDER_TRAINING
    for place in (whole, killed):
        shutil.rmtree(place, ignore_errors=True)
    seconds, chance, done = timed(command(folder, whole, words)), random.Random(0), 0
    while done < args.kills:
        process = subprocess.Popen(command(folder, killed, words), start_new_session=True)
        try:
            process.wait(chance.uniform(0, seconds))
            shutil.rmtree(killed)  # it was done: from the beginning
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            done += 1
    subprocess.run(command(folder, killed, words), check=True)
    names = [f"identities/{path.name}" for path in (whole / "identities").iterdir()] + ["timeline.csv"]
    same = all((whole / name).read_bytes() == (killed / name).read_bytes() for name in names)
    print(f"{done} SIGKILLs in a work of {seconds:.0f} s; identities as without: {same}")


def benchmark(args: argparse.Namespace) -> None:
    args.output.mkdir(parents=True, exist_ok=True)
    if args.memory:
        memory(args)
    if args.kills:
        kills(args)
    if not (args.memory or args.kills):
        identities(args)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description="Measure ise-video on drawn cameras.")
    parser.add_argument("--output", type=Path, required=True, help="folder for worlds and results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[31, 32, 33], help="of the worlds (default: 31 32 33)")
    parser.add_argument("--seconds", type=float, default=60, help="of each video (default: 60)")
    parser.add_argument("--model", help="network to take in place of training")
    parser.add_argument("--memory", action="store_true", help="measure memory for 1 and 10 minutes")
    parser.add_argument("--kills", type=int, default=0, help="SIGKILLs")
    return run_command(parser, benchmark, argv)


if __name__ == "__main__":
    sys.exit(main())
