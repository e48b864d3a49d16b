#!/usr/bin/env python3
"""Time and memory of an evaluation after extraction: python tools/benchmarks/evaluation.py --queries 3368 --gallery 15913

Random embeddings of so many people and cameras, ranked by the evaluator that training uses; with --stock beside fastreid's own
(Market-1501's size takes it minutes), whose numbers must be the same.
"""

import argparse
import json
import resource
import sys
import time

import numpy as np
import torch

from ise_plugin.config import get_cfg
from ise_plugin.engine.evaluation import PortableReidEvaluator
from ise_plugin.utils.command_line import run_command


def measure(args: argparse.Namespace) -> dict:
    """Seconds and memory of one evaluation, and its mAP."""
    generator, random = torch.Generator().manual_seed(0), np.random.default_rng(0)
    count = args.queries + args.gallery
    people, cameras = random.integers(args.people, size=count), random.integers(args.cameras, size=count)
    means = torch.randn(args.people, args.dim, generator=generator)
    features = torch.randn(count, args.dim, generator=generator).mul_(3).add_(means[torch.from_numpy(people)])
    evaluator = PortableReidEvaluator(get_cfg(), args.queries)
    evaluator.reset()
    batch = {"targets": torch.from_numpy(people), "camids": torch.from_numpy(cameras)}
    evaluator.process(batch, features)
    before, start = _peak(), time.perf_counter()
    metrics = evaluator.evaluate()
    result = {
        "pairs": f"{args.queries} x {args.gallery} x {args.dim}",
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - start, 2),
        "memory_beside_the_embeddings_mib": round((_peak() - before) / 1024),
        "mAP": round(float(metrics["mAP"]), 6),
    }
    if args.stock:
        from fastreid.evaluation.rank import evaluate_rank  # after ise_plugin, which makes it importable
        from fastreid.utils.compute_dist import build_dist

        n, start = args.queries, time.perf_counter()
        distances = build_dist(features[:n], features[n:], "cosine")
        _, precisions, _ = evaluate_rank(distances, people[:n], people[n:], cameras[:n], cameras[n:], use_cython=False)
        result["stock_seconds"] = round(time.perf_counter() - start, 2)
        result["stock_mAP"] = round(100 * float(np.mean(precisions)), 6)
    return result


def _peak() -> int:
    """Largest resident size of this process so far, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=3368)
    parser.add_argument("--gallery", type=int, default=15913)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--people", type=int, default=750)
    parser.add_argument("--cameras", type=int, default=6)
    parser.add_argument("--stock", action="store_true", help="fastreid's own ranking as well")
    return run_command(parser, lambda args: print(json.dumps(measure(args), indent=1)), argv)


if __name__ == "__main__":
    sys.exit(main())
