"""Re-ranked query-gallery distances, without a matrix over all images.

Zhong, Zheng, Cao, Li, "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017, as the evaluation of
fastreid has it (``fastreid.evaluation.rerank.re_ranking``). It differs from the distance used for pseudo labels: a
neighbourhood has k1 members besides the image itself, the weights come from squared distances divided by the largest
one of the row, and the result is mixed with those distances.
"""

import numpy as np
import torch
from scipy.sparse import csr_matrix

from ..neighbors.all_pairs import search_all_pairs
from ..neighbors.checks import Features, integer, normalized_rows, unit_interval
from ..neighbors.exact_search import exact, float32_product
from .jaccard import add_distances, expanded_neighborhoods, neighborhood_weights


def rerank_distance(
    query_features: Features,
    gallery_features: Features,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    precision: str = "auto",
) -> np.ndarray:
    """k-reciprocal re-ranking of cosine distances.

    Equals ``re_ranking`` on the cosine distances (1 - cosine) between queries, between gallery images and across. The
    work is done on the CPU wherever the features are. Beyond the result it needs memory for a copy of the features and
    a few hundred numbers per image.

    Args:
        query_features: (Q, D), numpy or torch, any length but zero: rows are normalised.
        gallery_features: (G, D), likewise.
        k1: members of a neighbourhood besides the image itself, at least 1; no more than there are images are used.
        k2: images whose weights are averaged, the image itself included, at least 1; 1 switches that off.
        lambda_value: share of the original distance, in [0, 1]: 1 leaves only that, 0 only the Jaccard distance.
        precision: of the neighbour search, as for :func:`ise_plugin.neighbors.exact_search.exact`.

    Returns:
        (Q, G) float32.

    Raises:
        ValueError: features that are not finite, not two-dimensional or of different width, a zero row, k1 < 1,
        k2 < 1, lambda_value outside [0, 1].
    """
    queries = normalized_rows(query_features, "query_features")
    gallery = normalized_rows(gallery_features, "gallery_features")
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"gallery_features must have {queries.shape[1]} columns like query_features, got {gallery.shape[1]}"
        )
    k1, k2, lambda_value = integer(k1, "k1", 1), integer(k2, "k2", 1), unit_interval(lambda_value, "lambda_value")
    images = torch.cat([queries, gallery])
    farthest = _largest_distances(images)
    weights = _weights(images, farthest, k1, k2, precision)
    # the share of the original distances: squared cosine distances over the query's largest one
    distances = (queries @ gallery.T).neg_().add_(1).square_()
    factors = torch.from_numpy(lambda_value / farthest[: len(queries), None]).float()
    mixed = distances.mul_(factors).numpy()
    add_distances(weights[: len(queries)], weights, len(queries), 1.0 - lambda_value, mixed)
    return mixed


def _largest_distances(images: torch.Tensor) -> np.ndarray:
    """The square of each image's largest cosine distance to any image, (N,) float32."""
    product = float32_product()

    def negated(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        block = product(a, b)
        return np.negative(block, out=block)

    highest, _ = search_all_pairs(images.numpy(), 1, negated).sorted()
    # Where all images are the same, only rounding is left to divide by.
    return np.maximum(np.square(1 + highest[:, 0]), np.finfo(np.float32).eps)


def _weights(images: torch.Tensor, farthest: np.ndarray, k1: int, k2: int, precision: str) -> csr_matrix:
    size = min(k1 + 1, len(images))
    similarities, ranks = exact(images, size, precision)
    neighborhoods = expanded_neighborhoods(images, similarities, ranks, min(int(np.around(k1 / 2)) + 1, size))
    scale = np.repeat(farthest, np.diff(neighborhoods.indptr))
    neighborhoods.data[:] = np.square(1 - neighborhoods.data) / scale
    return neighborhood_weights(neighborhoods, ranks, min(k2, size))
