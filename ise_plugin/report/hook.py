"""The hook that watches a run: quality of the labels into the log, what the report needs into ``OUTPUT_DIR/report``, the page.

Nothing here can end a training: whatever fails is logged as a warning and named in the report. Nothing here is seen by
the training either: no random number is drawn from its generators, and true identities are read by this hook alone.
"""

import functools
import json
import logging
import math
import os
import re
import time
from contextlib import suppress
from typing import Callable, Optional

import numpy as np
import torch
from fastreid.engine.hooks import HookBase
from fastreid.utils import comm

from ..clustering import quality
from ..clustering.purity import mean_purity
from ..engine.console import RESULT
from ..engine.evaluation import Evaluation, Retrieval
from ..engine.labelling import Labelling
from ..method import DEGREE_SCHEDULES
from ..registry import HOOK
from ..utils.distributed import unwrapped
from ..utils.files import write_atomically, written_whole
from . import figures, geometry, run_files
from .facts import read_true_identities, run_facts
from .page import build_page
from .probabilities import pair_reliability
from .run_files import find_troubles
from .sheets import retrieval_rows, sheets_of

logger = logging.getLogger("fastreid.ise.report")

EMBEDDINGS_NAME = "embeddings_{:04d}.npz"
# Decimals of the CMC curves, and of what the labels do with cameras, that are kept.
_DECIMALS = 5
# Curves are drawn anew after an epoch only while reporting has taken less than this share of the run: where epochs take
# seconds, drawing would be felt. The last page always has them.
_DRAWING_SHARE = 0.03


def _harmless(method: Callable) -> Callable:
    """A method that counts its seconds, and whose failure is a warning."""

    @functools.wraps(method)
    def guarded(self, *arguments):
        start = time.perf_counter()
        try:
            with torch.no_grad():
                method(self, *arguments)
        except Exception as error:
            self._complain(method.__name__, error)
        finally:
            self._seconds += time.perf_counter() - start

    return guarded


@HOOK.register()
class RunReport(HookBase):
    """Measures every labelling, keeps what the page shows, and writes the page, ``path``, after every epoch. Its keys
    are under ``ISE.REPORT``. Runs after everything that measures or writes (:data:`ise_plugin.engine.hooks.ORDER`)."""

    @classmethod
    def from_config(cls, cfg) -> Optional[dict]:
        """None in every process but the first."""
        return {"cfg": cfg} if comm.is_main_process() else None

    def __init__(self, cfg):
        self.cfg = cfg
        self.path = os.path.join(cfg.OUTPUT_DIR, run_files.REPORT_NAME)
        self._identities: Optional[np.ndarray] = None
        self._pictures = cfg.ISE.REPORT.PICTURES
        self._true: Optional[quality.CameraSpread] = None  # of the true identities
        self._chosen: Optional[tuple] = None  # images of the map, and the group of each
        self._retrieval: dict = {}
        self._facts: dict = {}
        self._figures = figures.Figures()
        self._problems: list = []
        self._warned: set = set()
        self._seconds = self._seconds_logged = 0.0

    def before_train(self) -> None:
        """Notes what the run is; on a fresh start, clears away what an earlier run has left."""
        self._start()
        self._learn_identities()

    @_harmless
    def _start(self) -> None:
        folder = os.path.join(self.cfg.OUTPUT_DIR, run_files.FOLDER)
        os.makedirs(folder, exist_ok=True)
        if self.trainer.resumed:
            before = run_files.read_run(self.cfg.OUTPUT_DIR)
            self._retrieval = {**before.retrieval, **self._retrieval}
            self._chosen = _chosen_before(before, len(self.trainer.images))
        else:
            for name in filter(run_files.is_ours, os.listdir(folder)):
                os.remove(os.path.join(folder, name))
        facts = run_facts(self.cfg, self.trainer.config_file)
        self._facts = {"images": len(self.trainer.images), "identities": 0, **facts}
        self._write_facts()
        if self._retrieval:
            self._write(run_files.RETRIEVAL, self._retrieval)
        if self._pictures and not figures.available():
            logger.warning("matplotlib is not installed: the report has no pictures (pip install matplotlib)")
            self._pictures = False

    @_harmless
    def _learn_identities(self) -> None:
        data = self.cfg.DATASETS
        if self.cfg.ISE.REPORT.IDENTITIES:
            self._identities = read_true_identities(data.NAMES, self.trainer.images.paths, data.COMBINEALL)
        if self._identities is not None:
            self._facts["identities"] = len(np.unique(self._identities))
            self._write_facts()

    def after_labelling(self, labelling: Labelling) -> None:
        """Takes a labelling: measures it, and keeps what the page shows of it."""
        self._measure(labelling)
        self._keep_embeddings(labelling)
        self._keep_evidence(labelling)
        if self._pictures:
            self._keep_labelling(labelling)
            self._keep_sheets(labelling)

    @_harmless
    def _measure(self, labelling: Labelling) -> None:
        found = quality.structure_quality(labelling.labels, labelling.similarities, labelling.previous)
        del found["clusters"]  # logged by the hook that labels
        if labelling.clusters:
            found["estimated_purity"] = mean_purity(labelling.labels, labelling.purities)
        if labelling.eps is not None:
            found["eps"] = labelling.eps
        if self._identities is not None:
            found.update(quality.identity_quality(labelling.labels, self._identities))
        self.trainer.storage.put_scalars(**{f"labels/{k}": v for k, v in found.items()}, smoothing_hint=False)

    @_harmless
    def _keep_embeddings(self, labelling: Labelling) -> None:
        epoch, images = self.trainer.epoch + 1, self.trainer.images
        if epoch not in [e if e > 0 else self.trainer.max_epoch + 1 + e for e in self.cfg.ISE.REPORT.KEEP_EMBEDDINGS]:
            return
        kept = {"features": labelling.features.cpu().numpy(), "labels": labelling.labels}
        kept |= {
            "paths": np.array(images.paths),
            "cameras": images.cameras,
            "tracks": images.tracks,
            "times": images.times,
        }
        if self._identities is not None:
            kept["identities"] = self._identities
        path = os.path.join(self.cfg.OUTPUT_DIR, EMBEDDINGS_NAME.format(epoch))
        with written_whole(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **kept)
        logger.info(f"Embeddings and labels of epoch {epoch} kept in {path}")

    @_harmless
    def _keep_labelling(self, labelling: Labelling) -> None:
        """Sizes and the map's points of every labelling; of the first, a middle and the last one the map and the distances."""
        epoch, labelled = self.trainer.epoch + 1, range(1, self.trainer.max_epoch + 1, self.cfg.ISE.PSEUDO_LABEL.PERIOD)
        kept = {"epoch": epoch, "sizes": quality.cluster_sizes(labelling.labels).tolist()}
        if (points := self._map_points(labelling)) is not None:
            kept["map"] = points
        if epoch in (labelled[0], labelled[len(labelled) // 2], labelled[-1]):
            kept["distances"] = geometry.distance_histogram(labelling, self._identities)
            if epoch == labelled[-1] and self._identities is not None:
                kept["reliability"] = self._reliability(labelling)
            if points is not None:
                kept["map"] = geometry.placed(points, self.cfg.ISE.REPORT.MAP_METHOD)
            self._write(run_files.LABELLING_NAME.format(epoch), kept)
        self._write(run_files.LATEST, kept)

    def _reliability(self, labelling: Labelling) -> Optional[dict]:
        found = pair_reliability(labelling, self.trainer.images.tracks, self._identities)
        if found is None:
            return None
        filled = found.counts > 0
        kept = {"stated": found.stated[filled], "true": found.true[filled], "counts": found.counts[filled]}
        return {**{name: np.round(row, _DECIMALS).tolist() for name, row in kept.items()}, "error": found.error}

    @_harmless
    def _keep_evidence(self, labelling: Labelling) -> None:
        """What the labels do with cameras, where two are known, and with the constraints of tracks, where there are any."""
        images, constraints = self.trainer.images, labelling.constraints
        kept, logged = {}, {}
        spread = quality.camera_spread(labelling.labels, images.cameras)
        if len(spread.cameras) > 1:
            logged = {"one_camera": spread.one_camera, "one_camera_by_chance": spread.one_camera_by_chance}
            names = [images.camera_names[camera] for camera in spread.cameras]
            of_all = re.sub(r"[0-9A-Za-z]*$", "", os.path.commonprefix(names))  # the data set, say
            kept["names"] = [name.removeprefix(of_all) or name for name in names]
            kept["cameras"] = _plain(spread)
            if self._identities is not None:
                true = self._true_spread()
                logged["one_camera_true"] = true.one_camera
                kept["true"] = _plain(true)
        if constraints is not None:
            logged["violated"] = constraints.violated(labelling.labels)
            kept["constraints"] = {
                "tracks": len(np.unique(images.tracks[images.tracks >= 0])),
                "apart": len(constraints.apart),
                "violated": logged["violated"],
                "cut": len({cut.track for cut in constraints.cuts}),
                "given_up": len(constraints.given_up),
                "weight": constraints.weight,
            }
        found = {f"labels/{name}": value for name, value in logged.items() if not math.isnan(value)}
        self.trainer.storage.put_scalars(**found, smoothing_hint=False)
        if kept:
            self._write(run_files.EVIDENCE, {"epoch": self.trainer.epoch + 1, **kept})

    def _true_spread(self) -> quality.CameraSpread:
        if self._true is None:
            people = np.unique(self._identities, return_inverse=True)[1]
            self._true = quality.camera_spread(people, self.trainer.images.cameras)
        return self._true

    def _map_points(self, labelling: Labelling) -> Optional[dict]:
        cfg = self.cfg.ISE
        if self._chosen is None:
            self._chosen = geometry.choose_images(labelling, self._identities, cfg.REPORT.MAP_IDENTITIES)
        images, group_of = self._chosen
        if not len(images):
            self._chosen = None  # no clusters yet
            return None
        neighbors, degree = getattr(unwrapped(self.trainer.model).heads, "num_neighbors", 0), 0.0
        if neighbors:
            # the degree that this epoch ends with: at its start the first epoch extends nothing
            done = (self.trainer.epoch + 1) / self.trainer.max_epoch
            degree = DEGREE_SCHEDULES[cfg.SUPPORT.SCHEDULE](done, cfg.SUPPORT.BASE_DEGREE)
        points = geometry.map_of(labelling, images, group_of, neighbors, degree)
        return {**points, "images": images.tolist()}

    @_harmless
    def _keep_sheets(self, labelling: Labelling) -> None:
        sheets = sheets_of(self.trainer.images.paths, labelling.labels, self._identities, labelling.purities)
        self._write(run_files.SHEETS, sheets)

    def after_evaluation(self, evaluation: Evaluation) -> None:
        """Keeps the CMC curve and ranked rows of every test set."""
        for retrieval in evaluation.retrievals:
            self._keep_retrieval(retrieval, evaluation.epochs_done > 0)

    @_harmless
    def _keep_retrieval(self, retrieval: Retrieval, started: bool) -> None:
        kept = {"cmc": np.round(retrieval.cmc, _DECIMALS).tolist()}
        if self._pictures:
            kept["rows"] = retrieval_rows(retrieval)
        stages = self._retrieval.setdefault(retrieval.data_set, {})
        stages["after" if started else "before"] = kept
        if started and "before" in stages:
            stages["before"].pop("rows", None)  # shown only until there are better ones
        self._write(run_files.RETRIEVAL, self._retrieval)

    def before_epoch(self) -> None:
        """Logs the seconds since this was last done: this epoch's labelling, and the epoch before."""
        seconds, self._seconds_logged = self._seconds - self._seconds_logged, self._seconds
        self.trainer.storage.put_scalar("report_time", seconds, smoothing_hint=False)

    def after_epoch(self) -> None:
        """Writes the page and says what a person should look at."""
        self._write_page()

    @_harmless
    def _write_page(self) -> None:
        run = run_files.read_run(self.cfg.OUTPUT_DIR)
        found = find_troubles(run)
        for kind in found.keys() - self._warned:  # again only when it had gone
            logger.warning(f"epoch {self.trainer.epoch + 1}: {found[kind]}")
        self._warned = set(found)
        last = self.trainer.epoch + 1 == self.trainer.max_epoch
        spare = self._seconds < _DRAWING_SHARE * (time.perf_counter() - self.trainer.start_time)
        self._figures.reuse = not (last or spare)
        write_atomically(self.path, build_page(run, False, self._figures).encode())

    def after_choice(self, labelling: Labelling) -> None:
        """Shows the groups that identities.csv has, and the verdict on them."""
        if self._pictures:
            self._keep_sheets(labelling)
        self._write_page()

    def after_train(self) -> None:
        """Says what the reporting has cost, and where the page is."""
        whole = time.perf_counter() - self.trainer.start_time
        logger.info(f"Reporting took {self._seconds:.1f} s, {self._seconds / whole:.1%} of this run")
        logger.log(RESULT, f"Report: {self.path}")

    def _complain(self, stage: str, error: Exception) -> None:
        text = f"{stage.strip('_').replace('_', ' ')}: {type(error).__name__}: {' '.join(str(error).split())}"
        logger.debug("in the report:", exc_info=error)
        if text in self._problems:
            return
        self._problems.append(text)
        logger.warning(f"the report is incomplete ({text}); training goes on")
        with suppress(Exception):  # a full disk, say: the log has the first message
            self._write_facts()

    def _write_facts(self) -> None:
        self._write(run_files.FACTS, {**self._facts, "problems": self._problems})

    def _write(self, name: str, content) -> None:
        path = os.path.join(self.cfg.OUTPUT_DIR, run_files.FOLDER, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)  # an evaluation may come before everything else
        write_atomically(path, json.dumps(content, separators=(",", ":")).encode())


def _plain(spread: quality.CameraSpread) -> dict:
    return {name: np.round(value, _DECIMALS).tolist() for name, value in spread._asdict().items()}


def _chosen_before(run: run_files.Run, count: int) -> Optional[tuple]:
    """Which of so many images the maps of this run have shown so far, and the group of each."""
    for epoch in sorted(run.labellings):
        points = run.labellings[epoch].get("map") or {}
        if (images := points.get("images")) and max(images) < count:
            return np.array(images), np.array(points["group"][: len(images)])
    return None
