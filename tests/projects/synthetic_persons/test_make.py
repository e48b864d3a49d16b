"""The command that draws a data set."""

import runpy

import pytest
from helpers import REPOSITORY


@pytest.fixture
def make():
    return runpy.run_path(str(REPOSITORY / "projects/SyntheticPersons/make.py"))["main"]


def test_what_is_there_is_used_again(datasets_folder, make, capsys):
    assert make(["--size", "tiny", "--output", str(datasets_folder)]) == 0
    assert "already there" in capsys.readouterr().out


def test_it_writes_where_the_variable_says(tmp_path, monkeypatch, make):
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    assert make(["--size", "tiny", "--seed", "7", "--cameras", "4"]) == 0
    names = [path.name for path in (tmp_path / "synthetic_persons_tiny/query").iterdir()]
    assert {name.split("_")[1][:2] for name in names} == {"c1", "c2", "c3", "c4"}


@pytest.mark.parametrize("options", [["--seed", "3"], ["--cameras", "8"], ["--workers", "0"]])
def test_user_errors_are_one_line_and_exit_code_2(datasets_folder, make, capsys, options):
    assert make(["--size", "tiny", "--output", str(datasets_folder), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("SyntheticPersons: ")


def test_unknown_size_exits_with_code_2(tmp_path, make, capsys):
    with pytest.raises(SystemExit) as caught:
        make(["--size", "huge", "--output", str(tmp_path)])
    assert caught.value.code == 2 and "huge" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
