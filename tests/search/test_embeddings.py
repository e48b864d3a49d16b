"""Embeddings on disk: complete, resumable, and never mixed."""

import os

import numpy as np
import pyarrow.parquet as pq
import pytest

import ise_plugin.search.embeddings as module
from ise_plugin.errors import UsageError
from ise_plugin.search import EmbeddingStore, read_embeddings

NAMES = ["a b.jpg", "l\nine.jpg", "人.jpg", os.fsdecode(b"\xff.jpg"), "=1.jpg"]


@pytest.fixture
def files(tmp_path):
    for name in NAMES:
        (tmp_path / name).write_bytes(os.fsencode(name))
    return [str(tmp_path / name) for name in NAMES]


def vector(i):
    return np.arange(i, i + 4, dtype=np.float32)


def store(tmp_path, fingerprint="one"):
    return EmbeddingStore(str(tmp_path / "out"), fingerprint, "run")


def fill(target, paths):
    for path in paths:
        target.add(path, vector(len(path)))


def test_what_is_written_is_read(files, tmp_path):
    target = store(tmp_path)
    fill(target, files)
    target.finish(files)
    found = read_embeddings(str(tmp_path / "out.npz"))
    assert found.paths == files and (found.fingerprint, found.run) == ("one", "run")
    assert np.array_equal(found.vectors, np.stack([vector(len(p)) for p in files]))
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["path"].to_pylist()[:3] == files[:3] and "\\xff" in table["path"].to_pylist()[3]
    assert np.array_equal(np.array(table["embedding"].to_pylist(), np.float32), found.vectors)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("out")) == ["out.npz", "out.parquet"]


def test_interrupted_job_goes_on(files, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART_SIZE", 2)
    fill(store(tmp_path), files[:3])  # two of them reach the disk
    again = store(tmp_path)
    assert again.missing(files) == files[2:]
    fill(again, files[2:])
    assert again.finish(files).paths == files
    assert np.array_equal(read_embeddings(str(tmp_path / "out.npz")).vectors[4], vector(len(files[4])))


def test_only_new_and_changed_files_are_missing(files, tmp_path):
    target = store(tmp_path)
    fill(target, files[:4])
    target.finish(files[:4], ["npz"])
    os.utime(files[1], ns=(1, 1))
    assert store(tmp_path).missing(files) == [files[1], files[4]]


def test_files_of_another_network_are_not_mixed_in(files, tmp_path):
    target = store(tmp_path)
    fill(target, files)
    target.finish(files, ["npz"])
    with pytest.raises(UsageError, match="another network"):
        store(tmp_path, "two")


def test_no_embedding_at_all(tmp_path):
    assert store(tmp_path).finish([]).vectors.shape == (0, 0)
    assert read_embeddings(str(tmp_path / "out.npz")).paths == []


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04broken"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    for path in (tmp_path / "x.npz", tmp_path / "missing.npz"):
        with pytest.raises(UsageError, match="no file of embeddings"):
            read_embeddings(str(path))


def test_pickled_arrays_are_not_loaded(tmp_path):
    np.savez(tmp_path / "x.npz", embeddings=np.array([{}], dtype=object))
    with pytest.raises(UsageError, match="no file of embeddings"):
        read_embeddings(str(tmp_path / "x.npz"))


def test_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be made"):
        EmbeddingStore(str(tmp_path / "file/out"), "one", "run")


def test_failed_write_leaves_the_old_file(tmp_path):
    (tmp_path / "x").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        with module.written_whole(str(tmp_path / "x")) as temporary:
            open(temporary, "w").write("half")
            raise KeyboardInterrupt
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_parquet_without_its_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match="pip install pyarrow"):
        module.check_parquet()
