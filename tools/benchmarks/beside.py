#!/usr/bin/env python
"""Measures a training step beside another program: python tools/benchmarks/beside.py

MobileNetV2's training step with two threads, alone and beside a second program that trains the same with two threads and GNU
OpenMP's own spin count, for each way of waiting; all in turns, in one run. Half the idle rate is the fair share of two cores.
--pin 1 puts everything on core 1, with threads that take themselves to have two cores: the spinning shows there as well, but not
what sleeping costs where cores are free.
"""

import argparse
import ctypes
import importlib.util
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

# what GNU's OpenMP takes by itself, what this package takes, and none at all
OWN, OURS, NONE = 300_000, 1_000, 0
MOST_STEPS = 100_000


def start(spins: int, args) -> subprocess.Popen:
    """A process of :func:`serve` that is ready to measure."""
    names = "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"
    environment = {**os.environ, **dict.fromkeys(names, str(args.threads)), "GOMP_SPINCOUNT": str(spins)}
    environment.pop("OMP_WAIT_POLICY", None)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__, "--serve", *sys.argv[1:]],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    if process.stdout.readline().strip() != "ready":
        sys.exit("error: a process that should measure has ended")
    return process


def ask(process: subprocess.Popen, seconds: float) -> None:
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()


def measured(process: subprocess.Popen, args) -> float:
    ask(process, args.seconds)
    return float(process.stdout.readline())


def serve(args) -> None:
    """Trains for as many seconds as each line of standard input says, at least a step, and prints images per second."""
    if args.pin is not None:  # the library counts the cores when it is loaded
        everything = os.sched_getaffinity(0)
        os.sched_setaffinity(0, range(os.cpu_count()))
        folder = Path(importlib.util.find_spec("torch").origin).parent / "lib"
        ctypes.CDLL(str(next(folder.glob("libgomp*"))), ctypes.RTLD_GLOBAL)
        os.sched_setaffinity(0, {args.pin} & everything or everything)
    import training

    cfg = training.load_cfg(str(training.CONFIGS / "ISE/market_mobilenetv2.yml"), ["MODEL.DEVICE", "cpu"])
    cfg.MODEL.BACKBONE.PRETRAIN = False
    training.torch.manual_seed(0)
    step = training.stepping(cfg, args, MOST_STEPS)
    step.run_step()
    print("ready", flush=True)
    for line in sys.stdin:
        begin, steps = time.perf_counter(), 0
        while not steps or time.perf_counter() - begin < float(line):
            step.run_step()
            steps += 1
        print(steps * args.batch / (time.perf_counter() - begin), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, nargs=2, default=[128, 64], help="height and width of the images")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement, at least a step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--spins", type=int, nargs="+", default=[OWN, OURS, NONE], help="ways of waiting")
    parser.add_argument("--pin", type=int, help="core that everything shares")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args)
        return
    load, *steps = processes = [start(spins, args) for spins in (OWN, *args.spins)]
    alone, beside = ({spins: [] for spins in args.spins} for _ in range(2))
    try:
        ask(load, 1e9)
        load.send_signal(signal.SIGSTOP)
        for _ in range(args.rounds):
            for spins, process in zip(args.spins, steps):
                alone[spins].append(measured(process, args))
                load.send_signal(signal.SIGCONT)
                beside[spins].append(measured(process, args))
                load.send_signal(signal.SIGSTOP)
    finally:
        for process in processes:
            process.kill()
    fair = max(statistics.median(rates) for rates in alone.values()) / 2
    for spins in args.spins:
        one, other = ((statistics.median(r), min(r), max(r)) for r in (alone[spins], beside[spins]))
        print(f"{spins:7} spins: alone {one[0]:.1f} ({one[1]:.1f}, {one[2]:.1f}) img/s, beside {other[0]:.1f}", end=" ")
        print(f"({other[1]:.1f}, {other[2]:.1f}), {other[0] / fair:.2f} of the fair share")


if __name__ == "__main__":
    main()
