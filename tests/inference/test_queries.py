"""Results as table and picture."""

import logging

import pytest
from PIL import Image

import ise_plugin.inference.queries as module
from ise_plugin.errors import UsageError
from ise_plugin.inference.index import Match
from ise_plugin.inference.queries import Found, picture_format, table_of, write_json, write_picture


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


class NoMatches:
    about = {"run": "run", "fingerprint": "one"}

    def search(self, vectors, *_):
        return [[] for _ in vectors]


class Network:
    fingerprint = "one"

    def __init__(self, *_):
        pass

    def __call__(self, paths):
        return [0] * len(paths)


def test_an_index_without_any_match(monkeypatch):
    monkeypatch.setattr(module.SearchIndex, "load", lambda folder: NoMatches())
    monkeypatch.setattr(module, "Embedder", Network)
    with pytest.raises(UsageError, match="index gives no match at all; build it anew"):
        module.find_matches("index", ["q.jpg"])
