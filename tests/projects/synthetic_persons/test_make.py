"""The command that draws a data set."""

import runpy

import numpy as np
import pytest
from helpers import REPOSITORY
from PIL import Image


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


def test_strong_cameras_make_pictures_of_one_camera_alike(tmp_path, datasets_folder, make):
    """By pixels alone: the share of training pictures whose nearest one is by the same camera."""
    assert make(["--size", "tiny", "--camera-strength", "6", "--output", str(tmp_path)]) == 0

    def by_the_same_camera(root):
        paths = sorted((root / "synthetic_persons_tiny/bounding_box_train").iterdir())
        pixels = np.array([np.asarray(Image.open(path).resize((8, 16)), dtype=float).ravel() for path in paths])
        away = ((pixels[:, None] - pixels) ** 2).sum(axis=2)
        np.fill_diagonal(away, np.inf)
        cameras = np.array([path.name[6] for path in paths])
        return (cameras[away.argmin(axis=1)] == cameras).mean()

    assert by_the_same_camera(tmp_path) > 0.95 > by_the_same_camera(datasets_folder)


@pytest.mark.parametrize(
    "options",
    [["--seed", "3"], ["--cameras", "8"], ["--camera-strength", "0"], ["--camera-strength", "2"], ["--workers", "0"]],
)
def test_user_errors_are_one_line_and_exit_code_2(datasets_folder, make, capsys, options):
    assert make(["--size", "tiny", "--output", str(datasets_folder), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("SyntheticPersons: ")


def test_unknown_size_exits_with_code_2(tmp_path, make, capsys):
    with pytest.raises(SystemExit) as caught:
        make(["--size", "huge", "--output", str(tmp_path)])
    assert caught.value.code == 2 and "huge" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
