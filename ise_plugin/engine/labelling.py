"""Once per epoch: embeddings -> pseudo labels -> memory -> loader of pseudo-labelled images."""

import inspect
import logging
import time
from typing import Callable, NamedTuple, Optional

import numpy as np
import torch
from fastreid.engine.hooks import HookBase
from fastreid.utils import comm
from torch import Tensor

from ..clustering import jaccard_graph, kth_neighbor_distances
from ..clustering.eps import LARGEST_EPS, choose_eps
from ..config import AUTO
from ..data import TrainingLoader
from ..errors import UsageError
from ..method import cluster_centroids
from ..registry import CLUSTERER, HOOK, NEIGHBOR_SEARCH, registered
from ..utils.distributed import computed_once, gather_rows, unwrapped, verify_same, world_size
from ..utils.memory import advice_for_extraction, named_out_of_memory
from ..utils.seeds import epoch_seed
from .console import WithProgress
from .extraction import extract_embeddings

logger = logging.getLogger("fastreid.ise.pseudo_labels")

# Graphs for advice on eps store all distances up to this one: images with hardly a common neighbour. At 1 every pair counts.
_LARGEST_DISTANCE = 0.99
_ADVICE_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


class Labelling(NamedTuple):
    """One labelling, for those who study it."""

    features: Tensor  # (N, D), float32, unit rows, on the CPU
    labels: np.ndarray  # (N,), int64, -1 for outliers, as the clustering found them
    previous: Optional[np.ndarray]  # (N,), the labels used before; None the first time
    eps: float  # Jaccard distance up to which images were neighbours


@HOOK.register()
class DBSCANPseudoLabelHook(HookBase):
    """Labels the training images by clustering their embeddings, and hands the trainer memory and loader.

    k-reciprocal Jaccard distance (Zhong et al., CVPR 2017) and DBSCAN, or the clusterer that
    ``ISE.PSEUDO_LABEL.CLUSTERER`` names. A clustering with fewer than two clusters cannot be trained on: the first one
    ends the run with the distances that tell which eps would work, a later one leaves the last usable labels in place.

    Attributes:
        labels: (N,), int64, -1 for outliers; None before the first labelling.
        observers: called with the :class:`Labelling` after every labelling, in the process that they were added in.
    """

    def __init__(self, cfg):
        self.cfg = cfg
        self.labels: Optional[np.ndarray] = None
        self.observers: list[Callable[[Labelling], None]] = []
        self._centroids: Optional[Tensor] = None
        self._loader: Optional[TrainingLoader] = None
        self._warned_of_small_batches = False

    def before_epoch(self) -> None:
        """Labels anew when the period says so; always makes the epoch's loader."""
        epoch, period = self.trainer.epoch, self.cfg.ISE.PSEUDO_LABEL.PERIOD
        self._prepare_loader()
        done = self.trainer.steps_done
        if self.labels is None or (epoch % period == 0 and not done):
            self._relabel()
        elif self._centroids is not None:  # resumed between two labellings
            self._restore_memory()
        self._centroids = None
        verify_same("pseudo labels or memory", self.labels, self._head().memory.centroids.cpu().numpy())
        seed = epoch_seed(self.cfg.SEED, epoch)
        loader = self._loader.pseudo_labelled(self.labels, seed)
        self._warn_of_small_batches(loader.batch_sampler.clusters_per_batch * self.cfg.DATALOADER.NUM_INSTANCE)
        self.trainer.set_loader(loader, done)

    def label(self) -> Labelling:
        """The images embedded and clustered with the network as it is; labels, memory and loader stay as they are."""
        self._prepare_loader()
        features = self._extract()
        neighbors = self._search(features)
        labels, eps = computed_once(lambda: self._cluster(features, neighbors))
        return Labelling(features, labels, self.labels, eps)

    def _prepare_loader(self) -> None:
        if self._loader is None:
            self._loader = TrainingLoader(self.cfg, self.trainer.images)

    def _relabel(self) -> None:
        start = time.perf_counter()
        features = self._extract()
        extracted = time.perf_counter()
        neighbors = self._search(features)
        labels, eps = computed_once(lambda: self._cluster(features, neighbors))
        clustered = time.perf_counter()
        previous, clusters = self.labels, _cluster_count(labels)
        if clusters < 2:
            self._handle_unusable(features, neighbors, labels)
            labels_in_use = self.labels
        else:
            labels_in_use = labels
        self._head().set_centroids(cluster_centroids(features, torch.from_numpy(labels_in_use)))
        self.labels = labels_in_use
        self._report(labels, clusters, extracted - start, clustered - extracted)
        for observe in self.observers:
            observe(Labelling(features, labels, previous, eps))

    def _restore_memory(self) -> None:
        head = self._head()
        head.set_centroids(self._centroids)
        # normalising unit rows once more would change their last bits
        head.memory.centroids = self._centroids.to(head.memory.centroids.device)

    def _warn_of_small_batches(self, size: int) -> None:
        wanted = self.cfg.SOLVER.IMS_PER_BATCH
        if size < wanted and not self._warned_of_small_batches:
            self._warned_of_small_batches = True
            logger.warning(
                f"too few clusters of two or more images for SOLVER.IMS_PER_BATCH {wanted}: batches have {size} images"
            )

    def _extract(self) -> Tensor:
        loader, autocast = WithProgress(self._loader.extraction(), "extraction"), self.trainer.autocast()
        size = self.cfg.ISE.EXTRACTION.IMS_PER_BATCH or self.cfg.TEST.IMS_PER_BATCH
        with named_out_of_memory(lambda: advice_for_extraction(size, self.trainer.precision)):
            return gather_rows(extract_embeddings(self.trainer.model, loader, autocast))

    def _search(self, features: Tensor) -> Optional[tuple]:
        """Nearest neighbours, found by all processes together; None where the graph's own search, in one process, has to do."""
        label = self.cfg.ISE.PSEUDO_LABEL
        search = registered(NEIGHBOR_SEARCH, label.SEARCH, "ISE.PSEUDO_LABEL.SEARCH")
        if world_size() == 1 or "shared" not in inspect.signature(search).parameters:
            return None
        try:
            return search(features, label.K1, shared=True)
        except ValueError as error:
            raise self._too_few(features, error) from error

    def _cluster(self, features: Tensor, neighbors: Optional[tuple]) -> tuple[np.ndarray, float]:
        """Labels, and the eps they were made with."""
        label = self.cfg.ISE.PSEUDO_LABEL
        clusterer = registered(CLUSTERER, label.CLUSTERER, "ISE.PSEUDO_LABEL.CLUSTERER")
        if label.EPS == AUTO:
            graph = self._graph(features, neighbors, LARGEST_EPS)
            eps, reason, _ = choose_eps(graph, label.MIN_SAMPLES, clusterer)
            logger.info(f"ISE.PSEUDO_LABEL.EPS auto: {eps:.2f}, because {reason}")
        else:
            graph, eps = self._graph(features, neighbors, label.EPS), label.EPS
        return clusterer(eps=eps, min_samples=label.MIN_SAMPLES).fit_predict(graph), eps

    def _graph(self, features: Tensor, neighbors: Optional[tuple], max_distance: float):
        label = self.cfg.ISE.PSEUDO_LABEL
        options = {"k1": label.K1, "k2": label.K2, "search": label.SEARCH, "neighbors": neighbors}
        try:
            return jaccard_graph(features, max_distance=max_distance, **options)
        except ValueError as error:
            raise self._too_few(features, error) from error

    @staticmethod
    def _too_few(features: Tensor, error: ValueError) -> UsageError:
        return UsageError(f"ISE.PSEUDO_LABEL: the {len(features)} training images cannot be clustered: {error}")

    def _handle_unusable(self, features: Tensor, neighbors: Optional[tuple], labels: np.ndarray) -> None:
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
        distances = kth_neighbor_distances(self._graph(features, neighbors, _LARGEST_DISTANCE), others)
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
        memory = self._head().memory
        if self.labels is None or memory is None:
            return {}
        return {"labels": torch.from_numpy(self.labels), "centroids": memory.centroids}

    def load_state_dict(self, state: dict) -> None:
        """Takes what :meth:`state_dict` gave."""
        if state:
            self.labels = state["labels"].numpy()
            self._centroids = state["centroids"]


def _cluster_count(labels: np.ndarray) -> int:
    return int(labels.max()) + 1
