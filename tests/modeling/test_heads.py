"""The head: evaluation as fastreid's EmbeddingHead, training as the method's functions one after the other."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastreid.modeling.heads import EmbeddingHead
from helpers import Reads
from torch.utils._python_dispatch import _disable_current_modes

from ise_plugin.config import get_cfg
from ise_plugin.errors import UsageError
from ise_plugin.method import (
    ClusterMemory,
    generate_support_samples,
    inter_camera_loss,
    intra_camera_loss,
    label_preserving_loss,
    memory,
    moved_in_turn,
    sample_extension_loss,
)
from ise_plugin.modeling import CameraProxyLoss, CameraProxyMemory, ClusterMemoryHead, ISELoss
from ise_plugin.registry import LOSS
from ise_plugin.utils.distributed import WholeBatch


@pytest.fixture
def feature_map():
    return torch.rand(8, 16, 4, 2, generator=torch.Generator().manual_seed(0))


def make_head(**options):
    head = ClusterMemoryHead(feat_dim=16, **options)
    head.set_centroids(torch.randn(5, 16, generator=torch.Generator().manual_seed(1)))
    return head


LABELS = torch.tensor([0, 0, 3, 3, 4, 4, 0, 0])


@pytest.mark.parametrize("embedding_dim", [0, 6])
@pytest.mark.parametrize("pool_type", ["GlobalAvgPool", "GeneralizedMeanPoolingP"])
def test_evaluation_and_weights_are_those_of_fastreids_head(feature_map, embedding_dim, pool_type):
    theirs = EmbeddingHead(
        feat_dim=16,
        embedding_dim=embedding_dim,
        num_classes=7,
        neck_feat="after",
        pool_type=pool_type,
        cls_type="Linear",
        scale=1,
        margin=0.0,
        with_bnneck=True,
        norm_type="BN",
    )
    theirs.train()
    theirs.bottleneck(theirs.pool_layer(feature_map))  # running statistics other than 0 and 1
    ours = ClusterMemoryHead(feat_dim=16, embedding_dim=embedding_dim, pool_type=pool_type)
    weights = theirs.state_dict()
    assert set(ours.state_dict()) == set(weights) - {"weight"}
    ours.load_state_dict({k: v for k, v in weights.items() if k != "weight"})
    assert torch.equal(ours.eval()(feature_map), theirs.eval()(feature_map))
    missing = EmbeddingHead.load_state_dict(theirs, ours.state_dict(), strict=False).missing_keys
    assert missing == ["weight"]


def test_training_output_is_the_method_step_by_step(feature_map):
    head = make_head(num_neighbors=2, momentum=0.3, update="mean").train()
    head.degree = 0.2
    old = head.memory.centroids.clone()
    embeddings = F.normalize(head.bottleneck(head.pool_layer(feature_map))[..., 0, 0], dim=1)
    supports, support_labels = generate_support_samples(embeddings, LABELS, old, 2, 0.2)
    expected_memory = ClusterMemory(old, 0.3, "mean")
    expected_memory.update(torch.cat([embeddings, supports]), torch.cat([LABELS, support_labels]))
    outputs = head(feature_map, LABELS)
    assert torch.allclose(outputs["features"], embeddings, atol=1e-6)
    assert torch.allclose(outputs["supports"], supports, atol=1e-6)
    assert torch.equal(outputs["support_labels"], support_labels)
    assert torch.equal(outputs["centroids"], old)
    assert torch.allclose(head.memory.centroids, expected_memory.centroids, atol=1e-6)


def test_losses_are_the_methods_and_their_gradient_reaches_the_input(feature_map):
    head = make_head().train()
    head.degree = 0.25
    feature_map.requires_grad_()
    outputs = head(feature_map, LABELS)
    losses = ISELoss(temperature=0.07, lp_weight=0.5, lp_temperature=0.4)(outputs)
    everything, labels = (
        torch.cat([outputs["features"], outputs["supports"]]),
        torch.cat([LABELS, outputs["support_labels"]]),
    )
    expected_se = sample_extension_loss(everything, labels, outputs["centroids"], 0.07)
    expected_lp = label_preserving_loss(
        outputs["features"], outputs["supports"], LABELS, outputs["support_labels"], 0.4
    )
    assert torch.equal(losses["loss_se"], expected_se) and torch.allclose(losses["loss_lp"], 0.5 * expected_lp)
    sum(losses.values()).backward()
    assert feature_map.grad.abs().sum() > 0


def test_without_support_samples_the_loss_is_that_of_cluster_contrast(feature_map):
    head = make_head(num_neighbors=0).train()
    outputs = head(feature_map, LABELS)
    losses = ISELoss()(outputs)
    assert len(outputs["supports"]) == 0 and set(losses) == {"loss_se"}
    assert torch.equal(
        losses["loss_se"], sample_extension_loss(outputs["features"], LABELS, outputs["centroids"], 0.05)
    )


def test_support_samples_of_the_label_preserving_loss_alone_change_nothing_else(feature_map):
    head, without = (
        make_head(**options).train() for options in ({"supports_in_contrast": False}, {"num_neighbors": 0})
    )
    head.degree = 0.25
    outputs, expected = head(feature_map, LABELS), without(feature_map, LABELS)
    assert torch.equal(head.memory.centroids, without.memory.centroids) and len(outputs["supports"]) == len(LABELS)
    losses = ISELoss(supports_in_contrast=False)(outputs)
    assert torch.equal(losses["loss_se"], ISELoss()(expected)["loss_se"])
    assert torch.equal(losses["loss_lp"], ISELoss()(outputs)["loss_lp"])


def test_no_weight_leaves_the_label_preserving_loss_out(feature_map):
    assert set(ISELoss(lp_weight=0.0)(make_head().train()(feature_map, LABELS))) == {"loss_se"}


def test_too_few_clusters_use_the_neighbors_there_are_with_one_warning(feature_map, caplog):
    head = make_head(num_neighbors=9).train()
    with caplog.at_level(logging.WARNING, logger="fastreid.ise"):
        assert len(head(feature_map, LABELS)["supports"]) == 8 * 4
        head(feature_map, LABELS)
    assert len(caplog.records) == 1 and "NUM_NEIGHBORS is 9" in caplog.text
    head.set_centroids(torch.eye(16)[:1])
    assert len(head(feature_map, torch.zeros(8, dtype=torch.long))["supports"]) == 0


def test_training_without_a_memory_says_what_to_do(feature_map):
    with pytest.raises(RuntimeError, match="set_centroids"):
        ClusterMemoryHead(feat_dim=16).train()(feature_map, LABELS)


def test_memory_is_not_part_of_the_checkpoint():
    assert not any("centroids" in key for key in make_head().state_dict())


def test_neck_without_batch_norm_is_the_pooled_feature(feature_map):
    head = ClusterMemoryHead(feat_dim=16, with_bnneck=False).eval()
    assert torch.allclose(head(feature_map), feature_map.mean((2, 3)), atol=1e-6)


def test_config_reaches_the_head_and_the_loss():
    cfg = get_cfg()
    cfg.MODEL.LOSSES.NAME = ("ISELoss",)
    cfg.MODEL.BACKBONE.FEAT_DIM, cfg.MODEL.HEADS.EMBEDDING_DIM, cfg.MODEL.HEADS.WITH_BNNECK = 16, 6, True
    cfg.ISE.SUPPORT.NUM_NEIGHBORS, cfg.ISE.MEMORY.MOMENTUM, cfg.ISE.MEMORY.UPDATE = 3, 0.7, "mean"
    cfg.ISE.MEMORY.TEMPERATURE, cfg.ISE.LABEL_PRESERVING.WEIGHT, cfg.ISE.LABEL_PRESERVING.TEMPERATURE = 0.2, 0.3, 0.4
    head, loss = ClusterMemoryHead(cfg), ISELoss(cfg)
    assert (head.num_neighbors, head.momentum, head.update_rule) == (3, 0.7, "mean")
    assert head.bottleneck[0].out_channels == 6 and head.bottleneck[1].num_features == 6
    assert (loss.temperature, loss.lp_weight, loss.lp_temperature) == (0.2, 0.3, 0.4)
    assert head.supports_in_contrast and loss.supports_in_contrast
    cfg.ISE.SUPPORT.ENABLED = cfg.ISE.SUPPORT.IN_CONTRAST = False
    assert ClusterMemoryHead(cfg).num_neighbors == 0
    assert not ClusterMemoryHead(cfg).supports_in_contrast and not ISELoss(cfg).supports_in_contrast
    cfg.MODEL.HEADS.POOL_LAYER = "Median"
    with pytest.raises(UsageError, match="GlobalAvgPool.*Median"):
        ClusterMemoryHead(cfg)


# of the training images; the batch has eight of them
IMAGE_LABELS = torch.tensor([0, 0, 0, 1, 2, 3, 3, 3, 4, 4, 0, -1])
IMAGE_CAMERAS = np.array([0, 1, 0, 1, 0, 0, 2, -1, 1, 1, 5, 0])
BATCH = torch.tensor([0, 1, 5, 6, 8, 9, 10, 0])
# label and camera of each proxy, and the proxies of the batch
PAIRS = [[0, 0], [0, 1], [0, 5], [1, 1], [2, 0], [3, 0], [3, 2], [4, 1]]
OWN = torch.tensor([0, 1, 5, 6, 7, 7, 2, 0])


def make_head_with_proxies(**options):
    head = make_head(memories={"CameraProxyMemory": CameraProxyMemory(0.3)}, **options)
    features = torch.randn(len(IMAGE_LABELS), 16, generator=torch.Generator().manual_seed(2))
    proxies_of(head).fill(F.normalize(features), IMAGE_LABELS, SimpleNamespace(cameras=IMAGE_CAMERAS))
    return head.train()


def proxies_of(head):
    return head.memories["CameraProxyMemory"]


def whole(labels=LABELS, indices=BATCH):
    return WholeBatch(labels, (len(labels),), indices)


def test_camera_proxies_see_the_real_samples_alone(feature_map):
    head, plain = make_head_with_proxies(num_neighbors=2), make_head(num_neighbors=2).train()
    head.degree = plain.degree = 0.2
    before = proxies_of(head).proxies.clone()
    outputs, without = head(feature_map, LABELS, whole()), plain(feature_map, LABELS)
    assert len(outputs["supports"]) == 16 and all(torch.equal(outputs[name], without[name]) for name in without)
    assert torch.equal(outputs["proxies"], before) and torch.equal(outputs["own_proxies"], OWN)
    assert outputs["proxy_pairs"].tolist() == PAIRS
    assert torch.equal(proxies_of(head).proxies, moved_in_turn(before, outputs["features"], OWN, 0.3))
    assert torch.equal(head.memory.centroids, plain.memory.centroids)
    assert not any("proxies" in key for key in head.state_dict())


def test_outliers_take_no_part_in_cluster_memory_support_samples_and_losses(feature_map):
    """The losses and the memory are those of the batch without them, although features and labels have them."""
    labels = torch.tensor([0, -1, 3, 3, 4, -1, 0, 0])
    head, plain = make_head(num_neighbors=2).train(), make_head(num_neighbors=2)
    head.degree = plain.degree = 0.2
    embeddings = head.embed(feature_map).detach().requires_grad_()
    clustered = embeddings.detach()[labels >= 0].requires_grad_()
    outputs, expected = head.extend(embeddings, labels), plain.extend(clustered, labels[labels >= 0])
    assert torch.equal(outputs["labels"], labels) and torch.equal(outputs["features"], embeddings)
    assert torch.equal(outputs["supports"], expected["supports"])
    assert torch.equal(head.memory.centroids, plain.memory.centroids)
    losses, expected_losses = ISELoss()(outputs), ISELoss()(expected)
    assert losses.keys() == expected_losses.keys() == {"loss_se", "loss_lp"}
    assert all(torch.allclose(losses[name], expected_losses[name]) for name in losses)
    sum(losses.values()).backward(), sum(expected_losses.values()).backward()
    assert torch.allclose(embeddings.grad[labels >= 0], clustered.grad, atol=1e-6)
    assert torch.equal(embeddings.grad[labels < 0], torch.zeros(2, 16))


def test_a_batch_of_outliers_alone_has_no_loss_and_moves_nothing(feature_map):
    head = make_head().train()
    before = head.memory.centroids
    outputs = head(feature_map.requires_grad_(), torch.full((8,), -1))
    losses = ISELoss()(outputs)
    assert losses == {"loss_se": 0} and torch.equal(head.memory.centroids, before)
    losses["loss_se"].backward()
    assert torch.equal(feature_map.grad, torch.zeros_like(feature_map))


def test_proxy_losses_are_the_methods_weighted(feature_map):
    outputs = make_head_with_proxies()(feature_map.requires_grad_(), LABELS, whole())
    losses = CameraProxyLoss(temperature=0.1, intra_weight=0.3, inter_weight=0.7, num_negatives=2)(outputs)
    logits = outputs["features"] @ outputs["proxies"].t() / 0.1
    assert torch.allclose(losses["loss_intra"], 0.3 * intra_camera_loss(logits, OWN, torch.tensor(PAIRS)[:, 1]))
    assert torch.allclose(losses["loss_inter"], 0.7 * inter_camera_loss(logits, OWN, torch.tensor(PAIRS)[:, 0], 2))
    assert all(loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert feature_map.grad.abs().sum() > 0
    assert set(CameraProxyLoss(intra_weight=0.0)(outputs)) == {"loss_inter"}
    assert set(CameraProxyLoss(inter_weight=0.0)(outputs)) == {"loss_intra"}


def test_proxies_read_nothing_back_from_the_device(feature_map, monkeypatch):
    head, groups = make_head_with_proxies(), memory._groups

    def on_the_host(labels):  # from labels that the loader left there
        with _disable_current_modes():
            return groups(labels)

    monkeypatch.setattr(memory, "_groups", on_the_host)
    with Reads() as reads:
        sum(CameraProxyLoss()(head(feature_map.requires_grad_(), LABELS, whole())).values()).backward()
    assert reads.seen == set()
    with Reads() as reads:
        feature_map[OWN >= 0]
    assert reads.seen == {"index"}  # it would have noticed


def test_proxies_that_are_missing_are_told_of(feature_map):
    with pytest.raises(RuntimeError, match="needs the batch's indices"):
        make_head_with_proxies()(feature_map, LABELS)
    with pytest.raises(UsageError, match="CameraProxyLoss.*MODEL.HEADS.NAME"):
        CameraProxyLoss()(make_head().train()(feature_map, LABELS))


@LOSS.register()
class WantsInstances(torch.nn.Module):
    wants = ("InstanceMemory", "CameraProxyMemory")


def test_losses_say_which_memories_the_head_keeps_and_whether_it_makes_support_samples():
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.FEAT_DIM, cfg.ISE.CAMERAS.PROXY.MOMENTUM, cfg.ISE.MEMORY.INSTANCE_MOMENTUM = 16, 0.6, 0.7
    for names, memories, neighbors in (
        (("ISELoss",), [], 1),
        (("ISELoss", "CameraProxyLoss"), ["CameraProxyMemory"], 1),
        (("WantsInstances", "CameraProxyLoss"), ["InstanceMemory", "CameraProxyMemory"], 0),
    ):
        cfg.MODEL.LOSSES.NAME = names
        head = ClusterMemoryHead(cfg)
        assert (list(head.memories), head.num_neighbors) == (memories, neighbors)
    assert (head.memories["CameraProxyMemory"].momentum, head.memories["InstanceMemory"].momentum) == (0.6, 0.7)
    settings = cfg.ISE.CAMERAS.PROXY
    settings.TEMPERATURE, settings.INTRA_WEIGHT, settings.INTER_WEIGHT, settings.NEGATIVES = 0.1, 0.2, 0.3, 4
    loss = CameraProxyLoss(cfg)
    assert (loss.temperature, loss.intra_weight, loss.inter_weight, loss.num_negatives) == (0.1, 0.2, 0.3, 4)


def test_a_memory_that_is_not_there_is_named_with_the_loss_that_wants_it(monkeypatch):
    monkeypatch.setattr(WantsInstances, "wants", ("InstanceMemroy",))
    cfg = get_cfg()
    cfg.MODEL.LOSSES.NAME = ("WantsInstances",)
    with pytest.raises(UsageError, match="WantsInstances.wants.*InstanceMemroy.*did you mean InstanceMemory"):
        ClusterMemoryHead(cfg)
