"""ise-identities: a ledger from a run, pictures in, corrections, tables out."""

import csv
import io
import shutil

import pytest
import torch
from helpers import load_tool

from ise_plugin.utils.weights import sealed


@pytest.fixture(scope="module")
def made(folder_run, tmp_path_factory):
    """(folder of pictures, run, ledger) of a run on all but some pictures."""
    crops, run = folder_run
    ledger = tmp_path_factory.mktemp("ledger") / "people.ledger"
    assert load_tool("identities").main(["init", "--ledger", str(ledger), "--run", str(run), "--device", "cpu"]) == 0
    return crops, run, ledger


@pytest.fixture
def identities(made, tmp_path, capsys):
    """Calls a command on a copy of the ledger; (exit code, what it prints)."""
    ledger = shutil.copy(made[2], tmp_path / "people.ledger")

    def call(name, *arguments):
        capsys.readouterr()
        code = load_tool("identities").main([name, "--ledger", str(ledger), *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


def exported(identities, folder):
    assert identities("export", "--output", folder / "table.csv")[0] == 0
    with open(folder / "table.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_image_of_the_run_is_there_with_its_group(made, identities, tmp_path):
    crops, run, _ = made
    with open(run / "identities.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = exported(identities, tmp_path)
    assert {row["path"] for row in found} == {str(crops / row["path"]) for row in rows}
    groups = {(row["path"], row["cluster"]) for row in rows}
    number = {row["path"].removeprefix(f"{crops}/"): row["person"] for row in found}
    pairs = {(cluster, number[path]) for path, cluster in groups}
    assert len(pairs) == len({cluster for _, cluster in pairs}) and ("-1", "") in pairs or "-1" not in dict(pairs)


def test_a_days_pictures_are_added_once(made, identities, tmp_path, caplog):
    crops, _, _ = made
    day = tmp_path / "day"
    day.mkdir()
    for path in sorted(crops.iterdir())[:6]:
        shutil.copy(path, day / f"again_{path.name}")  # the same bytes under another name
    for seed, path in enumerate(sorted(crops.iterdir())[6:10]):
        (day / f"new_{path.name}").write_bytes(path.read_bytes() + b"\0" * (seed + 1))  # the same picture, another file
    code, said = identities("add", "--device", "cpu", day)
    assert code == 0 and said.startswith("4 images came in")
    assert "6 files are there under another name" in caplog.text
    assert identities("add", "--device", "cpu", day) == (0, "nothing new\n")
    assert "undone: change 1, add of" in identities("undo")[1]
    assert not [row for row in exported(identities, tmp_path) if "new_" in row["path"]]
    assert not list(tmp_path.glob("*.incoming*"))


def test_corrections_and_what_is_said_of_them(identities, tmp_path):
    first, second = sorted({int(row["person"]) for row in exported(identities, tmp_path) if row["person"]})[:2]
    assert identities("name", first, "=cmd|' /C calc'!A0")[0] == 0
    assert "has" in identities("merge", first, second)[1]
    assert "'=cmd" in {row["name"][:5] for row in exported(identities, tmp_path)}
    own = [row["path"] for row in exported(identities, tmp_path) if row["person"] == str(first)]
    assert "has 1 images" in identities("split", first, own[0])[1]
    assert identities("answer", "same", own[1], own[2])[0] == 0
    assert identities("lock", first) == (0, "")
    assert "is locked" in identities("merge", first, 99999)[1]
    code, said = identities("corrections", "--output", tmp_path / "said.csv")
    assert code == 0 and "pairs of one person" in said
    assert "change 5: lock" in identities("stats")[1]


def test_forget_asks_first(identities, tmp_path):
    person = next(row["person"] for row in exported(identities, tmp_path) if row["person"])
    code, said = identities("forget", person)
    assert code == 2 and "add --yes" in said
    assert person in {row["person"] for row in exported(identities, tmp_path)}


def test_check(identities, tmp_path):
    assert identities("check") == (0, "whole\n")
    ledger = tmp_path / "people.ledger"
    ledger.write_bytes(ledger.read_bytes()[:65536])
    code, said = identities("check")
    assert code == 2 and "is damaged; --repair NEW_FILE" in said


def test_no_command_is_keep(made, capsys):
    assert load_tool("identities").main(["--run", str(made[1])]) == 2
    assert "nothing to do" in capsys.readouterr().err


def test_a_run_of_another_network(made, identities, tmp_path):
    crops, run, _ = made
    (tmp_path / "other").mkdir()
    for name in ("config.yaml", "model_final.pth"):
        shutil.copy(run / name, tmp_path / "other")
    weights = torch.load(tmp_path / "other/model_final.pth", weights_only=False)
    weights["model"]["heads.bottleneck.0.weight"] *= 1.5
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    (tmp_path / "other/model_final.pth").write_bytes(sealed(buffer.getvalue()))
    code, said = identities("add", "--device", "cpu", "--run", tmp_path / "other", crops)
    assert code == 2 and "embeddings of another network" in said and "ise-identities retrain" in said


def test_a_page_of_questions_and_its_answers(identities, tmp_path):
    page = tmp_path / "page.html"
    code, said = identities("review", "--output", page, "--questions", 2)
    if code:  # a run whose groups leave nothing to ask
        assert "nothing worth asking" in said
    else:
        assert "2 questions" in said or "1 questions" in said
        assert page.read_text().startswith("<!doctype html>")
    for wrong in ((), ("--output", page, "--serve"), ("--output", page, "--questions", 0)):
        assert identities("review", *wrong)[0] != 0
    table = exported(identities, tmp_path)
    edited = [{**row, "name": "Ada"} if row["person"] == "1" else row for row in table]
    with open(tmp_path / "edited.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(edited)
    count = sum(row["person"] == "1" for row in table)
    assert identities("import", tmp_path / "edited.csv") == (0, f"{count} taken, 0 refused\n")
    assert {row["name"] for row in exported(identities, tmp_path) if row["person"] == "1"} == {"Ada"}
