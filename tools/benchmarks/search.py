#!/usr/bin/env python3
"""Time and recall of single queries: python tools/benchmarks/search.py --count 1000000 --dim 256

Embeddings are those of tools/benchmarks/clustering.py (late noise). The queries are further images of the same people, and
are not in the index. Recall@10 is against the exact search.
"""

import argparse
import json
import sys
import time

import faiss
import numpy as np
import torch
from clustering import synthetic_embeddings

from ise_plugin.inference import Embeddings, build_index
from ise_plugin.utils.command_line import run_command

K = 10


def measure(args: argparse.Namespace) -> None:
    faiss.omp_set_num_threads(torch.get_num_threads())
    everything, _ = synthetic_embeddings(args.count + args.queries, args.dim, args.level)
    vectors, queries = everything[: args.count], everything[args.count :]
    names, stamps = [str(i) for i in range(args.count)], np.zeros((args.count, 2), np.int64)
    start = time.perf_counter()
    index = build_index(Embeddings(names, vectors, stamps, "benchmark", ""), args.kind, args.recall)
    built = time.perf_counter() - start
    exact = faiss.IndexFlatIP(args.dim)
    exact.add(vectors)
    truth = exact.search(queries, K)[1]
    index.search(queries[:1], K)  # warm
    seconds, shares = [], []
    for query, nearest in zip(queries, truth):
        start = time.perf_counter()
        matches = index.search(query[None], K)[0]
        seconds.append(time.perf_counter() - start)
        shares.append(len({int(m.path) for m in matches} & set(nearest.tolist())) / K)
    milliseconds = 1000 * np.array(seconds)
    result = {
        "vectors": f"{args.count} x {args.dim}, {args.level}",
        "threads": torch.get_num_threads(),
        "kind": index.about["kind"],
        "effort": index.effort,
        "build_s": round(built, 1),
        "query_ms": {
            "median": round(float(np.median(milliseconds)), 2),
            "p95": round(float(np.quantile(milliseconds, 0.95)), 2),
        },
        "recall@10": round(float(np.mean(shares)), 4),
    }
    print(json.dumps(result, indent=1))


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--level", choices=("late", "early"), default="late")
    parser.add_argument("--kind", choices=("exact", "ivf", "hnsw"), default="ivf")
    parser.add_argument("--recall", type=float, default=0.97)
    return run_command(parser, measure, argv)


if __name__ == "__main__":
    sys.exit(main())
