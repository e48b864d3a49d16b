"""Embedding goes on with fewer images when the memory is not enough."""

import logging

import pytest
import torch
from helpers import backbone_cfg

from ise_plugin.modeling.build import build_model
from ise_plugin.utils.memory import Halving, is_out_of_memory


def embedding_of_at_most(limit, error=torch.cuda.OutOfMemoryError("CUDA out of memory")):
    """A function of images that has memory for ``limit`` of them; and the sizes it was called with."""
    sizes = []

    def embed(images):
        sizes.append(len(images))
        if len(images) > limit:
            raise error
        return images.flatten(1).cumsum(1)

    return embed, sizes


@pytest.mark.parametrize("limit", [1, 3, 4, 10, 100])
def test_the_result_is_that_of_one_piece(limit):
    images = torch.randn(10, 2, 3)
    assert torch.equal(Halving()(embedding_of_at_most(limit)[0], images), images.flatten(1).cumsum(1))


def test_what_was_too_many_is_not_tried_again(caplog):
    halving = Halving()
    embed, sizes = embedding_of_at_most(3)
    with caplog.at_level(logging.WARNING):
        halving(embed, torch.zeros(8, 1))
        halving(embed, torch.zeros(8, 1))
    assert sizes == [8, 4] + [2] * 4 + [2] * 4
    assert [record.getMessage().split(";")[1] for record in caplog.records] == [" going on with 4", " going on with 2"]


def test_a_small_batch_is_left_whole():
    halving = Halving()
    embed, sizes = embedding_of_at_most(4)
    halving(embed, torch.zeros(8, 1))
    halving(embed, torch.zeros(3, 1))
    assert sizes[-1] == 3


def test_one_image_that_is_too_much_is_an_error():
    with pytest.raises(torch.cuda.OutOfMemoryError):
        Halving()(embedding_of_at_most(0)[0], torch.zeros(4, 1))


def test_other_errors_are_not_mistaken_for_it():
    embed, sizes = embedding_of_at_most(2, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes"):
        Halving()(embed, torch.zeros(4, 1))
    assert sizes == [4]
    assert not is_out_of_memory(MemoryError("can't allocate memory"))


def test_no_images():
    assert Halving()(embedding_of_at_most(1)[0], torch.zeros(0, 5)).shape == (0, 5)


def test_a_network_embeds_on(monkeypatch):
    model = build_model(backbone_cfg("shufflenetv2", "1.0x", 1024, {})).eval()
    images = torch.rand(5, 3, 64, 32) * 255
    with torch.no_grad():
        whole = model({"images": images})
        plain = model.backbone.forward
        embed, sizes = embedding_of_at_most(2)
        monkeypatch.setattr(model.backbone, "forward", lambda x: (embed(x), plain(x))[1])
        pieces = model({"images": images})
    assert sizes == [5, 2, 2, 1]
    assert torch.allclose(pieces, whole, rtol=1e-4, atol=1e-5)
