"""A page that asks: what it shows of a ledger's questions, and what becomes of what was said there."""

import base64
import hashlib
import json
import os
from functools import lru_cache
from typing import Any, Callable, Optional, Sequence

from ..data.thumbnails import thumbnail
from ..errors import UsageError
from ..utils.files import shown, write_atomically
from .answers import Part, Question, Said, apply
from .identity_ledger import IdentityLedger
from .questions import Questions

QUESTIONS = 40
FORMAT, VERSION = "ise-review", 1
_LONGEST_NAME = 200


def write_page(ledger: IdentityLedger, path: str, count: int = QUESTIONS) -> int:
    """Writes a page with the questions that matter most, and the pictures in it; how many questions.

    Raises:
        UsageError: nothing is worth asking.
    """
    questions = Questions(ledger).first(count)
    if not questions:
        raise UsageError(
            f"{shown(ledger.path)} has nothing worth asking: no person is like another, and none in halves"
        )
    content = content_of(ledger, questions)
    write_atomically(path, render(ledger, content, served=False).encode())
    return len(questions)


def render(ledger: IdentityLedger, content: dict, served: bool) -> str:
    """The page as text that UTF-8 can hold; names are shown and never markup."""
    script = _script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _templates().get_template("review.html")
    name = os.path.basename(ledger.path)
    content = {**content, "served": served, "ledger": name, "id": _identity(ledger, content)}
    text = page.render(name=name, content=content, served=served, script=_markup(script), script_digest=digest)
    return text.encode("utf-8", "replace").decode()


def content_of(ledger: IdentityLedger, questions: Sequence[Question], first_id: int = 0) -> dict:
    """What the page shows: ``questions``, and ``images`` by number, each with its path, camera and picture once."""
    people = {person.number: person for person in ledger.people()}
    images: dict[str, dict] = {}

    def part(found: Part) -> dict:
        for number in found.shown:
            if str(number) not in images:
                row = ledger.image(number)
                images[str(number)] = {"path": row.path, "camera": row.camera, "picture": thumbnail(row.path)}
        person = people.get(found.person or 0)
        about = {"name": person.name if person else "", "locked": bool(person and person.locked)}
        rest = {"person": found.person, "count": len(found.images), "own": found.own, "probability": found.probability}
        return {**rest, **about, "shown": list(found.shown), "images": list(found.images) if found.own else []}

    asked = [
        {"id": first_id + place, "about": part(question.about), "others": [part(other) for other in question.others]}
        for place, question in enumerate(questions)
    ]
    return {"questions": asked, "images": images, "left": len(asked)}


def _identity(ledger: IdentityLedger, content: dict) -> str:
    """Of a page, for what a browser keeps of its answers: the ledger as it was, and what is asked."""
    about = json.dumps([ledger.store.counter("revision"), ledger.path, content["questions"]])
    return hashlib.sha256(about.encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def _templates() -> Any:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loaders = ChoiceLoader([PackageLoader(__package__), PackageLoader("ise_plugin.report")])  # its style.css
    return Environment(loader=loaders, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _script() -> str:
    return _templates().get_template("review.js").render()


def _markup(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)  # the package's own file


# -- what was said


def read_answers(path: str) -> list:
    """The actions in a file that the page saved; UsageError where it is another."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        if content["kind"] != FORMAT or content["version"] != VERSION:
            raise ValueError(f"kind {content['kind']!r}, version {content['version']!r}")
        return list(content["answers"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{shown(path)} holds no answers ({error}); save them from the page of ise-identities review"
        ) from error


def take_all(ledger: IdentityLedger, actions: Sequence) -> list[str]:
    """Takes what was said into a ledger, as one change; a line for each that could not be, the others are."""
    refused = []
    with ledger.store.change("import") as change:
        for number, action in enumerate(actions, 1):
            refused += [f"answer {number}: {reason}" for reason in take(ledger, action)]
        ledger.store.describe(change, f"{len(actions)} answers, {len(refused)} of them refused in part")
    return refused


def take(ledger: IdentityLedger, action: Any) -> list[str]:
    """Takes one action of the page into a ledger, as one change; lines on what could not be taken.

    An action names images, by number and path, not people: whose they are may have changed since the page was made.
    """
    try:
        kind = _KINDS[action["kind"]]
        with ledger.store.change("review", str(action["kind"])):
            return kind(ledger, _image(ledger, action), action)
    except UsageError as error:
        return [str(error)]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        return [f"it is none that the page makes ({type(error).__name__}: {error})"]


def _image(ledger: IdentityLedger, named: Any) -> int:
    number = _integer(named["image"])
    path = ledger.image(number).path
    if path.encode("utf-8", "replace") != str(named["path"]).encode("utf-8", "replace"):
        raise UsageError(
            f"image {number} is {shown(path)}, not {shown(str(named['path']))}: the page is another ledger's"
        )
    return number


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is no whole number")
    return value


def _answer(ledger: IdentityLedger, about: int, action: Any) -> list[str]:
    said = []
    for other in action["others"]:
        if other["same"] not in (True, False, None):
            raise ValueError(f"same is {other['same']!r}")
        said.append(Said(about, _image(ledger, other), tuple(map(_integer, other["images"])), other["same"]))
    strange = [_image(ledger, named) for named in action["strange"]]
    return _part_strange(ledger, strange) + apply(ledger, [said])


def _part_strange(ledger: IdentityLedger, images: Sequence[int]) -> list[str]:
    """Images that are somebody else's than their person: each is a person of its own."""
    refused = []
    for image in images:
        person = ledger.image(image).person
        try:
            if person is not None:
                ledger.split(person, [image])
        except UsageError as error:
            refused.append(str(error))
    return refused


def _person(ledger: IdentityLedger, image: int) -> int:
    row = ledger.image(image)
    if row.person is None:
        raise UsageError(f"{shown(row.path)} is nobody's yet")
    return row.person


def _name(ledger: IdentityLedger, image: int, action: Any) -> list[str]:
    if not isinstance(action["name"], str) or len(action["name"]) > _LONGEST_NAME:
        raise ValueError(f"a name is text of at most {_LONGEST_NAME} characters")
    ledger.name(_person(ledger, image), action["name"])
    return []


def _lock(ledger: IdentityLedger, image: int, action: Any) -> list[str]:
    ledger.lock(_person(ledger, image), action["locked"] is True)
    return []


def _merge(ledger: IdentityLedger, image: int, action: Any) -> list[str]:
    ledger.merge(_person(ledger, image), _integer(action["person"]))
    return []


_KINDS: dict[Optional[str], Callable[[IdentityLedger, int, Any], list[str]]] = {
    "answer": _answer,
    "name": _name,
    "lock": _lock,
    "merge": _merge,
}
