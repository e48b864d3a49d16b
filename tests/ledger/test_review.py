"""The page that asks, and what becomes of what was said there."""

import json
import re
import shutil

import numpy as np
import pytest
from ledger_helpers import FINGERPRINT, draw, dump, page_content
from PIL import Image

from ise_plugin.data.sightings import Sighting
from ise_plugin.errors import UsageError
from ise_plugin.ledger import IdentityLedger
from ise_plugin.ledger.exchange import import_file
from ise_plugin.ledger.review import take, take_all, write_page

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def split_template(tmp_path_factory):
    """Eight people, each in two groups; the files of the first are pictures."""
    folder = tmp_path_factory.mktemp("review")
    batch, who = draw(range(8), spread=0.35)
    paths = [str(folder / f"{i:03d}.jpg") for i in range(len(who))]
    for i, path in enumerate(paths[:-1]):
        Image.new("RGB", (32, 64), (i * 2, 90, 200 - i)).save(path)
    seen = [Sighting(camera="<b>c1</b>")] * len(who)
    labels = 2 * who + np.arange(len(who)) % 2
    path = str(folder / "people.ledger")
    with IdentityLedger.create(path, batch._replace(paths=paths, sightings=seen), labels, FINGERPRINT) as made:
        made.name(1, EVIL)
    return path


@pytest.fixture
def halves(split_template, tmp_path):
    with IdentityLedger(shutil.copy(split_template, tmp_path / "people.ledger")) as made:
        yield made


def test_a_page_has_its_questions_and_pictures_and_fetches_nothing(halves, tmp_path):
    count = write_page(halves, str(tmp_path / "page.html"), 5)
    page = (tmp_path / "page.html").read_text()
    content = page_content(page)
    assert len(content["questions"]) == count == 5
    shown = {str(n) for q in content["questions"] for p in (q["about"], *q["others"]) for n in p["shown"]}
    assert set(content["images"]) == shown
    pictures = {number: image["picture"] for number, image in content["images"].items()}
    assert all((pictures[n] or "").startswith("data:image/jpeg;base64,") == (n != "64") for n in shown)
    without_data = re.sub(r'(id="data">).*?</script>', "", page, flags=re.S)
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?!data:)\w|https?:|@import|url\(""", without_data)
    assert "default-src 'none'" in page and "connect-src" not in page
    assert 'name="viewport"' in page


def test_names_with_markup_are_text(halves, tmp_path):
    write_page(halves, str(tmp_path / "page.html"), 8)
    page = (tmp_path / "page.html").read_text()
    assert "alert(1)" in page and EVIL not in page and page.count("<script") == 2
    content = page_content(page)
    names = {part["name"] for q in content["questions"] for part in (q["about"], *q["others"])}
    assert EVIL in names and "<b>c1" not in page.replace("\\u003cb\\u003ec1", "")
    # the script puts no text into the page in another way than as text
    script = page.rsplit("<script>", 1)[1]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(", script)


def test_the_policy_allows_the_pages_own_script_and_no_other(halves, tmp_path):
    import base64
    import hashlib

    write_page(halves, str(tmp_path / "page.html"), 1)
    page = (tmp_path / "page.html").read_text()
    script = page.rsplit("<script>", 1)[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page


def named(ledger, image):
    return {"image": image, "path": ledger.image(image).path}


def answer(ledger, about, *others, strange=()):
    said = [{**named(ledger, n), "images": list(images), "same": same} for n, images, same in others]
    strange = [named(ledger, n) for n in strange]
    return {"kind": "answer", **named(ledger, about), "others": said, "strange": strange}


def test_a_file_of_answers_is_one_change(halves, tmp_path):
    before = dump(halves)
    one, two, three = (halves.images_of(n) for n in (1, 2, 3))
    actions = [
        answer(halves, one[0], (two[0], [], True), (three[0], [], False), strange=[two[-1]]),
        {"kind": "name", **named(halves, two[0]), "name": "Ada"},
        {"kind": "lock", **named(halves, one[0]), "locked": True},
        {"kind": "merge", **named(halves, three[0]), "person": 4},
    ]
    (tmp_path / "a.json").write_text(json.dumps({"kind": "ise-review", "version": 1, "answers": actions}))
    assert import_file(halves, str(tmp_path / "a.json")) == (4, [])
    assert halves.images_of(1) == sorted([*one, *two[:-1]]) and halves.image(two[-1]).person == 17
    assert halves.require(1).name == "Ada" and halves.require(1).locked and halves.require(3).images == 8
    assert [change.kind for change in halves.changes()] == ["name", "import"]
    halves.undo()
    assert dump(halves) == before


@pytest.mark.parametrize(
    "action, reason",
    [
        ({"kind": "name", "image": 1, "path": "other.jpg", "name": "x"}, "another ledger's"),
        ({"kind": "name", "image": 999, "path": "x", "name": "x"}, "no image 999"),
        ({"kind": "drop"}, "none that the page makes"),
        ({}, "none that the page makes"),
        ([], "none that the page makes"),
        (None, "none that the page makes"),
        ({"kind": "name", "image": True, "path": "x", "name": "x"}, "no whole number"),
        ({"kind": "name", "image": 10**30, "path": "x", "name": "x"}, "."),
    ],
)
def test_what_the_page_does_not_make_is_refused_and_changes_nothing(halves, action, reason):
    before = dump(halves)
    (refused,) = take(halves, action)
    assert re.search(reason, refused) and dump(halves) == before


def test_bad_answers_are_named_and_the_others_taken(halves):
    good = {"kind": "name", **named(halves, 5), "name": "Bo"}
    refused = take_all(halves, [good, {**good, "path": "no"}, {**good, "kind": "merge", "person": 77}])
    assert len(refused) == 2 and refused[0].startswith("answer 2: ") and "no person 77" in refused[1]
    assert halves.require(halves.image(5).person).name == "Bo"


@pytest.mark.parametrize(
    "content", ["", "{}", '{"kind": "other", "version": 1}', '{"kind": "ise-review", "version": 2}']
)
def test_another_file_is_refused(halves, tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UsageError, match="holds no answers"):
        import_file(halves, str(tmp_path / "a.json"))
    with pytest.raises(UsageError, match="is no file"):
        import_file(halves, str(tmp_path / "nowhere.json"))


def test_nothing_worth_asking(tmp_path):
    batch, _ = draw([1], images=4)
    with IdentityLedger.create(str(tmp_path / "l"), batch, np.full(4, -1), FINGERPRINT) as ledger:
        with pytest.raises(UsageError, match="nothing worth asking"):
            write_page(ledger, str(tmp_path / "page.html"))
    assert not (tmp_path / "page.html").exists()
