"""Whose an image is, as a table, a CVAT task and a Label Studio task: writing, and reading what was edited.

Every row keeps what the ledger said when it was written: so edits are told from what the ledger has changed since.
"""

import csv
import io
import json
import os
import re
import xml.etree.ElementTree as ElementTree
from typing import Any, NamedTuple, Optional, Sequence
from urllib.parse import quote

from ..errors import UsageError
from ..identities.groups import harmless
from ..utils.files import shown, write_atomically
from .identity_ledger import IdentityLedger
from .reading import Sighted

COLUMNS = (
    "path",
    "person",
    "name",
    "verdict",
    "probability",
    "candidate",
    "camera",
    "track",
    "sequence",
    "time",
    "source",
    "person_before",
    "name_before",
)
LABEL = "person"
_LONGEST_REASON = 200  # characters
_MARK = harmless("=")[:-1]  # before what a spreadsheet would take for a formula
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LOCAL_FILES = "/data/local-files/?d="


class Edit(NamedTuple):
    """A row that came back: where it stands, name of the file, person (a number, a word, empty) and name now and when it was
    written; None before: not known."""

    where: str
    path: str
    person: str
    person_before: Optional[str]
    name: str
    name_before: Optional[str]


def _rows(ledger: IdentityLedger) -> list[tuple[Sighted, str]]:
    names = {person.number: person.name for person in ledger.people()}
    return [(row, names.get(row.person or 0, "")) for row in ledger.images()]


def write_table_of(ledger: IdentityLedger, path: str) -> int:
    """Writes a line for every image, columns as in :data:`COLUMNS`; how many. Spreadsheets run no text as a formula."""
    lines = []
    for row, name in _rows(ledger):
        values = {**row._asdict(), "name": name, "person_before": row.person, "name_before": name}
        lines.append([harmless(value) if isinstance(value, str) else value for value in map(values.get, COLUMNS)])
    write_table(path, COLUMNS, lines)
    return len(lines)


def write_table(path: str, columns: Sequence[str], rows: Sequence[Sequence]) -> None:
    """A CSV file; text that is no UTF-8 as the bytes that a file system gave."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(columns)
    writer.writerows(rows)
    write_atomically(path, buffer.getvalue().encode("utf-8", "surrogateescape"))


def read_table(path: str) -> list[Edit]:
    """Rows of an edited table; UsageError where it is no table of this kind."""
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            content = file.read()
        reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=";" if _semicolons(content) else ",")
        if not {"path", "person", "name"} <= set(reader.fieldnames or []):
            raise ValueError(f"its columns are {', '.join(reader.fieldnames or []) or 'none'}"[:_LONGEST_REASON])
        clean = lambda row, column: None if row[column] is None else row[column].removeprefix(_MARK).strip()
        return [
            Edit(
                f"line {reader.line_num}",
                row["path"].removeprefix(_MARK),
                _number(clean(row, "person")),
                _number(clean(row, "person_before")) if row.get("person_before") is not None else None,
                clean(row, "name") or "",
                clean(row, "name_before") if row.get("name_before") is not None else None,
            )
            for row in reader
        ]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UsageError(
            f"{shown(path)} cannot be read ({error}); it needs the columns path, person and name"
        ) from error


def _semicolons(content: str) -> bool:
    """Whether a spreadsheet of a country with decimal commas has written it."""
    first = content.split("\n", 1)[0]
    return first.count(";") > first.count(",")


def _number(text: Optional[str]) -> str:
    """Spreadsheets write 12 as 12.0 in a column that has empty places."""
    return re.sub(r"\.0+$", "", text or "")


# -- CVAT


def write_cvat(ledger: IdentityLedger, path: str) -> int:
    """Writes annotations in the format "CVAT for images 1.1": a tag for every image, with its person and name; how many.

    Names of images are relative to the folder that holds all of them.

    Source: https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/
    """
    rows = _rows(ledger)
    names = _relative([row.path for row, _ in rows])
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    label = ElementTree.SubElement(
        ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels"), "label"
    )
    ElementTree.SubElement(label, "name").text = LABEL
    attributes = ElementTree.SubElement(label, "attributes")
    for name in ("person", "name", "person_before", "name_before"):
        about = ElementTree.SubElement(attributes, "attribute")
        for key, value in (("name", name), ("mutable", "False"), ("input_type", "text"), ("default_value", "")):
            ElementTree.SubElement(about, key).text = value
    for place, ((row, name), relative) in enumerate(zip(rows, names)):
        image = ElementTree.SubElement(root, "image", id=str(place), name=_xml(relative))
        tag = ElementTree.SubElement(image, "tag", label=LABEL, source="auto")
        person = str(row.person or "")
        for key, value in (("person", person), ("name", name), ("person_before", person), ("name_before", name)):
            ElementTree.SubElement(tag, "attribute", name=key).text = _xml(value)
    write_atomically(path, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))
    return len(rows)


def _xml(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)


def read_cvat(path: str) -> list[Edit]:
    """Tags of images, in an export of CVAT; images without one are left as they are. UsageError where it is another file."""
    try:
        with open(path, "rb") as file:
            content = file.read()
        if b"<!DOCTYPE" in content:  # entities could grow without end
            raise ValueError("a DOCTYPE")
        root = ElementTree.fromstring(content)
        if root.tag != "annotations":
            raise ValueError(f"<{root.tag}>")
        found = []
        for image in root.iter("image"):
            for tag in image.iter("tag"):
                if tag.get("label") != LABEL:
                    continue
                values = {one.get("name"): (one.text or "").strip() for one in tag.iter("attribute")}
                found.append(_edit(f"image {image.attrib['name']}", image.attrib["name"], values))
        return found
    except (OSError, KeyError, ValueError, ElementTree.ParseError) as error:
        raise UsageError(
            f"{shown(path)} is no CVAT for images 1.1 ({error}); export the task in that format"
        ) from error


def _edit(where: str, path: str, values: dict) -> Edit:
    before = values.get("person_before"), values.get("name_before")
    return Edit(where, path, _number(values.get("person")), before[0], values.get("name", ""), before[1])


# -- Label Studio


def write_label_studio(ledger: IdentityLedger, path: str) -> int:
    """Writes tasks of Label Studio, with person and name as predictions; how many. Images are asked of its local files, relative
    to the folder that holds all of them.

    Source: https://labelstud.io/guide/tasks, https://labelstud.io/guide/predictions
    """
    rows = _rows(ledger)
    tasks: list[dict] = []
    for (row, name), relative in zip(rows, _relative([row.path for row, _ in rows])):
        person = str(row.person or "")
        data: dict = {"image": _LOCAL_FILES + quote(os.fsencode(relative)), "path": row.path}
        said = [_text("person", person), _text("name", name)]
        prediction = {"model_version": "ledger", "result": said, "score": row.probability}
        tasks.append({"data": {**data, "person_before": person, "name_before": name}, "predictions": [prediction]})
    write_atomically(path, json.dumps(tasks, indent=1).encode())
    return len(tasks)


def _text(name: str, value: str) -> dict:
    return {"from_name": name, "to_name": "image", "type": "textarea", "value": {"text": [value]}}


def read_label_studio(path: str) -> list[Edit]:
    """The last annotation of each task in an export as JSON; tasks without one are left as they are.

    UsageError where it is another file."""
    try:
        with open(path, encoding="utf-8") as file:
            tasks = json.load(file)
        found = []
        for place, task in enumerate(tasks, 1):
            done = [one for one in task.get("annotations", []) if not one.get("was_cancelled")]
            if done:
                data = task["data"]
                values = {key: str(data[key]) for key in ("person_before", "name_before") if key in data}
                said = {one["from_name"]: _said(one) for one in done[-1]["result"] if one["type"] == "textarea"}
                found.append(_edit(f"task {task.get('id', place)}", str(data["path"]), {**values, **said}))
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise UsageError(
            f"{shown(path)} is no export of Label Studio ({type(error).__name__}: {error}); export the project as JSON"
        ) from error


def _said(result: dict) -> str:
    text: Any = result["value"]["text"]
    return str(text if isinstance(text, str) else text[-1] if text else "").strip()


def _relative(paths: list) -> list[str]:
    """Paths below the folder that holds all of them."""
    folder = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    return [os.path.relpath(path, folder or ".") for path in paths]


WRITERS = {"csv": write_table_of, "cvat": write_cvat, "label-studio": write_label_studio}
