"""embed, build_index, search, identities and export as a user types them."""

import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch
from helpers import REPOSITORY
from PIL import Image

from ise_plugin.identities.groups import read_csv
from ise_plugin.inference import read_embeddings


def tool(name):
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def indexed(folder_run, tmp_path_factory):
    """(crops, run, folder with embeddings and an index of them)."""
    crops, run = folder_run
    folder = tmp_path_factory.mktemp("indexed")
    assert tool("embed")(crops, "--run", run, "--output", folder / "e", "--device", "cpu") == 0
    assert tool("build_index")("--embeddings", folder / "e.npz", "--output", folder / "index") == 0
    return crops, run, folder


def test_embeddings_of_a_folder(indexed):
    crops, run, folder = indexed
    found = read_embeddings(str(folder / "e.npz"))
    assert found.paths == [str(crops / name) for name in sorted(p.name for p in crops.iterdir())]
    assert np.linalg.norm(found.vectors, axis=1) == pytest.approx(1, abs=1e-5)


def test_second_call_embeds_only_what_is_new_and_reports_what_is_bad(indexed, tmp_path, capsys):
    crops, run, _ = indexed
    copy = tmp_path / "crops"
    shutil.copytree(crops, copy)
    (copy / "bad\n.jpg").write_bytes(b"")
    (tmp_path / "out").mkdir()
    for expected in (150, 0):
        assert tool("embed")("--run", run, "--output", tmp_path / "out/e", "--formats", "npz", copy) == 0
        out = capsys.readouterr().out
        assert "150 embeddings" in out and f"{expected} of them new" in out
        assert "out/e.npz, " in out and [p.name for p in (tmp_path / "out").iterdir()] == ["e.npz"]
        assert "1 files were left out" in out and "bad\\n.jpg' (the file is empty)" in out


def test_too_many_bad_files_end_the_job_and_keep_what_was_done(indexed, tmp_path, capsys):
    crops, run, _ = indexed
    (tmp_path / "bad.jpg").write_bytes(b"")
    good = sorted(crops.iterdir())[:3]
    arguments = [*good, tmp_path / "bad.jpg", "--run", run, "--output", tmp_path / "e"]
    assert tool("embed")(*arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert (
        error.startswith("error: stopped at the first 1 of 4 images")
        and "--max-bad-share" in error
        and "bad.jpg" in error
    )
    assert tool("embed")(*arguments, "--max-bad-share", 0.5) == 0
    assert "3 embeddings" in (out := capsys.readouterr().out) and "0 of them new" in out


def test_formats(indexed, tmp_path, capsys):
    picture = sorted(indexed[0].iterdir())[0]
    arguments = [picture, "--run", indexed[1], "--output", tmp_path / "e.npz"]
    assert tool("embed")(*arguments, "--formats", "parquet,npz,npz") == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.npz", "e.parquet"]
    assert f"{tmp_path}/e.parquet and {tmp_path}/e.npz, 1 of them new" in capsys.readouterr().out
    for wrong in ("csv", "npz,csv", ""):
        with pytest.raises(SystemExit):
            tool("embed")(*arguments, "--formats", wrong)
        assert "none of npz, parquet" in capsys.readouterr().err


def test_weights_of_a_failed_training(indexed, tmp_path, capsys):
    crops, run, _ = indexed
    content = torch.load(run / "model_final.pth", weights_only=False)
    for value in content["model"].values():
        if value.is_floating_point():
            value.fill_(float("nan"))
    torch.save(content, tmp_path / "nan.pth")
    picture = sorted(crops.iterdir())[0]
    assert tool("embed")(picture, "--run", run, "--weights", tmp_path / "nan.pth", "--output", tmp_path / "e") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and "nan.pth" in error and "finite" in error
    assert [p.name for p in tmp_path.iterdir()] == ["nan.pth"]


@pytest.mark.parametrize("options", [[], ["--rerank"], ["--exact"]])
def test_an_indexed_image_finds_others(indexed, tmp_path, capsys, options):
    crops, run, folder = indexed
    queries = sorted(crops.iterdir())[4:6]
    arguments = ["--index", folder / "index", "-k", 5, "--json", tmp_path / "m.json", "--picture", tmp_path / "m.png"]
    assert tool("search")(*queries, *arguments, *options) == 0
    table = capsys.readouterr().out
    assert ("order of re-ranking" in table) == (options == ["--rerank"])
    content = json.loads((tmp_path / "m.json").read_text())
    assert [entry["query"] for entry in content] == list(map(str, queries))
    for entry in content:
        assert [m["rank"] for m in entry["matches"]] == [1, 2, 3, 4, 5]
        assert entry["query"] not in {m["path"] for m in entry["matches"]}
        assert all(m["path"] in table for m in entry["matches"])
    with Image.open(tmp_path / "m.png") as picture:
        assert picture.width > 6 * 64 and picture.height > 2 * 128


def test_index_of_another_network_is_refused(indexed, capsys):
    crops, run, folder = indexed
    query = sorted(crops.iterdir())[0]
    assert tool("search")(query, "--index", folder / "index", "--weights", run / "model_0000.pth") == 2
    assert "another network" in capsys.readouterr().err


MISTAKES = {
    "no index": ("search", ["q.jpg", "--index", "nowhere"], "nowhere is no index"),
    "no embeddings": ("build_index", ["--embeddings", "nowhere.npz", "--output", "x"], "nowhere.npz is no file"),
    "embeddings in Parquet": ("build_index", ["--embeddings", "e.parquet", "--output", "x"], "beside it, e.npz"),
    "no weights to embed with": (
        "embed",
        ["q.jpg", "--run", "nowhere", "--output", "x", "--weights", "nope.pth"],
        "--weights nope.pth is no file",
    ),
    "no picture by its name": (
        "search",
        ["q.jpg", "--index", "nowhere", "--picture", "m.gif"],
        "--picture m.gif: the name must end in",
    ),
    "no run to embed with": ("embed", ["q.jpg", "--run", "nowhere", "--output", "x"], "no config.yaml"),
    "no run to export": ("export", ["--run", "nowhere", "--output", "x"], "no config.yaml"),
    "no identities": ("identities", ["--run", "nowhere", "--min-confidence", "0.5", "--output", "x"], "cannot be read"),
    "confidence above one": ("identities", ["--run", ".", "--min-confidence", "5", "--output", "x"], "from 0 to 1"),
}


@pytest.mark.parametrize("name, arguments, words", MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_get_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, name, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert tool(name)(*arguments) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_network_before_any_training_embeds_and_searches(indexed, tmp_path, capsys):
    pictures = sorted(indexed[0].iterdir())[:6]
    (tmp_path / "c.yml").write_text("_BASE_: ISE/folder.yml\nINPUT: {SIZE_TEST: [64, 32]}\n")
    assert tool("embed")(*pictures, "--run", tmp_path / "c.yml", "--output", tmp_path / "e", "--formats", "npz") == 0
    assert tool("build_index")("--embeddings", tmp_path / "e.npz", "--output", tmp_path / "index") == 0
    query = shutil.copy(pictures[2], tmp_path / "q.jpg")
    assert tool("search")(query, "--index", tmp_path / "index", "-k", 1) == 0
    assert f"{pictures[2].name} (the same file as {query})" in capsys.readouterr().out.splitlines()[-1]


def test_no_match_asked_for(capsys):
    with pytest.raises(SystemExit):
        tool("search")("q.jpg", "--index", "nowhere", "-k", 0)
    assert "argument -k: must be at least 1, not 0" in capsys.readouterr().err


def test_weights_that_are_not_there(indexed, capsys):
    assert tool("search")("q.jpg", "--index", indexed[2] / "index", "--weights", "nope.pth") == 2
    assert "error: --weights nope.pth is no file" in capsys.readouterr().err


def test_folder_of_something_else_is_seen_before_the_index_is_built(indexed, tmp_path, capsys):
    (tmp_path / "about.json").write_text("{}")
    assert tool("build_index")("--embeddings", "nowhere.npz", "--output", tmp_path) == 2
    assert "holds no index" in capsys.readouterr().err and (tmp_path / "about.json").read_text() == "{}"


def test_query_that_cannot_be_read(indexed, tmp_path, capsys):
    (tmp_path / "q.jpg").write_bytes(b"no picture")
    assert tool("search")(tmp_path / "q.jpg", "--index", indexed[2] / "index") == 2
    assert "q.jpg (no JPEG" in capsys.readouterr().err


def test_only_safe_groups(folder_run, tmp_path, capsys):
    rows = read_csv(str(folder_run[1] / "identities.csv"))
    limit = sorted({r.confidence for r in rows if not r.outlier})[1]
    assert tool("identities")("--run", folder_run[1], "--min-confidence", limit, "--output", tmp_path / "safe") == 0
    kept = read_csv(str(tmp_path / "safe/identities.csv"))
    groups = {r.cluster for r in rows if not r.outlier and r.confidence >= limit}
    assert {r.cluster for r in kept if not r.outlier} == groups
    assert f"{len(groups)}" in capsys.readouterr().out and (tmp_path / "safe/identities/page_0001.jpg").is_file()


def test_exported_file(folder_run, tmp_path, capsys):
    assert tool("export")("--run", folder_run[1], "--output", tmp_path / "m", "--format", "torchscript") == 0
    assert "m.pt: same embeddings" in capsys.readouterr().out and (tmp_path / "m.pt").is_file()
