"""Ranked rows against fastreid's own ranking."""

import numpy as np
import pytest
from fastreid.evaluation.rank import evaluate_rank

from ise_plugin.report.retrieval import Retrieval, average_precision, ranking, retrieval_rows


def drawn(queries=12, gallery=60, people=5, seed=0):
    random = np.random.default_rng(seed)
    identities = random.integers(0, people, queries + gallery)
    cameras = random.integers(0, 3, queries + gallery)
    distances = random.random((queries, gallery))
    distances -= 0.4 * (identities[:queries, None] == identities[None, queries:])
    paths = [f"{i}.jpg" for i in range(queries + gallery)]
    return Retrieval("Drawn", paths, distances, identities, cameras, np.ones(10))


def test_average_precision_is_fastreids():
    found = drawn()
    _, expected, _ = evaluate_rank(
        found.distances, found.identities[:12], found.identities[12:], found.cameras[:12], found.cameras[12:]
    )
    assert [average_precision(ranking(found, q)[1]) for q in range(12)] == pytest.approx(expected)


def test_average_precision_by_hand():
    assert average_precision(np.array([True, False, True, False])) == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(average_precision(np.array([False, False])))


def test_rows_go_from_the_worst_to_the_best_and_mark_right_and_wrong():
    found = drawn()
    rows = retrieval_rows(found)
    precisions = [average_precision(ranking(found, q)[1]) for q in range(12)]
    assert rows[0]["query"]["name"] == f"{int(np.argmin(precisions))}.jpg"
    assert rows[-1]["query"]["name"] == f"{int(np.argmax(precisions))}.jpg"
    for row in rows:
        query = int(row["query"]["name"].split(".")[0])
        shown = [int(image["name"].split(".")[0]) for image in row["images"]]
        right = [found.identities[i] == found.identities[query] for i in shown]
        assert [image["mark"] == "✓" for image in row["images"]] == right == [image["good"] for image in row["images"]]
        assert not any(r and found.cameras[i] == found.cameras[query] for i, r in zip(shown, right))
        nearest = [found.distances[query, i - 12] for i in shown]
        assert nearest == sorted(nearest) and len(shown) == 10


def test_queries_without_a_match_are_passed_over():
    found = drawn()
    found.identities[:11] = 99
    assert {row["query"]["name"] for row in retrieval_rows(found)} == {"11.jpg"}
    found.identities[:12] = 99
    assert retrieval_rows(found) == []
