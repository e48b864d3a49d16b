"""Out as a table, a CVAT task, a Label Studio task, and what was edited there back in."""

import csv
import json
import os
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from ledger_helpers import FINGERPRINT, draw, dump

from ise_plugin.errors import UsageError
from ise_plugin.ledger import IdentityLedger
from ise_plugin.ledger.exchange import import_file
from ise_plugin.ledger.exchange_files import WRITERS

ENDINGS = {"csv": "csv", "cvat": "xml", "label-studio": "json"}


def edit_csv(path, edit):
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row.update(edit(row["path"], row["person"], row["name"]) or {})
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def edit_cvat(path, edit):
    tree = ElementTree.parse(path)
    for image in tree.iter("image"):
        attributes = {one.get("name"): one for one in image.iter("attribute")}
        values = [attributes[name].text or "" for name in ("person", "name")]
        for name, value in (edit(image.get("name"), *values) or {}).items():
            attributes[name].text = value
    tree.write(path)


def edit_label_studio(path, edit):
    with open(path) as file:
        tasks = json.load(file)
    for number, task in enumerate(tasks):
        result = task["predictions"][0]["result"]
        values = {one["from_name"]: one["value"]["text"][0] for one in result}
        changed = edit(task["data"]["path"], values["person"], values["name"])
        task["id"] = number
        if changed:  # as the program exports it: the annotator's own beside the predictions
            said = {**values, **changed}
            own = [{**one, "value": {"text": [said[one["from_name"]]]}} for one in result]
            task["annotations"] = [{"was_cancelled": True, "result": []}, {"was_cancelled": False, "result": own}]
    with open(path, "w") as file:
        json.dump(tasks, file)


EDITORS = {"csv": edit_csv, "cvat": edit_cvat, "label-studio": edit_label_studio}
FORMATS = pytest.mark.parametrize("kind", list(EDITORS))


def people_of(ledger):
    return [row.person for row in ledger.images()]


@pytest.fixture
def round_trip(ledger, tmp_path):
    """Writes the ledger in a format, edits the file, takes it in; what import_file gives."""

    def go(kind, edit, between=lambda: None):
        path = str(tmp_path / f"people.{ENDINGS[kind]}")
        assert WRITERS[kind](ledger, path) == len(people_of(ledger))
        EDITORS[kind](path, edit)
        between()
        return import_file(ledger, path)

    return go


@FORMATS
def test_what_was_not_edited_changes_nothing(ledger, round_trip, kind):
    ledger.name(3, "=Ada; <b>'\u00e9")
    ledger.add(draw([40], images=1, seed=5)[0], FINGERPRINT)  # undecided
    before, changes = dump(ledger), ledger.changes()
    assert round_trip(kind, lambda *row: None) == (0, [])
    assert dump(ledger) == before and ledger.changes() == changes


@FORMATS
def test_merges_splits_new_people_and_names_are_one_change(ledger, round_trip, kind):
    ledger.add(draw([40], images=1, seed=5)[0], FINGERPRINT)
    before = dump(ledger)
    last = lambda path: os.path.basename(path)

    def edit(path, person, name):
        if person == "2":
            return {"person": "1"}  # all of them: a merge
        if person == "3" and last(path) in ("0002_000.jpg", "0002_001.jpg"):
            return {"person": "4"}  # some: to another
        if person == "5" and last(path) == "0004_003.jpg":
            return {"person": "somebody"}
        if person == "6" and last(path) == "0005_003.jpg":
            return {"person": "somebody"}
        if person == "":
            return {"person": "7"}
        if person == "8":
            return {"name": "Bo \u00e9"}

    taken, refused = round_trip(kind, edit)
    assert refused == [] and taken == 8 + 2 + 2 + 1 + 8
    expected = np.repeat(np.arange(1, 13), 8)
    expected[8:16] = 1
    expected[16:18] = 4
    found = np.array(people_of(ledger))
    new = found[32 + 3]
    expected[[35, 43]] = new
    assert new > 12 and found.tolist() == [*expected, 7]
    assert ledger.require(8).name == "Bo \u00e9"
    with pytest.raises(UsageError, match="were said to be two people"):
        ledger.merge(3, 4)  # held to when labelled anew
    assert ledger.changes()[-1].kind == "import"
    ledger.undo()
    assert dump(ledger) == before


@FORMATS
def test_rows_that_cannot_be_taken_are_named_and_the_others_are_taken(ledger, round_trip, kind):
    ledger.lock(9)

    def edit(path, person, name):
        return {
            "0000_000": {"person": "77"},
            "0001_000": {"person": "9"},
            "0002_000": {"person": ""},
            "0003_000": {"person": "5"},
            "0005_000": {"name": "Ada"},
            "0005_001": {"name": "Bo"},
            "0006_000": {"name": "Cy"},
        }.get(os.path.basename(path)[:8])

    taken, refused = round_trip(kind, edit)
    assert taken == 2 and len(refused) == 5
    for part in ("no person 77", "person 9 is locked", "has no person", "person 6 has several names"):
        assert any(part in line for line in refused)
    assert all(line.split(":")[0].split(" ")[0] in ("line", "image", "task") for line in refused)
    assert ledger.image(25).person == 5 and ledger.require(7).name == "Cy" and ledger.require(6).name == ""


@FORMATS
def test_what_the_ledger_has_changed_since_is_not_turned_back(ledger, round_trip, kind):
    first = lambda path, person, name: {"person": "2"} if path.endswith("0000_000.jpg") else None
    taken, (refused,) = round_trip(kind, first, lambda: ledger.merge(5, 1))
    assert taken == 0 and "was 1's and is 5's now" in refused
    assert ledger.require(5).images == 16


def test_swapped_images(ledger, round_trip):
    swap = {"0000_000.jpg": "2", "0001_000.jpg": "1"}

    def edit(path, person, name):
        if os.path.basename(path) in swap:
            return {"person": swap[os.path.basename(path)]}

    assert round_trip("csv", edit) == (2, [])
    assert [ledger.image(n).person for n in (1, 2, 9, 10)] == [2, 1, 1, 2]


def test_a_table_from_a_spreadsheet(ledger, tmp_path):
    """With semicolons, numbers with a point, a byte-order mark, and columns left out."""
    paths = [row.path for row in ledger.images()]
    lines = ["path;person;name", f"{paths[0]};2.0;", f"{paths[1]};1.0;Ada", f"{paths[8]};;"]
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    taken, refused = import_file(ledger, str(tmp_path / "t.csv"))
    assert taken == 2 and len(refused) == 1 and "line 4" in refused[0]
    assert ledger.image(1).person == 2 and ledger.require(1).name == "Ada"


def test_names_of_files_by_their_ends(tmp_path):
    batch, who = draw([0, 1], images=2)
    batch = batch._replace(paths=["/a/x/1.jpg", "/a/y/1.jpg", "/a/y/2.jpg", "/a/z/3\udcff.jpg"])
    with IdentityLedger.create(str(tmp_path / "l"), batch, who, FINGERPRINT) as ledger:
        lines = ["path,person", "1.jpg,2", "x/1.jpg,2", "2.jpg,1", "5.jpg,1"]
        (tmp_path / "t.csv").write_text("\n".join(line + "," for line in lines).replace("person,", "person,name"))
        taken, refused = import_file(ledger, str(tmp_path / "t.csv"))
        assert taken == 2 and "more than one image" in refused[0] and "no image" in refused[1]
        for kind in ("cvat", "label-studio", "csv"):
            assert WRITERS[kind](ledger, str(tmp_path / "out")) == 4


@pytest.mark.parametrize(
    "name, content",
    [
        ("t.csv", "a,b\n1,2\n"),
        ("t.csv", "\0"),
        ("t.xml", "<other/>"),
        ("t.xml", "no xml"),
        ("t.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>'),
        ("t.xml", "<annotations><image><tag label='person'/></image></annotations>"),
        ("t.json", "[1]"),
        ("t.json", '[{"annotations": [{"result": []}]}]'),
        ("t.json", "{}"),
    ],
)
def test_other_files_are_refused_whole(ledger, tmp_path, name, content):
    before = dump(ledger)
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=name):
        import_file(ledger, str(tmp_path / name))
    assert dump(ledger) == before
