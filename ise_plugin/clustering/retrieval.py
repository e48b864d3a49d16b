"""Retrieval as person re-identification has it: re-ranked distances, and how well queries find their matches."""

from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from ..neighbors import search_by_camera
from ..neighbors.all_pairs import search_all_pairs
from ..neighbors.camera_search import tells_cameras_apart
from ..neighbors.checks import Features, integer, normalized_rows, unit_interval
from ..neighbors.exact_search import exact, float32_product
from ..utils.parallel import blocks_of, for_each_block
from .camera_jaccard import CameraJaccard
from .jaccard import add_distances, expanded_neighborhoods, neighborhood_weights

# Rows that one thread sorts at a time.
_ROWS_PER_TASK = 16


class Ranking(NamedTuple):
    """How well queries find their matches."""

    cmc: np.ndarray  # (R,), float32: share of the queries that count with a match among the first 1..R
    average_precision: np.ndarray  # (Q,), float64, in [0, 1]; NaN for a query that does not count
    inverse_penalty: np.ndarray  # likewise


class RankingMeter:
    """CMC, average precision and inverse negative penalty, of distances that come block by block.

    The protocol is Market-1501's (Zheng et al., ICCV 2015), as ``fastreid.evaluation.rank`` has it: gallery images of the
    query's identity by the query's own camera are left out, a query without any other image of its identity does not count.
    fastreid walks every row in Python; here only the places of the matches are looked up, so that sorting is the whole cost.

    Args:
        identities, cameras: (G,), int64, of the gallery.
        max_rank: R; no more than G are used.
    """

    def __init__(self, identities: np.ndarray, cameras: np.ndarray, max_rank: int = 50):
        self._identities, self._cameras = (torch.as_tensor(np.asarray(a)) for a in (identities, cameras))
        self._first_matches = np.zeros(min(max_rank, len(identities)), np.int64)
        self._measured: list[np.ndarray] = []  # (2, Q): average precision and inverse penalty

    def add(self, distances: Tensor, identities: np.ndarray, cameras: np.ndarray) -> None:
        """
        Args:
            distances: (Q, G), float32, on any device; what is nearest has the smallest.
            identities, cameras: (Q,), int64, of these queries.
        """
        device, (rows, columns) = distances.device, distances.shape
        gallery = self._identities.to(device), self._cameras.to(device)
        query = (torch.as_tensor(np.asarray(a)).to(device)[:, None] for a in (identities, cameras))
        same, same_camera = (theirs == ours for theirs, ours in zip(gallery, query))
        places = _places(distances)
        matches, left_out = (_sorted_places(places, which) for which in (same & ~same_camera, same & same_camera))
        row, place = matches // columns, matches % columns
        place = place - (np.searchsorted(left_out, matches) - np.searchsorted(left_out, row * columns))
        counts = np.bincount(row, minlength=rows)
        valid = counts > 0
        counts = counts[valid]
        starts = np.cumsum(counts) - counts
        hits = np.arange(len(place)) - np.repeat(starts, counts) + 1  # matches up to and with this one
        measured = np.full((2, rows), np.nan)
        measured[0, valid] = np.add.reduceat(hits / (place + 1.0), starts) / counts
        measured[1, valid] = counts / (place[starts + counts - 1] + 1.0)
        self._measured.append(measured)
        first = place[starts]
        np.add.at(self._first_matches, first[first < len(self._first_matches)], 1)

    def result(self) -> Ranking:
        """The measures of all queries added; ValueError where none has a match."""
        precisions, penalties = np.concatenate([*self._measured, np.empty((2, 0))], axis=1)
        count = np.isfinite(precisions).sum()
        if not count:
            raise ValueError("no query has an image of its identity by another camera in the gallery")
        cmc = self._first_matches.cumsum().astype(np.float32) / np.float32(count)
        return Ranking(cmc, precisions, penalties)


def _places(distances: Tensor) -> Tensor:
    """(Q, G), int64: where each gallery image comes in its query's order, from 0."""
    order = torch.argsort(distances, dim=1, stable=True) if distances.is_cuda else _numpy_order(distances)
    ascending = torch.arange(distances.shape[1], device=distances.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, ascending)


def _numpy_order(distances: Tensor) -> Tensor:
    """argsort as fastreid has it: what numpy makes of equal distances, on all threads."""
    values, order = distances.cpu().numpy(), np.empty(distances.shape, np.int64)
    sort = lambda first, last: np.copyto(order[first:last], np.argsort(values[first:last], axis=1))
    for_each_block(sort, blocks_of(len(values), _ROWS_PER_TASK), "ranking", show_progress=False)
    return torch.from_numpy(order).to(distances.device)


def _sorted_places(places: Tensor, which: Tensor) -> np.ndarray:
    """row * G + place of the entries of a mask (Q, G), ascending."""
    rows, columns = which.nonzero(as_tuple=True)
    return torch.sort(rows * places.shape[1] + places[rows, columns]).values.cpu().numpy()


class Reranking:
    """Re-ranked query-gallery distances, without a matrix over all images; of some queries when asked for.

    Zhong, Zheng, Cao, Li, "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017, as fastreid's
    evaluation has it (``fastreid.evaluation.rerank.re_ranking``) of cosine distances (1 - cosine). It differs from the
    distance used for pseudo labels: a neighbourhood has k1 members besides the image itself, the weights come from squared
    distances divided by the largest one of the row, and the result is mixed with those distances. With cameras, neighbourhoods
    and averages are those of :class:`.camera_jaccard.CameraJaccard` (Chen et al., CVPR 2024), all else stays. The work is done
    on the CPU wherever the features are; it needs a copy of the features and a few hundred numbers per image.

    Args:
        query_features: (Q, D), numpy or torch, any length but zero: rows are normalised.
        gallery_features: (G, D), likewise.
        k1: members of a neighbourhood besides the image itself, at least 1; no more than there are images are used.
        k2: images whose weights are averaged, the image itself included, at least 1; 1 switches that off.
        lambda_value: share of the original distance, in [0, 1]: 1 leaves only that, 0 only the Jaccard distance.
        precision: of the neighbour search, as for :func:`ise_plugin.neighbors.exact_search.exact`.
        cameras: (Q + G,), integer, queries first, -1 = unknown; None, or fewer than two known, for k1 and k2 alone.
        by_camera: the numbers of neighbours with cameras; those of the paper by default.

    Raises:
        ValueError: features that are not finite, not two-dimensional or of different width, a zero row, k1 < 1,
        k2 < 1, lambda_value outside [0, 1], cameras of another length.
    """

    def __init__(
        self,
        query_features: Features,
        gallery_features: Features,
        k1: int = 20,
        k2: int = 6,
        lambda_value: float = 0.3,
        precision: str = "auto",
        cameras: Optional[np.ndarray] = None,
        by_camera: Optional[CameraJaccard] = None,
    ):
        queries = normalized_rows(query_features, "query_features")
        gallery = normalized_rows(gallery_features, "gallery_features")
        if queries.shape[1] != gallery.shape[1]:
            wanted, got = queries.shape[1], gallery.shape[1]
            raise ValueError(f"gallery_features must have {wanted} columns, like queries, got {got}")
        k1, k2, self._lambda = integer(k1, "k1", 1), integer(k2, "k2", 1), unit_interval(lambda_value, "lambda_value")
        self._images, self._num_queries = torch.cat([queries, gallery]), len(queries)
        del queries, gallery
        self._farthest = _largest_distances(self._images)
        if cameras is not None and tells_cameras_apart(cameras):
            neighborhoods, averaged = _camera_neighborhoods(
                self._images, cameras, by_camera or CameraJaccard(), precision
            )
        else:
            neighborhoods, averaged = _neighborhoods(self._images, k1, k2, precision)
        scale = np.repeat(self._farthest, np.diff(neighborhoods.indptr))
        neighborhoods.data[:] = np.square(1 - neighborhoods.data) / scale
        weights = neighborhood_weights(neighborhoods, averaged)
        self._of_queries, self._by_column = weights[: self._num_queries], weights.tocsc()

    def distances(self, queries: slice) -> np.ndarray:
        """(q, G) float32, the re-ranked distances of some of the queries."""
        images, gallery = self._images[: self._num_queries][queries], self._images[self._num_queries :]
        # the share of the original distances: squared cosine distances over the query's largest one
        distances = (images @ gallery.T).neg_().add_(1).square_()
        factors = torch.from_numpy(self._lambda / self._farthest[: self._num_queries][queries, None]).float()
        mixed = distances.mul_(factors).numpy()
        add_distances(self._of_queries[queries], self._by_column, self._num_queries, 1.0 - self._lambda, mixed)
        return mixed


def rerank_distance(
    query_features: Features, gallery_features: Features, *arguments: Any, **options: Any
) -> np.ndarray:
    """(Q, G) float32, the re-ranked distances of all queries; arguments and errors are those of :class:`Reranking`."""
    return Reranking(query_features, gallery_features, *arguments, **options).distances(slice(None))


def _largest_distances(images: torch.Tensor) -> np.ndarray:
    """The square of each image's largest cosine distance to any image, (N,) float32."""
    product = float32_product()

    def negated(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        block = product(a, b)
        return np.negative(block, out=block)

    highest, _ = search_all_pairs(images.numpy(), 1, negated).sorted()
    # Where all images are the same, only rounding is left to divide by.
    return np.maximum(np.square(1 + highest[:, 0]), np.finfo(np.float32).eps)


def _neighborhoods(images: torch.Tensor, k1: int, k2: int, precision: str) -> tuple[csr_matrix, np.ndarray]:
    """The neighbourhoods with similarities as values, and whose weights are averaged."""
    size = min(k1 + 1, len(images))
    similarities, ranks = exact(images, size, precision)
    neighborhoods = expanded_neighborhoods(images, similarities, ranks, min(int(np.around(k1 / 2)) + 1, size))
    return neighborhoods, ranks[:, : min(k2, size)]


def _camera_neighborhoods(
    images: torch.Tensor, cameras: np.ndarray, counts: CameraJaccard, precision: str
) -> tuple[csr_matrix, np.ndarray]:
    similarities, ranks = search_by_camera(
        exact, images, cameras, counts.k1_intra, counts.k1_inter, precision=precision
    )
    return counts.neighborhoods(similarities, ranks)
