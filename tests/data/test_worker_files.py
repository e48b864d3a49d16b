"""A loader's worker that dies is named with the file it was reading."""

import os
import signal

import pytest
from fastreid.data.transforms import build_transforms
from PIL import Image

import ise_plugin.data.image_dataset as module
from ise_plugin.config import load_cfg
from ise_plugin.data.image_dataset import ImageDataset
from ise_plugin.data.loaders import UserErrorLoader
from ise_plugin.data.worker_files import explain_worker_death
from ise_plugin.errors import UsageError


def test_the_file_that_kills_its_reader_is_named(tmp_path, monkeypatch):
    paths = [str(tmp_path / f"{n}.png") for n in range(40)]
    for path in paths:
        Image.new("RGB", (16, 32)).save(path)
    read = module.read_rgb

    def deadly(path):
        if path == paths[25]:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(path)

    monkeypatch.setattr(module, "read_rgb", deadly)
    dataset = ImageDataset(paths, build_transforms(load_cfg(None, ["INPUT.SIZE_TEST", "[32,16]"]), is_train=False))
    loader = UserErrorLoader(dataset, batch_size=4, num_workers=2)
    with pytest.raises(UsageError) as caught:
        list(loader)
    assert f"while it read {paths[25]}" in str(caught.value) and "DATALOADER.NUM_WORKERS" in str(caught.value)


def test_without_a_known_file_the_death_is_named_all_the_same():
    with pytest.raises(UsageError, match="process 7 .*killed by signal"):
        explain_worker_death(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "))


@pytest.mark.parametrize("error", [RuntimeError("shapes"), ValueError("DataLoader worker (pid 7) is gone")])
def test_other_errors_are_not_explained(error):
    assert explain_worker_death(error) is None
