"""Recordings into people, as a user types it: files, resumption, more recordings, drawings."""

import csv
import json
import shutil
from collections import Counter

import numpy as np
import pytest
from helpers import FOLDER_RUN_OPTIONS, load_tool
from PIL import Image
from video_helpers import Colours, write_world

from ise_plugin.ledger import IdentityLedger
from ise_plugin.video import jobs
from ise_plugin.video.networks import load_network
from ise_plugin.video.recordings import Recording

pytest.importorskip("av")
pytest.importorskip("trackers")
MODEL = "ISE/folder.yml"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two recordings of four people, and a third of two of them and a new one."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, {"cam1": [1, 2, 3, 4], "cam2": [2, 1, 4, 3], "cam3": [1, 5, 2]})
    return folder


def video(*words):
    return load_tool("video").main([str(word) for word in words])


def told(world):
    return "--boxes", world / "boxes/{}.txt", "--processes", 1


@pytest.fixture(scope="module", autouse=True)
def colours():
    """Nothing is loaded but where a test trains."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "load_network", lambda *_: Colours())
        yield patch


@pytest.fixture(scope="module")
def found(world, tmp_path_factory):
    """The people of the first two recordings."""
    output = tmp_path_factory.mktemp("found") / "out"
    (world / "broken.mp4").write_bytes(b"no video")
    sources = [world / name for name in ("cam1.mp4", "broken.mp4", "cam2.mp4")]
    assert video("identities", *sources, "--output", output, "--model", MODEL, *told(world)) == 0
    return output


def people_of(output, world, name):
    """Person number -> how often it is on which drawn person, by the truth."""
    numbers = Counter()
    truth = {}
    with open(world / "truth" / f"{name}.txt", newline="") as file:
        for frame, person, left, top, *_ in csv.reader(file):
            truth.setdefault(int(frame), []).append((int(person), float(left), float(top)))
    with open(output / "identities" / f"{name}.txt", newline="") as file:
        for frame, number, left, top, *_ in csv.reader(file):
            near = min(truth[int(frame)], key=lambda row: abs(row[1] - float(left)) + abs(row[2] - float(top)))
            numbers[int(number), near[0]] += 1
    return numbers


def test_people_have_one_number_over_all_cameras(found, world):
    numbers = people_of(found, world, "cam1") + people_of(found, world, "cam2")
    assert {person for _, person in numbers} == {1, 2, 3, 4}
    right = sum(max(count for (number, p), count in numbers.items() if p == person) for person in range(1, 5))
    assert right / sum(numbers.values()) > 0.9
    for name in ("cam1", "cam2"):
        with open(found / "identities" / f"{name}.txt", newline="") as file:
            rows = [(row[0], row[1]) for row in csv.reader(file)]
        assert len(rows) == len(set(rows)) > 40  # nobody twice in a frame


def test_timeline_and_report_say_who_when_and_where(found):
    with open(found / "timeline.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["camera"] for row in rows} == {"cam1", "cam2"}
    for row in rows:
        assert 0 <= float(row["from"]) < float(row["to"]) <= 8
    frames = sum(len((found / "identities" / f"{name}.txt").read_text().splitlines()) for name in ("cam1", "cam2"))
    assert sum(int(row["frames"]) for row in rows) == frames
    page = (found / "report.html").read_text()
    assert "<svg" in page and "Timeline" in page and all(word in page for word in ("cam1", "cam2"))


def test_crops_are_a_folder_to_train_on(found):
    with open(found / "crops/sightings.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "camera", "sequence", "track", "time"] and len(rows) > 60
    assert all((found / "crops" / row["path"]).is_file() for row in rows)
    about = json.loads((found / "crops/cam1/source.json").read_text())
    assert about["left_out"]["boxes outside the frame"] == 1 and about["skipped"] == 0


def snapshot(output):
    with IdentityLedger(str(output / "people.ledger")) as ledger:
        rows = [(row.path.split("crops/")[1], row.person) for row in ledger.images()]
    files = [output / "timeline.csv", *sorted((output / "identities").iterdir())]
    return rows, [path.read_bytes() for path in files]


@pytest.mark.parametrize("stage", ["cut_recordings", "load_network", "group_crops", "write_results"])
def test_an_interrupted_call_goes_on_to_the_same_people(found, world, tmp_path, monkeypatch, stage):
    output = tmp_path / "out"
    if stage != "cut_recordings":
        shutil.copytree(found / "crops", output / "crops")
    words = "identities", world / "cam1.mp4", world / "cam2.mp4", "--output", output, "--model", MODEL, *told(world)

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(jobs, stage, stop)
        assert video(*words) == 130
    assert (output / "people.ledger").exists() == (stage == "write_results")
    (output / "people.ledger.new").parent.mkdir(exist_ok=True)
    if stage == "group_crops":
        (output / "people.ledger.new").write_bytes(b"half a ledger")
    assert video(*words) == 0 and snapshot(output) == snapshot(found)


def test_more_recordings_get_the_same_people_and_corrections_reach_the_files(found, world, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(found, output)
    move_ledger(found, output)
    words = "add", world / "cam3.mp4", "--output", output, *told(world)
    before = people_of(output, world, "cam1")
    assert video(*words) == 0
    once = snapshot(output)
    assert video(*words) == 0 and snapshot(output) == once
    assert people_of(output, world, "cam1") == before
    numbers = people_of(output, world, "cam3")
    assert numbers, "everybody is undecided"
    with open(output / "identities/cam3.txt", newline="") as file:
        rows = [(row[0], row[1]) for row in csv.reader(file)]
    assert len(rows) == len(set(rows))
    with IdentityLedger(str(output / "people.ledger")) as ledger:
        one, other = (person.number for person in ledger.people()[:2])
        ledger.name(one, "Ada")
        ledger.merge(one, other)
    assert video("export", "--output", output) == 0
    with open(output / "timeline.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert str(other) not in {row["person"] for row in rows} and {"Ada"} == {
        r["name"] for r in rows if r["person"] == str(one)
    }
    assert video("identities", world / "cam2.mp4", "--output", output, "--model", MODEL, *told(world)) == 0


def move_ledger(old, new):
    """Its images are where they were copied to."""
    with IdentityLedger(str(new / "people.ledger")) as ledger, ledger.store.change("move"):
        for row in list(ledger.images()):
            path = row.path.replace(str(old), str(new)).encode()
            ledger.store.connection.execute("UPDATE images SET path = ? WHERE id = ?", (path, row.image))


def test_a_ledger_of_other_recordings_is_left_alone(found, world, tmp_path, capsys):
    output = tmp_path / "out"
    shutil.copytree(found, output)
    move_ledger(found, output)
    assert video("identities", world / "cam3.mp4", "--output", output, "--model", MODEL, *told(world)) == 2
    assert "add recordings with ise-video add" in capsys.readouterr().err


def test_numbers_are_drawn_on_the_recordings(found, world):
    assert video("annotate", "--output", found, world / "cam1.mp4") == 0
    drawn, plain = (list(Recording(str(path)).frames()) for path in (found / "annotated/cam1.mp4", world / "cam1.mp4"))
    assert [frame.number for frame in drawn] == [frame.number for frame in plain]
    np.testing.assert_allclose([f.time for f in drawn], [f.time for f in plain], atol=2e-3)
    with open(found / "identities/cam1.txt", newline="") as file:
        rows = [[float(value) for value in row[:6]] for row in csv.reader(file)]
    for frame, _, left, top, width, _ in rows[:20]:
        change = np.abs(drawn[int(frame) - 1].image.astype(int) - plain[int(frame) - 1].image)
        edge = change[round(top), round(left) : round(left + width)].mean()
        assert edge > 30 and np.median(change) < 10
    assert video("annotate", "--output", found, world / "cam1.mp4", "--frame", 5) == 0
    picture = np.asarray(Image.open(found / "annotated/cam1_5.jpg"), int)
    assert np.abs(picture - drawn[4].image).mean() < 10 < np.abs(picture - plain[4].image).max()
    for wrong in ([world / "cam3.mp4"], [world / "cam1.mp4", "--frame", 500]):
        assert video("annotate", "--output", found, *wrong) == 2


def test_trained_on_the_crops(world, found, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "load_network", load_network)
    output = tmp_path / "out"
    shutil.copytree(found / "crops", output / "crops")
    pairs = dict(zip(FOLDER_RUN_OPTIONS[::2], FOLDER_RUN_OPTIONS[1::2]))
    pairs |= {"ISE.HOOKS": "('IdentityChoice',)", "SOLVER.MAX_EPOCH": 1, "SOLVER.STEPS": "[]", "ISE.ITERS_PER_EPOCH": 1}
    pairs |= {"ISE.APPEARANCE.SCENES": 0, "DATALOADER.AUGMENT_ON_DEVICE": False}
    options = [word for key, value in pairs.items() for word in ("--set", key, value)]
    words = "identities", world / "cam1.mp4", world / "cam2.mp4", "--output", output, "--config", MODEL
    assert video(*words, *options, "--device", "cpu", *told(world)) == 0
    assert (output / "run/model_chosen.pth").exists() and people_of(output, world, "cam1")
    with IdentityLedger(str(output / "people.ledger")) as ledger:
        assert ledger.model().run == str(output / "run")


def test_nothing_to_read_is_one_line(tmp_path, world, capsys):
    assert video("identities", world / "broken.mp4", "--output", tmp_path / "out", *told(world)) == 2
    assert "error: " in capsys.readouterr().err.strip().splitlines()[-1]
    assert video("annotate", "--output", tmp_path / "out2") == 2
