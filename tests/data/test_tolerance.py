"""Unusable files: how many are put up with, and who stands in for the lost."""

import pytest
import torch

from ise_plugin.data.reading import Problem, UnreadableImage
from ise_plugin.data.tolerance import StandIns, check_share
from ise_plugin.errors import UsageError

KEY = "DATASETS.FOLDER.MAX_BAD_SHARE"


def problems(count):
    return [Problem(f"{i}.jpg", "truncated") for i in range(count)]


@pytest.mark.parametrize("bad, total, share", [(0, 10, 0.0), (5, 100, 0.05), (1, 2, 0.5), (0, 0, 0.0)])
def test_few_are_put_up_with(bad, total, share):
    check_share(problems(bad), total, share, KEY)


@pytest.mark.parametrize("bad, total, share", [(1, 10, 0.0), (6, 100, 0.05), (2, 2, 1.0)])
def test_too_many_are_listed(bad, total, share):
    with pytest.raises(UsageError) as caught:
        check_share(problems(bad), total, share, KEY)
    message = str(caught.value)
    assert f"{bad} of {total} images" in message and KEY in message and "0.jpg (truncated)" in message
    assert ("and 1 more" in message) == (bad == 6) and "\n" not in message


def reader(lost, error=UnreadableImage("gone")):
    def read(index):
        if index in lost:
            raise error
        return index

    return read


@pytest.mark.parametrize("error", [UnreadableImage("gone"), FileNotFoundError(2, "No such file")])
def test_the_next_one_stands_in_and_every_loss_is_told_once(caplog, error):
    stand_ins = StandIns([f"{i}.jpg" for i in range(6)], 0.9, KEY)
    lost = {1, 2, 5}
    for _ in range(2):
        assert [stand_ins.read(i, reader(lost, error)) for i in range(6)] == [0, 3, 3, 3, 4, 0]
    assert stand_ins.lost.nonzero().flatten().tolist() == [1, 2, 5]
    assert [r.message.split()[1] for r in caplog.records] == ["1.jpg", "2.jpg", "5.jpg"]


def test_lost_files_are_not_tried_again():
    stand_ins, tried = StandIns(["a", "b"], 1.0, KEY), []

    def read(index):
        tried.append(index)
        if index == 0:
            raise UnreadableImage("gone")
        return index

    assert [stand_ins.read(0, read), stand_ins.read(0, read)] == [1, 1] and tried == [0, 1, 1]


def test_too_many_losses_end_the_run():
    stand_ins = StandIns([f"{i}.jpg" for i in range(40)], 0.05, KEY)
    lost = {0, 1, 2}
    assert stand_ins.read(1, reader(lost)) == 3  # two of forty
    with pytest.raises(UsageError, match="3 of 40.*0.jpg"):
        stand_ins.read(0, reader(lost))


class Sharing(torch.utils.data.Dataset):
    def __init__(self, stand_ins):
        self.stand_ins = stand_ins

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.stand_ins.read(index, reader({2}))


def test_workers_tell_one_another():
    stand_ins = StandIns([f"{i}.jpg" for i in range(8)], 0.5, KEY)
    loader = torch.utils.data.DataLoader(Sharing(stand_ins), batch_size=4, num_workers=2)
    assert torch.cat(list(loader)).tolist() == [0, 1, 3, 3, 4, 5, 6, 7]
    assert stand_ins.lost.nonzero().flatten().tolist() == [2]
