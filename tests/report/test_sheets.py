"""Which clusters the sheets show, and which queries."""

import numpy as np
import pytest
from helpers import retrieval_of

from ise_plugin.report.sheets import IMAGES_PER_ROW, picture, retrieval_rows, sheets_of

# cluster 0: a alone; 1: six of b and two of c; 2: four of c and one of d; 3: a and b; identity e is an outlier
LABELS = np.array([0] * 5 + [1] * 8 + [2] * 5 + [3] * 2 + [-1])
IDENTITIES = np.array(list("aaaaa" + "bbbbbbcc" + "ccccd" + "ab" + "e"))
PATHS = [f"{i}.jpg" for i in range(len(LABELS))]


def by_title(sheets):
    return {sheet["title"]: sheet["rows"] for sheet in sheets}


@pytest.fixture
def sheets():
    return by_title(sheets_of(PATHS, LABELS, IDENTITIES, np.ones(4)))


def test_purest_come_first_and_small_clusters_do_not_count(sheets):
    titles = [row["title"] for row in sheets["Purest clusters"]]
    assert titles[0] == "cluster 0: 5 images, 1 identity"
    assert not any("cluster 3" in title for title in titles)


def test_most_mixed_are_those_with_most_strangers_and_mark_them(sheets):
    rows = sheets["Most mixed clusters"]
    assert [row["title"].split(":")[0] for row in rows] == ["cluster 1", "cluster 2", "cluster 3"]
    marks = {image["name"]: image["mark"] for image in rows[0]["images"]}
    strangers = {f"{i}.jpg" for i in range(len(LABELS)) if LABELS[i] == 1 and IDENTITIES[i] == "c"}
    assert {name for name, mark in marks.items() if mark == "✗"} == strangers
    assert all(image["good"] == (image["mark"] == "✓") for row in rows for image in row["images"])


def test_most_split_show_every_piece_under_a_letter(sheets):
    rows = sheets["Most split identities"]
    assert len(rows) == 3  # a, b and c lie in two clusters each
    for row in rows:
        names = {image["name"]: image["mark"] for image in row["images"]}
        people = {IDENTITIES[int(name.split(".")[0])] for name in names}
        assert len(people) == 1 and {"A", "B"} <= set(names.values())
        labels_of = {
            mark: {LABELS[int(n.split(".")[0])] for n, m in names.items() if m == mark} for mark in names.values()
        }
        assert all(len(labels) == 1 for labels in labels_of.values())


def test_outliers_of_a_split_identity_are_shown_as_such():
    labels = np.array([0, 0, 1, 1, -1, -1])
    row = by_title(sheets_of(PATHS[:6], labels, np.full(6, "a"), np.ones(2)))["Most split identities"][0]
    assert [image["mark"] for image in row["images"]] == ["A", "A", "B", "B", "–", "–"]
    assert row["title"] == "6 images in 2 clusters, 2 outliers"


def test_rows_stay_short():
    labels, people = np.repeat(np.arange(20), 30), np.tile(np.arange(30), 20)
    sheets = by_title(sheets_of([f"{i}.jpg" for i in range(600)], labels, people, np.ones(20)))
    assert all(0 < len(row["images"]) <= IMAGES_PER_ROW for rows in sheets.values() for row in rows)


def test_without_identities_the_safest_and_the_least_safe_clusters_are_shown():
    labels = np.repeat([0, 1, 2, -1], 5)
    sheets = by_title(sheets_of(PATHS[:20], labels, None, np.array([0.5, 0.9, 0.2])))
    assert [row["title"].split(":")[0] for row in sheets["Safest clusters"]] == [
        "cluster 1",
        "cluster 0",
        "cluster 2",
    ]
    assert [row["title"].split(":")[0] for row in sheets["Least safe clusters"]] == [
        "cluster 2",
        "cluster 0",
        "cluster 1",
    ]


def test_without_clusters_there_are_no_sheets():
    assert sheets_of(PATHS[:3], np.full(3, -1), np.array(list("abc")), np.zeros(0)) == []
    assert sheets_of(PATHS[:3], np.full(3, -1), None, np.zeros(0)) == []


def test_picture_names_the_file_without_its_folder(tmp_path):
    found = picture(str(tmp_path / "a.jpg"), "✓", True)
    assert found == {"src": None, "name": "a.jpg", "mark": "✓", "good": True}


def drawn(strangers=0):
    """Distances (12, 60), and what an evaluation knows; so many of the queries are of nobody in the gallery."""
    random = np.random.default_rng(0)
    identities, cameras = random.integers(0, 5, 72), random.integers(0, 3, 72)
    identities[:strangers] = 99
    distances = random.random((12, 60)) - 0.4 * (identities[:12, None] == identities[None, 12:])
    return distances, retrieval_of([f"{i}.jpg" for i in range(72)], distances, identities, cameras)


def test_rows_go_from_the_worst_to_the_best_and_mark_right_and_wrong():
    distances, found = drawn()
    rows, precisions = retrieval_rows(found), found.average_precisions
    assert rows[0]["query"]["name"] == f"{int(np.argmin(precisions))}.jpg"
    assert rows[-1]["query"]["name"] == f"{int(np.argmax(precisions))}.jpg"
    for row in rows:
        query = int(row["query"]["name"].split(".")[0])
        assert row["title"] == f"average precision {precisions[query]:.0%}"
        shown = [int(image["name"].split(".")[0]) for image in row["images"]]
        right = [found.identities[i] == found.identities[query] for i in shown]
        assert [image["mark"] == "✓" for image in row["images"]] == right == [image["good"] for image in row["images"]]
        assert not any(r and found.cameras[i] == found.cameras[query] for i, r in zip(shown, right))
        nearest = [distances[query, i - 12] for i in shown]
        assert nearest == sorted(nearest) and len(shown) == 10


def test_queries_without_a_match_are_passed_over():
    rows = retrieval_rows(drawn(strangers=11)[1])
    assert {row["query"]["name"] for row in rows} == {"11.jpg"}
    nobody = drawn()[1]
    assert retrieval_rows(nobody._replace(average_precisions=np.full(12, np.nan))) == []
