"""What is kept is what was decoded; what has changed, broken or has no room is not kept."""

import logging
import os
import pickle
import threading

import numpy as np
import pytest
from PIL import Image

import ise_plugin.data.image_cache as module
from ise_plugin.data.image_cache import free_memory, open_image_cache
from ise_plugin.errors import UsageError

SIZE = (6, 4)
IMAGE = np.arange(72, dtype=np.uint8).reshape(*SIZE, 3)


@pytest.fixture
def paths(tmp_path):
    names = [str(tmp_path / f"{i}.png") for i in range(3)]
    for name in names:
        Image.fromarray(IMAGE).save(name)
    return names


def open_cache(mode, paths, folder, **options):
    return open_image_cache(mode, paths, SIZE, "resized", str(folder), **options)


def on_disk(folder):
    return folder.exists() and len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("mode", ["ram", "disk"])
def test_what_is_written_is_read_until_the_file_changes(mode, paths, tmp_path):
    cache = open_cache(mode, paths, tmp_path / "cache")
    assert cache.read(1, paths[1]) is None
    cache.write(1, paths[1], IMAGE)
    assert np.array_equal(cache.read(1, paths[1]), IMAGE)
    assert cache.read(0, paths[0]) is None and cache.read(2, paths[2]) is None
    os.utime(paths[1], ns=(5, 5))
    assert cache.read(1, paths[1]) is None
    cache.write(1, paths[1], IMAGE + 1)
    assert np.array_equal(cache.read(1, paths[1]), IMAGE + 1)


def test_a_file_that_is_gone_is_an_error(paths, tmp_path):
    cache = open_cache("ram", paths, tmp_path)
    cache.write(0, paths[0], IMAGE)
    os.remove(paths[0])
    with pytest.raises(FileNotFoundError):
        cache.read(0, paths[0])


@pytest.mark.parametrize("mode", ["ram", "disk"])
def test_processes_share_it(mode, paths, tmp_path):
    cache = open_cache(mode, paths, tmp_path / "cache")
    child = os.fork()
    if child == 0:
        cache.write(2, paths[2], IMAGE)
        os._exit(0)
    os.waitpid(child, 0)
    assert np.array_equal(cache.read(2, paths[2]), IMAGE)


@pytest.mark.parametrize("mode", ["ram", "disk"])
def test_a_pickled_one_is_the_same_memory_and_not_its_content(mode, paths, tmp_path):
    cache = open_cache(mode, paths * 1000, tmp_path / "cache")
    cache.write(0, paths[0], IMAGE)
    pickled = pickle.dumps(cache)
    copy = pickle.loads(pickled)
    assert len(pickled) < 1000 and np.array_equal(copy.read(0, paths[0]), IMAGE)
    copy.write(2, paths[2], IMAGE + 1)
    assert np.array_equal(cache.read(2, paths[2]), IMAGE + 1)


def test_the_file_serves_the_next_run_with_the_same_recipe_alone(paths, tmp_path):
    open_cache("disk", paths, tmp_path / "cache").write(0, paths[0], IMAGE)
    assert np.array_equal(open_cache("disk", paths, tmp_path / "cache").read(0, paths[0]), IMAGE)
    other = open_image_cache("disk", paths, SIZE, "another way", str(tmp_path / "cache"))
    assert other.read(0, paths[0]) is None
    assert open_cache("disk", paths[:2], tmp_path / "cache").read(0, paths[0]) is None


def test_a_half_written_entry_is_not_taken(paths, tmp_path):
    cache = open_cache("disk", paths, tmp_path / "cache")
    cache.write(0, paths[0], IMAGE)
    (file,) = (tmp_path / "cache").iterdir()
    content = bytearray(file.read_bytes())
    content[40] ^= 255  # of the first image's pixels
    file.write_bytes(content)
    assert open_cache("disk", paths, tmp_path / "cache").read(0, paths[0]) is None


def test_a_file_of_another_length_is_left_alone(paths, tmp_path, caplog):
    open_cache("disk", paths, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(b"short")
    assert open_cache("disk", paths, tmp_path / "cache") is None
    assert "another size" in caplog.text and file.read_bytes() == b"short"


def test_two_processes_that_start_together_use_one_file(paths, tmp_path):
    caches = [None] * 4

    def start(i):
        caches[i] = open_cache("disk", paths, tmp_path / "cache")

    threads = [threading.Thread(target=start, args=(i,)) for i in range(4)]
    [t.start() for t in threads], [t.join() for t in threads]
    caches[0].write(1, paths[1], IMAGE)
    assert all(np.array_equal(cache.read(1, paths[1]), IMAGE) for cache in caches)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_no_cache_asked_for_or_nothing_to_keep(paths, tmp_path):
    assert open_cache("none", paths, tmp_path / "cache") is None and open_cache("ram", [], tmp_path / "cache") is None
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("limit", [1e-9, 0])
def test_too_little_memory_falls_back_to_the_disk_and_says_so(paths, tmp_path, caplog, monkeypatch, limit):
    monkeypatch.setattr(module, "free_memory", lambda: 100 if limit == 0 else 10**12)
    with caplog.at_level(logging.WARNING, logger="fastreid.ise"):
        cache = open_cache("ram", paths, tmp_path / "cache", limit_gib=0.001 if limit == 0 else limit)
    if limit:  # the bound holds for the disk as well
        assert cache is None and "CACHE_GIB allows 1e-09" in caplog.text and "decoded anew" in caplog.text
    else:
        assert on_disk(tmp_path / "cache")
    assert "DATALOADER.CACHE ram" in caplog.text and "on disk" in caplog.text


def test_processes_of_one_machine_share_its_memory(paths, tmp_path, monkeypatch):
    needed = 3 * (72 + 24)
    monkeypatch.setattr(module, "free_memory", lambda: 2 * 4 * needed)
    folder = tmp_path / "cache"
    assert open_cache("ram", paths, folder, processes=4) and not on_disk(folder)
    assert open_cache("ram", paths, folder, processes=5) and on_disk(folder)


def test_too_little_disk_means_no_cache(paths, tmp_path, caplog, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert open_cache("disk", paths, tmp_path / "cache") is None
    assert "No space left" in caplog.text and list((tmp_path / "cache").iterdir()) == []


def test_systems_without_memory_to_be_opened_use_the_disk(paths, tmp_path, caplog, monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    assert open_cache("ram", paths, tmp_path / "cache") and on_disk(tmp_path / "cache")
    assert "other processes can open" in caplog.text


def test_a_folder_that_cannot_be_written_is_named(paths, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="CACHE_DIR .*file/cache cannot be written"):
        open_cache("disk", paths, tmp_path / "file" / "cache")


def test_free_memory_is_less_than_the_machine_has():
    free = free_memory()
    assert free is None or 0 < free <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
