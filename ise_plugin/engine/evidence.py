"""What the data know of the images beside their pixels, cameras, tracks and times, and what of it a run uses."""

import dataclasses
import logging
from functools import partial
from typing import Optional

import numpy as np

from ..clustering.quality import explained
from ..config import AUTO, EVIDENCE, CfgNode
from ..data import TrainingImages
from ..data.thumbnails import small_pictures
from ..utils.distributed import computed_once

logger = logging.getLogger("fastreid.ise.evidence")

# Images whose edges are looked at, half a second of reading.
_LOOKED_AT = 1000
# How often the cameras are dealt out anew for comparison: names without meaning pass once in so many runs.
_DEALT = 199
# What the plain parts of a labelling become where cameras are used.
_PLAIN_DISTANCE, _CAMERA_DISTANCE, _CAMERA_LOSS = "Jaccard", "CameraJaccard", "CameraProxyLoss"


def use_evidence(cfg: CfgNode, images: TrainingImages) -> tuple[CfgNode, TrainingImages]:
    """The configuration and the images with what ``ISE.EVIDENCE`` says that a run shall use; what that is, is logged.

    Cameras turn on the camera-aware distance where ``ISE.PSEUDO_LABEL.DISTANCE`` is the plain one, and camera proxies in memory
    and loss. Tracks and times that are not used become unknown.
    """
    asked, reasons = cfg.ISE.EVIDENCE, {}
    for name, why_not in zip(EVIDENCE, (_no_cameras, _no_tracks, _no_times)):
        if asked == AUTO or name in asked.split(","):
            reasons[name] = computed_once(partial(why_not, images, asked == AUTO))
    used = [name for name, reason in reasons.items() if reason is None]
    if reasons:
        said = (name if name in used else f"no {name} ({reason})" for name, reason in reasons.items())
        logger.info(f"ISE.EVIDENCE {asked}: this run uses {', '.join(said)}")
    if "tracks" not in used:
        images = dataclasses.replace(images, tracks=np.full(len(images), -1), track_names=())
    if "times" not in used:
        images = dataclasses.replace(images, times=np.full(len(images), np.nan))
    return _with_cameras(cfg) if "cameras" in used else cfg, images


def _with_cameras(cfg: CfgNode) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    if cfg.ISE.PSEUDO_LABEL.DISTANCE == _PLAIN_DISTANCE:
        cfg.ISE.PSEUDO_LABEL.DISTANCE = _CAMERA_DISTANCE
    if _CAMERA_LOSS not in cfg.MODEL.LOSSES.NAME:
        cfg.MODEL.LOSSES.NAME = (*cfg.MODEL.LOSSES.NAME, _CAMERA_LOSS)
    cfg.freeze()
    return cfg


def _no_cameras(images: TrainingImages, doubted: bool) -> Optional[str]:
    if len(np.unique(images.cameras[images.cameras >= 0])) < 2:
        return "fewer than two are known"
    if doubted and not cameras_are_seen(images.paths, images.cameras):
        return (
            "they explain no more of the colours at the edges of the images than cameras dealt out by chance: the names may be "
            "wrong, or the cameras alike; ISE.EVIDENCE cameras uses them all the same"
        )
    return None


def _no_tracks(images: TrainingImages, doubted: bool) -> Optional[str]:
    return None if (images.tracks >= 0).any() else "none are known"


def _no_times(images: TrainingImages, doubted: bool) -> Optional[str]:
    return None if (images.tracks >= 0).any() and not np.isnan(images.times).all() else "of tracks, none are known"


def cameras_are_seen(paths: tuple, cameras: np.ndarray) -> bool:
    """Whether the pictures of different cameras differ at their edges, more than those of the same images dealt out by chance.

    A permutation test of the variance between cameras on up to a thousand images, the same ones each time.

    Args:
        paths: N files; what cannot be read is left out.
        cameras: (N,) int64, -1: unknown.
    """
    random = np.random.default_rng(0)
    sample = random.permutation(np.flatnonzero(cameras >= 0))[:_LOOKED_AT]
    pictures = small_pictures([paths[i] for i in sample])
    found = cameras[sample][pictures.places]
    by_chance = (explained(pictures.edges, random.permutation(found)) for _ in range(_DEALT))
    return explained(pictures.edges, found) > max(by_chance, default=0.0)
