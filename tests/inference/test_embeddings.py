"""Embeddings on disk: complete, resumable, and never mixed."""

import io
import logging
import os

import numpy as np
import pyarrow.parquet as pq
import pytest

import ise_plugin.inference.embeddings as module
from ise_plugin.errors import UsageError
from ise_plugin.inference import EmbeddingStore, read_embeddings

NAMES = ["a b.jpg", "l\nine.jpg", "人.jpg", os.fsdecode(b"\xff.jpg"), "=1.jpg"]


@pytest.fixture
def files(tmp_path):
    for name in NAMES:
        (tmp_path / name).write_bytes(os.fsencode(name))
    return [str(tmp_path / name) for name in NAMES]


def vector(i):
    return np.arange(i, i + 4, dtype=np.float32)


def store(tmp_path, fingerprint="one"):
    return EmbeddingStore(str(tmp_path / "out"), fingerprint, "run", 4)


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
    assert store(tmp_path).finish([]).vectors.shape == (0, 4)
    assert read_embeddings(str(tmp_path / "out.npz")).paths == []
    assert len(pq.read_table(tmp_path / "out.parquet")) == 0


def npy():
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((3, 4), np.float32))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content", [b"", b"no archive", b"PK\x03\x04broken", npy()], ids=["empty", "text", "zip", "npy"]
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    for path in (tmp_path / "x.npz", tmp_path / "missing.npz", tmp_path):
        with pytest.raises(UsageError, match="no file of embeddings") as caught:
            read_embeddings(str(path))
        assert "pickle" not in str(caught.value)
        assert path.name != "x.npz" or "(no .npz, or damaged)" in str(caught.value)


def test_a_parquet_file_leads_to_the_npz(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="name the one beside it, .*x.npz"):
        read_embeddings(str(tmp_path / "x.parquet"))


def arrays(**changes):
    """What a file of two embeddings holds, but for the changes; None leaves an array out."""
    result = {
        "embeddings": np.eye(2, 4, dtype=np.float32),
        "paths": np.array(["a.jpg", "b.jpg"]),
        "stamps": np.zeros((2, 2), np.int64),
        "fingerprint": "one",
        "run": "run",
        **changes,
    }
    return {name: value for name, value in result.items() if value is not None}


DAMAGES = {
    "paths of bytes": ({"paths": np.array([b"a", b"b"])}, "paths are .S1"),
    "NaN": ({"embeddings": np.full((2, 4), np.nan, np.float32)}, "no finite numbers"),
    "width 0": ({"embeddings": np.zeros((2, 0), np.float32)}, "embeddings are empty"),
    "text": ({"embeddings": np.full((2, 4), "x")}, "embeddings are <U1"),
    "one row": ({"embeddings": np.zeros(4, np.float32)}, r"of shape \(4,\)"),
    "rows without paths": ({"embeddings": np.eye(3, 4, dtype=np.float32)}, "other rows than paths"),
    "fingerprint a number": ({"fingerprint": 7}, "fingerprint are int64"),
    "run missing": ({"run": None}, "has no run"),
    "stamps of another shape": ({"stamps": np.zeros((2, 3), np.int64)}, "other rows than paths"),
    "objects": ({"stamps": np.array([{}, {}])}, "damaged, or another program's"),
}


def test_the_arrays_without_a_change_are_read(tmp_path):
    np.savez(tmp_path / "x.npz", **arrays())
    assert read_embeddings(str(tmp_path / "x.npz")).paths == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("changes, words", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_files_are_refused(tmp_path, changes, words):
    np.savez(tmp_path / "out.npz", **arrays(**changes))
    with pytest.raises(UsageError, match=words):
        read_embeddings(str(tmp_path / "out.npz"))
    with pytest.raises(UsageError, match=f"out.npz holds no embeddings of this network.*{words}.*; remove it"):
        store(tmp_path)


def earlier(*paths):
    """What the release before kept of names: bytes and lengths beside paths for people."""
    return {"paths": np.array(paths), "lengths": np.array([5, 5]), "names": np.frombuffer(b"a.jpgb.jpg", np.uint8)}


def test_files_of_the_release_before_are_read_or_refused_in_one_line(tmp_path):
    np.savez(tmp_path / "x.npz", **arrays(**earlier("a.jpg", "b.jpg")))
    assert read_embeddings(str(tmp_path / "x.npz")).paths == ["a.jpg", "b.jpg"]
    np.savez(tmp_path / "x.npz", **arrays(**earlier("a.jpg", "\\xff.jpg")))
    with pytest.raises(UsageError, match="earlier release, with names that are no UTF-8"):
        read_embeddings(str(tmp_path / "x.npz"))


@pytest.mark.parametrize("at", [20, 150, 500, 900])
def test_one_wrong_byte_gives_one_line_or_nothing(tmp_path, at):
    np.savez(tmp_path / "x.npz", **arrays())
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[at] ^= 0xFF
    (tmp_path / "x.npz").write_bytes(content)
    try:
        read_embeddings(str(tmp_path / "x.npz"))
    except UsageError as error:
        assert "no file of embeddings" in str(error)


def test_embeddings_of_another_width_are_not_mixed_in(files, tmp_path):
    np.savez(tmp_path / "out.npz", **arrays(embeddings=np.eye(2, 3, dtype=np.float32)))
    with pytest.raises(UsageError, match="3 numbers in each, but the network gives 4.*remove it"):
        store(tmp_path)


@pytest.mark.parametrize("damaged", [0, 1])
def test_damaged_part_is_embedded_anew(files, tmp_path, monkeypatch, caplog, damaged):
    monkeypatch.setattr(module, "PART_SIZE", 2)
    fill(store(tmp_path), files[:4])
    (tmp_path / f"out.parts/00000{damaged}.npz").write_bytes(b"junk")
    with caplog.at_level(logging.WARNING):
        again = store(tmp_path)
    assert [f"00000{damaged}.npz is damaged" in message for message in caplog.messages] == [True]
    missing = again.missing(files)
    assert missing == [*files[2 * damaged : 2 * damaged + 2], files[4]]
    fill(again, missing[:2])
    last = store(tmp_path)
    assert last.missing(files) == files[4:]
    fill(last, files[4:])
    assert last.finish(files).paths == files and not (tmp_path / "out.parts").exists()


def test_part_that_somebody_removed_is_embedded_anew(files, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART_SIZE", 2)
    fill(store(tmp_path), files[:4])
    (tmp_path / "out.parts/000000.npz").unlink()
    fill(store(tmp_path), files[:2])  # these must not take the place of the part that is left
    assert store(tmp_path).missing(files) == files[4:]


def test_a_pause_keeps_what_is_there_and_no_empty_folder(files, tmp_path):
    store(tmp_path).pause()
    assert not (tmp_path / "out.parts").exists()
    target = store(tmp_path)
    fill(target, files[:1])
    target.pause()
    assert store(tmp_path).missing(files) == files[1:]


def test_files_of_others_among_the_parts_stay(files, tmp_path):
    (tmp_path / "out.parts").mkdir()
    for name in ("mine.txt", "mine.npz"):
        (tmp_path / "out.parts" / name).write_text("kept")
    target = store(tmp_path)
    fill(target, files)
    target.finish(files)
    assert sorted(p.name for p in (tmp_path / "out.parts").iterdir()) == ["mine.npz", "mine.txt"]


def test_a_run_of_any_name_is_written(files, tmp_path):
    run = os.fsdecode(b"r\xff")
    target = EmbeddingStore(str(tmp_path / "out"), "one", run, 4)
    fill(target, files)
    target.finish(files)
    assert read_embeddings(str(tmp_path / "out.npz")).run == run
    assert pq.read_schema(tmp_path / "out.parquet").metadata[b"run"] == b"r\\xff"


def test_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be made"):
        EmbeddingStore(str(tmp_path / "file/out"), "one", "run", 4)
