"""Embeddings, and slow, obvious references, for the tests of ``ise_plugin.clustering``."""

import numpy as np
from scipy.sparse import csr_matrix


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def sparse_graph(distance: np.ndarray, bound: float = 1.0) -> csr_matrix:
    """Pairs within the bound, zero distances stored too."""
    rows, columns = np.nonzero(distance <= bound)
    return csr_matrix((distance[rows, columns].astype(np.float32), (rows, columns)), distance.shape)


def random_distance(size: int, seed: int, groups: int = 4) -> np.ndarray:
    """Distances without ties, smaller within groups; (N, N) float32, symmetric, zero diagonal."""
    random = np.random.default_rng(seed)
    group = random.integers(0, groups, size)
    distance = np.triu(random.uniform(0.3, 1, (size, size)) * np.where(group == group[:, None], 0.6, 1), 1)
    return (distance + distance.T).astype(np.float32)


def random_embeddings(size: int, dim: int, seed: int = 0, noise: float = 1.0, per_identity: int = 8) -> np.ndarray:
    """Rows around a few centres; more noise makes the neighbourhoods overlap."""
    random = np.random.default_rng(seed)
    centers = random.standard_normal((max(1, size // per_identity), dim))
    identities = random.integers(0, len(centers), size)
    return unit(centers[identities] + noise * random.standard_normal((size, dim)))


def reference_ranks(features: np.ndarray, k: int) -> np.ndarray:
    """Nearest first, ties by index, the row itself always first."""
    similarities = features.astype(np.float64) @ features.T.astype(np.float64)
    np.fill_diagonal(similarities, np.inf)
    return np.argsort(-similarities, axis=1, kind="stable")[:, :k]


def reference_distance(features: np.ndarray, k1: int, k2: int) -> np.ndarray:
    """The specification, word for word, in float64 with Python sets."""
    size = len(features)
    ranks = reference_ranks(features, k1)
    cosines = features.astype(np.float64) @ features.T.astype(np.float64)

    def reciprocal(i: int, k: int) -> set:
        return {j for j in ranks[i, :k] if i in ranks[j, :k]}

    half = int(np.around(k1 / 2)) + 1
    weights = np.zeros((size, size))
    for i in range(size):
        core = reciprocal(i, k1)
        expanded = set(core)
        for c in core:
            other = reciprocal(c, half)
            if len(other & core) > 2 / 3 * len(other):
                expanded |= other
        columns = sorted(expanded)
        values = np.exp(-(2 - 2 * cosines[i, columns]))
        weights[i, columns] = values / values.sum()
    if k2 > 1:
        weights = np.stack([weights[ranks[i, :k2]].mean(axis=0) for i in range(size)])
    mass = np.minimum(weights[:, None], weights[None]).sum(axis=2)
    distance = np.maximum(1 - mass / (2 - mass), 0)
    np.fill_diagonal(distance, 0)
    return distance


def ranks_by_camera(features: np.ndarray, cameras: np.ndarray, k_intra: int, k_inter: int) -> tuple:
    """Nearest of the own camera, the row itself first, and nearest of other cameras; -1 where there are fewer. A row of an
    unknown camera (-1) is alone in its own."""
    similarities = features.astype(np.float64) @ features.T.astype(np.float64)
    lists = np.full((len(features), k_intra), -1), np.full((len(features), k_inter), -1)
    for i in range(len(features)):
        own = (cameras == cameras[i]) & (cameras[i] != -1)
        own[i] = False
        order = np.argsort(-similarities[i], kind="stable")
        within = [i, *(j for j in order if own[j])][:k_intra]
        across = [j for j in order if not own[j] and j != i][:k_inter]
        lists[0][i, : len(within)], lists[1][i, : len(across)] = within, across
    return lists


def reference_camera_distance(
    features: np.ndarray,
    cameras: np.ndarray,
    k1_intra: int = 5,
    k1_inter: int = 20,
    k2_intra: int = 2,
    k2_inter: int = 4,
) -> np.ndarray:
    """CA-Jaccard's equations, word for word, in float64 with Python sets and dense vectors."""
    size = len(features)
    cosines = features.astype(np.float64) @ features.T.astype(np.float64)
    lists = ranks_by_camera(features, cameras, k1_intra, k1_inter)

    def reciprocal(i: int, ranks: np.ndarray) -> set:
        return {j for j in ranks[i] if j >= 0 and i in ranks[j]}

    weights = np.zeros((size, size))
    for i in range(size):
        columns = sorted(reciprocal(i, lists[0]) | reciprocal(i, lists[1]))
        values = np.exp(-(2 - 2 * cosines[i, columns]))
        weights[i, columns] = values / values.sum()
    averaged = np.concatenate([lists[0][:, :k2_intra], lists[1][:, :k2_inter]], axis=1)
    weights = np.stack([weights[some[some >= 0]].mean(axis=0) for some in averaged])
    distance = np.empty((size, size))
    for i in range(size):  # both sums of the paper, not their closed form
        distance[i] = 1 - np.minimum(weights[i], weights).sum(axis=1) / np.maximum(weights[i], weights).sum(axis=1)
    np.fill_diagonal(distance, 0)
    return np.maximum(distance, 0)
