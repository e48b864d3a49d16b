"""Ranked rows to look at, chosen over the whole range from the worst query to the best."""

import numpy as np

from ..engine.evaluation import Retrieval
from .pictures import picture
from .sheets import RIGHT, WRONG

# Queries that are ranked to choose from, and quantiles of their average precision that are shown.
_QUERIES_RANKED = 200
_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
_RANKS_SHOWN = 10


def ranking(retrieval: Retrieval, query: int) -> tuple[np.ndarray, np.ndarray]:
    """Gallery images of one query, nearest first, those of its identity by its camera left out; and which are matches."""
    count = len(retrieval.distances)
    identities, cameras = retrieval.identities[count:], retrieval.cameras[count:]
    order = np.argsort(retrieval.distances[query], kind="stable")
    match = identities[order] == retrieval.identities[query]
    kept = ~(match & (cameras[order] == retrieval.cameras[query]))
    return order[kept], match[kept]


def average_precision(match: np.ndarray) -> float:
    """Mean over the matches of the precision up to their rank; NaN without a match."""
    ranks = np.flatnonzero(match) + 1
    return float(np.mean(np.arange(1, len(ranks) + 1) / ranks)) if len(ranks) else float("nan")


def retrieval_rows(retrieval: Retrieval) -> list:
    """Rows with ``title``, ``query`` and ``images``, worst first; queries without a match in the gallery are passed over."""
    count = len(retrieval.distances)
    candidates = np.unique(np.linspace(0, count - 1, min(count, _QUERIES_RANKED)).astype(int))
    precisions = {int(q): average_precision(ranking(retrieval, q)[1]) for q in candidates}
    ranked = sorted((q for q in precisions if precisions[q] == precisions[q]), key=precisions.get)
    if not ranked:
        return []
    places = np.unique(np.round(np.array(_QUANTILES) * (len(ranked) - 1)).astype(int))
    return [_row(retrieval, ranked[place], precisions[ranked[place]]) for place in places]


def _row(retrieval: Retrieval, query: int, precision: float) -> dict:
    order, match = ranking(retrieval, query)
    gallery = retrieval.paths[len(retrieval.distances) :]
    return {
        "title": f"average precision {precision:.0%}",
        "query": picture(retrieval.paths[query], "query", True),
        "images": [
            picture(gallery[i], RIGHT if right else WRONG, right)
            for i, right in zip(order[:_RANKS_SHOWN], match[:_RANKS_SHOWN])
        ],
    }
