"""SpCL's self-paced clustering: of DBSCAN's clusters those that stand at a looser and at a stricter eps as well.

Ge, Zhu, Chen, Zhao, Li, "Self-paced Contrastive Learning with Hybrid Memory for Domain Adaptive Object Re-ID", NeurIPS 2020,
section 3.3. With I(i) the images of i's cluster, I_loose(i) at eps + gap and I_tight(i) at eps - gap, each with i itself:

    independence  R_indep(i) = |I(i) & I_loose(i)| / |I(i) | I_loose(i)|    near 1: no other cluster is close
    compactness   R_comp(i)  = |I(i) & I_tight(i)| / |I(i) | I_tight(i)|    near 1: the cluster does not fall apart
"""

from typing import Any, Optional, Union

import numpy as np
from scipy.sparse import csr_matrix

from ..neighbors.checks import unit_interval
from ..registry import CLUSTERER
from .clusterers import DBSCAN
from .labels import numbered
from .quality import OUTLIER, outliers_alone

# A cluster of one image is an outlier.
_SMALLEST = 2


@CLUSTERER.register()
class SelfPacedDBSCAN:
    """DBSCAN's clusters of which unreliable ones and unreliable images become outliers.

    A cluster stays if its independence, the largest of its images, is at least alpha; alpha is what ``independent_share`` of
    the clusters reach in the first clustering, and stays the same from then on. An image of it stays if its compactness is the
    largest of its cluster (beta).

    Args:
        eps: of DBSCAN, in [0, 1], or "auto" as for :class:`.clusterers.DBSCAN`. Paper: 0.6.
        min_samples: of DBSCAN, at least 1.
        gap: from eps to the looser and the stricter one, in [0, 1]. Paper: 0.02.
        independent_share: of the clusters that the first clustering finds independent, in [0, 1]. Paper: 0.9.

    Attributes:
        max_distance: how far the graph must reach.
        eps_, reason_: as those of :class:`.clusterers.DBSCAN`.
        summary_: how many clusters and images were taken to be unreliable, as text.

    Raises:
        ValueError: eps, gap or independent_share outside [0, 1], min_samples < 1.
    """

    wants = DBSCAN.wants

    def __init__(
        self, eps: Union[float, str] = 0.6, min_samples: int = 4, gap: float = 0.02, independent_share: float = 0.9
    ):
        self._plain = DBSCAN(eps, min_samples)
        self.gap = unit_interval(gap, "gap")
        self.independent_share = unit_interval(independent_share, "independent_share")
        self.max_distance = min(1.0, self._plain.max_distance + self.gap)
        self._alpha: Optional[float] = None

    @classmethod
    def from_config(cls, cfg: Any) -> dict:
        """DBSCAN's, and ``ISE.PSEUDO_LABEL.SELF_PACED``."""
        settings = cfg.ISE.PSEUDO_LABEL.SELF_PACED
        own = {"gap": settings.GAP, "independent_share": settings.INDEPENDENT_SHARE}
        return {**DBSCAN.from_config(cfg), **own}

    def fit_predict(self, graph: csr_matrix, units: Optional[np.ndarray] = None) -> np.ndarray:
        """Arguments and labels as for :class:`.clusterers.DBSCAN`; clusters are numbered in the order of their first rows."""
        labels = self._plain.fit_predict(graph, units)
        self.eps_, self.reason_ = self._plain.eps_, self._plain.reason_
        loose, tight = (
            self._at(graph, eps) for eps in (min(1.0, self.eps_ + self.gap), max(0.0, self.eps_ - self.gap))
        )
        clusters = np.flatnonzero(labels != OUTLIER)
        if not len(clusters):
            self.summary_ = "self-paced: there is no cluster"
            return labels
        own = labels[clusters]
        independence, compactness = (_overlap(labels, other)[clusters] for other in (loose, tight))
        independent, most_compact = _largest(independence, own), _largest(compactness, own)
        if self._alpha is None:  # the largest value that the share of them reaches
            self._alpha = -float(np.quantile(-independent, self.independent_share, method="inverted_cdf"))
        kept = (independent >= self._alpha)[own] & (compactness >= most_compact[own])
        found = np.full(len(labels), OUTLIER, np.int64)
        found[clusters[kept]] = own[kept]
        self.summary_ = (
            f"self-paced: {(independent >= self._alpha).sum()} of {len(independent)} clusters are independent (at least "
            f"{self._alpha:.2f}); {(~kept).sum()} of {len(clusters)} clustered images become outliers"
        )
        return numbered(found, _SMALLEST)

    def _at(self, graph: csr_matrix, eps: float) -> np.ndarray:
        return DBSCAN(eps, self._plain.min_samples).fit_predict(graph)

    def state_dict(self) -> dict:
        """The bound on independence, for a resumed run."""
        return {} if self._alpha is None else {"alpha": self._alpha}

    def load_state_dict(self, state: dict) -> None:
        """Takes what :meth:`state_dict` gave."""
        self._alpha = state.get("alpha")


def _overlap(labels: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N,) intersection over union of every image's clusters in two labellings; an outlier is alone in its own."""
    one, two = outliers_alone(labels), outliers_alone(other)
    pairs = one * (two.max() + 1) + two
    _, inverse, shared = np.unique(pairs, return_inverse=True, return_counts=True)
    both = shared[inverse.reshape(-1)]
    return both / (np.bincount(one)[one] + np.bincount(two)[two] - both)


def _largest(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """(M,) the largest value in each cluster 0..M-1."""
    found = np.zeros(clusters.max() + 1)
    np.maximum.at(found, clusters, values)
    return found
