"""Time and memory of pseudo-labelling, stage by stage, beside faiss's exact search and fastreid's own function.

    python tools/benchmarks/clustering.py --sizes 12936 --dim 2048 --peer fastreid
    python tools/benchmarks/clustering.py --sizes 1000000 --dim 256 --search ivf --subset 50000 --faiss-limit 0

Prints one table and, with --json FILE, writes everything it measured. Ratios compare medians of one process, in which
the candidates take turns. Memory is the peak of the process above what it held with the input loaded and the compiled
helpers warm, in a process of its own.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import threading
import time
from pathlib import Path
from typing import Callable, Optional

import faiss
import numpy as np
import torch
from sklearn.cluster import DBSCAN as DenseDBSCAN
from sklearn.metrics import adjusted_rand_score
from tabulate import tabulate

from ise_plugin.clustering import DBSCAN, Jaccard, generate_pseudo_labels
from ise_plugin.registry import NEIGHBOR_SEARCH

# Spread of an image around its identity and of a camera around zero, in units of the spread of identities.
NOISE_LEVELS = {"early": (2.5, 1.0), "late": (0.8, 0.3)}
IMAGES_PER_IDENTITY, CAMERAS = 17, 6
# The variance of trained embeddings falls off over their principal directions; so does it here.
SPECTRUM_DECAY = 0.5
EPS, MIN_SAMPLES, K1, K2 = 0.6, 4, 30, 6
WARM_UP_ROWS = 3000


def synthetic_embeddings(size: int, dim: int, level: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Identities seen by several cameras: embeddings (size, dim) with unit rows, and identities (size,)."""
    noise, camera_spread = NOISE_LEVELS[level]
    random = np.random.default_rng(seed)
    spectrum = (np.arange(1, dim + 1) ** -SPECTRUM_DECAY).astype(np.float32)
    identities = random.integers(0, max(2, size // IMAGES_PER_IDENTITY), size)
    cameras = random.integers(0, CAMERAS, size)
    centers = random.standard_normal((identities.max() + 1, dim), dtype=np.float32)
    offsets = camera_spread * random.standard_normal((CAMERAS, dim), dtype=np.float32)
    embeddings = np.empty((size, dim), dtype=np.float32)
    for start in range(0, size, 8192):
        part = slice(start, start + 8192)
        block = noise * random.standard_normal((len(identities[part]), dim), dtype=np.float32)
        block += centers[identities[part]] + offsets[cameras[part]]
        block *= spectrum
        embeddings[part] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return embeddings, identities


def stages(rows: torch.Tensor, search: Callable) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """Seconds of every stage, the labels, and the neighbours found."""
    marks = [time.perf_counter()]
    similarities, ranks = search(rows, K1)
    marks.append(time.perf_counter())
    graph = Jaccard(K1, K2)(rows, (similarities, ranks)).within(EPS)
    marks.append(time.perf_counter())
    labels = DBSCAN(EPS, MIN_SAMPLES).fit_predict(graph)
    marks.append(time.perf_counter())
    seconds = dict(zip(("search", "graph", "dbscan"), np.diff(marks).tolist()))
    seconds["total"] = marks[-1] - marks[0]
    seconds["rest"] = seconds["graph"] + seconds["dbscan"]
    return seconds, labels, ranks


def flat_search(rows: torch.Tensor) -> tuple[float, np.ndarray]:
    """Seconds of faiss's exact search (building its index included), and its neighbours."""
    vectors = rows.cpu().numpy()
    start = time.perf_counter()
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    _, indices = index.search(vectors, K1)
    return time.perf_counter() - start, indices


def fastreid_peer(rows: torch.Tensor) -> tuple[float, np.ndarray]:
    """Seconds of fastreid's Jaccard distance and scikit-learn's DBSCAN, and their labels."""
    from fastreid.utils.compute_dist import compute_jaccard_distance

    start = time.perf_counter()
    distances = compute_jaccard_distance(rows.cpu(), k1=K1, k2=K2, search_option=3)
    labels = DenseDBSCAN(eps=EPS, min_samples=MIN_SAMPLES, metric="precomputed").fit_predict(distances)
    return time.perf_counter() - start, labels


def peak_memory(size: int, dim: int, level: str, device: str, search: str, options: dict, result) -> None:
    """Put into ``result``: bytes above the input at the peak, bytes of the whole process at the peak."""
    few = torch.from_numpy(synthetic_embeddings(WARM_UP_ROWS, dim, level)[0]).to(device)
    generate_pseudo_labels(few, EPS, MIN_SAMPLES, K1, K2, search=search, **options)
    rows = torch.from_numpy(synthetic_embeddings(size, dim, level)[0]).to(device)
    before, peak, done = _resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    generate_pseudo_labels(rows, EPS, MIN_SAMPLES, K1, K2, search=search, **options)
    done.set()
    watcher.join()
    result.put((peak - before, peak))


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure_memory(*arguments) -> tuple[int, int]:
    context = multiprocessing.get_context("spawn")
    result = context.SimpleQueue()
    process = context.Process(target=peak_memory, args=(*arguments, result))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"the memory measurement ended with exit code {process.exitcode}")
    return result.get()


def measure(size: int, level: str, arguments: argparse.Namespace) -> dict:
    """Everything about one size and one noise level."""
    options = {"precision": arguments.precision} if arguments.search == "exact" else {}
    registered = NEIGHBOR_SEARCH.get(arguments.search)
    search = lambda rows, k: registered(rows, k, **options)  # noqa: E731
    record = {"size": size, "level": level, "dim": arguments.dim}
    if not arguments.no_memory:
        record["memory"], record["memory_in_all"] = measure_memory(
            size, arguments.dim, level, arguments.device, arguments.search, options
        )
    embeddings, identities = synthetic_embeddings(size, arguments.dim, level)
    rows = torch.from_numpy(embeddings).to(arguments.device)
    stages(rows[:WARM_UP_ROWS], search)
    runs, flat_runs, peer_runs = [], [], []
    for _ in range(arguments.repeats):
        seconds, labels, ranks = stages(rows, search)
        runs.append(seconds)
        record.setdefault("memory_in_all", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        if size <= arguments.faiss_limit:
            flat_seconds, true_ranks = flat_search(rows)
            flat_runs.append(flat_seconds)
            record["recall"] = recall(ranks, true_ranks)
        if arguments.peer == "fastreid" and size <= arguments.peer_limit:
            peer_seconds, peer_labels = fastreid_peer(rows)
            peer_runs.append(peer_seconds)
            record["peer_labels_equal"] = bool(np.array_equal(labels, peer_labels))
    record["seconds"] = {stage: [run[stage] for run in runs] for stage in runs[0]}
    record["flat_seconds"], record["peer_seconds"] = flat_runs, peer_runs
    record["clusters"], record["outliers"] = int(labels.max() + 1), float((labels < 0).mean())
    record["ari_with_identities"] = adjusted_rand_score(identities, labels)
    if arguments.subset:
        record.update(against_exact(rows, registered, ranks, arguments))
    return record


def recall(found: np.ndarray, true: np.ndarray) -> float:
    """Part of the true neighbours that were found."""
    return float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, true)]))


def against_exact(rows: torch.Tensor, registered: Callable, ranks: np.ndarray, arguments: argparse.Namespace) -> dict:
    """Recall over a sample of all rows; agreement of the labels with the exact ones on the first ``subset`` rows."""
    sample = np.linspace(0, len(rows) - 1, 1000).astype(np.int64)
    true = (rows[sample] @ rows.T).topk(K1, dim=1).indices.cpu().numpy()
    few = rows[: arguments.subset]
    _, approximate, _ = stages(few, registered)
    exact = generate_pseudo_labels(few, EPS, MIN_SAMPLES, K1, K2)
    return {
        "recall": recall(ranks[sample], true),
        "subset": len(few),
        "subset_ari_with_exact": adjusted_rand_score(exact, approximate),
    }


def table(records: list[dict]) -> str:
    """One row per record; times are medians in seconds, with the lowest and highest for the total."""

    def median(values: list[float]) -> Optional[float]:
        return statistics.median(values) if values else None

    rows = []
    for record in records:
        times = {stage: median(values) for stage, values in record["seconds"].items()}
        flat, peer = median(record["flat_seconds"]), median(record["peer_seconds"])
        total = record["seconds"]["total"]
        rows.append(
            {
                "N": record["size"],
                "noise": record["level"],
                "search": times["search"],
                "graph": times["graph"],
                "DBSCAN": times["dbscan"],
                "total": times["total"],
                "(low-high)": f"{min(total):.2f}-{max(total):.2f}",
                "faiss flat": flat,
                "total/flat": flat and times["total"] / flat,
                "rest/flat": flat and times["rest"] / flat,
                "peer": peer,
                "peer/total": peer and peer / times["total"],
                "peer labels": record.get("peer_labels_equal"),
                "MB above input": record["memory"] / 1e6 if "memory" in record else None,
                "GB in all": record["memory_in_all"] / 1e9,
                "recall": record.get("recall"),
                "ARI subset": record.get("subset_ari_with_exact"),
                "clusters": record["clusters"],
                "outliers": record["outliers"],
            }
        )
    return tabulate(rows, headers="keys", tablefmt="github", floatfmt=".3g", missingval="-")


def surroundings(device: str) -> dict[str, str]:
    """What the numbers depend on."""
    return {
        "processor": platform.machine(),
        "threads": str(torch.get_num_threads()),
        "AMX": str(torch.cpu._is_amx_tile_supported()),
        "avx512_bf16": str(torch.cpu._is_avx512_bf16_supported()),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "faiss": faiss.__version__,
        "numpy": np.__version__,
    }


def parse(arguments: Optional[list[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[3000, 12936], help="numbers of embeddings")
    parser.add_argument("--dim", type=int, default=2048, help="length of an embedding")
    parser.add_argument("--levels", nargs="+", choices=sorted(NOISE_LEVELS), default=["late", "early"])
    parser.add_argument("--search", default="exact", help="registered neighbour search: exact, ivf, hnsw")
    parser.add_argument("--precision", default="auto", help="of the exact search: auto, float32, bfloat16")
    parser.add_argument("--device", default="cpu", help="where the embeddings are: cpu, cuda")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer", choices=["none", "fastreid"], default="none")
    parser.add_argument("--peer-limit", type=int, default=15000, help="largest size for the peer (it is quadratic)")
    parser.add_argument("--faiss-limit", type=int, default=100_000, help="largest size for faiss's exact search")
    parser.add_argument("--subset", type=int, default=0, help="compare labels with exact ones on so many rows")
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory measurement")
    parser.add_argument("--json", type=Path, help="where to write everything measured")
    return parser.parse_args(arguments)


def main() -> None:
    arguments = parse()
    environment = surroundings(arguments.device)
    print(", ".join(f"{name} {value}" for name, value in environment.items()), flush=True)
    records = []
    for size in arguments.sizes:
        for level in arguments.levels:
            records.append(measure(size, level, arguments))
            if arguments.json:
                arguments.json.write_text(json.dumps({"environment": environment, "records": records}, indent=1))
    print(table(records))


if __name__ == "__main__":
    main()
