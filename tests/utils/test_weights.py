"""Files of weights: sealed, and fetched over TLS only, whole or not at all."""

import hashlib
import http.client
import io
import os
import urllib.request

import pytest
import torch

from ise_plugin.errors import UsageError
from ise_plugin.utils import weights
from ise_plugin.utils.weights import fetch_weights, load_checkpoint_file, sealed, weights_cache

CONTENT = b"weights"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
URL = f"https://example.org/net-{DIGEST[:8]}.pth"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "checkpoints"


class Answer(io.BytesIO):
    def __init__(self, content=CONTENT, url=URL):
        super().__init__(content)
        self.geturl = lambda: url


def answer_with(monkeypatch, answer):
    asked = []

    def urlopen(url, timeout):
        asked.append(url)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


def test_a_sealed_file_is_read_by_any_reader(tmp_path):
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(5)}, buffer)
    (tmp_path / "w.pth").write_bytes(sealed(buffer.getvalue()))
    for read in (lambda p: torch.load(p, weights_only=True), load_checkpoint_file):
        assert torch.equal(read(tmp_path / "w.pth")["a"], torch.arange(5))


def test_fetched_once_into_the_folder_where_fastreid_looks(cache, monkeypatch):
    asked = answer_with(monkeypatch, Answer())
    assert fetch_weights(URL) == fetch_weights(URL) == str(cache / f"net-{DIGEST[:8]}.pth")
    assert asked == [URL] and (cache / f"net-{DIGEST[:8]}.pth").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "answer, word",
    [
        (Answer(b"other"), "SHA-256"),
        (Answer(url="http://example.org/x"), "TLS"),
        (urllib.error.URLError("no network"), "no network"),
        (TimeoutError("timed out"), "timed out"),
        (http.client.IncompleteRead(b"", 7), "7 more expected"),
    ],
)
def test_what_cannot_be_fetched_leaves_nothing_and_says_which_file_to_put_where(cache, monkeypatch, answer, word):
    answer_with(monkeypatch, answer)
    with pytest.raises(UsageError) as caught:
        fetch_weights(URL)
    assert word in str(caught.value) and str(cache / f"net-{DIGEST[:8]}.pth") in str(caught.value)
    assert "PRETRAIN_PATH" in str(caught.value) and os.listdir(cache) == []


@pytest.mark.parametrize("url", ["http://example.org/net-0123abcd.pth", "https://example.org/net.pth"])
def test_without_tls_or_digest_nothing_is_asked_for(cache, monkeypatch, url):
    asked = answer_with(monkeypatch, Answer())
    with pytest.raises(UsageError, match="TLS or a digest"):
        fetch_weights(url)
    assert not asked


def test_a_file_put_there_by_hand_is_taken(cache, monkeypatch):
    asked = answer_with(monkeypatch, Answer())
    cache.mkdir(parents=True)
    (cache / "net.pth").write_bytes(b"x")
    assert fetch_weights("https://example.org/net.pth") == str(cache / "net.pth") and not asked
    assert weights.weights_cache() == weights_cache() == str(cache)
