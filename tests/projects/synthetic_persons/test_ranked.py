"""The picture of ranked queries: rows by average precision before training, borders by whether an image is a match."""

import importlib.util

import numpy as np
from helpers import REPOSITORY, retrieval_of
from PIL import Image


def test_each_query_has_a_row_with_matches_bordered_in_green(tmp_path):
    spec = importlib.util.spec_from_file_location("ranked", REPOSITORY / "projects/SyntheticPersons/ranked.py")
    ranked = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ranked)
    Image.new("RGB", ranked.TILE, (90, 90, 90)).save(tmp_path / "a.png")
    queries, gallery = 6, 24
    identities = np.concatenate([np.arange(queries), np.arange(gallery) % queries])
    cameras = np.concatenate([np.zeros(queries), np.ones(gallery)]).astype(int)
    match = identities[:queries, None] == identities[None, queries:]

    def retrieval(distances):
        paths = [str(tmp_path / "a.png")] * (queries + gallery)
        return retrieval_of(paths, distances, identities, cameras)

    # before, query q has its first match at rank 5 - q (from 0), and all others last; after, every match comes first
    ranks = np.argsort(np.argsort(match, axis=1, kind="stable"), axis=1).astype(float)
    for query in range(queries):
        ranks[query, np.flatnonzero(match[query])[0]] = 5 - query - 0.5
    page = np.asarray(ranked.page({"before": retrieval(ranks), "after": retrieval(1.0 - match)}))

    lines = ranked.HEADING + np.arange(4) * ranked.HEIGHT + 1  # inside the upper borders, the middle of each image
    first = ranked.GAP + ranked.WIDTH + ranked.BLOCK
    columns = first + np.arange(6) * ranked.WIDTH + ranked.WIDTH // 2
    green = (page == ranked.RIGHT).all(-1)
    assert [np.flatnonzero(green[line][columns]).tolist() for line in lines] == [[4], [3], [2], [1]]
    after = columns + 6 * ranked.WIDTH + ranked.BLOCK
    assert (green[lines][:, after] == [True] * 4 + [False] * 2).all()
