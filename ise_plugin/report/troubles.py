"""Signs of trouble in the numbers of a run, each with the config key to try."""

from .run_files import Run

# A labelling with less than this share of the clusters before it is a collapse.
_COLLAPSE = 0.5
# Share of all images that one cluster of persons should not reach.
_LARGEST_CLUSTER = 0.2
# Outliers: in first epochs up to half of the images are normal.
_MANY_OUTLIERS = 0.6
# Labels still change: adjusted Rand index below this, for so many labellings in the second half of training.
_UNSETTLED, _LABELLINGS = 0.6, 3
# Learning rate over the one in the config: the paper's schedule ends at a hundredth.
_SPENT = 0.005


def find_troubles(run: Run) -> dict[str, str]:
    """What a person should look at after the last epoch of a run.

    Returns:
        A short name of each trouble -> one line with what to try. Empty when nothing is wrong.
    """
    found: dict[str, str] = {}
    if not run.history:
        return found
    now, base_lr = run.history[-1], run.config.get("SOLVER.BASE_LR")
    clusters = run.values("clusters")[1]
    if "clusters" in now and len(clusters) > 1 and clusters[-1] < _COLLAPSE * clusters[-2]:
        found["collapse"] = (
            f"clusters fell from {clusters[-2]:.0f} to {clusters[-1]:.0f}, because they merge; "
            "try a smaller ISE.PSEUDO_LABEL.EPS, or a smaller SOLVER.BASE_LR"
        )
    if now.get("labels/largest_share", 0) > _LARGEST_CLUSTER:
        found["one large cluster"] = (
            f"one cluster holds {now['labels/largest_share']:.0%} of all images; try a smaller ISE.PSEUDO_LABEL.EPS"
        )
    if now.get("labels/outlier_share", 0) > _MANY_OUTLIERS:
        found["many outliers"] = (
            f"{now['labels/outlier_share']:.0%} of the images are outliers and are not trained on; "
            "try a larger ISE.PSEUDO_LABEL.EPS, or a smaller ISE.PSEUDO_LABEL.MIN_SAMPLES"
        )
    late = [value for epoch, value in zip(*run.values("labels/stability")) if 2 * epoch > run.epochs]
    if "labels/stability" in now and len(late) >= _LABELLINGS and max(late[-_LABELLINGS:]) < _UNSETTLED:
        found["labels do not settle"] = (
            f"for {_LABELLINGS} labellings the labels have changed much each time (adjusted Rand index with those before: "
            f"{late[-1]:.2f}); try a smaller SOLVER.BASE_LR or earlier SOLVER.STEPS"
        )
    if base_lr and now["epoch"] < run.epochs and now.get("lr", base_lr) < _SPENT * base_lr:
        found["learning rate spent"] = (
            f"the learning rate is {now['lr']:.1e}, only {now['lr'] / base_lr:.1%} of SOLVER.BASE_LR, with "
            f"{run.epochs - now['epoch']} epochs to go; try later SOLVER.STEPS or fewer SOLVER.MAX_EPOCH"
        )
    return found
