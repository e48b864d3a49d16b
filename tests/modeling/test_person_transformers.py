"""Published vision transformers for people, read from random weights in each program's layout, against a slow network written
from the papers (Dosovitskiy et al., ICLR 2021; Luo et al., arXiv 2111.12084; Zhu et al., ECCV 2022): loops, in float64."""

import argparse
import logging
import math
import re
from functools import lru_cache

import pytest
import torch
import torch.nn.functional as F
from helpers import CONFIGS

from ise_plugin.config import load_cfg
from ise_plugin.engine.checkpointing import ISECheckpointer
from ise_plugin.errors import UsageError
from ise_plugin.modeling.build import build_model
from ise_plugin.modeling.timm_backbone import grid_of

WIDTH, BLOCKS, HEADS, PATCH = 384, 12, 6, 16
GRID = (16, 8)  # patches that the files' position embeddings are for
SIZES = ([256, 128], [384, 128])


@lru_cache(maxsize=None)
def plain(stem=False, parts=0):
    """Random weights of a ViT-S by the names that all of its programs share; every tensor such that a mistaken place shows."""
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape, std=0.04: torch.randn(shape, generator=generator) * std
    scale = lambda count: torch.rand(count, generator=generator) + 0.5

    def norm(name, width=WIDTH):
        return {f"{name}.weight": scale(width), f"{name}.bias": draw(width)}

    def batch_norm(name, width):
        return {**norm(name, width), f"{name}.running_mean": draw(width), f"{name}.running_var": scale(width)}

    state = {"cls_token": draw(1, 1, WIDTH), **norm("norm")}
    state["patch_embed.proj.weight"] = draw(WIDTH, *((64, 8, 8) if stem else (3, PATCH, PATCH)))
    state["patch_embed.proj.bias"] = draw(WIDTH)
    for block in range(BLOCKS):
        for name, rows, columns in (
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", 4 * WIDTH, WIDTH),
            ("mlp.fc2", WIDTH, 4 * WIDTH),
        ):
            state[f"blocks.{block}.{name}.weight"], state[f"blocks.{block}.{name}.bias"] = (
                draw(rows, columns),
                draw(rows),
            )
        state.update({**norm(f"blocks.{block}.norm1"), **norm(f"blocks.{block}.norm2")})
    if stem:
        for place, channels, side in ((0, 3, 7), (3, 64, 3), (6, 64, 3)):
            state[f"patch_embed.conv.{place}.weight"] = draw(64, channels, side, side)
        for place in (1, 4):
            state.update(norm(f"patch_embed.conv.{place}.IN", 32) | batch_norm(f"patch_embed.conv.{place}.BN", 32))
        state.update(batch_norm("patch_embed.conv.7", 64))
    patches = GRID[0] * GRID[1]
    if not parts:
        return {**state, "pos_embed": draw(1, 1 + patches, WIDTH, std=0.3)}
    state.update({"pos_embed": draw(1, patches, WIDTH, std=0.3), "cls_pos": draw(1, 1, WIDTH, std=0.3)})
    for part in range(1, parts + 1):
        state.update({f"part_token{part}": draw(1, 1, WIDTH), f"part{part}_pos": draw(1, 1, WIDTH, std=0.3)})
    return state


def prefixed(state, prefix):
    return {f"{prefix}{name}": value for name, value in state.items()}


def dino(state, **more):
    """As DINO and iBOT save a training: student and teacher, each a backbone with a head, and the command line."""
    head = {"head.mlp.0.weight": torch.ones(8, WIDTH), "head.last_layer.weight_v": torch.ones(9, 8)}
    student = {
        **prefixed({name: value + 1 for name, value in state.items()}, "module.backbone."),
        **prefixed(head, "module."),
    }
    return {
        "student": student,
        "teacher": {**prefixed(state, "backbone."), **head, **more},
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", patch_size=16, lr=5e-4),
        "dino_loss": {"center": torch.zeros(1, 9)},
    }


def fine_tuned(state):
    """As TransReID saves a network that has been trained on identities."""
    neck = {"weight": torch.full((WIDTH,), 0.7), "bias": torch.zeros(WIDTH)}
    neck.update({"running_mean": torch.full((WIDTH,), 0.1), "running_var": torch.ones(WIDTH)})
    return {**prefixed(state, "base."), **prefixed(neck, "bottleneck."), "classifier.weight": torch.zeros(751, WIDTH)}


# id: the network's name here, arguments of its weights, how they are written, words of the layout
PUBLISHED = {
    "LUPerson DINO": ("vit_small_patch16_224", {}, dino, "DINO"),
    "TransReID-SSL ICS": ("vit_small_ics", {"stem": True}, dict, "timm"),
    "TransReID-SSL fine-tuned": ("vit_small_ics", {"stem": True}, fine_tuned, "TransReID"),
    "PASS": ("vit_small_pass", {"parts": 3}, dino, "DINO"),
    "PersonViT": (
        "vit_small_patch16_224",
        {},
        lambda state: dino(state, **{"backbone.masked_embed": torch.zeros(1, WIDTH)}),
        "DINO",
    ),
}


def cfg_of(depth, size, path="", **keys):
    options = {"MODEL.DEVICE": "cpu", "MODEL.BACKBONE.NAME": "build_timm_backbone", "MODEL.BACKBONE.DEPTH": depth}
    options.update({"MODEL.BACKBONE.PRETRAIN": bool(path), "MODEL.BACKBONE.PRETRAIN_PATH": str(path)})
    options.update({"INPUT.SIZE_TRAIN": size, "INPUT.SIZE_TEST": size, **keys})
    return load_cfg(str(CONFIGS / "Base-ISE.yml"), [str(part) for pair in options.items() for part in pair])


def resized(grid, size):
    """(h, w, C) -> (*size, C), bilinearly between the centres of cells."""
    out = torch.zeros(*size, grid.shape[2], dtype=grid.dtype)

    def between(place, count, cells):
        at = min(max((place + 0.5) * cells / count - 0.5, 0), cells - 1)
        first = min(int(at), cells - 1)
        return first, min(first + 1, cells - 1), at - first

    for row in range(size[0]):
        top, bottom, down = between(row, size[0], grid.shape[0])
        for column in range(size[1]):
            left, right, across = between(column, size[1], grid.shape[1])
            upper = grid[top, left] * (1 - across) + grid[top, right] * across
            lower = grid[bottom, left] * (1 - across) + grid[bottom, right] * across
            out[row, column] = upper * (1 - down) + lower * down
    return out


def normalised(values, weight, bias, eps=1e-6):
    return (values - values.mean(-1, keepdim=True)) / (
        values.var(-1, correction=0, keepdim=True) + eps
    ).sqrt() * weight + bias


def batch_normalised(x, w, name):
    column = lambda key: w[f"{name}.{key}"].view(1, -1, 1, 1)
    values = (x - column("running_mean")) / (column("running_var") + 1e-5).sqrt()
    return values * column("weight") + column("bias")


def stem_of(x, w):
    """Three convolutions; after the first two half of the channels are normalised by image, half by batch."""
    for place, stride, padding in ((0, 2, 3), (3, 1, 1), (6, 1, 1)):
        x = F.conv2d(x, w[f"patch_embed.conv.{place}.weight"], stride=stride, padding=padding)
        name = f"patch_embed.conv.{place + 1}"
        if place == 6:
            return batch_normalised(x, w, name).clamp(min=0)
        by_image = x[:, :32].flatten(2)
        by_image = normalised(by_image, w[f"{name}.IN.weight"][:, None], w[f"{name}.IN.bias"][:, None], 1e-5)
        x = torch.cat([by_image.view_as(x[:, :32]), batch_normalised(x[:, 32:], w, f"{name}.BN")], dim=1).clamp(min=0)


def reference(state, images):
    """The class token of the last block, normalised: (B, 384), float64."""
    w = {name: value.double() for name, value in state.items()}
    pixels = images.double()
    side = PATCH
    if "patch_embed.conv.0.weight" in w:
        pixels, side = stem_of(pixels, w), PATCH // 2
    size = (pixels.shape[2] // side, pixels.shape[3] // side)
    kernel = w["patch_embed.proj.weight"].flatten(1)
    rows = []
    for image in pixels:
        cut = lambda r, c: image[:, r * side : (r + 1) * side, c * side : (c + 1) * side].flatten()
        patches = torch.stack([cut(r, c) for r in range(size[0]) for c in range(size[1])])
        rows.append(patches @ kernel.T + w["patch_embed.proj.bias"])
    x = torch.stack(rows)
    position, tokens = w["pos_embed"][0], [w["cls_token"][0]]
    if "cls_pos" in w:
        tokens[0] = tokens[0] + w["cls_pos"][0]
        tokens += [w[f"part_token{part}"][0] + w[f"part{part}_pos"][0] for part in (1, 2, 3)]
    else:
        tokens[0], position = tokens[0] + position[:1], position[1:]
    x = x + resized(position.view(*GRID, WIDTH), size).view(-1, WIDTH)
    x = torch.cat([torch.cat(tokens).expand(len(x), -1, -1), x], dim=1)
    for block in range(BLOCKS):
        of = lambda name: (w[f"blocks.{block}.{name}.weight"], w[f"blocks.{block}.{name}.bias"])
        linear = lambda values, name: values @ of(name)[0].T + of(name)[1]
        query, key, value = linear(normalised(x, *of("norm1")), "attn.qkv").split(WIDTH, dim=2)
        found = []
        for head in range(HEADS):
            part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            scores = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(WIDTH // HEADS)
            weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
            found.append(weights @ value[..., part])
        x = x + linear(torch.cat(found, dim=2), "attn.proj")
        hidden = linear(normalised(x, *of("norm2")), "mlp.fc1")
        x = x + linear(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), "mlp.fc2")
    return normalised(x, w["norm.weight"], w["norm.bias"])[:, 0]


@pytest.fixture
def never_drawn(monkeypatch):
    """What a file leaves as timm initialises it becomes NaN, and the embeddings with it."""

    def spoil(tensor, *_, **__):
        return tensor.data.fill_(float("nan"))

    for name in ("trunc_normal_", "normal_", "xavier_uniform_", "kaiming_uniform_", "kaiming_normal_", "uniform_"):
        monkeypatch.setattr(torch.nn.init, name, spoil)
    monkeypatch.setattr("timm.models.vision_transformer.trunc_normal_", spoil)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]} x {size[1]}")
@pytest.mark.parametrize("published", PUBLISHED)
def test_embeddings_are_those_of_the_reference_network(published, size, tmp_path, caplog, never_drawn):
    depth, arguments, write, words = PUBLISHED[published]
    state = plain(**arguments)
    torch.save(write(state), tmp_path / "w.pth")
    with caplog.at_level(logging.INFO):
        model = build_model(cfg_of(depth, size, tmp_path / "w.pth")).eval()
    assert re.search(rf"(\d+) of \1 weights fit build_timm_backbone {depth}, named as by .*{words}", caplog.text)
    assert "start at random" not in caplog.text
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = model.backbone(images)
        expected = reference(state, images)
    assert found.shape == (2, WIDTH, 1, 1)
    difference = F.normalize(found[..., 0, 0], dim=1).double() - F.normalize(expected, dim=1)
    assert difference.abs().max() <= 1e-5
    assert (expected[0] - expected[1]).abs().max() > 1e-2  # the pictures are told apart


def test_the_neck_of_a_fine_tuned_network_comes_along(tmp_path):
    torch.save(fine_tuned(plain(stem=True)), tmp_path / "w.pth")
    model = build_model(cfg_of("vit_small_ics", [256, 128]))
    ISECheckpointer(model).load(str(tmp_path / "w.pth"))
    assert model.heads.bottleneck[0].weight.unique().tolist() == pytest.approx([0.7])


def test_another_network_is_told_of_by_the_names_that_did_not_fit(tmp_path):
    torch.save(dino(plain(parts=3)), tmp_path / "w.pth")
    wanted = "pos_embed is .1, 132, 384. there and .1, 129, 384. here.*DEPTH vit_small_pass"
    with pytest.raises(UsageError, match=wanted):
        build_model(cfg_of("vit_small_patch16_224", [256, 128], tmp_path / "w.pth"))
    with pytest.raises(UsageError, match="stem.0.weight is not in it, .*and [0-9]+ more.*transformer.*vit_small_pass"):
        build_model(cfg_of("convnext_atto", [256, 128], tmp_path / "w.pth"))


@pytest.mark.parametrize(
    "patches, ratio, grid",
    [(196, 2, (14, 14)), (128, 2, (16, 8)), (192, 2, (24, 8)), (210, 2, (21, 10)), (131, 2, None), (0, 2, None)],
)
def test_grids_of_patches(patches, ratio, grid):
    assert grid_of(patches, ratio) == grid
