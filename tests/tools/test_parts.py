"""A part of a labelled data set: who is in it, and which images are queries."""

import importlib.util
from collections import Counter

import pytest
from helpers import REPOSITORY


@pytest.fixture
def parts():
    spec = importlib.util.spec_from_file_location("parts", REPOSITORY / "tools/benchmarks/parts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def images(tmp_path):
    """Five people, of each three images by the first camera and one by the second."""
    folder = tmp_path / "images"
    folder.mkdir()
    for identity in range(1, 6):
        for camera, count in ((1, 3), (2, 1)):
            for number in range(count):
                (folder / f"{identity:04d}_c{camera}s1_{number:06d}_01.jpg").write_bytes(b"x")
    return folder


def test_half_of_the_people_are_trained_on_and_as_many_others_tested(parts, images, tmp_path, capsys):
    words = ["--images", str(images), "--people", "2", "--output", str(tmp_path / "out")]
    assert parts.main(words) == 0
    folder = tmp_path / "out/Market-1501-v15.09.15"
    found = {
        name: [path.name for path in sorted((folder / name).iterdir())]
        for name in (parts.TRAIN, parts.QUERY, parts.GALLERY)
    }
    people = {name: Counter(image[:4] for image in names) for name, names in found.items()}
    assert [sorted(count.values()) for count in people.values()] == [[4, 4], [2, 2], [2, 2]]
    assert (
        people[parts.QUERY].keys() == people[parts.GALLERY].keys()
        and not people[parts.QUERY].keys() & people[parts.TRAIN].keys()
    )
    # the first image by each camera
    assert all("_000000_" in image for image in found[parts.QUERY])
    assert parts.main(words) == 2 and "there already" in capsys.readouterr().err
    assert parts.main([*words[:-1], str(tmp_path / "other"), "--seed", "1"]) == 0


@pytest.mark.parametrize(
    "people, where, word", [("3", "images", "takes twice as many"), ("1", "nothing", "holds no .jpg")]
)
def test_too_few_people_are_named(parts, images, tmp_path, capsys, people, where, word):
    assert parts.main(["--images", str(tmp_path / where), "--people", people, "--output", str(tmp_path / "out")]) == 2
    assert word in capsys.readouterr().err and not (tmp_path / "out").exists()
