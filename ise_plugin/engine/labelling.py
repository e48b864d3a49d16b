"""Once per epoch: embeddings -> neighbours -> graph -> pseudo labels -> memory -> loader of pseudo-labelled images."""

import contextlib
import logging
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ContextManager, Iterable, Optional

import numpy as np
import torch
import torch.nn.functional as F
from fastreid.engine.hooks import HookBase
from fastreid.evaluation.evaluator import inference_context
from fastreid.utils import comm
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from ..clustering import kth_neighbor_distances
from ..clustering.centroids import CentroidSimilarities, similarity_to_centroids
from ..clustering.constraints import Constraints, fit_constrained, track_constraints
from ..clustering.jaccard import JaccardDistances, jaccard_graph
from ..clustering.purity import REACH, estimate_purities
from ..config import AUTO
from ..data import BatchSampler, TrainingLoader
from ..data.corrections import Pairs, read_corrections
from ..errors import UsageError
from ..method import cluster_centroids
from ..modeling.precision import full_float32
from ..registry import CLUSTERER, DISTANCE, HOOK, NEIGHBOR_SEARCH, build, registered
from ..utils.distributed import computed_once, gather_rows, unwrapped, verify_same, world_size
from ..utils.memory import advice_for_extraction, named_out_of_memory
from ..utils.seeds import epoch_seed
from .console import WithProgress
from .memories import Memories
from .search_vectors import SearchVectors

logger = logging.getLogger("fastreid.ise.labelling")

# Advice on eps looks at all distances up to this one: images with hardly a common neighbour. At 1 every pair counts.
_LARGEST_DISTANCE = 0.99
_ADVICE_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
# Neighbours for the estimate of the purity where the labels were made without the Jaccard distance.
_K1 = 30
# Images up to which all pairs within reach are looked at to estimate the purity.
_MOST_FOR_ALL_PAIRS = 100_000


def extract_embeddings(model: nn.Module, loader, autocast: ContextManager = contextlib.nullcontext()) -> Tensor:
    """L2-normalised embeddings of a loader's images, the network in eval mode.

    Args:
        model: a fastreid model; left in the mode it was in.
        loader: batches as dictionaries with ``images``.
        autocast: the precision to compute in; none of its own by default.

    Returns:
        (N, D), float32 on the model's device, unit rows, in the loader's order; (0, 0) from a loader without batches.
    """
    with torch.no_grad(), inference_context(model), autocast:  # as in evaluation, which then shares a compiled graph
        batches = [F.normalize(model(batch).float(), dim=1) for batch in loader]
    return torch.cat(batches) if batches else torch.empty(0, 0)


@dataclass
class Labelling:
    """One labelling with all that was computed for it, so that nobody computes it again.

    Attributes:
        features: (N, D), float32, unit rows, on the device they were made on.
        labels: (N,), int64, -1 for outliers, as the clustering found them.
        previous: (N,), the labels used before; None the first time.
        eps: distance up to which images were neighbours; None with a clusterer that knows none.
        neighbors: similarities (N, k) float32 and indices (N, k) int64 of the nearest images, or what the distance has found in
            their place; ``distances``, as the registered distance made them; ``graph`` of the pairs at most ``reach`` apart;
            ``constraints`` of tracks, where there are any. In the first process, which clusters; None in the others.
        seconds: of extraction and of clustering.
    """

    features: Tensor
    labels: np.ndarray
    previous: Optional[np.ndarray] = None
    eps: Optional[float] = None
    neighbors: Optional[tuple[np.ndarray, np.ndarray]] = None
    distances: Any = None
    graph: Optional[csr_matrix] = None
    reach: Optional[float] = None
    constraints: Optional[Constraints] = None
    seconds: tuple[float, float] = (0.0, 0.0)

    @property
    def clusters(self) -> int:
        """How many there are."""
        return int(self.labels.max(initial=-1)) + 1

    @property
    def outliers(self) -> int:
        """How many images are in no cluster."""
        return int((self.labels == -1).sum())

    @cached_property
    def centroids(self) -> Tensor:
        """(M, D), see :func:`ise_plugin.method.cluster_centroids`; (0, D) without clusters."""
        if not self.clusters:
            return self.features[:0]
        return cluster_centroids(self.features, torch.from_numpy(self.labels).to(self.features.device))

    @cached_property
    def similarities(self) -> CentroidSimilarities:
        """Every image against its own and the nearest other centroid."""
        return similarity_to_centroids(self.features, self.labels, self.centroids)

    @cached_property
    def purities(self) -> np.ndarray:
        """(M,), the estimated purity of every cluster, see :mod:`ise_plugin.clustering.purity`; for the first process."""
        if not isinstance(self.distances, JaccardDistances):  # labelled otherwise; the estimate needs this distance
            graph = jaccard_graph(self.features, min(_K1, len(self.labels) - 1), max_distance=REACH)
        elif self.graph is not None and (self.reach == REACH or len(self.labels) > _MOST_FOR_ALL_PAIRS):
            # of many images pairs beyond eps would not fit into memory, and count as sharing nothing
            graph = self.graph
        else:
            graph = self.distances.within(REACH)
        return estimate_purities(self.labels, graph)


@HOOK.register()
class DBSCANPseudoLabelHook(HookBase):
    """Labels the training images by clustering their embeddings, and hands the trainer memory and loader.

    Distance, clusterer and neighbour search are those that ``ISE.PSEUDO_LABEL`` names; by default the k-reciprocal Jaccard
    distance (Zhong et al., CVPR 2017) and DBSCAN. A clustering with fewer than two clusters cannot be trained on: the first
    one ends the run with the distances that tell which eps would work, a later one leaves the last usable labels in place.

    Attributes:
        labels: (N,), int64, -1 for outliers; None before the first labelling.
    """

    state_name = "pseudo_labels"

    def __init__(self, cfg):
        self.cfg = cfg
        self.labels: Optional[np.ndarray] = None
        self._kept: dict = {}  # of a checkpoint, until it is used
        self._warned_of_small_batches = False
        settings = cfg.ISE.PSEUDO_LABEL
        self._search = registered(NEIGHBOR_SEARCH, settings.SEARCH, "ISE.PSEUDO_LABEL.SEARCH")
        self._distance = build(DISTANCE, settings.DISTANCE, "ISE.PSEUDO_LABEL.DISTANCE", cfg)
        self._clusterer = build(CLUSTERER, settings.CLUSTERER, "ISE.PSEUDO_LABEL.CLUSTERER", cfg)

    def before_epoch(self) -> None:
        """Labels anew when the period says so; always makes the epoch's loader."""
        epoch, period, done = self.trainer.epoch, self.cfg.ISE.PSEUDO_LABEL.PERIOD, self.trainer.steps_done
        if self.labels is None or (epoch % period == 0 and not done):
            self._relabel()
        elif self._kept:  # resumed between two labellings
            self._memories.restore(self.labels, self._kept)
        self._kept = {}
        verify_same("pseudo labels or memory", self.labels, *self._memories.rows())
        loader = self._loader.pseudo_labelled(self.labels, epoch_seed(self.cfg.SEED, epoch))
        self._warn_of_small_batches(loader.batch_sampler)
        self.trainer.step.set_loader(loader, done)

    def label(self) -> Labelling:
        """The images embedded and clustered with the network as it is; labels, memory and loader stay as they are."""
        loader, start = WithProgress(self._loader.extraction(), "extraction"), time.perf_counter()
        if not self._vectors.complete:
            loader = self._vectors.watched(unwrapped(self.trainer.model), loader)
        features = self._extract(loader)
        searched = self._vectors.of(features, self.trainer.epoch)
        extracted = time.perf_counter()
        parts: dict = {}
        try:
            if world_size() > 1 and getattr(self._search, "shared", False):
                parts["neighbors"] = self._neighbors(searched, shared=True)
            labels, eps = computed_once(lambda: self._cluster(searched, parts))
        except ValueError as error:
            message = f"ISE.PSEUDO_LABEL: the {len(features)} training images cannot be clustered: {error}"
            raise UsageError(message) from error
        seconds = extracted - start, time.perf_counter() - extracted
        return Labelling(features, labels, self.labels, eps, seconds=seconds, **parts)

    def assign(self, features: Tensor, parts: dict) -> np.ndarray:
        """The labels of all images: what a hook of your own does otherwise. In the first process alone.

        Args:
            features: (N, D), float32, unit rows, what neighbours are searched by.
            parts: fields of the :class:`Labelling` that is made, ``neighbors`` and ``distances`` among them; what is computed
                here for others to read goes into it.

        Returns:
            (N,), int64, 0..M-1, -1 for outliers.
        """
        parts["reach"] = self._clusterer.max_distance
        parts["graph"] = parts["distances"].within(parts["reach"])
        parts["constraints"] = self._constraints(features)
        labels = fit_constrained(
            self._clusterer, parts["graph"], parts["constraints"], parts["reach"], features=features
        )
        self._say_what_the_clusterer_says()
        return labels

    def _cluster(self, features: Tensor, parts: dict) -> tuple[np.ndarray, Optional[float]]:
        """Labels, and the eps they were made with; what was computed on the way goes into ``parts``."""
        if "neighbors" not in parts:
            parts["neighbors"] = self._neighbors(features)
        parts["distances"] = self._distance(features, parts["neighbors"], **self._evidence(self._distance))
        labels = self.assign(features, parts)
        return labels, getattr(self._clusterer, "eps_", None)

    def _say_what_the_clusterer_says(self) -> None:
        clusterer = self._clusterer
        eps, summary = getattr(clusterer, "eps_", None), getattr(clusterer, "summary_", None)
        if eps is not None and self.cfg.ISE.PSEUDO_LABEL.EPS == AUTO:
            logger.info(f"ISE.PSEUDO_LABEL.EPS auto: {eps:.2f}, because {clusterer.reason_}")
        if summary:
            logger.info(summary)

    def _neighbors(self, features: Tensor, **options: Any) -> tuple[np.ndarray, np.ndarray]:
        """As the search finds them, or the distance by it."""
        if hasattr(self._distance, "find_neighbors"):
            return self._distance.find_neighbors(self._search, features, **self._evidence(self._distance), **options)
        return self._search(features, self.cfg.ISE.PSEUDO_LABEL.K1, **options)

    def _evidence(self, part: Any) -> dict:
        """What a registered part wants to know of the images."""
        return {name: getattr(self.trainer.images, name) for name in getattr(part, "wants", ())}

    def _constraints(self, features: Tensor) -> Optional[Constraints]:
        images, settings = self.trainer.images, self.cfg.ISE.TRACKS
        tracks = images.tracks if settings.MODE != "off" else np.full(len(images), -1)
        corrected = any(map(len, self._corrections))
        if not ((tracks >= 0).any() or corrected):
            return None
        options = {"max_gap": settings.MAX_GAP, "max_cut_error": settings.MAX_CUT_ERROR, "names": images.track_names}
        weight = settings.WEIGHT if settings.MODE == "soft" and not corrected else 1.0  # what a person says holds
        options |= {"weight": weight, "said": self._corrections}
        return track_constraints(features, images.cameras, tracks, images.times, **options)

    @cached_property
    def _corrections(self) -> Pairs:
        """Pairs of images that are one person, and that are two, as a person says (``ISE.CORRECTIONS``)."""
        path = self.cfg.ISE.CORRECTIONS
        none = np.empty((0, 2), np.int64)
        return read_corrections(path, self.trainer.images.paths, "ISE.CORRECTIONS") if path else (none, none)

    @cached_property
    def _vectors(self) -> SearchVectors:
        return SearchVectors(self.cfg, self.trainer.images.cameras)

    @cached_property
    def _loader(self) -> TrainingLoader:
        return TrainingLoader(self.cfg, self.trainer.images)

    def _relabel(self) -> None:
        labelling = self.label()
        if labelling.clusters < 2:
            self._handle_unusable(labelling)
            features = labelling.features
            centroids = cluster_centroids(features, torch.from_numpy(self.labels).to(features.device))
        else:
            self.labels, centroids = labelling.labels, labelling.centroids
        self._memories.fill(labelling.features, self.labels, centroids)
        self._report(labelling)
        self.trainer.tell("after_labelling", labelling)

    def _warn_of_small_batches(self, sampler: BatchSampler) -> None:
        wanted = self.cfg.SOLVER.IMS_PER_BATCH
        if sampler.images_per_batch < wanted and not self._warned_of_small_batches:
            self._warned_of_small_batches = True
            logger.warning(
                f"too few {sampler.drawn} for SOLVER.IMS_PER_BATCH {wanted}: batches have {sampler.images_per_batch} images"
            )

    def _extract(self, loader: Iterable[dict]) -> Tensor:
        step, mixed = self.trainer.step, self.cfg.ISE.EXTRACTION.AMP
        autocast, precision = (step.autocast(), step.precision) if mixed else (full_float32(), torch.float32)
        size = self.cfg.ISE.EXTRACTION.IMS_PER_BATCH or self.cfg.TEST.IMS_PER_BATCH
        with named_out_of_memory(lambda: advice_for_extraction(size, precision)):
            return gather_rows(extract_embeddings(self.trainer.model, loader, autocast))

    def _handle_unusable(self, labelling: Labelling) -> None:
        clusters, outliers, images = labelling.clusters, labelling.outliers, len(labelling.labels)
        found = f"clustering found {clusters} cluster(s) and {outliers} outliers among {images} images"
        if self.labels is None:
            raise UsageError(f"{found}; two clusters are the least that can be trained on{self._advice(labelling)}")
        eps, kept = "" if labelling.eps is None else f" with eps {labelling.eps:g}", self.labels.max() + 1
        logger.warning(f"{found}{eps}; keeping the last usable labels ({kept} clusters)")

    def _advice(self, labelling: Labelling) -> str:
        if labelling.distances is None:  # only the first process knows them, and only its message is shown
            return ""
        if labelling.eps is None:
            return ". Set ISE.PSEUDO_LABEL.CLUSTERER or its keys otherwise, or take better weights to start from"
        others = max(1, self.cfg.ISE.PSEUDO_LABEL.MIN_SAMPLES - 1)
        distances = kth_neighbor_distances(labelling.distances.within(_LARGEST_DISTANCE), others)
        quantiles = ", ".join(f"{q:.0%}: {np.quantile(distances, q):.3f}" for q in _ADVICE_QUANTILES)
        return (
            f". Distance of each image to its neighbour number {others}, by quantile: {quantiles}. Set "
            f"ISE.PSEUDO_LABEL.EPS ({self.cfg.ISE.PSEUDO_LABEL.EPS} now) among these: larger joins more images, smaller "
            f"separates them"
        )

    def _report(self, labelling: Labelling) -> None:
        extraction, clustering = labelling.seconds
        logger.info(
            f"Epoch {self.trainer.epoch + 1}: {labelling.clusters} clusters, {labelling.outliers} of {len(labelling.labels)} "
            f"images outliers (extraction {extraction:.1f} s, clustering {clustering:.1f} s)"
        )
        if comm.is_main_process():
            self.trainer.storage.put_scalars(
                clusters=labelling.clusters,
                outliers=labelling.outliers,
                extraction_time=extraction,
                clustering_time=clustering,
                smoothing_hint=False,
            )

    @cached_property
    def _memories(self) -> Memories:
        return Memories(unwrapped(self.trainer.model).heads, self.trainer.images)

    def state_dict(self) -> dict:
        """Labels and memories, for a run that is resumed before the next labelling."""
        if self.labels is None or not (memories := self._memories.state_dict()):
            return {}
        state = {"labels": torch.from_numpy(self.labels), **memories}
        if hasattr(self._clusterer, "state_dict"):
            state["clusterer"] = self._clusterer.state_dict()
        return {**state, "search_vectors": self._vectors.state_dict()} if self._vectors.used else state

    def load_state_dict(self, state: dict) -> None:
        """Takes what :meth:`state_dict` gave."""
        if state:
            self.labels = state["labels"].numpy()
            self._kept = state
            self._vectors.load_state_dict(state.get("search_vectors", {}))
            if hasattr(self._clusterer, "load_state_dict"):
                self._clusterer.load_state_dict(state.get("clusterer", {}))
