"""The head: evaluation as fastreid's EmbeddingHead, training as the method's functions one after the other."""

import logging

import pytest
import torch
import torch.nn.functional as F
from fastreid.modeling.heads import EmbeddingHead

from ise_plugin.config import get_cfg
from ise_plugin.errors import UsageError
from ise_plugin.method import ClusterMemory, generate_support_samples, label_preserving_loss, sample_extension_loss
from ise_plugin.modeling import ClusterMemoryHead, ISELoss


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
    cfg.MODEL.BACKBONE.FEAT_DIM, cfg.MODEL.HEADS.EMBEDDING_DIM, cfg.MODEL.HEADS.WITH_BNNECK = 16, 6, True
    cfg.ISE.SUPPORT.NUM_NEIGHBORS, cfg.ISE.MEMORY.MOMENTUM, cfg.ISE.MEMORY.UPDATE = 3, 0.7, "mean"
    cfg.ISE.MEMORY.TEMPERATURE, cfg.ISE.LABEL_PRESERVING.WEIGHT, cfg.ISE.LABEL_PRESERVING.TEMPERATURE = 0.2, 0.3, 0.4
    head, loss = ClusterMemoryHead(cfg), ISELoss(cfg)
    assert (head.num_neighbors, head.momentum, head.update_rule) == (3, 0.7, "mean")
    assert head.bottleneck[0].out_channels == 6 and head.bottleneck[1].num_features == 6
    assert (loss.temperature, loss.lp_weight, loss.lp_temperature) == (0.2, 0.3, 0.4)
    cfg.ISE.SUPPORT.ENABLED = False
    assert ClusterMemoryHead(cfg).num_neighbors == 0
    cfg.MODEL.HEADS.POOL_LAYER = "Median"
    with pytest.raises(UsageError, match="GlobalAvgPool.*Median"):
        ClusterMemoryHead(cfg)
