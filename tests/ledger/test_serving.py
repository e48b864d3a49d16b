"""The page with saving: what it does to the ledger, and whom it answers."""

import http.client
import json
import shutil
import threading

import numpy as np
import pytest
from ledger_helpers import FINGERPRINT, draw, dump, page_content

from ise_plugin.errors import UsageError
from ise_plugin.ledger import IdentityLedger
from ise_plugin.ledger.serving import ReviewServer

BATCH, WHO = draw(range(8), spread=0.35)


@pytest.fixture(scope="module")
def halves_template(tmp_path_factory):
    path = tmp_path_factory.mktemp("serving") / "l"
    IdentityLedger.create(str(path), BATCH, 2 * WHO + np.arange(len(WHO)) % 2, FINGERPRINT).close()
    return path


@pytest.fixture
def server(halves_template, tmp_path):
    path = shutil.copy(halves_template, tmp_path / "l")
    with ReviewServer(path) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        made.ledger = path
        yield made
        made.shutdown()
        thread.join()


def call(server, method, path, headers=None, body=None):
    connection = http.client.HTTPConnection(server.host, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        reply = connection.getresponse()
        return reply.status, reply.read().decode(), dict(reply.getheaders())
    finally:
        connection.close()


def post(server, path, action, **headers):
    own = {
        "Origin": f"http://{server.host}",
        "X-Review-Token": server.token,
        "Content-Type": "application/json",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    status, text, _ = call(
        server, "POST", path, {k: v for k, v in own.items() if v is not None}, json.dumps(action).encode()
    )
    return status, json.loads(text) if status == 200 else text


def content(server):
    with IdentityLedger(server.ledger) as ledger:
        return dump(ledger)


def said(question, images, same=None):
    """An answer, by the truth where nothing is given."""
    whose = lambda part: WHO[part["shown"][0] - 1]
    others = [
        {
            "image": part["shown"][0],
            "path": images[str(part["shown"][0])]["path"],
            "images": part["images"],
            "same": bool(whose(part) == whose(question["about"])) if same is None else same,
        }
        for part in question["others"]
    ]
    first = question["about"]["shown"][0]
    named = {"image": first, "path": images[str(first)]["path"]}
    return {"kind": "answer", **named, "others": others, "strange": [], "question": question["id"]}


def test_answers_are_saved_at_once_the_next_question_is_another_and_undo_takes_back(server):
    status, page, headers = call(server, "GET", f"/?token={server.token}")
    assert status == 200 and headers["Cache-Control"] == "no-store" and "connect-src 'self'" in page
    found = page_content(page)
    states = [content(server)]
    for _ in range(3):
        question = found["questions"][0]
        status, found = post(server, "/act", said(question, found["images"]))
        assert status == 200 and found["refused"] == [] and found["questions"][0] != question
        states.append(content(server))
    assert len(set(states)) == 4
    for state in states[-2::-1]:
        assert post(server, "/undo", {})[0] == 200
        assert content(server) == state
    assert "nothing was done here" in post(server, "/undo", {})[1]["error"]


def test_all_questions_answered_put_everybody_together(server):
    found = page_content(call(server, "GET", f"/?token={server.token}")[1])
    for _ in range(40):
        if not found["questions"]:
            break
        found = post(server, "/act", said(found["questions"][0], found["images"]))[1]
    with IdentityLedger(server.ledger) as ledger:
        labels = [row.person for row in ledger.images()]
    assert len(set(zip(labels, WHO))) == len(set(labels)) == 8 and not found["questions"]


def test_what_is_unsure_changes_nothing_and_is_not_asked_again(server):
    found = page_content(call(server, "GET", f"/?token={server.token}")[1])
    before = content(server)
    first = found["questions"][0]
    unsure = said(first, found["images"], same=None)
    for other in unsure["others"]:
        other["same"] = None
    second = post(server, "/act", unsure)[1]["questions"][0]
    assert content(server) == before and second["others"] != first["others"]


def test_names_are_given_while_asked(server):
    found = page_content(call(server, "GET", f"/?token={server.token}")[1])
    action = said(found["questions"][0], found["images"])
    named = {"kind": "name", "image": action["image"], "path": action["path"], "name": "<script>"}
    after = post(server, "/act", named)[1]
    assert after["questions"][0]["about"]["name"] == "<script>"


@pytest.mark.parametrize(
    "headers",
    [
        {"X_Review_Token": "wrong"},
        {"X_Review_Token": None},
        {"X_Review_Token": "\u00e9"},
        {"Origin": "http://evil.example"},
        {"Origin": None},
        {"Origin": "null"},
        {"Host": "evil.example"},
        {"Host": "localhost:80"},
        {"Content_Type": "text/plain"},
    ],
)
def test_requests_that_are_not_the_pages_own_are_refused(server, headers):
    found = page_content(call(server, "GET", f"/?token={server.token}")[1])
    before = content(server)
    action = said(found["questions"][0], found["images"])
    for path in ("/act", "/undo"):
        status, text = post(server, path, action, **headers)
        assert status == 403 and "<" not in text
    assert content(server) == before


@pytest.mark.parametrize(
    "path, headers",
    [("/", {}), ("/?token=x", {}), ("/?token={}", {"Host": "evil.example"}), ("/?token={}", {"Origin": "http://a"})],
)
def test_the_page_is_nobody_elses_to_read(server, path, headers):
    status, text, _ = call(server, "GET", path.format(server.token), headers)
    assert status == 403 and "data:" not in text and server.token not in text


def test_loopback_alone(server):
    assert server.server_address[0] == "127.0.0.1"


def test_what_is_no_request_of_the_page(server):
    assert call(server, "GET", f"/etc/passwd?token={server.token}")[0] == 404
    assert post(server, "/other", {})[0] == 404
    assert post(server, "/act", None)[1]["refused"]
    own = {"Origin": f"http://{server.host}", "X-Review-Token": server.token, "Content-Type": "application/json"}
    for body, length in ((b"{", None), (b"", "99999999"), (b"[" * 100_000, None), (b"", "-1")):
        headers = own if length is None else {**own, "Content-Length": length}
        assert call(server, "POST", "/act", headers, body)[0] == 400
    assert call(server, "PUT", "/act", own, b"{}")[0] == 501


def test_a_port_that_is_taken(server, halves_template):
    with pytest.raises(UsageError, match="name another --port"):
        ReviewServer(halves_template, server.server_address[1])
