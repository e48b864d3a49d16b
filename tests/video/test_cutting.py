"""Several recordings at once."""

import pytest
from video_helpers import write_world

from ise_plugin.errors import UsageError
from ise_plugin.video import crops
from ise_plugin.video.crops import CutSettings
from ise_plugin.video.cutting import cut_recordings

pytest.importorskip("av")
pytest.importorskip("trackers")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, {"cam1-noon": [1, 2], "cam2-noon": [3]}, frames=6)
    return folder


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_processes_give_what_one_gives_and_one_that_cannot_be_read_is_left_out(world, tmp_path, caplog):
    sources = [str(world / name) for name in ("cam1-noon.mp4", "none.mp4", "cam2-noon.mp4")]
    settings = CutSettings(boxes=str(world / "boxes/{}.txt"))
    for processes in (1, 2):
        cut = cut_recordings(sources, str(tmp_path / str(processes)), "", settings, processes)
        assert [recording.name for recording in cut] == ["cam1-noon", "cam2-noon"]
    one, two = contents(tmp_path / "1"), contents(tmp_path / "2")
    assert one == two and len(one) > 10
    assert caplog.text.count("none is left out: ") == 2 and "cannot be read" in caplog.text


def test_what_was_cut_is_not_cut_again_unless_it_changed(world, tmp_path, monkeypatch):
    looked = []
    cut = crops._cut
    monkeypatch.setattr(crops, "_cut", lambda *rest: looked.append(rest[0].name) or cut(*rest))
    sources, boxes = [str(world / f"cam{i}-noon.mp4") for i in (1, 2)], tmp_path / "boxes"
    boxes.mkdir()
    for path in (world / "boxes").iterdir():
        (boxes / path.name).write_bytes(path.read_bytes())
    settings = CutSettings(boxes=str(boxes / "{}.txt"))
    again = lambda settings, camera="": cut_recordings(sources, str(tmp_path / "out"), camera, settings, 1)
    for call in (lambda: again(settings), lambda: again(settings)):
        call()
    assert looked == ["cam1-noon", "cam2-noon"]
    with open(boxes / "cam2-noon.txt", "a") as file:
        file.write("6,-1,5,5,20,60,1,-1,-1,-1\n")
    again(settings)
    assert looked[2:] == ["cam2-noon"]
    again(settings._replace(every=2))
    again(settings._replace(every=2), r"(cam\d)")
    assert looked[3:] == ["cam1-noon", "cam2-noon"] * 2
    with open(tmp_path / "out/sightings.csv") as file:
        assert {line.split(",")[1] for line in list(file)[1:]} == {"cam1", "cam2"}


def test_a_detector_of_the_callers_own_and_mistakes(world, tmp_path):
    def detect(frame):
        assert frame.shape == (96, 160, 3)
        return [[10.0, 18.0, 34.0, 82.0]], [2.0]

    sources = [str(world / "cam1-noon.mp4")]
    cut_recordings(sources, str(tmp_path / "out"), "", CutSettings(detector=detect), 4)
    assert len(list((tmp_path / "out/cam1-noon").glob("*.jpg"))) >= 3
    for arguments, words in (
        ((sources * 2, str(tmp_path / "a"), "", CutSettings()), "2 recordings are called cam1-noon"),
        ((sources, str(tmp_path / "a"), "x(.)", CutSettings()), "does not fit"),
        ((sources, str(tmp_path / "a"), "", CutSettings(boxes="none.txt")), "none.txt cannot be read"),
        ((sources, str(tmp_path / "a"), "", CutSettings(detector=lambda frame: ([], []))), "gives no crop of a person"),
    ):
        with pytest.raises(UsageError, match=words):
            cut_recordings(*arguments, 1)
    assert not list((tmp_path / "a").glob("cam1*"))
