"""Infomap: groups that a random walk over the graph stays in for long."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Union

import numpy as np
from scipy.sparse import csr_matrix

from ..errors import UsageError
from ..registry import CLUSTERER
from .clusterers import EpsClusterer
from .labels import numbered

# Infomap's own.
_SMALLEST_SEED, _LARGEST_SEED = 1, 2**31 - 1
# Similarity of a pair exactly eps = 1 apart: a walk needs some weight.
_LEAST_WEIGHT = 1e-6
# Characters of what a failed process said that are passed on.
_SAID = 200


@CLUSTERER.register()
class Infomap(EpsClusterer):
    """Two-level Infomap (Rosvall and Bergstrom, PNAS 2008), by the package of its authors: the partition with the shortest
    description of a random walk on the graph of pairs within eps, whose links weigh 1 - distance.

    Cluster-Contrast's setting (Dai et al., arXiv 2103.11568) is the distance ``Cosine`` with K1 15, eps 0.5, min_samples 4.

    Args:
        eps: largest distance of a pair that is linked; otherwise as for :class:`.clusterers.EpsClusterer`.
        min_samples: images of the smallest cluster, at least 1; those of smaller ones become outliers.
        seed: of Infomap's search.

    Raises:
        UsageError: the package infomap is not installed.
        ValueError: as :class:`.clusterers.EpsClusterer`.
    """

    def __init__(self, eps: Union[float, str] = 0.5, min_samples: int = 4, seed: int = 0):
        super().__init__(eps, min_samples)
        if find_spec("infomap") is None:
            raise UsageError("the clusterer Infomap needs the package infomap: pip install infomap")
        self.seed = _SMALLEST_SEED + seed % _LARGEST_SEED

    @classmethod
    def from_config(cls, cfg: Any) -> dict:
        """eps and min_samples as ``ISE.PSEUDO_LABEL`` has them, and ``SEED``."""
        return {**super().from_config(cfg), "seed": cfg.SEED}

    def _clusters(self, graph: csr_matrix, eps: float) -> np.ndarray:
        pairs = graph.tocoo()
        linked = (pairs.data <= eps) & (pairs.row < pairs.col)
        labels = np.arange(graph.shape[0])
        if linked.any():
            weights = np.maximum(1 - pairs.data[linked].astype(np.float64), _LEAST_WEIGHT)
            rows, modules = _modules(np.stack([pairs.row[linked], pairs.col[linked], weights], axis=1), self.seed)
            labels[rows] = len(labels) + modules  # beyond the numbers of images without a link
        return numbered(labels, self.min_samples)


def _modules(links: np.ndarray, seed: int) -> np.ndarray:
    """(2, n) the rows that have a link, and their modules, from links (L, 3): row, row, weight.

    In a process of its own: infomap and faiss share the table of types of their wrappers (SWIG), and a program that has imported
    both crashes where it reads a result.
    """
    with TemporaryDirectory() as folder:
        np.savetxt(Path(folder, "links.txt"), links, "%d %d %.9g")
        command = [sys.executable, "-m", "infomap", "--two-level", "--silent", "--clu", "--seed", str(seed)]
        done = subprocess.run([*command, "links.txt", "."], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            reason = " ".join((done.stderr or done.stdout).split())[-_SAID:]
            raise ValueError(f"infomap ended with exit code {done.returncode}: {reason}")
        return np.loadtxt(Path(folder, "links.clu"), np.int64, usecols=(0, 1), ndmin=2).T
