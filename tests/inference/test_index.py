"""The index finds what comparing with everything finds, from memory and from disk."""

import json
import os

import faiss
import numpy as np
import pytest

from ise_plugin.clustering import rerank_distance
from ise_plugin.errors import UsageError
from ise_plugin.inference import Embeddings, SearchIndex, build_index


def embeddings(count=600, dim=16, seed=0):
    """People of ten images each."""
    random = np.random.default_rng(seed)
    rows = np.repeat(random.standard_normal((-(-count // 10), dim)), 10, axis=0)[:count]
    rows = rows + 0.3 * random.standard_normal(rows.shape)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return Embeddings([f"{i}.jpg" for i in range(count)], rows, np.zeros((count, 2), np.int64), "one", "run")


def brute_force(data, queries, k):
    similarities = queries @ data.vectors.T
    return np.argsort(-similarities, axis=1, kind="stable")[:, :k], np.sort(-similarities, axis=1)[:, :k] * -1


@pytest.mark.parametrize("kind", ["auto", "exact"])
def test_exact_search_is_exact(kind):
    data, queries = embeddings(), embeddings(40, seed=1).vectors
    expected, similarities = brute_force(data, queries, 7)
    found = build_index(data, kind).search(queries, 7)
    assert [[m.path for m in row] for row in found] == [[f"{i}.jpg" for i in row] for row in expected]
    assert [[m.rank for m in row] for row in found] == [[1, 2, 3, 4, 5, 6, 7]] * 40
    assert np.allclose([[m.similarity for m in row] for row in found], similarities, atol=1e-5)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_approximate_search_reaches_its_recall(kind):
    data = embeddings()
    index = build_index(data, kind, recall=0.95)
    found = index.search(data.vectors, 11)
    expected, _ = brute_force(data, data.vectors, 11)
    shares = [len({m.path for m in row} & {f"{i}.jpg" for i in true}) / 11 for row, true in zip(found, expected)]
    assert np.mean(shares) >= 0.94 and index.about["recall"] >= 0.95


def test_higher_recall_takes_more_effort():
    data = embeddings(2000, dim=64)
    assert build_index(data, "ivf", 0.3).effort < build_index(data, "ivf", 1.0).effort


def test_an_ivf_index_can_be_made_exact():
    data, queries = embeddings(), embeddings(40, seed=1).vectors
    index = build_index(data, "ivf", recall=0.1)
    index.set_exact()
    expected, _ = brute_force(data, queries, 10)
    assert [[m.path for m in row] for row in index.search(queries)] == [[f"{i}.jpg" for i in r] for r in expected]
    with pytest.raises(UsageError, match="hnsw"):
        build_index(data, "hnsw").set_exact()


@pytest.mark.parametrize("kind", ["exact", "ivf", "hnsw"])
def test_reranking_is_that_of_the_evaluation(kind):
    data, queries = embeddings(), embeddings(3, seed=2).vectors
    index = build_index(data, kind, recall=1.0)
    for query, row in zip(queries, index.search(queries, 10, rerank=True, candidates=50)):
        nearest = [int(m.path[:-4]) for m in index.search(query[None], 50)[0]]
        distances = rerank_distance(query[None], data.vectors[nearest])[0]
        expected = [f"{nearest[i]}.jpg" for i in np.argsort(distances, kind="stable")[:10]]
        assert [m.path for m in row] == expected and [m.rank for m in row] == list(range(1, 11))
        assert [m.similarity for m in row] == pytest.approx(
            [float(query @ data.vectors[int(p[:-4])]) for p in expected], abs=1e-5
        )


@pytest.mark.parametrize("kind", ["exact", "ivf", "hnsw"])
@pytest.mark.parametrize("count", [1, 3])
def test_fewer_images_than_asked_for(kind, count):
    data = embeddings(count)
    for rerank in (False, True):
        found = build_index(data, kind).search(data.vectors[:1], 10, rerank=rerank)
        assert sorted(m.path for m in found[0]) == data.paths


@pytest.mark.parametrize("kind", ["exact", "ivf", "hnsw"])
def test_from_disk_as_from_memory(kind, tmp_path):
    data, queries = embeddings(), embeddings(5, seed=1).vectors
    index = build_index(data, kind)
    index.save(str(tmp_path / "index"))
    loaded = SearchIndex.load(str(tmp_path / "index"))
    assert loaded.search(queries, 5, rerank=True) == index.search(queries, 5, rerank=True)
    assert loaded.about["fingerprint"] == "one" and loaded.about["run"] == "run" and len(loaded) == 600
    index.save(str(tmp_path / "index"))  # again, over the old one
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


def test_folder_of_something_else_is_not_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(UsageError, match="holds no index.*mine.txt"):
        build_index(embeddings(20)).save(str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("content", ["{}", "[]", "junk", '{"version": 1, "kind": "exact"}'])
def test_about_of_something_else_is_not_overwritten(tmp_path, content):
    (tmp_path / "about.json").write_text(content)
    with pytest.raises(UsageError, match="holds no index.*about.json"):
        build_index(embeddings(20)).save(str(tmp_path))
    assert (tmp_path / "about.json").read_text() == content


@pytest.mark.parametrize("stranger", ["mine.txt", ".hidden", "folder/mine.txt"])
def test_index_with_files_of_others_is_not_overwritten(tmp_path, stranger):
    index = build_index(embeddings(20))
    index.save(str(tmp_path / "index"))
    mine = tmp_path / "index" / stranger
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("kept")
    with pytest.raises(UsageError, match=f"{stranger.split('/')[0]} is no part"):
        index.save(str(tmp_path / "index"))
    assert mine.read_text() == "kept" and len(SearchIndex.load(str(tmp_path / "index"))) == 20


def test_places_for_an_index(tmp_path):
    index = build_index(embeddings(20))
    (tmp_path / "empty").mkdir()
    index.save(str(tmp_path / "empty") + os.sep)
    (tmp_path / "link").symlink_to("empty")
    build_index(embeddings(30)).save(str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink() and len(SearchIndex.load(str(tmp_path / "empty"))) == 30
    (tmp_path / "file").write_text("kept")
    for place in (tmp_path / "file", ""):
        with pytest.raises(UsageError, match="--output"):
            index.save(str(place))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "link"]


def test_an_index_that_faiss_cannot_write_leaves_the_old_one(tmp_path, monkeypatch):
    build_index(embeddings(20)).save(str(tmp_path / "index"))
    other, write = build_index(embeddings(30)), faiss.write_index
    monkeypatch.setattr(faiss, "write_index", lambda index, path: write(index, path + "/no/folder"))
    with pytest.raises(UsageError, match="index cannot be written .faiss failed"):
        other.save(str(tmp_path / "index"))
    assert len(SearchIndex.load(str(tmp_path / "index"))) == 20
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize("damage", ["missing", "about.json", "names.json", "index.faiss"])
def test_damaged_index(tmp_path, damage):
    build_index(embeddings(20)).save(str(tmp_path / "index"))
    if damage != "missing":
        (tmp_path / "index" / damage).write_bytes(b"[]")
    with pytest.raises(UsageError, match="is no index"):
        SearchIndex.load(str(tmp_path / ("index" if damage != "missing" else "nowhere")))


DAMAGES = {
    "run missing": ("about.json", {"run": None}, "no run"),
    "run a number": ("about.json", {"run": 7}, "no run"),
    "fingerprint missing": ("about.json", {"fingerprint": None}, "no fingerprint"),
    "kind missing": ("about.json", {"kind": None}, "no kind"),
    "kind unknown": ("about.json", {"kind": "best"}, "not of kind best"),
    "kind of another index": ("about.json", {"kind": "ivf"}, "not of kind ivf"),
    "effort a text": ("about.json", {"effort": "much"}, "no effort"),
    "effort beyond all": ("about.json", {"effort": 10**30}, "an effort of 10+"),
    "negative effort": ("about.json", {"effort": -1}, "an effort of -1"),
    "another version": ("about.json", {"version": 0}, "another version"),
    "another format": ("about.json", {"format": "mine"}, "not that of an index"),
    "about a list": ("about.json", "[1]", "not that of an index"),
    "about no JSON": ("about.json", "{", "about.json is damaged"),
    "about too deep": ("about.json", "[" * 100_000, "about.json is damaged"),
    "names of numbers": ("names.json", json.dumps([1] * 20), "no list of names"),
    "names of nulls": ("names.json", json.dumps([None] * 20), "no list of names"),
    "names a dictionary": ("names.json", json.dumps({str(i): i for i in range(20)}), "no list of names"),
    "names a text": ("names.json", json.dumps("x" * 20), "no list of names"),
    "other names than vectors": ("names.json", json.dumps(["a.jpg"]), "1 names for 20 vectors"),
}


@pytest.mark.parametrize("name, change, words", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_descriptions(tmp_path, name, change, words):
    build_index(embeddings(20)).save(str(tmp_path))
    path = tmp_path / name
    if isinstance(change, dict):
        content = {**json.loads(path.read_text()), **change}
        change = json.dumps({key: value for key, value in content.items() if value is not None})
    path.write_text(change)
    with pytest.raises(UsageError, match=f"is no index.*{words}"):
        SearchIndex.load(str(tmp_path))


def test_vectors_of_another_kind(tmp_path):
    build_index(embeddings(20)).save(str(tmp_path))
    other = faiss.IndexFlatL2(16)
    other.add(embeddings(20).vectors)
    faiss.write_index(other, str(tmp_path / "index.faiss"))
    with pytest.raises(UsageError, match="not of kind exact"):
        SearchIndex.load(str(tmp_path))


def test_what_faiss_says_about_its_source_code_is_not_passed_on(tmp_path):
    build_index(embeddings(20)).save(str(tmp_path))
    (tmp_path / "index.faiss").write_bytes(b"junk")
    with pytest.raises(UsageError, match=r"\(index.faiss is missing or damaged\)"):
        SearchIndex.load(str(tmp_path))


def test_wrong_arguments():
    index = build_index(embeddings(20))
    with pytest.raises(UsageError, match="vectors of length 16"):
        index.search(np.zeros((1, 4), np.float32))
    with pytest.raises(UsageError, match="no finite numbers"):
        index.search(np.full((1, 16), np.nan, np.float32))
    with pytest.raises(ValueError, match="k must be"):
        index.search(np.zeros((1, 16), np.float32), 0)
    for options, words in (({"kind": "best"}, "--kind"), ({"recall": 0.0}, "--recall")):
        with pytest.raises(UsageError, match=words):
            build_index(embeddings(20), **options)
    with pytest.raises(UsageError, match="no embeddings"):
        build_index(embeddings(20)._replace(paths=[], vectors=np.zeros((0, 0), np.float32)))
