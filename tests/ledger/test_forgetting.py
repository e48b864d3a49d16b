"""After forget nothing of a person is in any file of the ledger."""

import shutil

import numpy as np
import pytest
from ledger_helpers import FINGERPRINT, WIDTH, draw
from PIL import Image

from ise_plugin.clustering import CentroidSimilarities
from ise_plugin.errors import UsageError
from ise_plugin.identities.groups import identities_of, read_csv, write_identities
from ise_plugin.inference import Embeddings, SearchIndex, build_index, read_embeddings
from ise_plugin.inference.embeddings import write_embeddings
from ise_plugin.ledger import IdentityLedger
from ise_plugin.ledger.forgetting import forget


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


def test_the_run_loses_the_person_from_its_table_and_contact_sheets(tmp_path):
    batch, who = draw(range(4))
    crops, run = tmp_path / "crops", tmp_path / "run"
    crops.mkdir()
    run.mkdir()
    names = [f"{i:03d}.png" for i in range(len(who))]
    for name, person in zip(names, who.tolist()):
        Image.new("RGB", (32, 64), (250, 0, 0) if person == 2 else (0, 0, 250)).save(crops / name)
    similarities = CentroidSimilarities(np.full(32, 0.9), np.full(32, 0.1), np.full(32, -1))
    rows = identities_of(names, [""] * 32, who, similarities, np.ones(4))
    write_identities(str(run), str(crops), rows)
    (run / "model_final.pth").write_bytes(b"weights")
    reds = lambda: sum(redness(path) > 100 for path in (run / "identities").iterdir())
    assert reds() == 1
    placed = batch._replace(paths=[str(crops / name) for name in names])
    with IdentityLedger.create(str(tmp_path / "l"), placed, who, FINGERPRINT, str(run)) as ledger:
        done = forget(ledger, 3)
    assert [row.path for row in read_csv(str(run / "identities.csv"))] == names[:16] + names[24:]
    assert reds() == 0 and len(done.files) == 3
    assert any("model_final.pth" in line for line in done.remaining)
    assert sum("your own image" in line for line in done.remaining) == 8  # and they are still there


def redness(path):
    """How many pixels of a picture are red."""
    red, _, blue = np.moveaxis(np.asarray(Image.open(path).convert("RGB")).astype(int), 2, 0)
    return int(((red > 200) & (blue < 60)).sum())
