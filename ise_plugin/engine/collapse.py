"""Ends a run whose labels have collapsed, before it spends days on them."""

import numpy as np
from fastreid.engine.hooks import HookBase

from ..errors import UsageError
from .labelling import Labelling


class CollapseGuard(HookBase):
    """Watches every labelling: one cluster that swallows the set, or hardly anything but outliers, several times in a row.

    Args:
        labellings: such ones in a row that end the run.
        max_cluster_share, max_outlier_share: see :func:`describe_collapse`.
    """

    state_name = "collapse"

    def __init__(self, labellings: int, max_cluster_share: float, max_outlier_share: float):
        self._most = labellings
        self._bounds = max_cluster_share, max_outlier_share
        self._in_a_row = self._before = 0
        self._epoch = -1

    def after_labelling(self, labelling: Labelling) -> None:
        """Raises a UsageError that says what to change when this is the labelling too many."""
        found = describe_collapse(labelling.labels, *self._bounds, has_eps=labelling.eps is not None)
        epoch = self.trainer.epoch
        if epoch != self._epoch:  # a labelling that an interruption has cut short is done again
            self._before, self._epoch = self._in_a_row, epoch
        self._in_a_row = self._before + 1 if found else 0
        if self._in_a_row >= self._most:
            finding, advice = found
            eps = "" if labelling.eps is None else f" (eps was {labelling.eps:g})"
            raise UsageError(
                f"{finding}, and the {self._in_a_row} labellings up to now were like that: training on would teach nothing. "
                f"{advice}{eps}; ISE.COLLAPSE sets the bounds"
            )

    def state_dict(self) -> dict:
        """For a resumed run."""
        return {"epoch": self._epoch, "before": self._before, "in_a_row": self._in_a_row}

    def load_state_dict(self, state: dict) -> None:
        """Takes what :meth:`state_dict` gave."""
        self._epoch, self._before, self._in_a_row = state["epoch"], state["before"], state["in_a_row"]


def describe_collapse(labels: np.ndarray, max_cluster_share: float, max_outlier_share: float, has_eps: bool = True):
    """What is wrong with a labelling, and what helps; None where nothing is.

    Args:
        labels: (N,), int64, -1 for outliers.
        max_cluster_share: of the images that one cluster may have, in (0, 1].
        max_outlier_share: of the images that may be outliers, in (0, 1].
        has_eps: whether there is an eps to change.
    """
    sizes = np.bincount(labels[labels >= 0], minlength=1)
    largest, outliers = int(sizes.max()), int((labels < 0).sum())
    if largest > max_cluster_share * len(labels):
        return (
            f"one cluster has {largest} of {len(labels)} images",
            f"Set {'a smaller ISE.PSEUDO_LABEL.EPS, ' * has_eps}a smaller SOLVER.BASE_LR, or better "
            "MODEL.BACKBONE.PRETRAIN_PATH weights",
        )
    if outliers > max_outlier_share * len(labels):
        return (
            f"{outliers} of {len(labels)} images are outliers",
            f"Set {'a larger ISE.PSEUDO_LABEL.EPS, ' * has_eps}a smaller ISE.PSEUDO_LABEL.MIN_SAMPLES, or better weights to "
            "start from",
        )
    return None
