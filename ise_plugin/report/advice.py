"""Signs of trouble in the numbers of a run, each with the config key to try."""

from typing import Optional, Sequence

# Of the clusters of the labelling before, the share whose loss counts as a collapse.
_COLLAPSE = 0.5
# Share of all images that one cluster of persons should not reach.
_LARGEST_CLUSTER = 0.2
# Outliers: in first epochs up to half of the images are normal.
_MANY_OUTLIERS = 0.6
# Labels still change: adjusted Rand index below this, for so many labellings in the second half of training.
_UNSETTLED, _LABELLINGS = 0.6, 3
# Learning rate over the one in the config: the paper's schedule ends at a hundredth.
_SPENT = 0.005


def advice(history: Sequence[dict], epochs: int, base_lr: Optional[float] = None) -> dict[str, str]:
    """What a person should look at after the last of these epochs.

    Args:
        history: one dictionary of logged values per epoch, in order, with ``epoch`` counted from 1.
        epochs: of the whole run.
        base_lr: the learning rate in the config.

    Returns:
        A short name of each trouble -> one line with what to try. Empty when nothing is wrong.
    """
    found = {}
    if not history:
        return found
    now = history[-1]
    clusters = [epoch["clusters"] for epoch in history if "clusters" in epoch]
    if "clusters" in now and len(clusters) > 1 and clusters[-1] < _COLLAPSE * clusters[-2]:
        found["collapse"] = (
            f"clusters fell from {clusters[-2]:.0f} to {clusters[-1]:.0f}: they swallow one another; "
            "try a smaller ISE.PSEUDO_LABEL.EPS, or a smaller SOLVER.BASE_LR"
        )
    if now.get("labels/largest_share", 0) > _LARGEST_CLUSTER:
        found["one large cluster"] = (
            f"one cluster holds {now['labels/largest_share']:.0%} of all images; try a smaller ISE.PSEUDO_LABEL.EPS"
        )
    if now.get("labels/outlier_share", 0) > _MANY_OUTLIERS:
        found["many outliers"] = (
            f"{now['labels/outlier_share']:.0%} of the images are outliers and take no part; "
            "try a larger ISE.PSEUDO_LABEL.EPS, or a smaller ISE.PSEUDO_LABEL.MIN_SAMPLES"
        )
    late = [e["labels/stability"] for e in history if "labels/stability" in e and 2 * e["epoch"] > epochs]
    if "labels/stability" in now and len(late) >= _LABELLINGS and max(late[-_LABELLINGS:]) < _UNSETTLED:
        found["labels do not settle"] = (
            f"labels agree with those before by {late[-1]:.2f} only (adjusted Rand index), {_LABELLINGS} times running; "
            "try a smaller SOLVER.BASE_LR or earlier SOLVER.STEPS"
        )
    if base_lr and now["epoch"] < epochs and now.get("lr", base_lr) < _SPENT * base_lr:
        found["learning rate spent"] = (
            f"the learning rate is {now['lr']:.1e}, {now['lr'] / base_lr:.1%} of SOLVER.BASE_LR, with "
            f"{epochs - now['epoch']} epochs to go: they will learn little; try later SOLVER.STEPS or fewer SOLVER.MAX_EPOCH"
        )
    return found
