"""A checkpoint with any of its bytes changed, or some missing, is never taken for what it was."""

import copy

import numpy as np
import pytest
import torch
from reliability_runs import same_outcome
from torch import nn

from ise_plugin.engine.checkpointing import ISECheckpointer
from ise_plugin.errors import UsageError
from ise_plugin.utils.weights import DamagedWeights, load_checkpoint_file

CASES = 200


def make(folder, value):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32))
    nn.init.constant_(model[0].weight, value)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.rand(4, 8)).sum().backward()
    optimizer.step()
    return ISECheckpointer(model, str(folder), optimizer=optimizer)


def damages(content: bytes, rng):
    """(class, damaged content): changed bytes in every region, cuts, nothing at all, and pieces that are zero or doubled."""
    size = len(content)
    regions = {"header": (0, 256), "middle": (256, size - 2048), "tail": (size - 2048, size)}
    for name, (first, end) in regions.items():
        for _ in range(40):
            changed = bytearray(content)
            changed[rng.integers(first, end)] ^= int(rng.integers(1, 256))
            yield name, bytes(changed)
    for _ in range(50):
        yield "truncation", content[: rng.integers(1, size)]
    for _ in range(15):
        changed, start = bytearray(content), int(rng.integers(size - 600))
        changed[start : start + 512] = bytes(512)
        yield "zeros", bytes(changed)
    for _ in range(14):
        start = int(rng.integers(size - 600))
        yield "doubled", content[: start + 512] + content[start:]
    yield "zero length", b""


def equal(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def test_damage_is_never_loaded_and_the_checkpoint_before_it_is(tmp_path):
    make(tmp_path, 1.0).save("model_0000", epoch=0)
    make(tmp_path, 2.0).save("model_0001", epoch=1)
    path = tmp_path / "model_0001.pth"
    content = path.read_bytes()
    intact = load_checkpoint_file(str(path))
    seen = refused = 0
    for kind, damaged in damages(content, np.random.default_rng(0)):
        seen += 1
        path.write_bytes(damaged)
        try:
            assert equal(load_checkpoint_file(str(path)), intact), kind
            changed = False
        except DamagedWeights as error:
            assert str(path) in str(error) and "\n" not in str(error)
            changed = True
        refused += changed
        checkpointer = make(tmp_path, 3.0)
        rest = checkpointer.resume_or_load("", resume=True)
        assert rest["epoch"] == (0 if changed else 1)
        assert float(checkpointer.model[0].weight.detach()[0, 0]) != 3.0
    print(
        f"damaged checkpoints: {seen} cases, {refused} refused, {seen - refused} loaded with every value as it was, 0 wrong"
    )
    assert seen == CASES and refused > 0.9 * CASES


def test_bytes_that_torch_would_load_are_refused(tmp_path):
    """The fault that the digest is for: torch passes over the check sums of the archive."""
    checkpointer = make(tmp_path, 1.0)
    checkpointer.save("model_0000")
    path = tmp_path / "model_0000.pth"
    content = bytearray(path.read_bytes())
    content[content.find(checkpointer.model[0].weight.detach()[0].numpy().tobytes()) + 1] ^= 1
    path.write_bytes(content)
    assert not equal(torch.load(path, weights_only=True)["model"]["0.weight"], checkpointer.model[0].weight.detach())
    with pytest.raises(DamagedWeights, match="digest"):
        load_checkpoint_file(str(path))


def test_damage_without_a_digest_is_found_by_the_sums_of_the_archive(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.full((100,), 3.0)}, path)
    content = bytearray(path.read_bytes())
    content[content.find(np.full(8, 3.0, np.float32).tobytes()) + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedWeights, match="damaged"):
        load_checkpoint_file(str(path))


def test_nothing_left_to_resume_from_is_said(tmp_path):
    make(tmp_path, 1.0).save("model_0000", epoch=0)
    (tmp_path / "model_0000.pth").write_bytes(b"")
    with pytest.raises(UsageError, match="none of the 1 checkpoints"):
        make(tmp_path, 2.0).resume_or_load("", resume=True)


def test_a_run_goes_on_from_the_checkpoint_before_the_damaged_one(runs):
    assert runs.run("damaged", kill_at=("step", 2 * 7)) == -9
    folder = runs.folder / "damaged"
    newest = folder / (folder / "last_checkpoint").read_text()
    before = copy.copy(newest.read_bytes())
    newest.write_bytes(before[: len(before) // 2])
    assert runs.run("damaged", resume=True) == 0, runs.log("damaged")
    assert "the one before it is tried" in runs.log("damaged") and newest.name in runs.log("damaged")
    assert same_outcome(runs.outcome("damaged"), runs.outcome("whole"))
