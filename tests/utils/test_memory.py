"""When the memory is not enough, embedding goes on with fewer images at a time; else the run says what needs less."""

import logging
import platform
import subprocess
import sys

import pytest
import torch
from helpers import backbone_cfg

from ise_plugin.errors import UsageError
from ise_plugin.modeling.build import build_model
from ise_plugin.utils.memory import (
    Halving,
    advice_for_extraction,
    advice_for_training,
    is_out_of_memory,
    named_out_of_memory,
)

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


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


def test_what_torch_has_kept_is_given_back_before_less_is_tried(monkeypatch):
    embed, calls = embedding_of_at_most(3)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("given back"))
    Halving()(embed, torch.zeros(8, 1))  # a loader's images are on the host, whatever they are embedded on
    assert calls == [8, "given back", 4, "given back", 2, 2, 2, 2]


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


@pytest.mark.parametrize(
    "arguments, words, not_said",
    [
        (
            (256, 1, torch.float32, CUDA),
            ["256 images, 256 at a time", "float32", "SOLVER.ACCUMULATE 2", "128", "AMP"],
            [],
        ),
        ((256, 4, torch.bfloat16, CUDA), ["64 at a time", "bfloat16", "SOLVER.ACCUMULATE 8", "32"], ["AMP"]),
        ((10, 10, torch.float32, CPU), ["one image alone", "INPUT.SIZE_TRAIN"], ["ACCUMULATE"]),
    ],
)
def test_advice_names_batch_precision_and_the_setting(arguments, words, not_said):
    text = advice_for_training(*arguments)
    assert all(word in text for word in words) and not any(word in text for word in not_said)


def test_advice_for_extraction():
    assert "ISE.EXTRACTION.IMS_PER_BATCH 128" in advice_for_extraction(256, torch.float32)
    assert "one image alone" in advice_for_extraction(1, torch.float32)


@pytest.mark.parametrize(
    "error",
    [torch.cuda.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
def test_out_of_memory_is_one_line(error):
    with pytest.raises(UsageError, match="out of memory in a step"), named_out_of_memory(lambda: "in a step"):
        raise error


def test_a_real_allocation_that_fails():
    with pytest.raises(UsageError, match="out of memory"), named_out_of_memory(lambda: "here"):
        torch.empty(2**55)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes"), named_out_of_memory(lambda: ""):
        raise RuntimeError("shapes do not fit")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_is_kept():
    code = (
        "import resource, ise_plugin.engine, torch\n"  # the heap of a run
        "from ise_plugin.utils.memory import keep_freed_memory\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(20): torch.ones(8 * 2**20)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "print(faults(), keep_freed_memory(), faults())\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    stock, set_, kept = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert set_ == "True" and int(kept) < 0.2 * int(stock)
