"""From files to a store, with a network of a few lines."""

import numpy as np
import pytest
from PIL import Image

from ise_plugin.errors import UsageError
from ise_plugin.inference import EmbeddingStore, read_embeddings
from ise_plugin.inference.embedder import EmbeddedFile
from ise_plugin.inference.jobs import embed_files


class Network:
    """Gives every file the same vector; files named bad* cannot be read."""

    fingerprint, run, weights = "one", "run", "some.pth"

    def __init__(self, value=0.5):
        self.vector = np.full(4, value, np.float32)

    def __call__(self, images):
        return np.zeros((len(images), 4), np.float32)

    def stream(self, paths):
        for path in paths:
            bad = "bad" in path
            yield EmbeddedFile(path, None if bad else self.vector, "the file is empty" if bad else None)


@pytest.fixture
def inputs(tmp_path):
    """A folder of four pictures."""
    for i in range(4):
        path = tmp_path / "crops" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 8)).save(path)
    return [str(tmp_path / "crops")]


def outputs(folder):
    return sorted(p.name for p in folder.iterdir() if p.name != "crops")


@pytest.mark.parametrize("ending", ["", ".npz", ".parquet", ".NPZ"])
def test_the_ending_of_the_output_is_not_doubled(inputs, tmp_path, ending):
    job = embed_files(Network(), inputs, str(tmp_path / f"one.v2{ending}"))
    assert outputs(tmp_path) == ["one.v2.npz", "one.v2.parquet"]
    assert job.files == [str(tmp_path / "one.v2.npz"), str(tmp_path / "one.v2.parquet")]
    assert job.new == 4 and len(read_embeddings(job.files[0]).paths) == 4


@pytest.mark.parametrize("output", ["", "folder/", ".", "..", "folder/..", ".npz", "folder/.parquet"])
def test_an_output_without_a_name(inputs, tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="--output .* names no file"):
        embed_files(Network(), inputs, output)
    assert outputs(tmp_path) == []


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_share_that_is_none(inputs, tmp_path, share):
    with pytest.raises(UsageError, match="--max-bad-share must be from 0 to 1"):
        embed_files(Network(), inputs, str(tmp_path / "e"), max_bad_share=share)
    assert outputs(tmp_path) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_network_that_gives_no_numbers(inputs, tmp_path, value):
    with pytest.raises(UsageError, match="some.pth gives no finite numbers for .*0.png") as caught:
        embed_files(Network(value), inputs, str(tmp_path / "e"))
    assert "\n" not in str(caught.value) and outputs(tmp_path) == []


def test_the_limit_says_that_it_stopped_there(tmp_path):
    files = [f"{kind}{i}.jpg" for kind in ("bad", "good") for i in range(10)]
    with pytest.raises(UsageError) as caught:
        embed_files(Network(), files, str(tmp_path / "e"), max_bad_share=0.3)
    message = str(caught.value)
    assert message.startswith("stopped at the first 7 of 20 images") and "--max-bad-share 0.3" in message
    assert "bad4.jpg (the file is empty) and 2 more;" in message and "bad5" not in message
    assert outputs(tmp_path) == []


def test_no_readable_file_at_all(tmp_path):
    with pytest.raises(UsageError, match="2 of 2 images that cannot be used, which are all: bad1.jpg"):
        embed_files(Network(), ["bad1.jpg", "bad2.jpg"], str(tmp_path / "e"), max_bad_share=1)
    assert outputs(tmp_path) == []


def test_what_a_failed_job_has_embedded_is_kept(tmp_path):
    with pytest.raises(UsageError, match="stopped"):
        embed_files(Network(), ["1.jpg", "bad.jpg"], str(tmp_path / "e"))
    assert outputs(tmp_path) == ["e.parts"]
    assert EmbeddingStore(str(tmp_path / "e"), "one", "run", 4).missing(["1.jpg", "bad.jpg"]) == ["bad.jpg"]
