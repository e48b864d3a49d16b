#!/usr/bin/env python3
"""What tells people apart before any training: a network's embeddings, colours, textures, and scenes taken out of them.

    python tools/benchmarks/appearance.py --images Market-1501-v15.09.15/bounding_box_train --people 200 --seeds 0 1 2

Random parts of a labelled data set whose files are named as Market-1501's (0002_c1s1_000451_03.jpg: person, camera). mAP and
rank-1 across cameras, every image a query; labels by DBSCAN with eps auto: adjusted Rand index with every outlier as a group of
its own, purity, share of outliers. Means over the seeds, and the largest distance of one from its mean.
"""

import argparse
import random
import re
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import adjusted_rand_score
from tabulate import tabulate

from ise_plugin.clustering import quality
from ise_plugin.clustering.clusterers import DBSCAN
from ise_plugin.clustering.jaccard import Jaccard
from ise_plugin.clustering.retrieval import RankingMeter
from ise_plugin.config import load_cfg
from ise_plugin.data.image_dataset import ImageDataset
from ise_plugin.errors import UsageError
from ise_plugin.modeling.appearance import AppearanceDescriptor, fused
from ise_plugin.modeling.build import build_model
from ise_plugin.modeling.scenes import find_scenes, surroundings, without_scenes
from ise_plugin.neighbors.exact_search import exact
from ise_plugin.utils.command_line import run_command

BATCH = 256
COLUMNS = ("mAP", "rank-1", "adjusted Rand index", "purity", "outliers")


def part_of(folder: str, people: int, seed: int) -> tuple[list, np.ndarray, np.ndarray]:
    """Paths, identities and cameras of so many random people."""
    found = [(re.match(r"(-?\d+)_c(\d+)", path.name), str(path)) for path in sorted(Path(folder).glob("*.jpg"))]
    named = [(int(match[1]), int(match[2]), path) for match, path in found if match]
    if not named:
        raise UsageError(f"--images {folder} holds no files named as Market-1501's; name such a folder")
    chosen = set(random.Random(seed).sample(sorted({identity for identity, *_ in named}), people))
    identities, cameras, paths = zip(*(row for row in named if row[0] in chosen))
    return list(paths), np.array(identities), np.array(cameras)


@torch.inference_mode()
def describe(cfg, paths: list) -> tuple[torch.Tensor, torch.Tensor, list]:
    """Unit embeddings, what is beside the persons, and the blocks of their appearance, by an untrained network."""
    from fastreid.data.transforms import build_transforms  # after ise_plugin, with which fastreid becomes importable

    model = build_model(cfg).eval()
    images, parts = ImageDataset(paths, build_transforms(cfg, is_train=False)), []
    with AppearanceDescriptor(model) as look:
        for start in range(0, len(paths), BATCH):
            batch = images.__getitems__(list(range(start, min(start + BATCH, len(paths)))))
            pixels = batch["images"].to(model.device).float()
            parts.append([F.normalize(model(batch).float(), dim=1), surroundings(pixels), *look(pixels)])
    embeddings, around, *blocks = (torch.cat(rows).cpu() for rows in zip(*parts))
    return embeddings, around, blocks


def measured(vectors: torch.Tensor, identities: np.ndarray, cameras: np.ndarray, k1: int, k2: int) -> list:
    meter = RankingMeter(identities, cameras)
    for start in range(0, len(vectors), BATCH):
        block = slice(start, start + BATCH)
        meter.add(1 - vectors[block] @ vectors.T, identities[block], cameras[block])
    ranking = meter.result()
    graph = Jaccard(k1, k2)(vectors, exact(vectors, k1)).within(DBSCAN("auto").max_distance)
    labels = DBSCAN("auto").fit_predict(graph)
    index = adjusted_rand_score(identities, quality.outliers_alone(labels))
    return [
        100 * np.nanmean(ranking.average_precision),
        100 * ranking.cmc[0],
        index,
        quality.purity(labels, identities),
        (labels < 0).mean(),
    ]


def rows_of(cfg, paths: list, identities: np.ndarray, cameras: np.ndarray) -> dict:
    embeddings, around, blocks = describe(cfg, paths)
    scenes = torch.from_numpy(find_scenes(around, cfg.ISE.APPEARANCE.SCENES, 0))
    appearance = fused(blocks)
    clean, person = without_scenes(embeddings, scenes), without_scenes(appearance, scenes)
    compared = {
        "embeddings": embeddings,
        "embeddings, scenes taken out": clean,
        "colours, not whitened": F.normalize(blocks[0], dim=1),
        "colours": fused(blocks[:1]),
        "colours, also in grey-world light": fused(blocks[:2]),
        "textures": fused(blocks[2:]),
        "appearance (all four)": appearance,
        "appearance, true cameras taken out": without_scenes(appearance, torch.from_numpy(cameras)),
        "appearance, scenes taken out": person,
        "half of each, scenes taken out": torch.cat([person, clean], 1) / 2**0.5,
    }
    k1, k2 = cfg.ISE.PSEUDO_LABEL.K1, cfg.ISE.PSEUDO_LABEL.K2
    return {name: measured(vectors, identities, cameras, k1, k2) for name, vectors in compared.items()}


def measure(args: argparse.Namespace) -> None:
    cfg = load_cfg(args.config, ["MODEL.DEVICE", "cpu", *args.opts])
    every = [rows_of(cfg, *part_of(args.images, args.people, seed)) for seed in args.seeds]
    table = []
    for name in every[0]:
        values = np.array([rows[name] for rows in every])
        spread = np.abs(values - values.mean(0)).max(0)
        digits = (1, 1, 3, 2, 2)
        table.append([name, *(f"{m:.{d}f} ± {s:.{d}f}" for m, s, d in zip(values.mean(0), spread, digits))])
    print(tabulate(table, ["searched by", *COLUMNS], tablefmt="pipe"))


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="folder of a labelled data set's training images")
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the parts")
    parser.add_argument("--config", default="ISE/folder.yml", help="whose network and settings are used")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="further keys")
    return run_command(parser, measure, argv)


if __name__ == "__main__":
    sys.exit(main())
