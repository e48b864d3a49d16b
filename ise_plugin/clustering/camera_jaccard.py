"""CA-Jaccard: the Jaccard distance with neighbours ranked within and across cameras, as a sparse graph.

Chen, Fan, Chen, Zhu, "CA-Jaccard: Camera-aware Jaccard Distance for Person Re-identification", CVPR 2024. Images of one
camera are alike for reasons that are not the person, and fill the neighbourhoods of the plain distance. Here a neighbourhood
has places for the own camera and places for the others (camera-aware k-reciprocal nearest neighbours), and so has the
averaging of its weights (camera-aware local query expansion). docs/method.md has the equations.
"""

from typing import Any, Callable

import numpy as np
from scipy.sparse import csr_matrix

from ..neighbors import Neighbors, search_by_camera
from ..neighbors.camera_search import tells_cameras_apart
from ..neighbors.checks import Features, integer
from ..registry import DISTANCE
from ..utils.logs import log_once
from .jaccard import Jaccard, JaccardDistances, neighborhood_weights, reciprocal


@DISTANCE.register()
class CameraJaccard:
    """The camera-aware Jaccard distance; the plain one where fewer than two cameras are known.

    Args:
        k1_intra: neighbours of the own camera, the row itself included, at least 1.
        k1_inter: neighbours of other cameras, at least 1.
        k2_intra: rows of the own camera whose weights are averaged, the row itself included, at least 1. A value above
            k1_intra means k1_intra.
        k2_inter: the same of other cameras, at least 0. A value above k1_inter means k1_inter.
        k1, k2: of the plain distance.

    Raises:
        ValueError: a number below its least value.
    """

    wants = ("cameras",)

    def __init__(
        self,
        k1_intra: int = 5,
        k1_inter: int = 20,
        k2_intra: int = 2,
        k2_inter: int = 4,
        k1: int = 30,
        k2: int = 6,
    ):
        self.k1_intra, self.k1_inter = integer(k1_intra, "k1_intra", 1), integer(k1_inter, "k1_inter", 1)
        self.k2_intra = min(integer(k2_intra, "k2_intra", 1), k1_intra)
        self.k2_inter = min(integer(k2_inter, "k2_inter", 0), k1_inter)
        self._plain = Jaccard(k1, k2)

    @classmethod
    def from_config(cls, cfg: Any) -> dict:
        """What ``ISE.CAMERAS`` and, for the plain distance, ``ISE.PSEUDO_LABEL`` have."""
        counts = {key.lower(): cfg.ISE.CAMERAS[key] for key in ("K1_INTRA", "K1_INTER", "K2_INTRA", "K2_INTER")}
        return {**counts, **Jaccard.from_config(cfg)}

    def find_neighbors(
        self, search: Callable[..., Neighbors], features: Features, cameras: np.ndarray, **options: Any
    ) -> Neighbors:
        """The neighbours that the distance needs.

        Args:
            search: a registered search; ``options`` are passed on to it.
            features: (N, D) unit rows.
            cameras: (N,), integer, -1 = unknown, which is the camera of no other row.

        Returns:
            as :func:`.camera_search.search_by_camera`; those that the search gives where fewer than two cameras are known.
        """
        if tells_cameras_apart(cameras):
            return search_by_camera(search, features, cameras, self.k1_intra, self.k1_inter, **options)
        return search(features, self._plain.k1, **options)

    def __call__(self, features: Features, neighbors: Neighbors, cameras: np.ndarray) -> JaccardDistances:
        """Makes the neighbourhood weights, from which all distances follow.

        Args:
            features, cameras: as for :meth:`find_neighbors`, which gave ``neighbors``.

        Raises:
            ValueError: neighbours of another form.
        """
        if not tells_cameras_apart(cameras):
            log_once("Camera-aware distance: the plain one, because fewer than two cameras are known.")
            return self._plain(features, neighbors)
        similarities, ranks = neighbors
        if ranks.shape != (len(features), self.k1_intra + self.k1_inter):
            raise ValueError(
                f"neighbors must be those of find_neighbors, {self.k1_intra} + {self.k1_inter} for each of {len(features)} "
                f"rows, got {ranks.shape}"
            )
        weights, averaged = self.neighborhoods(similarities, ranks)
        weights.data[:] = 2 - 2 * weights.data  # squared Euclidean distance of unit rows
        return JaccardDistances(neighborhood_weights(weights, averaged))

    def neighborhoods(self, similarities: np.ndarray, ranks: np.ndarray) -> tuple[csr_matrix, np.ndarray]:
        """Of neighbours within and across cameras, as :func:`.camera_search.search_by_camera` gives them: every row's
        camera-aware k-reciprocal neighbours, (N, N) float32, the similarities as values, columns ascending; and the rows whose
        weights are averaged, (N, k2_intra + k2_inter), -1 where one is missing."""
        within, across = ranks[:, : self.k1_intra], ranks[:, self.k1_intra :]
        mutual = np.concatenate([reciprocal(within), reciprocal(across)], axis=1)
        starts = np.concatenate([[0], np.cumsum(mutual.sum(axis=1))])
        neighborhoods = csr_matrix((similarities[mutual], ranks[mutual], starts), shape=(len(ranks), len(ranks)))
        neighborhoods.sort_indices()
        return neighborhoods, np.concatenate([within[:, : self.k2_intra], across[:, : self.k2_inter]], axis=1)
