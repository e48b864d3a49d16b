"""fastreid's evaluation, without a compiler and with re-ranking on any device."""

import itertools
from collections import OrderedDict
from typing import Callable, NamedTuple, Optional, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from fastreid.evaluation import ReidEvaluator, inference_on_dataset, print_csv_format
from fastreid.evaluation.query_expansion import aqe
from fastreid.evaluation.roc import evaluate_roc
from fastreid.utils import comm
from fastreid.utils.compute_dist import build_dist
from sklearn.metrics import roc_curve
from torch import Tensor

from ..clustering import CameraJaccard
from ..clustering.retrieval import RankingMeter, Reranking
from ..errors import UsageError
from ..utils import distributed
from ..utils.parallel import blocks_of

_RANKS = (1, 5, 10)
# Distances held at once: 32 MiB in float32, and their order twice as much.
_PAIRS_AT_ONCE = 1 << 23
_FALSE_POSITIVE_RATES = (1e-4, 1e-3, 1e-2)


class Retrieval(NamedTuple):
    """What an evaluation knew: Q queries, G gallery images."""

    data_set: str
    paths: Sequence[str]  # Q + G, queries first
    identities: np.ndarray  # (Q + G,)
    cameras: np.ndarray  # (Q + G,)
    average_precisions: np.ndarray  # (Q,), NaN for a query without a match
    distances_of: Callable[[slice], Tensor]  # some of the queries -> their distances (q, G), float32
    cmc: np.ndarray  # (R,), share of queries with a match up to each rank, in [0, 1]


class Evaluation(NamedTuple):
    """What an evaluation found, for hooks; metrics and retrievals are empty in all processes but the first."""

    epochs_done: int  # 0 before training
    metrics: dict  # in percent, as fastreid names them; with several test sets one such dictionary by each set's name
    is_best: bool  # of the run so far
    retrievals: list  # a :class:`Retrieval` for each test set


def evaluate_sets(cfg, model: torch.nn.Module, build_evaluator: Callable) -> tuple[dict, list[Retrieval]]:
    """Evaluates ``DATASETS.TESTS``: metrics as fastreid's ``DefaultTrainer.test`` returns them, and what was ranked.

    ``build_evaluator``: (cfg, name of a test set) -> its loader and a :class:`PortableReidEvaluator`.
    """
    metrics, retrievals = OrderedDict(), []
    for name in cfg.DATASETS.TESTS:
        loader, evaluator = build_evaluator(cfg, name)
        metrics[name] = inference_on_dataset(model, loader, evaluator, flip_test=cfg.TEST.FLIP.ENABLED)
        if comm.is_main_process():
            print_csv_format(OrderedDict(metrics[name], dataset=name))
            retrievals.append(evaluator.retrieval)
    return (next(iter(metrics.values())) if len(metrics) == 1 else metrics), retrievals


class PortableReidEvaluator(ReidEvaluator):
    """fastreid's evaluator where there may be no CUDA and no compiler.

    Stock fastreid builds a Cython extension inside site-packages with ``make`` at first use, and ends the process when
    that fails; its numpy path gives the same numbers and is taken here whenever the extension is not there. Its
    ``TEST.RERANK`` needs CUDA, makes N x N matrices in Python loops, and mixes two different definitions; here it is
    ``fastreid.evaluation.rerank.re_ranking`` (Zhong et al., CVPR 2017) of cosine distances, computed sparsely and in blocks;
    with ``ISE.CAMERAS.RERANK`` its neighbours are ranked within and across cameras (Chen et al., CVPR 2024).

    ``data_set`` is its name, ``paths`` are those of its images, queries first; both go into ``retrieval``, what the last
    evaluation ranked, in the first process; None before.
    """

    def __init__(self, cfg, num_query: int, output_dir=None, data_set: str = "", paths: Sequence[str] = ()):
        super().__init__(cfg, num_query, output_dir)
        self._data_set, self._paths = data_set, paths
        self.retrieval: Optional[Retrieval] = None

    def _compile_dependencies(self) -> None:
        """Nothing to do: ``fastreid.evaluation.rank`` falls back to numpy by itself."""

    def evaluate(self) -> dict:
        """Metrics in percent, as fastreid's evaluator names them; empty in all processes but the first.

        Raises:
            UsageError: ``TEST.RERANK`` with a metric other than cosine.
        """
        predictions = list(itertools.chain(*comm.gather(self._predictions, dst=0, group=distributed.host_group)))
        if not comm.is_main_process():
            return {}
        features = torch.cat([p["feats"] for p in predictions])
        identities, cameras = (torch.cat([p[key] for p in predictions]).numpy() for key in ("pids", "camids"))
        n = self._num_query
        distances_of = self._distances(features[:n], features[n:], cameras)
        meter = RankingMeter(identities[n:], cameras[n:])
        for start, stop in blocks_of(n, max(1, _PAIRS_AT_ONCE // max(1, len(features) - n))):
            block = slice(start, stop)
            meter.add(distances_of(block), identities[block], cameras[block])
        cmc, average_precisions, inverse_penalties = meter.result()
        self.retrieval = Retrieval(
            self._data_set, self._paths, identities, cameras, average_precisions, distances_of, cmc
        )
        mean_ap = np.nanmean(average_precisions)
        self._results = OrderedDict((f"Rank-{rank}", cmc[min(rank, len(cmc)) - 1] * 100) for rank in _RANKS)
        self._results["mAP"] = mean_ap * 100
        self._results["mINP"] = np.nanmean(inverse_penalties) * 100
        self._results["metric"] = (mean_ap + cmc[0]) / 2 * 100
        if self.cfg.TEST.ROC.ENABLED:
            self._add_roc(distances_of(slice(None)).numpy(), (identities[:n], identities[n:], cameras[:n], cameras[n:]))
        return OrderedDict(self._results)

    def _distances(self, query: Tensor, gallery: Tensor, cameras: np.ndarray) -> Callable[[slice], Tensor]:
        """Distances of some of the queries to the gallery, as fastreid's ``build_dist`` has them, computed when asked for."""
        test = self.cfg.TEST
        if test.AQE.ENABLED:
            query, gallery = aqe(query, gallery, test.AQE.QE_TIME, test.AQE.QE_K, test.AQE.ALPHA)
        if test.RERANK.ENABLED:
            if test.METRIC != "cosine":
                raise UsageError(f"TEST.RERANK.ENABLED needs TEST.METRIC cosine, not {test.METRIC}")
            known = {}
            if self.cfg.ISE.CAMERAS.RERANK:
                known = {"cameras": cameras, "by_camera": CameraJaccard(**CameraJaccard.from_config(self.cfg))}
            reranking = Reranking(query, gallery, test.RERANK.K1, test.RERANK.K2, test.RERANK.LAMBDA, **known)
            return lambda block: torch.from_numpy(reranking.distances(block))
        if test.METRIC == "cosine":  # normalised once, not for every block
            query, gallery = F.normalize(query, dim=1), F.normalize(gallery, dim=1)
            return lambda block: 1 - query[block] @ gallery.T
        return lambda block: torch.from_numpy(build_dist(query[block], gallery, test.METRIC))

    def _add_roc(self, distances: np.ndarray, labels: tuple) -> None:
        scores, matches = evaluate_roc(distances, *labels)
        false_positives, true_positives, _ = roc_curve(matches, scores)
        for rate in _FALSE_POSITIVE_RATES:
            nearest = np.argmin(np.abs(false_positives - rate))
            self._results[f"TPR@FPR={rate:.0e}"] = true_positives[nearest]
