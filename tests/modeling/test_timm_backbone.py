"""Networks of timm in training: a step, resume, accumulation, export; their maps, last strides, rates, and what is refused."""

import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from fastreid.solver.build import build_lr_scheduler
from fastreid.utils.env import seed_all_rng
from helpers import CONFIGS
from timm.models import build_model_with_cfg, register_model
from timm.models.efficientnet import _gen_efficientnet_lite
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ise_plugin.config import load_cfg
from ise_plugin.engine import ISETrainer
from ise_plugin.engine.checkpointing import ISECheckpointer, load_checkpoint_file
from ise_plugin.engine.step import TrainingStep, build_optimizer
from ise_plugin.errors import UsageError
from ise_plugin.inference.embedder import Embedder
from ise_plugin.inference.exports import LEAST_COSINE, export
from ise_plugin.modeling.build import build_model
from ise_plugin.modeling.normalization import GroupedBatchNorm2d

SIZE = [64, 32]
CPU = torch.device("cpu")


# timm has tiny networks of its own for tests, but none of these families
@register_model
def tiny_swin(pretrained=False, **options):
    sizes = {"patch_size": 2, "embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
    return build_model_with_cfg(SwinTransformer, "tiny_swin", pretrained, **{**sizes, **options})


@register_model
def tiny_dinov2(pretrained=False, **options):
    sizes = {"patch_size": 14, "embed_dim": 32, "depth": 2, "num_heads": 2, "init_values": 1e-1}
    return build_model_with_cfg(VisionTransformer, "tiny_dinov2", pretrained, **{**sizes, **options})


@register_model
def tiny_clip(pretrained=False, **options):
    sizes = {"patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "pre_norm": True}
    return build_model_with_cfg(VisionTransformer, "tiny_clip", pretrained, **{**sizes, **options})


@register_model
def tiny_lite(pretrained=False, **options):
    """EfficientNet-Lite with a block a stage and a quarter of its channels."""
    return _gen_efficientnet_lite("tiny_lite", 0.25, 0.1, pretrained, **options)


# family: timm's network
FAMILY = {
    "ConvNeXt": "test_convnext",
    "Swin": "tiny_swin",
    "ViT": "test_vit",
    "DINOv2": "tiny_dinov2",
    "EfficientNet-Lite": "tiny_lite",
    "ResNet": "test_resnet",
}


def cfg_of(depth, *more, size=SIZE):
    options = ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.BACKBONE.DEPTH", depth]
    options += ["MODEL.BACKBONE.PRETRAIN", "False", "INPUT.SIZE_TRAIN", str(size), "INPUT.SIZE_TEST", str(size)]
    return load_cfg(str(CONFIGS / "ISE/synthetic_tiny.yml"), [*options, *map(str, more)])


def train(cfg, resume=False):
    seed_all_rng(cfg.SEED)
    trainer = ISETrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return load_checkpoint_file(f"{cfg.OUTPUT_DIR}/model_final.pth")["model"]


@pytest.mark.parametrize("family", FAMILY)
def test_a_run_takes_steps_is_resumed_to_the_bit_and_is_exported(family, tiny_dataset, tmp_path):
    def cfg_in(name):
        more = ["DATASETS.TESTS", "()", "ISE.HOOKS", "()", "ISE.ITERS_PER_EPOCH", 1, "SOLVER.CHECKPOINT_PERIOD", 1]
        return cfg_of(FAMILY[family], "OUTPUT_DIR", tmp_path / name, *more)

    cfg = cfg_in("whole")
    weights = train(cfg)
    before = load_checkpoint_file(str(tmp_path / "whole/model_0000.pth"))["model"]
    trained = [name for name, value in before.items() if not torch.equal(value, weights[name])]
    assert any(name.startswith("backbone.") and name.endswith(".weight") for name in trained)

    (tmp_path / "cut").mkdir()
    (tmp_path / "whole/model_0000.pth").rename(tmp_path / "cut/model_0000.pth")
    (tmp_path / "cut/last_checkpoint").write_text("model_0000.pth")
    resumed = train(cfg_in("cut"), resume=True)
    assert weights.keys() == resumed.keys() and all(torch.equal(resumed[name], weights[name]) for name in weights)

    (tmp_path / "whole/config.yaml").write_text(cfg.dump())
    embedder = Embedder(str(tmp_path / "whole"), device="cpu")
    exported = export(embedder, str(tmp_path / "network"), "onnx")
    assert exported.least_cosine >= LEAST_COSINE == 0.9999
    pictures = [np.random.default_rng(seed).integers(0, 256, (64, 32, 3), np.uint8) for seed in range(2)]
    rows = embedder(pictures)
    assert np.abs(rows[0] - rows[1]).max() > 1e-3  # pictures are told apart


def gradients(depth, pieces):
    """Of the step of one batch, computed in so many pieces, by name."""
    cfg = cfg_of(depth, "ISE.BN_GROUP_SIZE", 4, "MODEL.BACKBONE.DROP_PATH_RATIO", 0.0)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    generator = torch.Generator().manual_seed(1)
    model.heads.set_centroids(F.normalize(torch.randn(5, model.heads.feat_dim, generator=generator), dim=1))
    images = torch.randint(0, 256, (8, 3, *SIZE), generator=generator, dtype=torch.uint8)
    step = TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.0), CPU, pieces=pieces)
    step.set_loader([{"images": images, "targets": torch.arange(8) % 5, "camids": torch.zeros(8, dtype=torch.int64)}])
    step.iter = 0
    step.run_step()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("family", FAMILY)
def test_a_batch_in_pieces_has_the_gradient_of_the_whole(family):
    whole, pieces = (gradients(FAMILY[family], count) for count in (1, 2))
    largest = max(gradient.abs().max().item() for gradient in whole.values())
    assert largest > 0
    for name, gradient in whole.items():
        assert torch.allclose(pieces[name], gradient, atol=1e-4 * largest), name


def test_a_map_is_what_timm_gives_without_pooling():
    for depth, shape in (("test_convnext", (64, 2, 1)), ("tiny_swin", (32, 16, 8)), ("test_resnet", (96, 4, 2))):
        model = build_model(cfg_of(depth)).eval()
        plain = timm.create_model(
            depth, num_classes=0, global_pool="", **({"img_size": SIZE} if "swin" in depth else {})
        )
        plain.load_state_dict(model.backbone.state_dict())
        if depth == "test_resnet":  # the last stride is taken
            for module in plain.layer4.modules():
                if isinstance(module, nn.Conv2d):
                    module.stride = (1, 1)
                elif isinstance(module, nn.AvgPool2d):
                    module.stride = module.kernel_size = 1
        images = torch.rand(2, 3, *SIZE)
        with torch.no_grad():
            found, expected = model.backbone(images), plain.eval()(images)
        expected = expected.permute(0, 3, 1, 2) if depth == "tiny_swin" else expected
        assert found.shape == (2, *shape) and torch.allclose(found, expected, atol=1e-6), depth
        assert model.backbone.feature_dim == model.heads.feat_dim == shape[0]


def test_a_transformer_gives_its_class_token():
    model = build_model(cfg_of("test_vit")).eval()
    images = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        expected = model.backbone.forward_features(images)[:, 0]
        assert torch.equal(model.backbone(images)[..., 0, 0], expected)


@pytest.mark.parametrize("depth", ["test_resnet", "resnet18d", "efficientnet_lite0"])
def test_the_last_stride_can_be_taken_or_left(depth):
    taken, left = (
        build_model(cfg_of(depth, "MODEL.BACKBONE.LAST_STRIDE", stride)).backbone.eval() for stride in (1, 2)
    )
    with torch.no_grad():
        large, small = (network(torch.rand(1, 3, *SIZE)).shape[2:] for network in (taken, left))
    assert (large, small) == ((4, 2), (2, 1))
    assert taken.state_dict().keys() == left.state_dict().keys()


def test_a_network_without_a_last_stride_stays_as_it_is(caplog):
    with caplog.at_level(logging.INFO):
        build_model(cfg_of("test_convnext"))
        model = build_model(cfg_of("resnetblur18"))
    assert caplog.text.count("LAST_STRIDE is not used") == 2
    with torch.no_grad():
        assert model.backbone.eval()(torch.rand(1, 3, *SIZE)).shape == (1, 512, 2, 1)


def test_batch_norms_with_activations_normalise_by_groups_and_activate():
    backbone = build_model(cfg_of("test_efficientnet")).backbone
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and all(isinstance(norm, GroupedBatchNorm2d) for norm in norms)
    plain = timm.create_model("test_efficientnet", num_classes=0, global_pool="")
    plain.load_state_dict(backbone.state_dict())
    images = torch.rand(2, 3, *SIZE)
    backbone = build_model(cfg_of("test_efficientnet", "MODEL.BACKBONE.LAST_STRIDE", 2)).backbone.eval()
    backbone.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert torch.allclose(backbone(images), plain.eval()(images), atol=1e-6)


def test_drop_path_dropout_and_the_patch_embedding_follow_the_config(caplog):
    rates = [
        "MODEL.BACKBONE.DROP_PATH_RATIO",
        0.3,
        "MODEL.BACKBONE.ATT_DROP_RATE",
        0.2,
        "MODEL.BACKBONE.DROP_RATIO",
        0.1,
    ]
    backbone = build_model(cfg_of("test_vit", *rates, "MODEL.BACKBONE.FREEZE_PATCH_EMBED", True)).backbone
    last = backbone.blocks[-1]
    assert last.drop_path1.drop_prob == pytest.approx(0.3)
    assert (last.attn.attn_drop.p, last.attn.proj_drop.p) == (0.2, 0.1)
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"patch_embed.proj.weight", "patch_embed.proj.bias"}
    with caplog.at_level(logging.INFO):
        build_model(cfg_of("ghostnet_050", *rates, "MODEL.BACKBONE.WITH_IBN", True))
    assert "MODEL.BACKBONE.DROP_PATH_RATIO is not used: ghostnet_050 has no drop_path_rate" in caplog.text
    assert "MODEL.BACKBONE.WITH_IBN True is not used by build_timm_backbone" in caplog.text


@pytest.mark.parametrize("fused", [True, False])
def test_rates_decay_from_layer_to_layer(fused):
    options = ["SOLVER.LAYER_DECAY", 0.5, "SOLVER.FUSED", fused, "SOLVER.OPT", "SGD", "SOLVER.BASE_LR", 1.0]
    cfg = cfg_of("tiny_dinov2", *options)
    model = build_model(cfg)
    names = {p: name for name, p in model.named_parameters()}
    groups = build_optimizer(cfg, model).param_groups
    rates = {names[p]: group["lr"] for group in groups for p in group["params"]}
    assert rates["heads.bottleneck.0.weight"] == 1
    assert (
        rates["backbone.norm.weight"]
        == rates["backbone.blocks.1.attn.qkv.weight"]
        == rates["backbone.blocks.1.norm1.bias"]
        == 0.5
    )
    assert rates["backbone.blocks.0.mlp.fc1.weight"] == 0.25
    assert rates["backbone.pos_embed"] == rates["backbone.patch_embed.proj.weight"] == 0.125
    assert not fused or len(groups) == 4  # one for each rate


def test_layer_decay_needs_a_network_that_knows_its_layers():
    with pytest.raises(UsageError, match="SOLVER.LAYER_DECAY: timm does not know the layers of MetaFormer"):
        cfg = cfg_of("poolformer_s12", "SOLVER.LAYER_DECAY", 0.5)
        build_optimizer(cfg, build_model(cfg))
    cfg = cfg_of(
        "18x", "MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.BACKBONE.FEAT_DIM", 512, "SOLVER.LAYER_DECAY", 0.5
    )
    with pytest.raises(UsageError, match="SOLVER.LAYER_DECAY needs a backbone that knows its layers"):
        build_optimizer(cfg, build_model(cfg))


def test_weights_of_timm_are_read_from_a_file_of_safetensors(tmp_path, caplog):
    from safetensors.torch import save_file

    plain = timm.create_model("test_vit", img_size=(64, 64))
    save_file(plain.state_dict(), tmp_path / "model.safetensors")
    more = ["MODEL.BACKBONE.PRETRAIN", True, "MODEL.BACKBONE.PRETRAIN_PATH", tmp_path / "model.safetensors"]
    with caplog.at_level(logging.INFO):
        own = build_model(cfg_of("test_vit", *more)).backbone.state_dict()
    assert "Position embeddings resized from 4 x 4 patches to 4 x 2" in caplog.text
    resized = F.interpolate(
        plain.pos_embed[:, 1:].reshape(1, 4, 4, 64).permute(0, 3, 1, 2), size=(4, 2), mode="bilinear"
    )
    assert torch.allclose(own["pos_embed"][:, 1:], resized.permute(0, 2, 3, 1).reshape(1, 8, 64), atol=1e-6)
    assert all(
        torch.equal(own[name], value)
        for name, value in plain.state_dict().items()
        if name in own and name != "pos_embed"
    )
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UsageError, match="no file of safetensors"):
        build_model(cfg_of("test_vit", *more))


def of_dinov2(state):
    """DINOv2's own files have a mask token, which networks that are not trained by masking lack."""
    return {**state, "mask_token": torch.zeros(1, 32)}


def of_clip(state):
    """OpenAI's names, image and text side by side."""
    swaps = [("patch_embed.proj", "conv1"), ("pos_embed", "positional_embedding"), ("norm_pre", "ln_pre")]
    swaps += [("cls_token", "class_embedding"), ("attn.qkv.", "attn.in_proj_"), ("attn.proj", "attn.out_proj")]
    swaps += [(".norm1", ".ln_1"), (".norm2", ".ln_2"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")]
    swaps += [("blocks.", "transformer.resblocks.")]
    written = {"token_embedding.weight": torch.zeros(9, 32)}
    for name, value in state.items():
        for own, other in swaps:
            name = name.replace(own, other)
        name = name.replace("norm.", "ln_post.") if name.startswith("norm.") else name
        lines = {"class_embedding": lambda v: v[0, 0], "positional_embedding": lambda v: v[0]}
        written[f"visual.{name}"] = lines.get(name, lambda v: v)(value)
    return written


@pytest.mark.parametrize("depth, write", [("tiny_dinov2", of_dinov2), ("tiny_clip", of_clip)])
def test_original_files_go_through_timms_conversion(depth, write, tmp_path, caplog):
    state = build_model(cfg_of(depth)).backbone.state_dict()
    torch.save(write(state), tmp_path / "w.pth")
    more = ["MODEL.BACKBONE.PRETRAIN", True, "MODEL.BACKBONE.PRETRAIN_PATH", tmp_path / "w.pth"]
    with caplog.at_level(logging.INFO):
        own = build_model(cfg_of(depth, *more)).backbone.state_dict()
    assert all(torch.equal(own[name], value) for name, value in state.items())
    assert f"{len(state)} of {len(state)} weights fit" in caplog.text


def test_a_run_is_evaluated_at_another_size(tmp_path):
    state = build_model(cfg_of("test_vit")).state_dict()
    torch.save({"model": state}, tmp_path / "model_final.pth")
    larger = build_model(cfg_of("test_vit", size=[96, 32]))
    ISECheckpointer(larger).load(str(tmp_path / "model_final.pth"))
    assert torch.equal(larger.backbone.blocks[0].attn.qkv.weight, state["backbone.blocks.0.attn.qkv.weight"])
    assert larger.backbone.pos_embed.shape == (1, 1 + 6 * 2, 64)


def test_the_hub_is_asked_for_what_the_config_names_and_for_nothing_else(tmp_path, monkeypatch):
    torch.save(timm.create_model("test_vit", img_size=SIZE).state_dict(), tmp_path / "w.pth")
    asked = []

    def hf_hub_download(repository, file):
        asked.append((repository, file))
        if file != "w.pth":
            raise OSError("offline")
        return str(tmp_path / "w.pth")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=hf_hub_download))
    pretrained = ["MODEL.BACKBONE.PRETRAIN", True, "MODEL.BACKBONE.PRETRAIN_PATH"]
    build_model(cfg_of("test_vit", *pretrained, "hub://someone/people/w.pth"))
    assert asked == [("someone/people", "w.pth")]
    with pytest.raises(UsageError, match="people/x.pth cannot be downloaded .OSError: offline.; download it by hand"):
        build_model(cfg_of("test_vit", *pretrained, "hub://someone/people/x.pth"))
    with pytest.raises(UsageError, match="hub://someone names no file; write hub://OWNER/NAME/FILE"):
        build_model(cfg_of("test_vit", *pretrained, "hub://someone"))
    with pytest.raises(
        UsageError, match="downloaded for test_vit unasked.*hub://timm/test_vit.r160_in1k/model.safetensors"
    ):
        build_model(cfg_of("test_vit", *pretrained, ""))
    assert len(asked) == 2


def test_missing_packages_are_told_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match="build_timm_backbone needs timm, which is not installed: pip install timm"):
        build_model(cfg_of("test_vit"))
    pretrained = ["MODEL.BACKBONE.PRETRAIN", True, "MODEL.BACKBONE.PRETRAIN_PATH"]
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match="pip install huggingface_hub"):
        build_model(cfg_of("test_vit", *pretrained, "hub://a/b/c"))
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    (tmp_path / "w.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="pip install safetensors"):
        build_model(cfg_of("test_vit", *pretrained, tmp_path / "w.safetensors"))


@pytest.mark.parametrize(
    "depth, more, message",
    [
        ("vit_smal_patch16_224", (), "no network 'vit_smal_patch16_224'; the nearest are vit_small_patch16_224, "),
        ("vit_small_icz", (), "the nearest are vit_small_ics"),
        ("hf-hub:someone/model", (), "timm has no network"),
        ("test_vit.nowhere", (), "no network 'test_vit.nowhere'; the nearest are test_vit.r160_in1k"),
        (
            "test_resnet",
            ("MODEL.BACKBONE.FREEZE_PATCH_EMBED", True),
            "FREEZE_PATCH_EMBED: test_resnet has no patch embedding",
        ),
        ("efficientformer_l1", (), "DEPTH efficientformer_l1 does not take images of INPUT.SIZE_TRAIN .64, 32."),
    ],
)
def test_what_cannot_be_built_is_named(depth, more, message):
    with pytest.raises(UsageError, match=message):
        build_model(cfg_of(depth, *more))


@pytest.mark.parametrize("name", ["market_vits", "msmt17_vits"])
def test_the_recipes_for_transformers_train_with_sgd_warm_up_and_layer_decay(name):
    cfg = load_cfg(f"ISE/{name}.yml", ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.PRETRAIN", "False"])
    assert (cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.DEPTH) == ("build_timm_backbone", "vit_small_ics")
    cfg.MODEL.BACKBONE.DEPTH = "tiny_dinov2"
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    assert type(optimizer) is torch.optim.SGD and optimizer.defaults["momentum"] == 0.9
    top, below = (
        {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}[id(p)]
        for p in (
            model.heads.bottleneck[0].weight,
            model.backbone.blocks[1].attn.qkv.weight,
        )
    )
    assert (top, below) == pytest.approx((3.5e-4, 0.9 * 3.5e-4))
    schedulers = build_lr_scheduler(cfg, optimizer, cfg.ISE.ITERS_PER_EPOCH)
    assert max(group["lr"] for group in optimizer.param_groups) == pytest.approx(3.5e-5)
    optimizer.step()
    for _ in range(cfg.SOLVER.WARMUP_ITERS):
        schedulers["warmup_sched"].step()
    assert max(group["lr"] for group in optimizer.param_groups) == pytest.approx(3.5e-4)
