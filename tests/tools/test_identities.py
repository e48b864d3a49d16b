"""tools/identities.py refuses what would lose or misread a run's identities."""

import importlib.util
import json
import shutil

import pytest
from helpers import REPOSITORY


def load_tool():
    spec = importlib.util.spec_from_file_location("identities_tool", REPOSITORY / "tools/identities.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_tool(*arguments):
    return load_tool().main([*map(str, arguments), "--min-confidence", "0.5"])


@pytest.fixture
def run(folder_run, tmp_path):
    _, output = folder_run
    (tmp_path / "run").mkdir()
    for name in ("identities.csv", "identities.json"):
        shutil.copy(output / name, tmp_path / "run")
    return tmp_path / "run"


def refusal(capsys, *arguments):
    assert run_tool(*arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


def test_the_run_itself_is_not_written_over(run, capsys):
    before = (run / "identities.csv").read_bytes()
    assert "--output is the run itself" in refusal(capsys, "--run", run, "--output", f"{run}/.")
    assert (run / "identities.csv").read_bytes() == before


def test_an_output_that_is_a_file(run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "--output" in refusal(capsys, "--run", run, "--output", tmp_path / "file")


@pytest.mark.parametrize("folder", [5, None, "nowhere"])
def test_images_that_are_not_where_they_were(run, tmp_path, capsys, folder):
    (run / "identities.json").write_text(json.dumps({"folder": folder}))
    assert "identities.json" in refusal(capsys, "--run", run, "--output", tmp_path / "safe")
    assert not (tmp_path / "safe").exists()


def test_nested_rubbish(run, tmp_path, capsys):
    (run / "identities.json").write_text("[" * 100_000)
    refusal(capsys, "--run", run, "--output", tmp_path / "safe")


@pytest.mark.parametrize("column", [3, 7])
def test_a_group_without_its_numbers(run, tmp_path, capsys, column):
    lines = (run / "identities.csv").read_text().splitlines()
    number = next(i for i, line in enumerate(lines) if line.split(",")[2] == "0")
    cells = lines[number].split(",")
    cells[column] = ""
    lines[number] = ",".join(cells)
    (run / "identities.csv").write_text("\n".join(lines))
    assert "without similarity or confidence" in refusal(capsys, "--run", run, "--output", tmp_path / "safe")


def test_a_labelled_list_is_compared(run, tmp_path, capsys):
    names = [line.split(",")[0] for line in (run / "identities.csv").read_text().splitlines()[1:]]
    (tmp_path / "truth.csv").write_text("path,identity\n" + "".join(f"{n},{n.split('_')[0]}\n" for n in names))
    module = load_tool()
    assert module.main(["--run", str(run), "--score", str(tmp_path / "truth.csv")]) == 0
    out = capsys.readouterr().out
    assert "ari outliers alone" in out and f"{len(names)}" in out and not (tmp_path / "safe").exists()


def test_nothing_asked_for(run, capsys):
    assert "name --output, --score, or both" in refusal(capsys, "--run", run)
