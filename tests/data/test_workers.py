"""Workers of a loader: which signals end them, and what is said when one dies."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from fastreid.data.transforms import build_transforms
from PIL import Image

import ise_plugin.data.image_dataset as module
from ise_plugin.config import load_cfg
from ise_plugin.data.image_dataset import ImageDataset
from ise_plugin.data.workers import UserErrorLoader, explain_worker_death
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


class Slow(torch.utils.data.Dataset):
    """Tells the loader's process of its worker, and is slow enough to be met at work."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        time.sleep(0.2)
        return {"process": os.getpid(), "index": index}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_from_outside_does_not_end_a_worker(name):
    loader = UserErrorLoader(Slow(), batch_size=None, num_workers=1)
    batches = iter(loader)
    seen = [next(batches)]
    sender = f"import os, signal; os.kill({seen[0]['process']}, signal.{name})"
    subprocess.run([sys.executable, "-c", sender], check=True)
    seen += batches
    assert [batch["index"] for batch in seen] == [0, 1, 2, 3] and len({batch["process"] for batch in seen}) == 1


@pytest.mark.parametrize("start_method", ["fork", "forkserver"])
def test_the_own_process_can_end_its_workers_at_exit(tmp_path, start_method):
    """Its exit waits for them; an error keeps the loader alive until then."""
    code = f"""
import ise_plugin, multiprocessing, torch
from ise_plugin.data.workers import UserErrorLoader
class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 100
    def __getitem__(self, index):
        return {{"index": index}}
if __name__ == "__main__":
    multiprocessing.set_start_method("{start_method}")
    batches = iter(UserErrorLoader(Numbers(), batch_size=None, num_workers=2, persistent_workers=True))
    next(batches)
    raise SystemExit(7)
"""
    (tmp_path / "program.py").write_text(code)
    command = [sys.executable, "-W", "ignore", str(tmp_path / "program.py")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 7 and not result.stderr
