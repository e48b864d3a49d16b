"""The index finds what comparing with everything finds, from memory and from disk."""

import numpy as np
import pytest

from ise_plugin.clustering import rerank_distance
from ise_plugin.errors import UsageError
from ise_plugin.search import Embeddings, SearchIndex, build_index


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
    with pytest.raises(UsageError, match="holds no index"):
        build_index(embeddings(20)).save(str(tmp_path))
    assert (tmp_path / "mine.txt").exists()


@pytest.mark.parametrize("damage", ["missing", "about.json", "names.json", "index.faiss"])
def test_damaged_index(tmp_path, damage):
    build_index(embeddings(20)).save(str(tmp_path / "index"))
    if damage != "missing":
        (tmp_path / "index" / damage).write_bytes(b"[]")
    with pytest.raises(UsageError, match="is no index"):
        SearchIndex.load(str(tmp_path / ("index" if damage != "missing" else "nowhere")))


def test_wrong_arguments():
    index = build_index(embeddings(20))
    with pytest.raises(UsageError, match="vectors of length 16"):
        index.search(np.zeros((1, 4), np.float32))
    with pytest.raises(ValueError, match="k must be"):
        index.search(np.zeros((1, 16), np.float32), 0)
    for options, words in (({"kind": "best"}, "--kind"), ({"recall": 0.0}, "--recall")):
        with pytest.raises(UsageError, match=words):
            build_index(embeddings(20), **options)
    with pytest.raises(UsageError, match="no embeddings"):
        build_index(embeddings(20)._replace(paths=[], vectors=np.zeros((0, 0), np.float32)))
