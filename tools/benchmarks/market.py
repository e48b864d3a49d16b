#!/usr/bin/env python3
"""Market-1501: FASTREID_DATASETS=/path/to/datasets python tools/benchmarks/market.py

One run for each row of the table, on whatever the machine has. Rows named "short" are 480 steps of 128 images; the others
have the steps of their config file. The rows named "true labels" train on the identities themselves: what the same network
and steps could reach if the pseudo labels were right. The test identities serve for scores alone.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from ise_plugin.engine.console import WithProgress
from ise_plugin.engine.labelling import DBSCANPseudoLabelHook, Labelling
from ise_plugin.utils.command_line import run_command

HERE, REPOSITORY = Path(__file__).resolve().parent, Path(__file__).resolve().parents[2]
SHORT = "SOLVER.MAX_EPOCH 8 ISE.ITERS_PER_EPOCH 60 SOLVER.STEPS [6] TEST.EVAL_PERIOD 0"
TRUE = "ISE.PSEUDO_LABEL.HOOK market.TrueLabels ISE.HOOKS ('EpochSummary',)"
BARE = "ISE.APPEARANCE.WEIGHT 0.0 ISE.APPEARANCE.FINAL_WEIGHT 0.0"
GRAPH, MEMORY = "ISE.PSEUDO_LABEL.K1 30 ISE.PSEUDO_LABEL.K2 6", "ISE.MEMORY.UPDATE hard ISE.MEMORY.MOMENTUM 0.2"
PAPER = f"{BARE} ISE.APPEARANCE.SCENES 0 {GRAPH} {MEMORY}"
ROWS = {
    "as configured": "",
    "true labels": TRUE,
    "short": SHORT,
    "short, without scenes": f"{SHORT} ISE.APPEARANCE.SCENES 0",
    "short, without appearance": f"{SHORT} {BARE}",
    "short, constants of the paper": f"{SHORT} {PAPER}",
    "short, true labels": f"{SHORT} {TRUE}",
}


class TrueLabels(DBSCANPseudoLabelHook):
    """Labels images by the identities in Market-1501's file names."""

    def label(self) -> Labelling:
        features = self._extract(WithProgress(self._loader.extraction(), "extraction"))
        identities = [os.path.basename(path).split("_")[0] for path in self.trainer.images.paths]
        return Labelling(features, np.unique(identities, return_inverse=True)[1].astype(np.int64), self.labels)


def measure(args: argparse.Namespace) -> None:
    print(
        "| labels | seed | mAP | rank-1 | clusters | outliers | minutes |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    for name in args.rows or ROWS:
        for seed in args.seeds:
            print(_row(name, seed, args.output), flush=True)


def _row(name: str, seed: int, output: str) -> str:
    folder = os.path.join(output, f"{name} {seed}".replace(",", "").replace(" ", "_"))
    command = [sys.executable, str(REPOSITORY / "tools/train_net.py"), "--quiet", "--config-file"]
    command += [str(REPOSITORY / "configs/ISE/market_mobilenetv2.yml"), "SEED", str(seed), "OUTPUT_DIR", folder]
    subprocess.run(
        [*command, *ROWS[name].split()], check=True, env={**os.environ, "PYTHONPATH": f"{HERE}:{REPOSITORY}"}
    )
    results = json.loads(Path(folder, "results.json").read_text())
    last = [json.loads(line) for line in Path(folder, "metrics.json").read_text().splitlines()]
    clusters, outliers = (next(d[key] for d in reversed(last) if key in d) for key in ("clusters", "outliers"))
    numbers = f"{results['final']['mAP']:.1f} | {results['final']['Rank-1']:.1f} | {clusters:.0f} | {outliers:.0f}"
    return f"| {name} | {seed} | {numbers} | {results['seconds'] / 60:.0f} |"


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), help="rows of the table (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", default="logs/market", help="folder of the runs")
    return run_command(parser, measure, argv)


if __name__ == "__main__":
    sys.exit(main())
