"""Embeddings from a finished run: those of the model, for every way of giving an image."""

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastreid.data.data_utils import read_image
from fastreid.data.transforms import build_transforms
from PIL import Image

from ise_plugin import Embedder
from ise_plugin.embedder import BATCH_SIZE
from ise_plugin.engine.checkpointing import load_checkpoint_file
from ise_plugin.engine.models import build_model
from ise_plugin.errors import UsageError


@pytest.fixture(scope="module")
def run(folder_run):
    crops, output = folder_run
    return sorted(map(str, crops.iterdir())), Embedder(str(output), device="cpu")


def reference(embedder, paths):
    """fastreid's own model, reader and transform, one image at a time."""
    model = build_model(embedder.cfg).eval()
    model.load_state_dict(load_checkpoint_file(embedder.weights)["model"])
    transform = build_transforms(embedder.cfg, is_train=False)
    with torch.no_grad():
        rows = [model({"images": transform(read_image(path, format="RGB"))[None]})[0] for path in paths]
    return F.normalize(torch.stack(rows), dim=1).numpy()


def test_embeddings_are_the_models(run):
    paths, embedder = run
    vectors = embedder(paths[:20])
    assert vectors.shape == (20, 1280) and vectors.dtype == np.float32
    assert (vectors * reference(embedder, paths[:20])).sum(axis=1).min() > 0.99999
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


def test_paths_pictures_and_arrays_give_the_same(run):
    paths, embedder = run
    image = Image.open(paths[3])
    rows = embedder([paths[3], image, np.asarray(image.convert("RGB"))])
    assert np.allclose(rows, rows[0], atol=1e-5)


def test_the_batch_does_not_matter(run):
    paths, embedder = run
    many = embedder(paths[: BATCH_SIZE + 3])
    assert np.allclose(many[-1], embedder([paths[BATCH_SIZE + 2]])[0], atol=1e-5)
    assert embedder([]).shape == (0, 1280)


def test_stream_names_what_cannot_be_read(run, tmp_path):
    paths, embedder = run
    (tmp_path / "bad.jpg").write_bytes(b"")
    asked = [paths[0], str(tmp_path / "bad.jpg"), paths[1]]
    found = list(embedder.stream(asked))
    assert [f.path for f in found] == asked
    assert [f.reason for f in found] == [None, "the file is empty", None] and found[1].embedding is None
    assert np.allclose(np.stack([found[0].embedding, found[2].embedding]), embedder(paths[:2]), atol=1e-5)
    with pytest.raises(UsageError, match="bad.jpg.*empty"):
        embedder(asked)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), 7])
def test_what_is_no_image(run, image):
    with pytest.raises(TypeError, match="uint8"):
        run[1]([image])


def test_a_single_image_is_not_a_list(run):
    with pytest.raises(TypeError, match="list"):
        run[1](run[0][0])


def test_fingerprint_tells_networks_apart(run, folder_run, tmp_path):
    shutil.copytree(folder_run[1], tmp_path / "copy")
    assert Embedder(str(tmp_path / "copy"), device="cpu").fingerprint == run[1].fingerprint
    other = Embedder(str(tmp_path / "copy"), weights=str(folder_run[1] / "model_0000.pth"), device="cpu")
    assert other.fingerprint != run[1].fingerprint


def test_what_is_no_run(tmp_path, folder_run):
    with pytest.raises(UsageError, match="no config.yaml"):
        Embedder(str(tmp_path))
    shutil.copy(folder_run[1] / "config.yaml", tmp_path)
    with pytest.raises(UsageError, match="model_chosen.pth nor model_final.pth"):
        Embedder(str(tmp_path))
