"""The nearest rows of every row among those of its own camera, and among those of all others."""

from typing import Any, Callable

import numpy as np
import torch

from ..utils.logs import log_once
from .checks import Features, integer, unit_rows
from .exact_search import Neighbors

UNKNOWN_CAMERA = -1
# A search that knows no groups is asked for so many times the neighbours wanted of other cameras, to be left with enough.
_WIDER = 4


def camera_groups(cameras: np.ndarray, count: int) -> np.ndarray:
    """(N,) int64, equal where two rows are known to be of one camera: a row of an unknown camera is alone.

    Args:
        cameras: (N,), integer, any numbers, -1 = unknown.
        count: N.

    Raises:
        ValueError: cameras of another shape or type.
    """
    cameras = np.asarray(cameras)
    if cameras.shape != (count,) or not np.issubdtype(cameras.dtype, np.integer):
        raise ValueError(f"cameras must be {count} integers, one for each row, got {cameras.dtype} {cameras.shape}")
    names, groups = np.unique(cameras, return_inverse=True)
    return np.where(cameras == UNKNOWN_CAMERA, len(names) + np.arange(count), groups)


def tells_cameras_apart(cameras: np.ndarray) -> bool:
    """Whether at least two cameras are known."""
    return len(np.setdiff1d(cameras, UNKNOWN_CAMERA)) > 1


def search_by_camera(
    search: Callable[..., Neighbors],
    features: Features,
    cameras: np.ndarray,
    k_intra: int,
    k_inter: int,
    **options: Any,
) -> Neighbors:
    """Two lists of neighbours for every row, one within its camera and one across cameras.

    Args:
        search: a registered search. One with the attribute ``across`` (:func:`.exact_search.exact_across`) finds the rows of
            other cameras itself; the longer lists of any other are sifted, and may come out short.
        features: (N, D) unit rows, numpy or torch, on any device.
        cameras: (N,), integer, -1 = unknown, which is the camera of no other row.
        k_intra: rows of the own camera, the row itself included, at least 1.
        k_inter: rows of other cameras, at least 1.
        options: passed on to the search, such as ``shared=True``.

    Returns:
        similarities float32 and indices int64, both (N, k_intra + k_inter): first the row itself, then the other rows of its
        camera, most similar first; from column k_intra on the rows of other cameras, most similar first. -inf and -1 where
        there are fewer. The names of the cameras do not matter.

    Raises:
        ValueError: features that are no finite unit rows, cameras of another length, k_intra or k_inter < 1.
    """
    rows = unit_rows(features)
    k_intra, k_inter = integer(k_intra, "k_intra", 1), integer(k_inter, "k_inter", 1)
    groups = camera_groups(cameras, len(rows))
    shape = len(rows), k_intra + k_inter
    similarities, indices = np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64)
    _fill_intra(search, rows, groups, similarities[:, :k_intra], indices[:, :k_intra], options)
    across = getattr(search, "across", None) or _sifted(search)
    k = min(k_inter, len(rows))
    similarities[:, k_intra : k_intra + k], indices[:, k_intra : k_intra + k] = across(rows, k, groups, **options)
    return similarities, indices


def _fill_intra(
    search: Callable,
    rows: torch.Tensor,
    groups: np.ndarray,
    similarities: np.ndarray,
    indices: np.ndarray,
    options: dict,
) -> None:
    similarities[:, 0] = torch.linalg.vector_norm(rows, dim=1).square().cpu().numpy()
    indices[:, 0] = np.arange(len(rows))
    order = np.argsort(groups, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        if len(members) > 1:
            k = min(similarities.shape[1], len(members))
            own = rows[torch.from_numpy(members).to(rows.device)]
            similarities[members, :k], found = search(own, k, **options)
            indices[members, :k] = members[found]


def _sifted(search: Callable[..., Neighbors]) -> Callable[..., Neighbors]:
    """As :func:`.exact_search.exact_across`, from the lists of a search that knows no groups."""

    def across(rows: torch.Tensor, k: int, groups: np.ndarray, **options: Any) -> Neighbors:
        log_once(f"Neighbour search: rows of other cameras are looked for among the {_WIDER * k} nearest alone.")
        similarities, indices = search(rows, min(_WIDER * k, len(rows)), **options)
        order = np.argsort(groups[indices] == groups[:, None], axis=1, kind="stable")[:, :k]
        similarities, indices = (np.take_along_axis(part, order, axis=1) for part in (similarities, indices))
        own = groups[indices] == groups[:, None]
        return np.where(own, np.float32(-np.inf), similarities), np.where(own, -1, indices)

    return across
