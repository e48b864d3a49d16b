"""Numbers, files and pictures of the groups."""

import csv
import io
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ise_plugin.clustering import similarity_to_centroids
from ise_plugin.data.thumbnails import TILE
from ise_plugin.errors import UsageError
from ise_plugin.identities.groups import (
    IMAGES_PER_ROW,
    ROWS_PER_PAGE,
    Identity,
    identities_of,
    keep_safe,
    read_csv,
    summary_of,
    table_of,
    to_csv,
    write_contact_sheets,
    write_identities,
)

PURITIES = np.array([0.9, 0.45, 0.7])


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def grouped():
    """Twenty embeddings in three groups and two outliers."""
    random = np.random.default_rng(0)
    labels = np.array([0] * 6 + [1] * 5 + [2] * 7 + [-1] * 2)
    rows = random.standard_normal((3, 8))[np.maximum(labels, 0)] + 0.4 * random.standard_normal((20, 8))
    return unit(rows), labels


def rows_of(grouped, **options):
    features, labels = grouped
    paths = [f"{(7 * i) % 20:02d}.jpg" for i in range(20)]
    cameras = ["c1" if i % 2 else "c2" for i in range(20)]
    similarities = similarity_to_centroids(features, labels)
    return identities_of(paths, cameras, labels, similarities, PURITIES, {"03.jpg": "01.jpg"}, **options)


def test_rows_are_sorted_and_complete(grouped):
    rows = rows_of(grouped)
    assert [r.path for r in rows] == [f"{i:02d}.jpg" for i in range(20)]
    assert sum(r.outlier for r in rows) == 2 and {r.cluster for r in rows} == {-1, 0, 1, 2}
    for row in rows:
        assert (row.similarity is None) == (row.confidence is None) == row.outlier == (row.cluster == -1)
        assert row.outlier or row.confidence == PURITIES[row.cluster]
    assert {row.path: row.same_file_as for row in rows if row.same_file_as} == {"03.jpg": "01.jpg"}


def test_least_confidence_keeps_numbers_and_drops_groups(grouped):
    rows = rows_of(grouped)
    by_group = {r.cluster: r.confidence for r in rows if not r.outlier}
    limit = sorted(by_group.values())[1]
    kept = rows_of(grouped, min_confidence=limit)
    assert {r.cluster for r in kept} == {-1} | {c for c, confidence in by_group.items() if confidence >= limit}
    assert [r.path for r in kept] == [r.path for r in rows] and len({r.cluster for r in kept}) == 3
    assert keep_safe(rows, 0.0) == rows and all(r.outlier for r in keep_safe(rows, 1.0))


texts = st.text(st.characters(exclude_characters="\0"), max_size=12)


@given(st.lists(st.tuples(texts, texts), max_size=8))
def test_no_cell_of_text_starts_a_formula(cells):
    rows = [Identity(path, 3, False, 0.5, 1, -0.25, camera, 0.75) for path, camera in cells]
    content = to_csv(rows)
    for line in list(csv.reader(io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")))[1:]:
        assert not line[0].startswith(("=", "+", "-", "@", "\t", "\r", "\n")) and not line[6].startswith(
            ("=", "+", "-", "@", "\t", "\r", "\n")
        )


@pytest.mark.parametrize(
    "path",
    ["=HYPERLINK(1).jpg", "+1.jpg", "-1.jpg", "@SUM(A1).jpg", "\tx.jpg", "'q.jpg", 'a,"b".jpg', "l\nine.jpg", "人.jpg"],
)
def test_strange_names_survive_the_file(tmp_path, path):
    rows = [Identity(path, 0, False, 0.5, None, None, path, 0.5), Identity(path, -1, True, None, 0, 0.1, "", None)]
    (tmp_path / "i.csv").write_bytes(to_csv(rows))
    assert read_csv(str(tmp_path / "i.csv")) == rows


def test_names_that_are_no_text_survive_the_file(tmp_path):
    rows = [Identity(os.fsdecode(b"\xff.jpg"), 0, False, 0.5, None, None, "", 0.5)]
    (tmp_path / "i.csv").write_bytes(to_csv(rows))
    assert read_csv(str(tmp_path / "i.csv")) == rows


@pytest.mark.parametrize(
    "content",
    [
        "",
        "a,b\n1,2\n",
        "path,cluster,outlier,similarity,nearest_cluster,nearest_similarity,camera,confidence,same_file_as\nx\n",
    ],
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "i.csv").write_text(content)
    for path in (tmp_path / "i.csv", tmp_path / "missing.csv"):
        with pytest.raises(UsageError, match="identities.csv of a finished run"):
            read_csv(str(path))


def test_summary_counts(grouped):
    summary = summary_of(rows_of(grouped))
    assert (summary["images"], summary["identities"], summary["outliers"]) == (20, 3, 2)
    assert summary["images_per_identity"] == {"least": 5, "median": 6.0, "most": 7}
    assert summary["confidence"] == {"least": 0.45, "median": 0.7, "most": 0.9}
    assert summary["estimated_purity"] == pytest.approx((6 * 0.9 + 5 * 0.45 + 7 * 0.7) / 18, abs=1e-4)
    assert summary["seen_by_several_cameras"] == 3 and summary["identical_files"] == {"01.jpg": ["03.jpg"]}
    one = [
        row._replace(camera="c" * (i % 2)) for i, row in enumerate(rows_of(grouped))
    ]  # of every other the camera is unknown
    assert summary_of(one)["seen_by_several_cameras"] == 0
    text = table_of(summary | {"verdict": {"lines": []}})
    assert "copies of other files" in text and "verdict" not in text and "01.jpg" not in text
    assert summary_of([]) == {"images": 0, "identities": 0, "outliers": 0}


def save_pictures(folder, rows):
    for i, row in enumerate(rows):
        Image.new("RGB", (10, 20), (12 * i, 0, 0)).save(folder / row.path)


def test_files_are_written_and_repeatable(grouped, tmp_path):
    rows = rows_of(grouped)
    save_pictures(tmp_path, rows)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_identities(str(tmp_path / name), str(tmp_path), rows, {"eps": 0.5})
    assert read_csv(str(tmp_path / "one/identities.csv")) == rows
    assert json.loads((tmp_path / "one/identities.json").read_text())["eps"] == 0.5
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert sorted(map(str, files)) == [
        "identities.csv",
        "identities.json",
        "identities/outliers_0001.jpg",
        "identities/page_0001.jpg",
    ]
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)


def test_sheet_shows_the_images_of_each_group(tmp_path):
    groups = {2: ((0, 0, 250), 1, 0.9), 0: ((250, 0, 0), 3, 0.5), 1: ((0, 250, 0), 2, 0.5)}  # in the order of the page
    rows = []
    for cluster, (colour, size, confidence) in sorted(groups.items()):
        for i in range(size):
            rows.append(Identity(f"{cluster}{i}.png", cluster, False, 0.9, None, None, "", confidence))
            Image.new("RGB", TILE, colour).save(tmp_path / rows[-1].path)
    write_contact_sheets(str(tmp_path / "sheets"), str(tmp_path), rows)
    page = np.asarray(Image.open(tmp_path / "sheets/page_0001.jpg")).astype(int)
    height = page.shape[0] // 3
    for row, (colour, size, _) in enumerate(groups.values()):  # the safest comes first, of equal ones the larger
        shown = np.abs(page[row * height : (row + 1) * height] - colour).max(axis=2) < 40
        assert shown.sum() == pytest.approx(size * TILE[0] * TILE[1], rel=0.1)


def test_pages_that_are_not_needed_any_more_go(tmp_path):
    save_names = [Identity(f"{i}.png", i, False, 0.9, None, None, "", 0.5) for i in range(ROWS_PER_PAGE + 1)]
    for row in save_names:
        Image.new("RGB", (8, 8)).save(tmp_path / row.path)
    (tmp_path / "sheets").mkdir()
    (tmp_path / "sheets/mine.jpg").write_text("kept")
    assert write_contact_sheets(str(tmp_path / "sheets"), str(tmp_path), save_names) == 2
    assert write_contact_sheets(str(tmp_path / "sheets"), str(tmp_path), save_names[:1]) == 1
    assert sorted(os.listdir(tmp_path / "sheets")) == ["mine.jpg", "page_0001.jpg"]


def test_vanished_picture_leaves_a_gap_not_an_error(tmp_path):
    rows = [Identity("gone.jpg", 0, False, 0.9, None, None, "", 0.5)] * (IMAGES_PER_ROW + 3)
    assert write_contact_sheets(str(tmp_path / "sheets"), str(tmp_path), rows) == 1


def test_folder_that_cannot_be_written_to(tmp_path, monkeypatch, grouped):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file.*cannot be written to"):
        write_identities(str(tmp_path / "file"), str(tmp_path), rows_of(grouped))
