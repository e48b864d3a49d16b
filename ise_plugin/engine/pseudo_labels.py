"""Once per epoch: embeddings -> pseudo labels -> memory -> loader of pseudo-labelled images."""

import logging
import time
from typing import Optional

import numpy as np
import torch
from fastreid.engine.hooks import HookBase
from fastreid.utils import comm
from torch import Tensor

from ..clustering import jaccard_graph, kth_neighbor_distances
from ..data import build_extraction_loader, build_pseudo_label_loader
from ..distributed import average_buffers, computed_once, gather_rows, unwrapped
from ..errors import UsageError
from ..method import cluster_centroids
from ..registry import CLUSTERER, HOOK, NEIGHBOR_SEARCH, registered
from .extraction import extract_embeddings
from .seeds import epoch_seed

logger = logging.getLogger("fastreid.ise.pseudo_labels")

# Graphs for advice on eps store all distances up to this one: images with hardly a common neighbour. At 1 every pair counts.
_LARGEST_DISTANCE = 0.99
_ADVICE_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@HOOK.register()
class DBSCANPseudoLabelHook(HookBase):
    """Labels the training images by clustering their embeddings, and hands the trainer memory and loader.

    k-reciprocal Jaccard distance (Zhong et al., CVPR 2017) and DBSCAN, or the clusterer that
    ``ISE.PSEUDO_LABEL.CLUSTERER`` names. A clustering with fewer than two clusters cannot be trained on: the first one
    ends the run with the distances that tell which eps would work, a later one leaves the last usable labels in place.

    Attributes:
        labels: (N,), int64, -1 for outliers; None before the first labelling.
    """

    def __init__(self, cfg):
        self.cfg = cfg
        self.labels: Optional[np.ndarray] = None
        self._centroids: Optional[Tensor] = None
        self._extraction_loader = None
        self._warned_of_small_batches = False

    def before_epoch(self) -> None:
        """Labels anew when the period says so; always makes the epoch's loader."""
        epoch, period = self.trainer.epoch, self.cfg.ISE.PSEUDO_LABEL.PERIOD
        if self.labels is None or epoch % period == 0:
            self._relabel()
        elif self._centroids is not None:  # resumed between two labellings
            self._head().set_centroids(self._centroids)
        self._centroids = None
        seed = epoch_seed(self.cfg.SEED, epoch)
        loader = build_pseudo_label_loader(self.cfg, self.trainer.images, self.labels, seed)
        self._warn_of_small_batches(loader.batch_sampler.clusters_per_batch * self.cfg.DATALOADER.NUM_INSTANCE)
        self.trainer.set_loader(loader)

    def _relabel(self) -> None:
        start = time.perf_counter()
        features = self._extract()
        extracted = time.perf_counter()
        labels = computed_once(lambda: self._cluster(features))
        clustered = time.perf_counter()
        clusters = _cluster_count(labels)
        if clusters < 2:
            self._handle_unusable(features, labels)
        else:
            self.labels = labels
        self._head().set_centroids(cluster_centroids(features, torch.from_numpy(self.labels)))
        self._report(labels, clusters, extracted - start, clustered - extracted)

    def _warn_of_small_batches(self, size: int) -> None:
        wanted = self.cfg.SOLVER.IMS_PER_BATCH
        if size < wanted and not self._warned_of_small_batches:
            self._warned_of_small_batches = True
            logger.warning(
                f"too few clusters of two or more images for SOLVER.IMS_PER_BATCH {wanted}: batches have {size} images"
            )

    def _extract(self) -> Tensor:
        if self._extraction_loader is None:
            self._extraction_loader = build_extraction_loader(self.cfg, self.trainer.images)
        average_buffers(self.trainer.model)
        return gather_rows(extract_embeddings(self.trainer.model, self._extraction_loader))

    def _cluster(self, features: Tensor) -> np.ndarray:
        label = self.cfg.ISE.PSEUDO_LABEL
        clusterer = registered(CLUSTERER, label.CLUSTERER, "ISE.PSEUDO_LABEL.CLUSTERER")
        return clusterer(eps=label.EPS, min_samples=label.MIN_SAMPLES).fit_predict(self._graph(features, label.EPS))

    def _graph(self, features: Tensor, max_distance: float):
        label = self.cfg.ISE.PSEUDO_LABEL
        registered(NEIGHBOR_SEARCH, label.SEARCH, "ISE.PSEUDO_LABEL.SEARCH")
        try:
            return jaccard_graph(features, k1=label.K1, k2=label.K2, max_distance=max_distance, search=label.SEARCH)
        except ValueError as error:
            raise UsageError(
                f"ISE.PSEUDO_LABEL: the {len(features)} training images cannot be clustered: {error}"
            ) from error

    def _handle_unusable(self, features: Tensor, labels: np.ndarray) -> None:
        outliers = int((labels == -1).sum())
        found = (
            f"clustering found {_cluster_count(labels)} cluster(s) and {outliers} outliers among {len(labels)} images"
        )
        label = self.cfg.ISE.PSEUDO_LABEL
        if self.labels is not None:
            logger.warning(
                f"{found} with eps {label.EPS}; keeping the last usable labels ({_cluster_count(self.labels)} clusters)"
            )
            return
        others = max(1, label.MIN_SAMPLES - 1)
        distances = kth_neighbor_distances(self._graph(features, _LARGEST_DISTANCE), others)
        quantiles = ", ".join(f"{q:.0%}: {np.quantile(distances, q):.3f}" for q in _ADVICE_QUANTILES)
        raise UsageError(
            f"{found} with ISE.PSEUDO_LABEL.EPS {label.EPS}; two clusters are the least that can be trained on. "
            f"Distance of each image to its neighbour number {others}, by quantile: {quantiles}. "
            f"Set ISE.PSEUDO_LABEL.EPS among these: larger joins more images, smaller separates them"
        )

    def _report(self, labels: np.ndarray, clusters: int, extraction: float, clustering: float) -> None:
        outliers = int((labels == -1).sum())
        logger.info(
            f"Epoch {self.trainer.epoch}: {clusters} clusters, {outliers} of {len(labels)} images outliers "
            f"(extraction {extraction:.1f} s, clustering {clustering:.1f} s)"
        )
        if comm.is_main_process():
            self.trainer.storage.put_scalars(
                clusters=clusters,
                outliers=outliers,
                extraction_time=extraction,
                clustering_time=clustering,
                smoothing_hint=False,
            )

    def _head(self):
        return unwrapped(self.trainer.model).heads

    def state_dict(self) -> dict:
        """Labels and memory, for a run that is resumed before the next labelling."""
        if self.labels is None:
            return {}
        return {"labels": torch.from_numpy(self.labels), "centroids": self._head().memory.centroids}

    def load_state_dict(self, state: dict) -> None:
        """Takes what :meth:`state_dict` gave."""
        if state:
            self.labels = state["labels"].numpy()
            self._centroids = state["centroids"]


def _cluster_count(labels: np.ndarray) -> int:
    return int(labels.max()) + 1
