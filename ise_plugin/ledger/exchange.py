"""A ledger's people in other programs' files, and what was edited there back in: tables, CVAT, Label Studio."""

import json
import os
from collections import defaultdict
from typing import Callable, NamedTuple, Optional, Sequence

from ..errors import UsageError
from ..utils.files import shown
from .exchange_files import Edit, read_cvat, read_label_studio, read_table
from .identity_ledger import IdentityLedger
from .review import read_answers, take_all


class _Move(NamedTuple):
    """Images of one person (None: of nobody) that belong to another: a number, or a word for a new one; the rows that say so."""

    source: Optional[int]
    target: str
    images: list
    where: list


def import_file(ledger: IdentityLedger, path: str) -> tuple[int, list[str]]:
    """Takes a file into a ledger as one change that can be undone: answers of a review, or an edited export of any kind.

    Returns:
        how many changes were taken, and a line for each row that was not.

    Raises:
        UsageError: the file is none of these; nothing is changed then.
    """
    if not os.path.isfile(path):
        raise UsageError(f"{shown(path)} is no file; name what ise-identities review or export wrote, edited")
    ending = os.path.splitext(path)[1].lower()
    if ending == ".xml":
        return take_edits(ledger, read_cvat(path))
    if ending != ".json":
        return take_edits(ledger, read_table(path))
    try:
        with open(path, encoding="utf-8") as file:
            tasks = isinstance(json.load(file), list)
    except (OSError, ValueError, RecursionError):
        tasks = False
    if tasks:
        return take_edits(ledger, read_label_studio(path))
    actions = read_answers(path)
    refused = take_all(ledger, actions)
    return len(actions) - len({line.split(":")[0] for line in refused}), refused


def take_edits(ledger: IdentityLedger, edits: Sequence[Edit]) -> tuple[int, list[str]]:
    """Takes what was edited into a ledger, as one change: whose an image is, and what people are called.

    Images that go to a person are split from theirs and merged there, and whole people merged: so what was said holds when
    labelled anew. A word that is no number makes a new person of all images that it is written beside.

    Returns:
        how many rows were taken, and a line for each that was not: the others are.
    """
    known = _Names(ledger)
    refused: list[str] = []
    with ledger.store.change("import") as change:
        moved = [edit for edit in edits if edit.person != edit.person_before]
        taken = 0
        made: dict[str, int] = {}  # word -> number of the new person
        for move in _moves(ledger, known, moved, refused):
            taken += _try(ledger, lambda: _move(ledger, move, made), move.where, refused)
        called = [edit for edit in edits if edit.name != edit.name_before]
        for person, names in _named(ledger, known, called, refused).items():
            (name,) = {name for name, _ in names}
            taken += _try(ledger, lambda: ledger.name(person, name), [where for _, where in names], refused)
        ledger.store.describe(change, f"{taken} rows of {len(edits)}, {len(refused)} refused")
    return taken, refused


class _Names:
    """Images by the name of their file, or by its end: what a program calls a file that lies in a folder of its own."""

    def __init__(self, ledger: IdentityLedger):
        self._ledger = ledger
        self._by_last = defaultdict(list)
        for row in ledger.images():
            self._by_last[os.path.basename(row.path)].append((row.path, row.image))

    def image(self, name: str) -> int:
        """Its number; UsageError where there is none, or several."""
        rows = self._by_last.get(os.path.basename(name), [])
        exact = [image for path, image in rows if path == name]
        found = exact or [image for path, image in rows if path.endswith("/" + name.lstrip("./"))]
        if len(found) != 1:
            raise UsageError(f"{shown(name)} is {'more than one image' if found else 'no image'} of the ledger")
        return found[0]


def _try(ledger: IdentityLedger, what: Callable[[], object], where: Sequence[str], refused: list[str]) -> int:
    try:
        with ledger.store.change("import"):
            what()
        return len(where)
    except UsageError as error:
        refused += [f"{row}: {error}" for row in where]
        return 0


def _moves(ledger: IdentityLedger, known: _Names, edits: Sequence[Edit], refused: list[str]) -> list[_Move]:
    found: dict[tuple, _Move] = {}
    for edit in edits:
        try:
            image = known.image(edit.path)
            now = ledger.image(image).person
            if edit.person == str(now or ""):
                continue
            if edit.person_before is not None and edit.person_before != str(now or ""):
                raise UsageError(
                    f"{shown(edit.path)} was {edit.person_before or 'nobody'}'s and is {now or 'nobody'}'s now"
                )
            if not edit.person:
                raise UsageError(f"{shown(edit.path)} has no person; write a number, or a word for a new one")
            move = found.setdefault((now, edit.person), _Move(now, edit.person, [], []))
            move.images.append(image)
            move.where.append(edit.where)
        except UsageError as error:
            refused.append(f"{edit.where}: {error}")
    return list(found.values())


def _move(ledger: IdentityLedger, move: _Move, made: dict[str, int]) -> None:
    new = not move.target.isdecimal()
    target = made.get(move.target) if new else ledger.require(int(move.target)).number
    if move.source is None:
        part = ledger.decide_by_person(move.images, target)
    else:
        whole = len(move.images) == len(ledger.images_of(move.source))
        part = move.source if whole else ledger.split(move.source, move.images)
        if target not in (None, part):
            ledger.merge(target, part)
    if new:
        made.setdefault(move.target, part)


def _named(ledger: IdentityLedger, known: _Names, edits: Sequence[Edit], refused: list[str]) -> dict[int, list]:
    """Person -> (name, row) of each row that gives it another name; people with several names are refused."""
    found: dict[int, list] = defaultdict(list)
    for edit in edits:
        try:
            person = ledger.image(known.image(edit.path)).person
            if person is None:
                raise UsageError(f"{shown(edit.path)} is nobody's, who cannot have a name")
            if edit.name != ledger.require(person).name:
                found[person].append((edit.name, edit.where))
        except UsageError as error:
            refused.append(f"{edit.where}: {error}")
    for person in [person for person, names in found.items() if len({name for name, _ in names}) > 1]:
        refused += [f"{where}: person {person} has several names here" for _, where in found.pop(person)]
    return found
