"""After forget nothing of a person is in any file of the ledger."""

import shutil

import numpy as np
import pytest
from ledger_helpers import FINGERPRINT, WIDTH, draw, new_ledger

from ise_plugin.errors import UsageError
from ise_plugin.inference import Embeddings, SearchIndex, build_index, read_embeddings
from ise_plugin.inference.embeddings import write_embeddings
from ise_plugin.ledger import IdentityLedger
from ise_plugin.ledger.forgetting import forget


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "people.ledger"
    new_ledger(path).close()
    return path


def bytes_of(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def similar(content, vectors):
    """The highest cosine of any of the vectors to any run of floats in the bytes."""
    highest = -1.0
    for offset in range(4):
        usable = (len(content) - offset) // 4 * 4
        floats = np.frombuffer(content[offset : offset + usable], "<f4")
        floats = np.where(np.abs(floats) < 2, floats, 0).astype(np.float64)
        norms = np.sqrt(np.convolve(floats**2, np.ones(WIDTH), "valid"))
        for vector in vectors:
            products = np.correlate(floats, vector.astype(np.float64), "valid")
            highest = max(highest, float((products / np.maximum(norms, 0.5)).max()))
    return highest


def test_no_name_row_or_embedding_stays(template, tmp_path):
    path = shutil.copy(template, tmp_path / "people.ledger")
    batch, _ = draw(range(12))
    with IdentityLedger(path) as ledger:
        ledger.add(draw([2, 40], seed=5)[0], FINGERPRINT)
        ledger.add(batch.of([16])._replace(paths=["copy/of_third.jpg"]), FINGERPRINT)
        ledger.name(3, "Xanthippe")
        ledger.merge(3, 7)
        ledger.answer(ledger.images_of(3)[0], ledger.images_of(1)[0], False)
        gone = [row.path for row in ledger.images() if row.person == 3] + ["copy/of_third.jpg", "Xanthippe"]
        vectors = np.concatenate([batch.vectors[16:24], batch.vectors[48:56]])
        others = [row for row in ledger.images() if row.person != 3]
        assert similar(bytes_of(tmp_path), vectors) > 0.999  # the search finds what is there
        done = forget(ledger, 3)
        assert done.images == len(gone) - 2
        assert list(ledger.images()) == [row._replace(candidate=None) if row.candidate == 3 else row for row in others]
        assert not ledger.changes() and {3, 7}.isdisjoint(person.number for person in ledger.people())
        content = bytes_of(tmp_path)
        assert not [name for name in gone if name.encode() in content]
        assert similar(content, vectors) < 0.999
        assert ledger.split(1, ledger.images_of(1)[:1]) == 14  # no number of the forgotten comes back
        with pytest.raises(UsageError, match="no person 3"):
            forget(ledger, 3)


@pytest.mark.parametrize("kind", ["exact", "ivf", "hnsw"])
def test_named_embeddings_and_indexes_lose_the_person(template, tmp_path, kind):
    path = shutil.copy(template, tmp_path / "people.ledger")
    batch, _ = draw(range(12))
    paths = [name if i % 2 else f"renamed_{i}.jpg" for i, name in enumerate(batch.paths)]  # by name, or by embedding
    whole = Embeddings(paths, batch.vectors, np.zeros((96, 2), np.int64), FINGERPRINT, "run")
    write_embeddings(str(tmp_path / "e.npz"), whole)
    build_index(whole, kind).save(str(tmp_path / "index"))
    files = [str(tmp_path / "e.npz"), str(tmp_path / "index")]
    with IdentityLedger(path) as ledger:
        assert forget(ledger, 3, files).files == files
        assert forget(ledger, 4, [files[0]]).files == files[:1]
    kept = [name for i, name in enumerate(paths) if i // 8 != 2]
    assert SearchIndex.load(files[1]).paths == kept
    assert read_embeddings(files[0]).paths == [name for name in kept if name not in paths[24:32]]
    assert similar(bytes_of(tmp_path), batch.vectors[16:24]) < 0.999


def test_a_file_that_is_something_else_is_said_before_anything_goes(template, tmp_path):
    (tmp_path / "notes.npz").write_text("mine")
    with IdentityLedger(shutil.copy(template, tmp_path / "l")) as ledger:
        with pytest.raises(UsageError, match="notes.npz is no file of embeddings"):
            forget(ledger, 3, [str(tmp_path / "notes.npz")])
        assert len(ledger.images_of(3)) == 8
