"""Chooses the weights to keep by what can be known without labels, and writes what they say of the images."""

import copy
import io
import logging
import os
from typing import Optional

import torch
from fastreid.engine.hooks import HookBase
from fastreid.utils import comm

from ..data.datasets.folder import UNKNOWN, Folder
from ..engine.checkpointing import CHOSEN
from ..engine.labelling import Labelling
from ..registry import HOOK
from ..utils.distributed import unwrapped
from ..utils.files import write_atomically
from ..utils.weights import DamagedWeights, load_checkpoint_file, sealed
from .groups import identities_of, table_of, write_identities

logger = logging.getLogger("fastreid.ise.choice")


@HOOK.register()
class IdentityChoice(HookBase):
    """Keeps the weights whose groups stand furthest apart as model_chosen.pth; at the end writes the identities.

    The score of an epoch's weights is the separation of the groups that they find: the mean simplified silhouette of all
    images, in [-1, 1], an outlier counting 0 (:class:`ise_plugin.clustering.centroids.CentroidSimilarities`). It comes for free
    with the labelling at the start of the next epoch; the last weights are labelled once more. Labels given for evaluation play
    no part. In all processes, which label together; the first one writes.

    Attributes:
        scores: epoch, counted from 1 (0: before training) -> separation.
        chosen: the epoch of model_chosen.pth.
    """

    state_name = "choice"

    def __init__(self, cfg):
        self._cfg = cfg
        self._path = os.path.join(cfg.OUTPUT_DIR, CHOSEN)
        self.scores: dict = {}
        self.chosen: Optional[int] = None

    def after_labelling(self, labelling: Labelling) -> None:
        """Judges the weights that this epoch starts with."""
        self._judge(self.trainer.epoch, labelling)

    def _judge(self, epochs_done: int, labelling: Labelling) -> None:
        score = self.scores[epochs_done] = float(labelling.similarities.silhouette.mean())
        best = self.scores.get(self.chosen)
        if epochs_done > 0 and (best is None or score > best or self.chosen == epochs_done):
            self.chosen = epochs_done
            if comm.is_main_process():
                buffer = io.BytesIO()
                torch.save({"model": unwrapped(self.trainer.model).state_dict(), "epoch": epochs_done - 1}, buffer)
                write_atomically(self._path, sealed(buffer.getvalue()))

    def after_train(self) -> None:
        """Judges the last weights, and writes the identities of the chosen ones."""
        last = self.trainer.max_epoch
        labelling = self.trainer.pseudo_labels.label()
        self._judge(last, labelling)
        comm.synchronize()
        logger.info(
            f"Chosen without labels: {CHOSEN} holds the weights of epoch {self.chosen} of {last}, whose groups stand "
            f"furthest apart (separation {self.scores[self.chosen]:.3f}; the last epoch has {self.scores[last]:.3f})"
        )
        if self.chosen != last:
            labelling = self._labelling_of_chosen()
        if comm.is_main_process():
            self._write(labelling)

    def _labelling_of_chosen(self) -> Labelling:
        model = unwrapped(self.trainer.model)
        weights = copy.deepcopy(model.state_dict())
        model.load_state_dict(load_checkpoint_file(self._path)["model"])
        try:
            return self.trainer.pseudo_labels.label()
        finally:
            model.load_state_dict(weights)

    def _write(self, labelling: Labelling) -> None:
        images, stand_ins = self.trainer.images, self.trainer.images.stand_ins
        folder = os.path.abspath(os.path.expanduser(self._cfg.DATASETS.FOLDER.ROOT) if stand_ins else ".")
        paths = [os.path.relpath(path, folder) for path in images.paths]
        cameras = [_camera_name(images.camera_names[camera]) for camera in images.cameras]
        least = self._cfg.ISE.IDENTITIES.MIN_CONFIDENCE
        rows = identities_of(paths, cameras, labelling.labels, labelling.similarities, least)
        lost = {path for path, gone in zip(paths, stand_ins.lost.tolist()) if gone} if stand_ins else set()
        more = {
            "lost_during_the_run": len(lost),
            "eps": None if labelling.eps is None else round(labelling.eps, 4),
            "epoch": self.chosen,
            "separation": round(self.scores[self.chosen], 4),
        }
        kept = [row for row in rows if row.path not in lost]
        summary = write_identities(self._cfg.OUTPUT_DIR, folder, kept, more)
        logger.info(f"Identities, also in {self._cfg.OUTPUT_DIR}/identities.csv and identities/:\n{table_of(summary)}")

    def state_dict(self) -> dict:
        """For a resumed run."""
        return {"scores": dict(self.scores), "chosen": self.chosen}

    def load_state_dict(self, state: dict) -> None:
        """Takes what :meth:`state_dict` gave. The choice starts anew where the file holds other weights by now (of a run that
        got further and was resumed from an earlier checkpoint), is damaged, or is not there."""
        self.scores, self.chosen = dict(state["scores"]), None
        if state["chosen"] is None or not os.path.isfile(self._path):
            return
        try:
            if load_checkpoint_file(self._path)["epoch"] + 1 == state["chosen"]:
                self.chosen = state["chosen"]
        except DamagedWeights as error:
            logger.warning(f"{error}; the weights to keep are chosen among the coming epochs")


def _camera_name(name: str) -> str:
    camera = name.removeprefix(f"{Folder.__name__}/")
    return "" if camera == UNKNOWN else camera
