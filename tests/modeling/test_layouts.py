"""Weights of other programs: their own networks compute the same as ours with their weights, and what does not fit is named."""

import logging
import re
from itertools import count

import pytest
import torch
import torchvision.models as zoo
from fastreid.modeling.backbones import build_backbone
from helpers import backbone_cfg
from torch import nn

from ise_plugin.engine.checkpointing import ISECheckpointer
from ise_plugin.errors import UsageError
from ise_plugin.modeling.build import build_model
from ise_plugin.modeling.layouts import LAYOUTS, NETWORKS, fit_weights, in_model, look_of, state_dict_of

STEM_WITHOUT_RELU = LAYOUTS[-2].note


def cfg_of(name, depth, width, path="", **keys):
    cfg = backbone_cfg(name, depth, width, {"LAST_STRIDE": 2, **keys})
    cfg.MODEL.BACKBONE.PRETRAIN, cfg.MODEL.BACKBONE.PRETRAIN_PATH = bool(path), str(path)
    return cfg


def lively(network):
    """With statistics and scales that a mistaken place would show in."""
    generator = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return network.eval()


def resnet_features(network):
    network.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)  # fastreid's; it has no weights
    return nn.Sequential(*list(network.children())[:-2])


def flat_names(state):
    """torchvision's MobileNetV2 as it was named until 2019: every layer of a block by its place, activations counted."""
    names = {}
    for name, value in state.items():
        found = re.fullmatch(r"features\.(\d+)\.conv\.(.*)\.(\w+)", name)
        if found:
            block, places = int(found[1]), ["0.0", "0.1", None, "1.0", "1.1", None, "2", "3"]
            places = places if block > 1 else ["0.0", "0.1", None, "1", "2"]
            name = f"features.{block}.conv.{places.index(found[2])}.{found[3]}"
        names[name] = value
    return names


def in_turn(state, layers):
    """The weights of a state dict, layer after layer, by other names of the layers; classifiers are left out."""
    own = list(dict.fromkeys(name.rpartition(".")[0] for name in state if not name.startswith("classifier")))
    assert len(own) == len(layers)
    other = dict(zip(own, layers))
    return {
        f"{other[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": value
        for name, value in state.items()
        if name.rpartition(".")[0] in other
    }


def timm_layers(stages, excited):
    """The names of timm's inverted residuals in the order of their use."""
    yield from ("conv_stem", "bn1")
    for stage, blocks in enumerate(stages):
        for block in range(blocks):
            gate = ["se.conv_reduce", "se.conv_expand"] if excited else []
            if stage == 0:
                layers = ["conv_dw", "bn1", *gate, "conv_pw", "bn2"]
            else:
                layers = ["conv_pw", "bn1", "conv_dw", "bn2", *gate, "conv_pwl", "bn3"]
            yield from (f"blocks.{stage}.{block}.{layer}" for layer in layers)
    yield from ("conv_head", "bn2")


def timm_mobilenet(state):
    return in_turn(state, list(timm_layers((1, 2, 3, 4, 3, 3, 1), False)))


def timm_efficientnet(state):
    return in_turn(state, list(timm_layers((1, 2, 2, 3, 3, 4, 1), True)))


def base_names(children):
    """A ResNet's parts in a Sequential called base, as SpCL and its heirs save it from DataParallel."""

    def rename(state):
        place = {child: number for child, number in zip(children, count())}
        head = {"module.feat_bn.weight": torch.full((512,), 0.7), "module.classifier.weight": torch.zeros(9, 512)}
        base = {
            f"module.base.{place[name.split('.')[0]]}.{name.partition('.')[2]}": value
            for name, value in state.items()
            if not name.startswith("fc.")
        }
        return {"state_dict": {**base, **head}, "epoch": 3, "best_mAP": 0.5}

    return rename


STAGES = ("layer1", "layer2", "layer3", "layer4")
MOBILENETV2 = ("mobilenetv2", "1.0x", 1280), zoo.mobilenet_v2, lambda n: n.features
EFFICIENTNET = ("effnet", "b0", 1280), zoo.efficientnet_b0, lambda n: n.features
# id: fastreid's network, the original, its features, how the program writes it, the words of its layout
WRITTEN = {
    "torchvision ResNet": (("resnet", "18x", 512), zoo.resnet18, resnet_features, dict, "torchvision"),
    "torchreid ResNet": (
        ("resnet", "50x", 2048),
        zoo.resnet50,
        resnet_features,
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 60, "rank1": 0.9},
        "torchreid",
    ),
    "fastreid": (
        ("resnet", "18x", 512),
        zoo.resnet18,
        resnet_features,
        lambda state: {
            "model": {
                **in_model({k: v for k, v in state.items() if k[:2] != "fc"}),
                "heads.weight": torch.zeros(9, 512),
            },
            "iteration": 7,
        },
        "fastreid",
    ),
    "with the ReLU": (
        ("resnet", "18x", 512),
        zoo.resnet18,
        resnet_features,
        base_names(("conv1", "bn1", "relu", "maxpool", *STAGES)),
        "SpCL",
    ),
    "MobileNetV2": (*MOBILENETV2, dict, "torchvision's"),
    "MobileNetV2 of 2019": (*MOBILENETV2, flat_names, "before 2020"),
    "timm MobileNetV2": (*MOBILENETV2, timm_mobilenet, "timm's"),
    "EfficientNet": (*EFFICIENTNET, dict, "torchvision's Eff"),
    "timm EfficientNet": (*EFFICIENTNET, timm_efficientnet, "timm's Eff"),
}


@pytest.mark.parametrize("written", WRITTEN)
def test_the_network_computes_what_the_program_that_wrote_the_file_computes(written, tmp_path, caplog):
    network, make, features, write, words = WRITTEN[written]
    original = lively(make())
    torch.save(write(original.state_dict()), tmp_path / "w.pth")
    images = torch.rand(2, 3, 64, 32)
    with torch.no_grad(), caplog.at_level(logging.INFO):
        found = build_model(cfg_of(*network, tmp_path / "w.pth")).backbone.eval()(images)
        expected = features(original)(images)
    assert torch.allclose(found, expected, atol=1e-4 * expected.abs().max().item())
    assert re.search(rf"(\d+) of \1 weights fit .*named as by .*{words}", caplog.text)
    assert "WARNING" not in caplog.text


def test_weights_without_the_first_relu_are_taken_and_told_of(tmp_path, caplog):
    original = lively(zoo.resnet18())
    torch.save(base_names(("conv1", "bn1", "maxpool", *STAGES))(original.state_dict()), tmp_path / "w.pth")
    own = build_model(cfg_of("resnet", "18x", 512, tmp_path / "w.pth")).backbone.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in original.state_dict().items() if "fc" not in name)
    assert STEM_WITHOUT_RELU in caplog.text


def test_as_weights_of_the_whole_model_the_neck_comes_along(tmp_path, caplog):
    original = lively(zoo.resnet18())
    torch.save(base_names(("conv1", "bn1", "relu", "maxpool", *STAGES))(original.state_dict()), tmp_path / "w.pth")
    model = build_model(cfg_of("resnet", "18x", 512))
    ISECheckpointer(model).load(str(tmp_path / "w.pth"))
    assert torch.equal(model.backbone.conv1.weight, original.conv1.weight)
    assert model.heads.bottleneck[0].weight.unique().tolist() == pytest.approx([0.7])
    assert "3 weights of the head, heads.bottleneck.0.bias the first, stay as they were" in caplog.text


@pytest.mark.parametrize("tokens", ["one token", "distilled"])
def test_position_embeddings_are_resized_as_fastreid_does(tokens, tmp_path):
    cfg = cfg_of("vit", "small", 768, STRIDE_SIZE=(16, 16))
    cfg.INPUT.SIZE_TRAIN = [64, 64]
    state = build_model(cfg).backbone.state_dict()
    torch.nn.init.normal_(state["pos_embed"])
    if tokens == "distilled":
        state["pos_embed"] = torch.cat([state["pos_embed"][:, :1], state["pos_embed"]], dim=1)
    path = tmp_path / f"{tokens}.pth"
    torch.save({"model": state}, path)
    cfg.INPUT.SIZE_TRAIN, cfg.MODEL.BACKBONE.PRETRAIN = [128, 64], True
    cfg.MODEL.BACKBONE.PRETRAIN_PATH = str(path)
    found, expected = build_model(cfg).backbone.state_dict(), build_backbone(cfg).state_dict()
    assert found["pos_embed"].shape[1] == 33
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_another_network_is_named_with_the_keys_to_set(tmp_path):
    torch.save(zoo.resnet34().state_dict(), tmp_path / "w.pth")
    found = re.escape("MODEL.BACKBONE.NAME build_resnet_backbone MODEL.BACKBONE.DEPTH 34x MODEL.BACKBONE.FEAT_DIM 512")
    with pytest.raises(UsageError, match=f"PRETRAIN_PATH .*w.pth: 0 of 260 weights fit build_mobilenetv2.*{found}"):
        build_model(cfg_of("mobilenetv2", "1.0x", 1280, tmp_path / "w.pth"))
    model = build_model(cfg_of("resnet", "50x", 2048))
    with pytest.raises(UsageError, match=f"does not belong to this model.*is .64, 64, 3, 3. there.*{found}"):
        ISECheckpointer(model).load(str(tmp_path / "w.pth"))


def test_a_deeper_network_of_the_same_kind_is_told_of(tmp_path, caplog):
    torch.save(zoo.resnet34().state_dict(), tmp_path / "w.pth")
    build_model(cfg_of("resnet", "18x", 512, tmp_path / "w.pth"))
    assert "backbone.layer1.2.conv1.weight the first; left out" in caplog.text


@pytest.mark.parametrize("name, depth, width, ibn", NETWORKS)
def test_every_network_of_the_table_is_told_from_the_others(name, depth, width, ibn):
    cfg = cfg_of(name, depth, width, WITH_IBN=ibn)
    cfg.INPUT.SIZE_TRAIN = [64, 32]
    model = build_model(cfg).eval()
    assert f"DEPTH {depth} MODEL.BACKBONE.FEAT_DIM {width} MODEL.BACKBONE.WITH_IBN {ibn}" in look_of(model.state_dict())
    with torch.no_grad():
        assert model.backbone(torch.rand(1, 3, 64, 32)).shape[1] == width


@pytest.mark.parametrize(
    "content", [None, [], {}, {"model": {}}, {"epoch": 3}, torch.zeros(3), {"state_dict": {"a": 1}}]
)
def test_what_holds_no_weights(content):
    assert state_dict_of(content) == {}
    assert "0 weights, none the first, look like no network" in look_of({})


def test_counters_count_for_nothing():
    norm = nn.BatchNorm2d(3).state_dict()
    without = {name: value for name, value in norm.items() if "num_batches" not in name}
    fit = fit_weights(without, norm)
    assert (fit.count, fit.total, fit.missing, fit.share) == (4, 4, [], 1)
