#!/usr/bin/env python3
"""Trains on a labelled source and then on an unlabelled target: python projects/DomainAdaptation/adapt.py [KEY VALUE ...]

Keys and values are for both runs; so both have the same network. The folder named in --output gets the folders source and target.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent
TRAIN = PROJECT.parents[1] / "tools" / "train_net.py"
FINAL = "model_final.pth"


def main(argv=None) -> int:
    """Runs both trainings, one after the other, and returns the exit code of the first that fails, or 0."""
    parser = argparse.ArgumentParser(description="Supervised on a source, then unsupervised on a target from there.")
    parser.add_argument("--source-config", default=str(PROJECT / "configs/adapt_source.yml"))
    parser.add_argument("--target-config", default=str(PROJECT / "configs/adapt_target.yml"))
    parser.add_argument("--output", default="logs/DomainAdaptation", help="folder of both runs")
    parser.add_argument("--resume", action="store_true", help="go on after an interruption; what is finished stays")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for both runs")
    args = parser.parse_args(argv)
    source, target = (os.path.join(args.output, name) for name in ("source", "target"))
    weights = os.path.join(source, FINAL)
    if not (args.resume and os.path.exists(weights)):
        code = _train(args, args.source_config, source)
        if code:
            return code
    return _train(args, args.target_config, target, "MODEL.WEIGHTS", weights)


def _train(args: argparse.Namespace, config: str, output: str, *opts: str) -> int:
    resume = ["--resume"] * args.resume
    command = [sys.executable, str(TRAIN), "--config-file", config, *resume, *args.opts, *opts, "OUTPUT_DIR", output]
    return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
