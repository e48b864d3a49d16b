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
from ..engine.checkpointing import load_checkpoint_file
from ..engine.labelling import Labelling
from ..registry import HOOK
from ..utils.distributed import unwrapped
from ..utils.files import write_atomically
from .groups import identities_of, measure, table_of, write_identities

logger = logging.getLogger("fastreid.ise.choice")

CHOSEN_NAME = "model_chosen.pth"


@HOOK.register()
class IdentityChoice(HookBase):
    """Keeps the weights whose groups stand furthest apart as model_chosen.pth; at the end writes the identities.

    The score of an epoch's weights is the separation of the groups that they find (:class:`Measures` in
    :mod:`ise_plugin.identities.groups`). It comes for free with the labelling at the start of the next epoch; the last weights
    are labelled once more. Labels given for evaluation play no part. Belongs behind everything that saves.

    Args:
        cfg: configuration.

    Attributes:
        scores: epoch, counted from 1 (0: before training) -> separation.
        chosen: the epoch of model_chosen.pth.
    """

    state_name = "choice"

    def __init__(self, cfg):
        self._cfg = cfg
        self._path = os.path.join(cfg.OUTPUT_DIR, CHOSEN_NAME)
        self.scores: dict = {}
        self.chosen: Optional[int] = None

    def after_labelling(self, labelling: Labelling) -> None:
        self._judge(self.trainer.epoch, labelling)

    def _judge(self, epochs_done: int, labelling: Labelling) -> None:
        score = measure(labelling.features.cpu().numpy(), labelling.labels).separation
        self.scores[epochs_done] = score
        best = self.scores[self.chosen] if self.chosen in self.scores else None
        if epochs_done > 0 and (best is None or score > best or self.chosen == epochs_done):
            self.chosen = epochs_done
            if comm.is_main_process():
                buffer = io.BytesIO()
                state = {"model": unwrapped(self.trainer.model).state_dict(), "epoch": epochs_done - 1}
                torch.save(state, buffer)
                write_atomically(self._path, buffer.getvalue())

    def after_train(self) -> None:
        last = self.trainer.max_epoch
        labelling = self.trainer.pseudo_labels.label()
        self._judge(last, labelling)
        comm.synchronize()
        logger.info(
            f"Chosen without labels: {CHOSEN_NAME} holds the weights of epoch {self.chosen} of {last}, whose groups stand "
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
        images, settings = self.trainer.images, self._cfg.ISE.IDENTITIES
        lost = images.stand_ins.lost.tolist() if images.stand_ins else [False] * len(images)
        there = [i for i in range(len(images)) if not lost[i]]
        folder = os.path.abspath(os.path.expanduser(self._cfg.DATASETS.FOLDER.ROOT) if images.stand_ins else ".")
        measures = measure(labelling.features.cpu().numpy(), labelling.labels)
        rows = identities_of(
            [os.path.relpath(images.paths[i], folder) for i in there],
            [_camera_name(images.camera_names[images.cameras[i]]) for i in there],
            labelling.labels[there],
            measures._replace(**{n: getattr(measures, n)[there] for n in measures._fields if n != "confidence"}),
            settings.MIN_CONFIDENCE,
        )
        more = {
            "lost_during_the_run": len(images) - len(there),
            "eps": round(labelling.eps, 4),
            "epoch": self.chosen,
            "separation": round(self.scores[self.chosen], 4),
        }
        summary = write_identities(self._cfg.OUTPUT_DIR, folder, rows, more)
        logger.info(f"Identities, also in {self._cfg.OUTPUT_DIR}/identities.csv and identities/:\n{table_of(summary)}")

    def state_dict(self) -> dict:
        """For a resumed run."""
        return {"scores": dict(self.scores), "chosen": self.chosen}

    def load_state_dict(self, state: dict) -> None:
        """Takes what :meth:`state_dict` gave. Where the file holds other weights by now (a run that got further, and was
        taken up again from before), the choice starts anew."""
        self.scores = dict(state["scores"])
        there = load_checkpoint_file(self._path)["epoch"] + 1 if os.path.isfile(self._path) else None
        self.chosen = state["chosen"] if state["chosen"] == there else None


def _camera_name(name: str) -> str:
    camera = name.removeprefix(f"{Folder.__name__}/")
    return "" if camera == UNKNOWN else camera
