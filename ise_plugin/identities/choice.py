"""Chooses the weights to keep by what can be known without labels, and writes what they say of the images."""

import copy
import io
import logging
import os
from typing import Optional

import torch
from fastreid.engine.hooks import HookBase
from fastreid.utils import comm

from ..clustering.calibration import write_calibration
from ..clustering.purity import mean_purity
from ..data.datasets.folder import Folder
from ..data.image_sets import TrainingImages
from ..engine.calibration import calibration_of
from ..engine.checkpointing import CHOSEN
from ..engine.console import RESULT
from ..engine.labelling import Labelling
from ..registry import HOOK
from ..utils.distributed import computed_once, unwrapped
from ..utils.files import identical_files, write_atomically
from ..utils.weights import DamagedWeights, load_checkpoint_file, sealed
from .groups import identities_of, table_of, write_identities
from .signs import Signs, gather_signs
from .verdict import State, Verdict, judge

logger = logging.getLogger("fastreid.ise.choice")


@HOOK.register()
class IdentityChoice(HookBase):
    """Keeps the weights that group most images rightly, by the estimate, as model_chosen.pth; at the end writes the identities.

    The score of an epoch's weights is that of the groups that they find: share of the images in a group x estimated purity
    (:class:`.verdict.State`). It comes with the labelling at the start of the next epoch; the last weights are labelled once
    more. Labels given for evaluation play no part. In all processes, which label together; the first one writes, and tells the
    other hooks of the labelling that it writes (``after_choice``).

    Attributes:
        states: epoch, counted from 1 (0: before training) -> what is known of its weights' groups.
        chosen: the epoch of model_chosen.pth.
    """

    state_name = "choice"

    def __init__(self, cfg):
        self._cfg = cfg
        self._path = os.path.join(cfg.OUTPUT_DIR, CHOSEN)
        self.states: dict[int, State] = {}
        self.chosen: Optional[int] = None

    def after_labelling(self, labelling: Labelling) -> None:
        """Judges the weights that this epoch starts with; says early what is wrong with the images."""
        self._judge(self.trainer.epoch, labelling)
        if self.trainer.epoch == 0 and comm.is_main_process() and (signs := self._signs(labelling)):
            for text in signs.suspicions(self._cfg.ISE.APPEARANCE.SCENES).values():
                logger.warning(f"before training: {text}")

    def _judge(self, epochs_done: int, labelling: Labelling) -> None:
        state = self.states[epochs_done] = computed_once(lambda: state_of(labelling))
        best = self.states.get(self.chosen)
        if epochs_done > 0 and (best is None or state.right > best.right or self.chosen == epochs_done):
            self.chosen = epochs_done
            if comm.is_main_process():
                buffer = io.BytesIO()
                torch.save({"model": unwrapped(self.trainer.model).state_dict(), "epoch": epochs_done - 1}, buffer)
                write_atomically(self._path, sealed(buffer.getvalue()))

    def _signs(self, labelling: Labelling) -> Optional[Signs]:
        images = self.trainer.images
        return gather_signs(images.paths, labelling.labels, images.cameras) if labelling.clusters else None

    def after_train(self) -> None:
        """Judges the last weights, writes the identities of the chosen ones, and says what they are worth."""
        last = self.trainer.max_epoch
        labelling = self.trainer.pseudo_labels.label()
        self._judge(last, labelling)
        comm.synchronize()
        if self.chosen != last:
            labelling = self._labelling_of_chosen()
        if comm.is_main_process():
            verdict = judge(self.states, self.chosen, self._signs(labelling), self._cfg)
            self._write(labelling, verdict)
            logger.log(RESULT, f"Verdict:\n{verdict.text}")
            self.trainer.tell("after_choice", labelling)

    def _labelling_of_chosen(self) -> Labelling:
        model = unwrapped(self.trainer.model)
        weights = copy.deepcopy(model.state_dict())
        model.load_state_dict(load_checkpoint_file(self._path)["model"])
        try:
            return self.trainer.pseudo_labels.label()
        finally:
            model.load_state_dict(weights)

    def _write(self, labelling: Labelling, verdict: Verdict) -> None:
        images, stand_ins = self.trainer.images, self.trainer.images.stand_ins
        folder = os.path.abspath(os.path.expanduser(self._cfg.DATASETS.FOLDER.ROOT) if stand_ins else ".")
        paths = [os.path.relpath(path, folder) for path in images.paths]
        cameras = _cameras_of(images)
        least = self._cfg.ISE.IDENTITIES.MIN_CONFIDENCE
        shorter = dict(zip(images.paths, paths))
        copies = {shorter[path]: shorter[original] for path, original in identical_files(images.paths).items()}
        found = labelling.labels, labelling.similarities, labelling.purities
        rows = identities_of(paths, cameras, *found, copies, least)
        lost = {path for path, gone in zip(paths, stand_ins.lost.tolist()) if gone} if stand_ins else set()
        found_out = calibration_of(labelling, images.tracks)
        write_calibration(self._cfg.OUTPUT_DIR, found_out, self._path)
        more = {
            "lost_during_the_run": len(lost),
            "eps": None if labelling.eps is None else round(labelling.eps, 4),
            "epoch": self.chosen,
            "verdict": verdict.content,
        }
        kept = [row for row in rows if row.path not in lost]
        table = table_of(write_identities(self._cfg.OUTPUT_DIR, folder, kept, more))
        logger.info(f"Identities, also in {self._cfg.OUTPUT_DIR}/identities.csv and identities/:\n{table}")

    def state_dict(self) -> dict:
        """For a resumed run."""
        return {"states": {epoch: tuple(state) for epoch, state in self.states.items()}, "chosen": self.chosen}

    def load_state_dict(self, state: dict) -> None:
        """Takes what :meth:`state_dict` gave. The choice starts anew where the file holds other weights by now (of a run that
        got further and was resumed from an earlier checkpoint), is damaged, or is not there."""
        self.states, self.chosen = {epoch: State(*values) for epoch, values in state.get("states", {}).items()}, None
        if state["chosen"] not in self.states or not os.path.isfile(self._path):
            return
        try:
            if load_checkpoint_file(self._path)["epoch"] + 1 == state["chosen"]:
                self.chosen = state["chosen"]
        except DamagedWeights as error:
            logger.warning(f"{error}; the weights to keep are chosen among the coming epochs")


def state_of(labelling: Labelling) -> State:
    """What is known of a labelling's groups; in the first process, which clusters."""
    labels = labelling.labels
    purity = mean_purity(labels, labelling.purities) if labelling.clusters else 0.0
    separation = float(labelling.similarities.silhouette.mean())
    return State(labelling.clusters, 1 - labelling.outliers / len(labels), purity, separation)


def _cameras_of(images: TrainingImages) -> list[str]:
    """The name of every image's camera, empty where it is unknown."""
    names = [name.removeprefix(f"{Folder.__name__}/") for name in images.camera_names]
    return [names[camera] if camera >= 0 else "" for camera in images.cameras]
