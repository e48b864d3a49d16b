#!/usr/bin/env python
"""Measures training and extraction against stock fastreid: python tools/benchmarks/training.py

Every figure comes from a process of its own, the two sides of a ratio in turns; the medians are compared. Stock fastreid is its
Baseline with cross-entropy and triplet loss in float32, as its configs run it; its batches are decoded, and on the device,
beforehand, which favours it.
"""

from __future__ import annotations

import ise_plugin  # noqa: F401  isort:skip  (first: it makes fastreid importable)

import argparse
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from fastreid.utils.events import EventStorage

from ise_plugin.config import load_cfg

CONFIGS = Path(__file__).parents[2] / "configs"
INSTANCES, LOSS_BATCH, LOSS_CLUSTERS, LOSS_CAMERAS = 16, 256, 2000, 4
DEMO_EPOCHS = 3
# everything of this package that is about speed and has a switch
SWITCHED_OFF = [
    *("SOLVER.AMP.ENABLED", "False", "SOLVER.FUSED", "False", "ISE.CHANNELS_LAST", "False"),
    *("ISE.KEEP_FREED_MEMORY", "False", "DATALOADER.CACHE", "none", "DATALOADER.AUGMENT_ON_DEVICE", "False"),
]
SWITCHED_ON = [
    *("SOLVER.AMP.ENABLED", "True", "DATALOADER.CACHE", "ram", "DATALOADER.AUGMENT_ON_DEVICE", "True"),
    *("DATALOADER.NUM_WORKERS", "0"),  # nothing is left for workers to do
]


def timed(function, repeats: int, device: torch.device) -> list[float]:
    """Seconds of each call but the first."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def pictures(count: int, height: int, width: int) -> torch.Tensor:
    """(count, 3, height, width), uint8, channels-last."""
    generator = np.random.default_rng(0)
    return torch.from_numpy(generator.integers(256, size=(count, height, width, 3), dtype=np.uint8)).permute(0, 3, 1, 2)


def stock_model(cfg, classes: int):
    """fastreid's Baseline with the same backbone, as its bagtricks configs train it."""
    from fastreid.config import get_cfg
    from fastreid.modeling import build_model

    stock = get_cfg()
    stock.MODEL.DEVICE = cfg.MODEL.DEVICE
    for key in ("NAME", "DEPTH", "FEAT_DIM", "LAST_STRIDE"):
        stock.MODEL.BACKBONE[key] = cfg.MODEL.BACKBONE[key]
    stock.MODEL.BACKBONE.PRETRAIN = False
    stock.MODEL.HEADS.NUM_CLASSES, stock.MODEL.HEADS.WITH_BNNECK = classes, True
    stock.MODEL.LOSSES.NAME = ("CrossEntropyLoss", "TripletLoss")
    stock.SOLVER.WEIGHT_DECAY = cfg.SOLVER.WEIGHT_DECAY
    return stock, build_model(stock)


def stock_train(cfg, args) -> dict:
    """fastreid's SimpleTrainer, or on a GPU also its AMPTrainer."""
    trainer = stock_trainer(cfg, args)
    with EventStorage():
        return rate(timed(trainer.run_step, args.repeats, torch.device(cfg.MODEL.DEVICE)), args.batch)


def stock_trainer(cfg, args):
    """Its batches are on the device already, which favours it."""
    from fastreid.engine.train_loop import AMPTrainer, SimpleTrainer
    from fastreid.solver import build_optimizer

    stock, model = stock_model(cfg, LOSS_CLUSTERS)
    optimizer, _ = build_optimizer(stock, model.train(), contiguous=False)
    images = pictures(args.batch, *args.size).float().contiguous()
    targets = torch.arange(args.batch) // INSTANCES
    batch = {"images": images.to(cfg.MODEL.DEVICE), "targets": targets.to(cfg.MODEL.DEVICE)}
    trainer_class = AMPTrainer if args.measure == "stock_amp_train" else SimpleTrainer

    class Batches:
        def __iter__(self):
            while True:  # the model normalises in place
                yield {name: value.clone() for name, value in batch.items()}

    trainer = trainer_class(model, Batches(), optimizer, None)
    trainer.iter = 0
    return trainer


def ise_train(cfg, args) -> dict:
    """Whole steps of this package."""
    step = stepping(cfg, args, args.repeats + 1)
    seconds = timed(step.run_step, args.repeats, torch.device(cfg.MODEL.DEVICE))
    return {**rate(seconds, args.batch), "precision": str(step.precision)}


def camera_proxies(cfg, args) -> dict:
    """The same step with and without camera proxies, in turns in one process."""
    with_proxies = cfg.clone()
    with_proxies.MODEL.LOSSES.NAME = ("ISELoss", "CameraProxyLoss")
    both, device = [stepping(c, args, 2 * args.repeats) for c in (cfg, with_proxies)], torch.device(cfg.MODEL.DEVICE)
    seconds = [[timed(step.run_step, 1, device)[0] for step in both] for _ in range(args.repeats)]
    plain, proxies = map(list, zip(*seconds))
    ratio = statistics.median(proxies) / statistics.median(plain)
    return {"plain": plain, "proxies": proxies, "ratio": ratio}


def stepping(cfg, args, count: int):
    """:func:`training_step` with so many batches."""
    step, batch = training_step(cfg, args)
    step.set_loader([batch] * count)
    return step


def training_step(cfg, args):
    """A :class:`TrainingStep` of this package, and a batch as its cached loader gives it, augmented on the device."""
    from ise_plugin.engine.step import TrainingStep, build_optimizer
    from ise_plugin.modeling.build import build_model
    from ise_plugin.modeling.precision import choose_precision, spare_slow_gradients

    model = build_model(cfg).train()
    device = torch.device(cfg.MODEL.DEVICE)
    model.heads.set_centroids(F.normalize(torch.randn(LOSS_CLUSTERS, cfg.MODEL.BACKBONE.FEAT_DIM), dim=1))
    pairs = torch.cartesian_prod(torch.arange(LOSS_CLUSTERS), torch.arange(LOSS_CAMERAS))  # an image for each
    rows = F.normalize(torch.randn(len(pairs), cfg.MODEL.BACKBONE.FEAT_DIM), dim=1).to(device)
    for memory in model.heads.memories.values():
        memory.fill(rows, pairs[:, 0], SimpleNamespace(cameras=pairs[:, 1].numpy()))
    model.heads.degree = cfg.ISE.SUPPORT.BASE_DEGREE
    precision = choose_precision(device, cfg.SOLVER.AMP.ENABLED, cfg.ISE.PRECISION, model.backbone, args.size)
    spare_slow_gradients(model.backbone, device, precision)
    step = TrainingStep(model, build_optimizer(cfg, model), device, precision)
    step.iter = 0
    count = args.batch
    rectangle = [args.size[0] // 4, args.size[1] // 4, args.size[0] // 4, args.size[1] // 4]
    batch = {
        "images": pictures(count, *args.size),
        "targets": torch.arange(count) // INSTANCES,
        "indices": torch.arange(count) // INSTANCES * LOSS_CAMERAS + torch.arange(count) % LOSS_CAMERAS,
        "flipped": torch.arange(count) % 2 == 0,
        "offsets": torch.arange(2 * count).view(count, 2) % 21 - 10,
        "erased": torch.tensor([rectangle, [0] * 4]).repeat(count, 1)[:count],
    }
    if device.type == "cuda":
        batch = {name: value.pin_memory() for name, value in batch.items()}
    return step, batch


def stock_extract(cfg, args) -> dict:
    _, model = stock_model(cfg, LOSS_CLUSTERS)
    images = pictures(args.batch, *args.size).float().contiguous()
    model.eval()

    def extract():
        with torch.no_grad():
            model({"images": images.clone().to(cfg.MODEL.DEVICE)}).cpu()

    return rate(timed(extract, args.repeats, torch.device(cfg.MODEL.DEVICE)), args.batch)


def ise_extract(cfg, args) -> dict:
    from ise_plugin.engine.labelling import extract_embeddings
    from ise_plugin.modeling.build import build_model
    from ise_plugin.modeling.precision import choose_precision, spare_slow_gradients

    model = build_model(cfg)
    device = torch.device(cfg.MODEL.DEVICE)
    precision = choose_precision(device, cfg.SOLVER.AMP.ENABLED, cfg.ISE.PRECISION, model.backbone, args.size)
    spare_slow_gradients(model.backbone, device, precision)
    batch = {"images": pictures(args.batch, *args.size)}
    mixed = precision != torch.float32

    def extract():
        extract_embeddings(model, [batch], torch.autocast(device.type, precision if mixed else None, enabled=mixed))

    return rate(timed(extract, args.repeats, device), args.batch)


def losses(cfg, args) -> dict:
    """Support samples, losses, their gradient at the embeddings, and the memory's update, at the size of MSMT17."""
    from ise_plugin.modeling import ClusterMemoryHead, ISELoss

    device = torch.device(cfg.MODEL.DEVICE)
    dimension = cfg.MODEL.BACKBONE.FEAT_DIM
    head = ClusterMemoryHead(feat_dim=dimension, update=cfg.ISE.MEMORY.UPDATE).to(device).train()
    head.set_centroids(F.normalize(torch.randn(LOSS_CLUSTERS, dimension), dim=1))
    head.degree = cfg.ISE.SUPPORT.BASE_DEGREE
    targets = torch.arange(LOSS_BATCH) // INSTANCES
    embeddings = F.normalize(torch.randn(LOSS_BATCH, dimension, device=device), dim=1).requires_grad_()

    def step():
        sum(ISELoss()(head.extend(embeddings, targets)).values()).backward()

    return {"seconds": statistics.median(timed(step, 20, device))}


def epoch(cfg, args) -> dict:
    """Epochs of the configuration: all of each, and its parts."""
    from ise_plugin.engine import ISETrainer

    seconds = []
    trainer = ISETrainer(cfg)
    train_epoch = trainer.train_epoch

    def timed_epoch():
        start = time.perf_counter()
        train_epoch()
        seconds.append(time.perf_counter() - start)

    trainer.train_epoch = timed_epoch
    trainer.train()
    with open(os.path.join(cfg.OUTPUT_DIR, "metrics.json"), encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    last = {name: value for row in rows for name, value in row.items()}
    return {
        "epochs": seconds,
        "steady_epoch": statistics.median(seconds[1:]),
        "extraction": last["extraction_time"],
        "clustering": last["clustering_time"],
        "data_share": last["data_time"] / last["time"],
    }


def rate(seconds: list[float], images: int) -> dict:
    return {"images_per_second": images / statistics.median(seconds), "seconds": seconds}


MEASURES = {
    "stock_train": stock_train,
    "stock_amp_train": stock_train,
    "ise_train": ise_train,
    "camera_proxies": camera_proxies,
    "stock_extract": stock_extract,
    "ise_extract": ise_extract,
    "losses": losses,
    "epoch": epoch,
}


def measure(args) -> dict:
    """One figure, in this process."""
    cfg = load_cfg(str(CONFIGS / args.config), args.opts)
    cfg.MODEL.DEVICE = importlib.import_module("ise_plugin.engine.start").resolve_device(cfg.MODEL.DEVICE)
    if args.measure != "epoch":
        cfg.MODEL.BACKBONE.PRETRAIN = False
    if cfg.MODEL.DEVICE == "cpu" and cfg.ISE.KEEP_FREED_MEMORY and not args.measure.startswith("stock"):
        importlib.import_module("ise_plugin.engine.start").keep_freed_memory()
    torch.manual_seed(0)
    result = MEASURES[args.measure](cfg, args)
    result["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if cfg.MODEL.DEVICE.startswith("cuda"):
        result["peak_gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return result


def in_own_process(name: str, config: str, args, opts: list) -> dict:
    command = [sys.executable, "-W", "ignore", __file__, "--measure", name, "--config", config]
    command += [
        "--batch",
        str(args.batch),
        "--repeats",
        str(args.repeats),
        "--size",
        *map(str, args.size),
        "--opts",
        *opts,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: measuring {name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def in_turns(names: list, configs: list, args, opts: list) -> list[dict]:
    """The middle of ``args.rounds`` results of each, measured in turns."""
    rounds = [
        [in_own_process(*pair, args, o) for pair, o in zip(zip(names, configs), opts)] for _ in range(args.rounds)
    ]
    key = "steady_epoch" if names[0] == "epoch" else "images_per_second"
    return [sorted(results, key=lambda r: r[key])[len(results) // 2] for results in zip(*rounds)]


def report(args) -> dict:
    """All figures with their ratios."""
    config, results = args.config, {}
    cuda = torch.cuda.is_available()
    on = ["SOLVER.AMP.ENABLED", "True", *args.opts]
    pairs = {"training": ["stock_train", "ise_train"], "extraction": ["stock_extract", "ise_extract"]}
    if cuda:
        pairs["training against stock AMP"] = ["stock_amp_train", "ise_train"]
    for title, names in pairs.items():
        stock, ours = in_turns(names, [config] * 2, args, [on, on])
        ratio = ours["images_per_second"] / stock["images_per_second"]
        results[title] = {"stock": stock, "ise": ours, "ratio": ratio}
        show(
            title,
            f"{stock['images_per_second']:.1f} img/s",
            f"{ours['images_per_second']:.1f} img/s",
            ratio,
            stock,
            ours,
        )
    part = in_own_process("losses", config, args, on)
    step = LOSS_BATCH / results["training"]["ise"]["images_per_second"]
    results["losses"] = {**part, "share_of_step": part["seconds"] / step}
    milliseconds, share = part["seconds"] * 1000, part["seconds"] / step
    print(f"support samples, losses, memory: {milliseconds:.1f} ms, {share:.2%} of a step of {LOSS_BATCH}")
    if args.demo:
        results["demo epoch"] = demo(args)
    return results


def demo(args) -> dict:
    """An epoch of the demonstration with everything on, and with everything that has a switch off."""
    with tempfile.TemporaryDirectory() as folder:
        shared = ["SOLVER.MAX_EPOCH", str(DEMO_EPOCHS), "ISE.EVAL_BEFORE_TRAIN", "False", "DATASETS.TESTS", "()"]
        shared += ["ISE.HOOKS", "()"]  # costs the same on both sides, and is measured by the run itself
        opts = [[*shared, "OUTPUT_DIR", folder, *switches] for switches in (SWITCHED_OFF, SWITCHED_ON)]
        off, on = in_turns(["epoch"] * 2, ["ISE/synthetic_mobilenetv2.yml"] * 2, args, opts)
    ratio = off["steady_epoch"] / on["steady_epoch"]
    show("demo epoch", f"{off['steady_epoch']:.2f} s", f"{on['steady_epoch']:.2f} s", ratio, off, on)
    print(f"first epoch: {off['epochs'][0]:.2f} s off, {on['epochs'][0]:.2f} s on")
    print(f"waiting for data: {off['data_share']:.2%} of a step off, {on['data_share']:.2%} on")
    return {"off": off, "on": on, "ratio": ratio}


def show(title: str, before: str, after: str, ratio: float, *sides: dict) -> None:
    memory = " and ".join(f"{side['peak_mib']:.0f} MiB" for side in sides)
    print(f"{title}: {before} -> {after}, {ratio:.2f} x; peak {memory}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="ISE/market_r50.yml", help="in configs/: backbone and image size")
    parser.add_argument("--size", type=int, nargs=2, default=[256, 128], help="height and width of the images")
    parser.add_argument("--batch", type=int, default=64, help="images in a batch")
    parser.add_argument("--repeats", type=int, default=3, help="batches in a measurement, besides the first")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side")
    parser.add_argument("--demo", action="store_true", help="measure epochs of the demonstration as well")
    parser.add_argument("--json", help="file for everything that was measured")
    parser.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)
    parser.add_argument("--opts", nargs="*", default=[], help="KEY VALUE pairs of the configuration")
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.measure:
        print(json.dumps(measure(args)))
        return
    results = report(args)
    results["environment"] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
