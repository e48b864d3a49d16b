"""Embeddings, and slow, obvious references, for the tests of ``ise_plugin.clustering``."""

import numpy as np


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


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
