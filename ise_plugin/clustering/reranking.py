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
from ..neighbors.checks import Features, at_least, unit_interval
from ..neighbors.exact_search import exact, float32_product
from ..utils.parallel import blocks_of, for_each_block
from . import _kernels as kernels
from .jaccard import arrays_of, expanded_neighborhoods, neighborhood_weights

# Queries per task: a task's scratch is one row of the result.
_QUERIES_PER_TASK = 64


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
    queries, gallery = _normalized(query_features, "query_features"), _normalized(gallery_features, "gallery_features")
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"gallery_features must have {queries.shape[1]} columns like query_features, got {gallery.shape[1]}"
        )
    k1, k2, lambda_value = at_least(1, k1, "k1"), at_least(1, k2, "k2"), unit_interval(lambda_value, "lambda_value")
    images = torch.cat([queries, gallery])
    farthest = _largest_distances(images)
    weights = _weights(images, farthest, k1, k2, precision)
    distances = _original_distances(images, len(queries), farthest, lambda_value)
    _add_jaccard(distances, weights, 1.0 - lambda_value)
    return distances


def _normalized(features: Features, name: str) -> torch.Tensor:
    tensor = torch.as_tensor(features).detach().to("cpu", torch.float32)
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise ValueError(f"{name} must be two-dimensional (N, D) with N, D >= 1, got shape {tuple(tensor.shape)}")
    lengths = torch.linalg.vector_norm(tensor, dim=1, keepdim=True)
    bad = ~torch.isfinite(lengths) | (lengths == 0)
    if bool(bad.any()):
        row = int(bad.flatten().nonzero()[0])
        raise ValueError(f"{name} must be finite and have no zero rows (row {row} has length {float(lengths[row]):g})")
    return tensor / lengths


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


def _original_distances(images: torch.Tensor, num_queries: int, farthest: np.ndarray, share: float) -> np.ndarray:
    """``share`` times the squared cosine distance of every query and gallery image over the query's largest one."""
    distances = images[:num_queries] @ images[num_queries:].T
    factors = torch.from_numpy(share / farthest[:num_queries]).to(torch.float32)[:, None]
    return distances.neg_().add_(1).square_().mul_(factors).numpy()


def _add_jaccard(distances: np.ndarray, weights: csr_matrix, share: float) -> None:
    arrays = *arrays_of(weights), *arrays_of(weights.tocsc()), len(distances), np.float32(share), distances

    def work(first: int, last: int) -> None:
        kernels.add_distances(first, last, *arrays)

    for_each_block(work, blocks_of(len(distances), _QUERIES_PER_TASK), "re-ranking")
