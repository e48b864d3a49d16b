"""From files to a store, with a network of a few lines; results of a search as table and picture."""

import json
import logging
import sys

import numpy as np
import pytest
from PIL import Image

import ise_plugin.inference.jobs as module
from ise_plugin.clustering.calibration import Calibration
from ise_plugin.data.reading import ReadFile
from ise_plugin.errors import UsageError
from ise_plugin.inference import EmbeddingStore, read_embeddings
from ise_plugin.inference.index import Match
from ise_plugin.inference.jobs import Found, embed_files, picture_format, table_of, write_json, write_picture


class Network:
    """Gives every file the same vector; files named bad* cannot be read."""

    fingerprint, run, weights, input_size, calibration = "one", "run", "some.pth", (8, 4), None

    def __init__(self, value=0.5):
        self.vector = np.full(4, value, np.float32)

    def __call__(self, images):
        return np.zeros((len(images), 4), np.float32)

    def stream(self, paths):
        for path in paths:
            bad = "bad" in path
            yield ReadFile(path, None if bad else self.vector, "the file is empty" if bad else None)


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


def test_images_far_from_the_networks_input_are_told_of(inputs, tmp_path, caplog):
    network = Network()
    for size, times in (((8, 4), 0), ((24, 12), 1)):
        network.input_size = size
        embed_files(network, inputs, str(tmp_path / f"e{times}"), ["npz"])
        assert caplog.text.count("INPUT.SIZE_TEST 24 x 12, which enlarges them 3.0 times") == times


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


def test_parquet_without_its_package(inputs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match="pip install pyarrow"):
        embed_files(Network(), inputs, str(tmp_path / "e"))
    assert embed_files(Network(), inputs, str(tmp_path / "e"), ["npz"]).new == 4


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


def found(queries=1, matches=3):
    return [Found("q.jpg", [Match(i + 1, f"{i}.jpg", 0.5) for i in range(matches)])] * queries


@pytest.mark.parametrize("ending", [".jpg", ".png", ".JPEG"])
def test_a_picture_of_more_than_can_be_shown(tmp_path, caplog, ending):
    path = tmp_path / f"m{ending}"
    with caplog.at_level(logging.WARNING):
        write_picture(str(path), found(2, 1000))
    assert caplog.messages == ["the picture shows 2 of 2 queries and up to 50 of 1000 matches for each"]
    with Image.open(path) as picture:
        assert 51 * 64 < picture.width < 60 * 80 and picture.height < 3 * 160


def test_a_picture_of_less_says_nothing(tmp_path, caplog):
    write_picture(str(tmp_path / "m.png"), found(2, 50))
    assert not caplog.messages


def test_many_queries_are_mentioned(tmp_path, caplog):
    write_picture(str(tmp_path / "m.png"), found(101, 1))
    assert caplog.messages == ["the picture shows 100 of 101 queries and up to 1 of 1 matches for each"]


def test_a_picture_that_the_format_cannot_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_MATCHES", 1000)
    with pytest.raises(UsageError, match="m.jpg cannot be drawn .*ask for fewer matches"):
        write_picture(str(tmp_path / "m.jpg"), found(1, 1000))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["m.gif", "png", "m", "jpg/m"])
def test_wrong_endings(tmp_path, name):
    with pytest.raises(UsageError, match="must end in one of .jpg"):
        picture_format(str(tmp_path / name))


@pytest.mark.parametrize("write, name", [(write_json, "m.json"), (write_picture, "m.png")])
def test_a_place_that_cannot_be_written_is_said_once(tmp_path, write, name):
    with pytest.raises(UsageError) as caught:
        write(str(tmp_path / "nowhere" / name), found())
    assert str(caught.value).count("cannot be written") == str(caught.value).count("choose another place") == 1


def test_bars_in_names_do_not_end_a_column():
    lines = table_of([Found("a|b.jpg", [Match(1, "c|d.jpg", 0.5), Match(2, "e.jpg", 0.25)])]).splitlines()
    assert "a\\|b.jpg" in lines[2] and "c\\|d.jpg" in lines[2]
    assert {line.replace("\\|", "").count("|") for line in lines} == {5}
    assert len({len(line) for line in lines}) == 1


def test_the_query_is_left_out_and_copies_are_named(tmp_path, monkeypatch):
    for name, content in (("q", b"1"), ("copy", b"1"), ("a", b"2"), ("same", b"2"), ("other", b"3")):
        (tmp_path / f"{name}.jpg").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    ranked = [
        str(tmp_path / "q.jpg"),
        "copy.jpg",
        "a.jpg",
        "same.jpg",
        "gone.jpg",
        "other.jpg",
    ]  # one more than asked for
    index = NoMatches()
    index.search = lambda vectors, k, *_: [[Match(i + 1, path, 1 - i / 10) for i, path in enumerate(ranked[:k])]]
    monkeypatch.setattr(module.SearchIndex, "load", lambda folder: index)
    monkeypatch.setattr(module, "Embedder", lambda *_: Network())
    (only,) = module.find_matches("index", ["q.jpg"], k=4)
    assert [(m.rank, m.path) for m in only.matches] == list(enumerate(ranked[1:5], 1))
    assert only.copies == {"copy.jpg": "q.jpg", "same.jpg": "a.jpg"}
    assert "same.jpg (the same file as a.jpg)" in table_of([only])
    write_json(str(tmp_path / "m.json"), [only])
    entries = json.loads((tmp_path / "m.json").read_text())[0]["matches"]
    assert [entry.get("same_file_as") for entry in entries] == ["q.jpg", None, "a.jpg", None]


def test_matches_of_a_calibrated_network_have_probabilities(monkeypatch, tmp_path):
    likely = {"pair_slope": 10.0, "pair_offset": -8.0}  # even at 0.8
    rest = dict.fromkeys(set(Calibration.__dataclass_fields__) - set(likely), 1.0)
    index, network = NoMatches(), Network()
    index.search = lambda vectors, k, *_: [[Match(1, "a.jpg", 0.8 + np.log(4) / 10), Match(2, "b.jpg", 0.8)]]
    monkeypatch.setattr(network, "calibration", Calibration(**likely, **rest), raising=False)
    monkeypatch.setattr(module.SearchIndex, "load", lambda folder: index)
    monkeypatch.setattr(module, "Embedder", lambda *_: network)
    (only,) = module.find_matches("index", ["q.jpg"])
    assert [match.probability for match in only.matches] == pytest.approx([0.8, 0.5])
    assert "| probability" in table_of([only]) and "| 0.800 " in table_of([only])
    write_json(str(tmp_path / "m.json"), [only])
    assert json.loads((tmp_path / "m.json").read_text())[0]["matches"][0]["probability"] == 0.8


class NoMatches:
    about = {"run": "run", "fingerprint": "one"}

    def search(self, vectors, *_):
        return [[] for _ in vectors]


def test_an_index_without_any_match(monkeypatch):
    monkeypatch.setattr(module.SearchIndex, "load", lambda folder: NoMatches())
    monkeypatch.setattr(module, "Embedder", lambda *_: Network())
    with pytest.raises(UsageError, match="index gives no match at all; build it anew"):
        module.find_matches("index", ["q.jpg"])
