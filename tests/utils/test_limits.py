"""What is said when the memory is not enough."""

import pytest
import torch

from ise_plugin.errors import UsageError
from ise_plugin.utils.memory import advice_for_extraction, advice_for_training, named_out_of_memory

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


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
