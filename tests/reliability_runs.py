"""Tiny runs in processes of their own, which can be killed at a moment of choice."""

import json
import logging
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import ise_plugin  # noqa: F401  isort:skip

import torch
from fastreid.engine.hooks import HookBase
from fastreid.utils.env import seed_all_rng
from helpers import CONFIGS, forkserver

from ise_plugin.config import load_cfg
from ise_plugin.engine import ISETrainer
from ise_plugin.engine import labelling as pseudo_labels
from ise_plugin.engine.checkpointing import load_checkpoint_file
from ise_plugin.utils import files

# `make test-long` sets it; a number that a test repeats something has a short and a long form
LONG = os.environ.get("ISE_TEST_LONG") == "1"
OPTIONS = """
    MODEL.DEVICE cpu SOLVER.CHECKPOINT_PERIOD 1 ISE.CHECKPOINT_SECONDS 1e-9 ISE.HOOKS ()
    ISE.KEEP_CHECKPOINTS 2 MODEL.BACKBONE.DEPTH 0.35x MODEL.BACKBONE.PRETRAIN False
""".split()
# pieces that a file is written in, so that a run can be killed between any two
_PIECES = 16


def times(short: int, long: int) -> int:
    """How often to repeat something."""
    return long if LONG else short


def tiny_cfg(folder, *options):
    return load_cfg(str(CONFIGS / "ISE/synthetic_tiny.yml"), [*OPTIONS, "OUTPUT_DIR", str(folder), *map(str, options)])


class Moments:
    """Counts the moments of a run by kind, and kills the process at one of them."""

    def __init__(self, kill_at=None):
        self.counts = {"write": 0, "label": 0, "step": 0}
        self._kill_at = kill_at

    def __call__(self, kind: str) -> None:
        if self._kill_at == (kind, self.counts[kind]):
            os.kill(os.getpid(), signal.SIGKILL)
        self.counts[kind] += 1

    def watch(self) -> None:
        """Puts a moment between all parts of writing files, labelling, and training."""
        self._around(os, "fsync", "write")
        self._around(os, "replace", "write")
        self._around(pseudo_labels, "extract_embeddings", "label")
        self._around(pseudo_labels.DBSCANPseudoLabelHook, "_cluster", "label")
        self._around(pseudo_labels, "cluster_centroids", "label")
        self._around(pseudo_labels.DBSCANPseudoLabelHook, "_relabel", "label")
        self._around(ISETrainer, "run_step", "step")
        files.open = self._open

    def _around(self, place, name: str, kind: str) -> None:
        function = getattr(place, name)

        def watched(*arguments, **options):
            self(kind)
            result = function(*arguments, **options)
            self(kind)
            return result

        setattr(place, name, watched)

    def _open(self, path, mode):
        file = open(path, mode)
        if mode == "wb":
            write = file.write

            class InPieces:
                def __getattr__(inner, name):
                    return getattr(file, name)

                def __enter__(inner):
                    return inner

                def __exit__(inner, *_):
                    file.close()

                def write(inner, content):
                    size = -(-len(content) // _PIECES)
                    for start in range(0, len(content), max(1, size)):
                        self("write")
                        write(content[start : start + size])
                        file.flush()

            return InPieces()
        return file


class NoteUsage(HookBase):
    """Writes after every epoch what the process holds: resident memory, open files, shared memory."""

    def __init__(self, path: str):
        self._path = path

    def after_epoch(self) -> None:
        lines = Path("/proc/self/status").read_text().splitlines()
        kibibytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
        usage = {
            "resident": 1024 * kibibytes["VmRSS"],
            "shared": 1024 * kibibytes["RssShmem"],
            "files": len(os.listdir("/proc/self/fd")),
        }
        with open(self._path, "a") as file:
            file.write(json.dumps(usage) + "\n")


def _train(datasets: str, folder: str, resume: bool, kill_at, options: tuple, measure: bool) -> None:
    os.environ["FASTREID_DATASETS"] = datasets
    sink = open(f"{folder}.log", "a")
    os.dup2(sink.fileno(), 1)
    os.dup2(sink.fileno(), 2)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # for the loaders' workers, as in any run
    cfg = tiny_cfg(folder, *options)
    moments = Moments(kill_at)
    moments.watch()
    seed_all_rng(cfg.SEED)
    start = time.perf_counter()
    trainer = ISETrainer(cfg)
    trainer.resume_or_load(resume=resume)
    if measure:
        trainer.register_hooks([NoteUsage(f"{folder}.usage")])
    trainer.train()
    seconds = time.perf_counter() - start
    Path(f"{folder}.json").write_text(json.dumps({"counts": moments.counts, "seconds": seconds}))
    logging.shutdown()
    sys.stdout.flush()


class Runs:
    """Starts tiny runs.

    Args:
        datasets: folder with the tiny data set.
        folder: of the outputs.
    """

    def __init__(self, datasets, folder):
        self.datasets = str(datasets)
        self._context = forkserver()
        self.folder = Path(folder)

    def start(self, name: str, resume: bool = False, kill_at=None, options: tuple = (), measure: bool = False):
        """A process that trains."""
        process = self._context.Process(
            target=_train, args=(self.datasets, str(self.folder / name), resume, kill_at, options, measure)
        )
        process.start()
        return process

    def run(self, name: str, resume: bool = False, kill_at=None, options: tuple = (), measure: bool = False) -> int:
        """Trains to the end; returns the exit code of the process."""
        process = self.start(name, resume, kill_at, options, measure)
        process.join()
        return process.exitcode

    def facts(self, name: str) -> dict:
        """Moments and seconds of a run that has ended by itself."""
        return json.loads((self.folder / f"{name}.json").read_text())

    def outcome(self, name: str) -> tuple:
        """(weights at the end, weights of the best epoch, results without the seconds)."""
        folder = self.folder / name
        results = json.loads((folder / "results.json").read_text())
        del results["seconds"]
        final, best = (load_checkpoint_file(str(folder / f"{n}.pth"))["model"] for n in ("model_final", "model_best"))
        return final, best, results

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()


def same_outcome(one: tuple, other: tuple) -> bool:
    """Whether two outcomes are equal to the bit."""
    return one[2] == other[2] and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in zip(one[:2], other[:2])
    )
