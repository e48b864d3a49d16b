"""Checkpoints: whole or not at all, read without running anything, refused when they are another model's."""

import io
import os
import pickle
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fastreid.utils.checkpoint import Checkpointer
from torch import nn

from ise_plugin.config import get_cfg
from ise_plugin.engine.checkpointing import (
    ISECheckpointer,
    checkpoint_name,
    load_checkpoint_file,
    random_state,
    run_state,
    set_random_state,
    take_run_state,
)
from ise_plugin.errors import UsageError
from ise_plugin.utils.files import write_atomically


def make_model(width=4):
    torch.manual_seed(width)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))


def refusal(path, model=None):
    with pytest.raises(UsageError) as caught:
        ISECheckpointer(model or make_model()).load(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_round_trip_with_everything_else(tmp_path):
    model, other = make_model(), make_model(width=4)
    nn.init.zeros_(other[0].weight)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.rand(5, 3)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    ISECheckpointer(model, str(tmp_path), optimizer=optimizer, lr_sched=schedule).save("model_0001", epoch=1)

    new_optimizer = torch.optim.Adam(other.parameters())
    new_schedule = torch.optim.lr_scheduler.MultiStepLR(new_optimizer, [1, 2])
    checkpointer = ISECheckpointer(other, str(tmp_path), optimizer=new_optimizer, lr_sched=new_schedule)
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0001.pth")
    rest = checkpointer.resume_or_load("", resume=True)
    assert rest["epoch"] == 1
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))
    moments = [s["exp_avg"] for s in optimizer.state_dict()["state"].values()]
    assert all(torch.equal(a, s["exp_avg"]) for a, s in zip(moments, new_optimizer.state_dict()["state"].values()))


def test_fastreids_checkpointer_reads_ours_and_ours_reads_fastreids(tmp_path):
    ours, theirs = make_model(), make_model()
    nn.init.zeros_(theirs[0].weight)
    ISECheckpointer(ours, str(tmp_path)).save("a")
    Checkpointer(theirs).load(str(tmp_path / "a.pth"))
    assert torch.equal(theirs[0].weight, ours[0].weight)
    # fastreid adds the metric as a numpy scalar, which plain weights_only loading refuses
    Checkpointer(ours, str(tmp_path)).save("b", epoch=3, metric=np.float64(12.5))
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "b.pth", weights_only=True)
    nn.init.zeros_(theirs[0].weight)
    assert ISECheckpointer(theirs).load(str(tmp_path / "b.pth"))["metric"] == 12.5
    assert torch.equal(theirs[0].weight, ours[0].weight)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_bare_state_dicts_and_data_parallel_names_load(tmp_path, prefix):
    model, other = make_model(), make_model()
    nn.init.zeros_(other[0].weight)
    torch.save({prefix + k: v for k, v in model.state_dict().items()}, tmp_path / "w.pth")
    ISECheckpointer(other).load(str(tmp_path / "w.pth"))
    assert torch.equal(other[0].weight, model[0].weight)


def test_missing_file_is_named(tmp_path):
    assert "is not there" in refusal(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 broken zip", bytes(300)])
def test_other_files_are_no_checkpoints(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    assert "not a checkpoint" in refusal(tmp_path / "x.pth")


@pytest.mark.parametrize("size", [10, 200, -1])
def test_truncated_checkpoint_is_refused(tmp_path, size):
    ISECheckpointer(make_model(), str(tmp_path)).save("m")
    content = (tmp_path / "m.pth").read_bytes()
    (tmp_path / "m.pth").write_bytes(content[:size])
    assert "not a checkpoint" in refusal(tmp_path / "m.pth")


@pytest.mark.parametrize("content", [[1, 2], 3, {"model": 5}, {"model": {"a": "text"}}, {"epoch": 3}])
def test_files_without_a_state_dict_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    refusal(tmp_path / "x.pth")


class Payload:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("place", ["top", "model", "extra", "plain pickle"])
def test_nothing_in_a_file_is_executed(tmp_path, place):
    executed = tmp_path / "executed"
    payload = Payload(executed)
    content = {
        "top": payload,
        "model": {"model": payload},
        "extra": {"model": make_model().state_dict(), "extra": payload},
    }
    if place == "plain pickle":
        (tmp_path / "x.pth").write_bytes(pickle.dumps(payload))
    else:
        torch.save(content[place], tmp_path / "x.pth")
    message = refusal(tmp_path / "x.pth")
    assert not executed.exists()
    assert ("mkdir" in message) == (
        place != "plain pickle"
    )  # torch refuses a bare pickle before it knows what is inside
    pickle.loads(pickle.dumps(payload))
    assert executed.exists()  # the payload does what it should not be able to do above


@pytest.mark.parametrize(
    "change, words", [("wider", ["0.weight", "(6, 3)", "(4, 3)", "0.bias", "3 more"]), ("missing", ["1.running_mean"])]
)
def test_weights_of_another_model_are_refused_and_change_nothing(tmp_path, change, words):
    model = make_model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    weights = (
        make_model(6).state_dict() if change == "wider" else {k: v for k, v in before.items() if k != "1.running_mean"}
    )
    torch.save({"model": weights}, tmp_path / "w.pth")
    message = refusal(tmp_path / "w.pth", model)
    assert all(word in message for word in words), message
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_what_the_model_does_not_have_is_left_out_with_a_warning(tmp_path, caplog):
    torch.save(
        {"model": {**make_model().state_dict(), "heads.weight": torch.zeros(2), "extra.weight": torch.zeros(2)}},
        tmp_path / "w.pth",
    )
    ISECheckpointer(make_model()).load(str(tmp_path / "w.pth"))
    assert "1 entries" in caplog.text and "extra.weight" in caplog.text


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    checkpointer = ISECheckpointer(make_model(), str(tmp_path))
    checkpointer.save("m")
    before = (tmp_path / "m.pth").read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            checkpointer.save("m")
    assert (tmp_path / "m.pth").read_bytes() == before and sorted(os.listdir(tmp_path)) == ["last_checkpoint", "m.pth"]


def test_write_atomically_replaces_content(tmp_path):
    path = tmp_path / "f"
    for content in (b"one", b"two"):
        write_atomically(str(path), content)
        assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["f"]


def test_ranks_that_do_not_save_write_nothing(tmp_path):
    ISECheckpointer(make_model(), str(tmp_path), save_to_disk=False).save("m")
    assert os.listdir(tmp_path) == []


def test_load_checkpoint_file_gives_tensors_on_the_cpu(tmp_path):
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(3), "b": [1, "x", None]}, buffer)
    (tmp_path / "t.pth").write_bytes(buffer.getvalue())
    content = load_checkpoint_file(str(tmp_path / "t.pth"))
    assert torch.equal(content["a"], torch.arange(3)) and content["b"] == [1, "x", None]


def names(folder):
    return sorted(name for name in os.listdir(folder) if name.endswith(".pth"))


def test_the_newest_and_the_best_stay(tmp_path):
    checkpointer = ISECheckpointer(make_model(), str(tmp_path), keep=2)
    for name in (
        checkpoint_name(0, 3),
        checkpoint_name(0),
        "model_best",
        checkpoint_name(1, 2),
        checkpoint_name(1),
    ):
        checkpointer.save(name)
    assert names(tmp_path) == ["model_0001.pth", "model_0001_000002.pth", "model_best.pth"]
    checkpointer.save("model_final")
    assert len(names(tmp_path)) == 4


def test_none_is_removed_when_all_shall_stay(tmp_path):
    checkpointer = ISECheckpointer(make_model(), str(tmp_path))
    for epoch in range(5):
        checkpointer.save(checkpoint_name(epoch))
    assert len(names(tmp_path)) == 5


def test_a_new_run_does_not_remove_what_an_older_one_got_further_with(tmp_path):
    ISECheckpointer(make_model(), str(tmp_path)).save(checkpoint_name(9))
    checkpointer = ISECheckpointer(make_model(), str(tmp_path), keep=1)
    for epoch in range(3):
        checkpointer.save(checkpoint_name(epoch))
    assert names(tmp_path) == ["model_0002.pth", "model_0009.pth"]
    assert [os.path.basename(path) for path in checkpointer.candidates()] == ["model_0002.pth"]


@pytest.mark.parametrize("pointer", [None, b"\xff\xfe", b"../elsewhere.pth", b""])
def test_without_a_usable_pointer_the_furthest_is_taken(tmp_path, pointer):
    checkpointer = ISECheckpointer(make_model(), str(tmp_path))
    for name in (checkpoint_name(0), checkpoint_name(1, 10), checkpoint_name(1, 9)):
        checkpointer.save(name)
    os.remove(tmp_path / "last_checkpoint")
    if pointer is not None:
        (tmp_path / "last_checkpoint").write_bytes(pointer)
    order = ["model_0001_000010.pth", "model_0001_000009.pth", "model_0000.pth"]
    assert [os.path.basename(path) for path in checkpointer.candidates()] == order


def test_state_of_another_configuration_is_named(tmp_path):
    model = make_model()
    ISECheckpointer(model, str(tmp_path), optimizer=torch.optim.SGD(model.parameters(), lr=0.1)).save("model_0000")
    groups = [{"params": [p]} for p in model.parameters()]
    with pytest.raises(UsageError, match="its optimizer is not that of this configuration"):
        ISECheckpointer(model, str(tmp_path), optimizer=torch.optim.SGD(groups, lr=0.1)).resume_or_load("")


def test_weights_are_not_read_from_addresses():
    with pytest.raises(UsageError, match="files alone"):
        ISECheckpointer(make_model()).load("http://example.org/w.pth")


def test_the_best_is_a_last_resort_and_never_pointed_to(tmp_path):
    checkpointer = ISECheckpointer(make_model(), str(tmp_path))
    checkpointer.save(checkpoint_name(1, 4))
    checkpointer.save("model_best")
    assert (tmp_path / "last_checkpoint").read_text() == "model_0001_000004.pth"
    order = ["model_0001_000004.pth", "model_best.pth"]
    assert [os.path.basename(path) for path in checkpointer.candidates()] == order


def make_trainer(lost=(False, False)):
    stand_ins = SimpleNamespace(lost=torch.tensor(lost))
    images = type("Images", (list,), {"stand_ins": stand_ins})(lost)
    return SimpleNamespace(cfg=get_cfg(), images=images, model=torch.nn.Linear(2, 2), iters_per_epoch=10)


def draws():
    return random.random(), np.random.normal(), np.random.normal(), torch.rand(3).tolist()


def test_generators_go_on_where_they_were(tmp_path):
    np.random.normal()  # the second of a pair is kept in the state
    torch.save(random_state(), tmp_path / "s.pth")
    expected = draws()
    draws()
    set_random_state(torch.load(tmp_path / "s.pth", weights_only=True))
    assert draws() == expected


def test_epoch_step_and_lost_images_are_taken_up():
    state = run_state(make_trainer(lost=(False, True)), epoch=2, step=7)
    trainer = make_trainer()
    take_run_state(trainer, state)
    assert (trainer.start_epoch, trainer.start_step) == (3, 7)
    assert trainer.images.stand_ins.lost.tolist() == [False, True] and trainer.random_at_start is not None
    take_run_state(trainer, {**state, "step": 0})
    assert trainer.random_at_start is None  # the epoch's seed decides


def test_a_checkpoint_of_fastreid_goes_on_after_its_epoch():
    trainer = make_trainer()
    take_run_state(trainer, {"epoch": 4, "metric": 1.0})
    assert (trainer.start_epoch, trainer.start_step) == (5, 0)


def test_an_epoch_that_has_become_shorter_is_refused():
    with pytest.raises(UsageError, match="step 11.*ISE.ITERS_PER_EPOCH is 10"):
        take_run_state(make_trainer(), run_state(make_trainer(), 0, 11))


def test_other_settings_are_named(caplog):
    state = run_state(make_trainer(), 0, 0)
    trainer = make_trainer()
    trainer.cfg.SOLVER.BASE_LR, trainer.cfg.OUTPUT_DIR = 0.5, "elsewhere"
    take_run_state(trainer, state)
    assert f"SOLVER.BASE_LR {get_cfg().SOLVER.BASE_LR} -> 0.5" in caplog.text and "OUTPUT_DIR" not in caplog.text
    caplog.clear()
    take_run_state(make_trainer(), state)
    assert not caplog.text


def test_another_number_of_processes_is_said(caplog):
    state = run_state(make_trainer(), 0, 3)
    trainer = make_trainer()
    take_run_state(trainer, {**state, "processes": state["processes"] * 2})
    assert "of 2 process(es) and there are 1" in caplog.text and trainer.random_at_start is None
