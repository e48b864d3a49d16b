#!/usr/bin/env python3
"""What several processes gain and what they exchange; docs/scaling.md goes on from there by calculation.

    OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 tools/benchmarks/scaling.py --part extraction --config-file FILE [KEY VALUE ...]
    torchrun --nproc_per_node 2 tools/benchmarks/scaling.py --part traffic --config-file FILE [KEY VALUE ...]

extraction: images per second of an extraction with its gathering, several times; compare numbers of processes. With
DATALOADER.NUM_WORKERS 0 a process is one thread. search: seconds of the exact neighbour search. traffic: bytes that one
process sends in a step, and outside of the steps of an epoch, counted at every collective of a short training; ring
algorithms are assumed where a collective has a choice.
"""

import argparse
import collections
import json
import sys
import time

import torch
import torch.distributed as dist

import ise_plugin  # noqa: F401  isort:skip
from clustering import synthetic_embeddings
from fastreid.utils.env import seed_all_rng

from ise_plugin.config import load_cfg
from ise_plugin.data import TrainingLoader, read_training_images
from ise_plugin.engine import ISETrainer
from ise_plugin.engine.labelling import extract_embeddings
from ise_plugin.engine.launcher import launch
from ise_plugin.engine.start import keep_freed_memory, resolve_device
from ise_plugin.modeling.build import build_model
from ise_plugin.neighbors.exact_search import exact
from ise_plugin.utils.command_line import run_command
from ise_plugin.utils.distributed import gather_rows, rank, world_size

# of the neighbour search: embeddings as Market-1501 has, a quarter as wide
_ROWS, _DIM = 12936, 512


def measure(args: argparse.Namespace) -> None:
    cfg = load_cfg(args.config_file, args.opts)
    cfg.MODEL.DEVICE = resolve_device(cfg.MODEL.DEVICE)
    if cfg.MODEL.DEVICE == "cpu" and cfg.ISE.KEEP_FREED_MEMORY:
        keep_freed_memory()
    seed_all_rng(cfg.SEED)
    parts = {
        "extraction": lambda: extraction(cfg, args.repeat),
        "search": lambda: search(args.repeat),
        "traffic": lambda: traffic(cfg),
    }
    found = parts[args.part]()
    if rank() == 0:
        print(json.dumps({"processes": world_size(), "threads": torch.get_num_threads(), **found}, indent=1))


def extraction(cfg, repeat: int) -> dict:
    """Images per second of each extraction but a first one that warms up."""
    images = read_training_images(cfg.DATASETS.NAMES, cfg.DATASETS.COMBINEALL, cfg)
    model, loader = build_model(cfg), TrainingLoader(cfg, images)
    seconds = []
    for _ in range(repeat + 1):
        gather_rows(torch.zeros(1, 1))  # all start together
        start = time.perf_counter()
        features = gather_rows(extract_embeddings(model, loader.extraction()))
        seconds.append(time.perf_counter() - start)
        assert len(features) == len(images)
    return {"images": len(images), "images_per_s": [round(len(images) / s, 1) for s in seconds[1:]]}


def search(repeat: int) -> dict:
    """Seconds of each exact neighbour search that all processes share, but a first one that warms up."""
    rows, _ = synthetic_embeddings(_ROWS, _DIM, "late")
    seconds = []
    for _ in range(repeat + 1):
        gather_rows(torch.zeros(1, 1))
        start = time.perf_counter()
        exact(rows, 30, shared=True)
        seconds.append(time.perf_counter() - start)
    return {"rows": f"{_ROWS} x {_DIM}", "seconds": [round(s, 2) for s in seconds[1:]]}


class Traffic:
    """Counts what this process sends, by phase and collective."""

    def __init__(self):
        self.phase = "epoch"
        self.calls: collections.Counter = collections.Counter()
        self.sent: collections.Counter = collections.Counter()
        others = world_size() - 1
        self._watch("all_reduce", lambda tensor, *_: 2 * others / world_size() * tensor.nbytes)
        self._watch("all_gather", lambda _, tensor, *__: others * tensor.nbytes)
        self._watch("broadcast", lambda tensor, *_: tensor.nbytes)
        self._watch("gather", lambda tensor, *_: tensor.nbytes)

    def _watch(self, name: str, size) -> None:
        plain = getattr(dist, name)

        def watched(*arguments, **options):
            self.calls[self.phase, name] += 1
            self.sent[self.phase, name] += size(*arguments, *options.values())
            return plain(*arguments, **options)

        for module in (dist, dist.distributed_c10d):  # torch's exchange of objects calls the latter
            setattr(module, name, watched)

    def per(self, phase: str, count: int) -> dict:
        return {
            name: {"calls": round(calls / count, 2), "bytes": round(self.sent[phase, name] / count)}
            for (of, name), calls in sorted(self.calls.items())
            if of == phase
        }


def traffic(cfg) -> dict:
    """Bytes per step and per epoch of a training without evaluation."""
    counted = Traffic()

    class Trainer(ISETrainer):
        def run_step(self):
            counted.phase = "step"
            super().run_step()
            counted.phase = "epoch"

    cfg.DATASETS.TESTS = ()
    trainer = Trainer(cfg)
    if world_size() > 1:  # its own exchange of gradients is out of sight; this one is the same
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

        trainer.model.register_comm_hook(None, allreduce_hook)
    trainer.train()
    clusters = [int(value) for value, _ in trainer.storage.history("clusters").values()] if rank() == 0 else []
    parameters = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    return {
        "parameters": parameters,
        "images": len(trainer.images),
        "batch": cfg.SOLVER.IMS_PER_BATCH,
        "bn_group_size": cfg.ISE.BN_GROUP_SIZE,
        "clusters": clusters,
        "step": counted.per("step", trainer.max_iter),
        "epoch": counted.per("epoch", trainer.max_epoch),
    }


def command(args: argparse.Namespace) -> None:
    launch(measure, args=(args,), device=load_cfg(args.config_file, args.opts).MODEL.DEVICE)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", required=True, choices=("extraction", "search", "traffic"))
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs")
    return run_command(parser, command, argv)


if __name__ == "__main__":
    sys.exit(main())
