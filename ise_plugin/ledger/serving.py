"""The page that asks, with every answer saved at once: a server for one person, on this machine alone.

Whoever asks must know a token that is drawn anew for each run, and must have asked for this very address: so neither another page
in the same browser (CSRF), nor a name that is pointed at this machine (DNS rebinding), nor another user reaches the ledger.
"""

import hmac
import json
import logging
import secrets
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable
from urllib.parse import parse_qs, urlsplit

from ..errors import UsageError
from .identity_ledger import IdentityLedger
from .questions import Questions
from .review import content_of, render, take

logger = logging.getLogger("fastreid.ise.ledger")

HOST = "127.0.0.1"
_MOST_BYTES = 1 << 20
_PATIENCE = 30  # seconds for one request
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Session:
    """What the page does with the ledger; always in one thread, which SQLite wants.

    Args:
        path: of the ledger.
    """

    def __init__(self, path: str):
        self._ledger = IdentityLedger(path)
        self._questions = Questions(self._ledger)
        self._changes: list[int] = []  # that this session made
        self._asked = 0
        self._open = self._next()

    def close(self) -> None:
        """Ends the use of the ledger."""
        self._ledger.close()

    def page(self) -> str:
        """With the question that is open."""
        return render(self._ledger, self._content(), served=True)

    def act(self, action: Any) -> dict:
        """Takes an action of the page; the next question, after an answer, and what was refused."""
        before = {change.number for change in self._ledger.changes()}
        refused = take(self._ledger, action)
        self._changes += sorted({change.number for change in self._ledger.changes()} - before) or [0]
        if isinstance(action, dict) and action.get("kind") in ("answer", "merge"):
            if action["kind"] == "answer" and action.get("question") == self._asked and self._open:
                said = [other["same"] for other in action["others"]]
                # what was refused is not asked again
                self._questions.learn(self._open[0], [None] * len(self._open[0].others) if refused else said)
            self._open = self._next()
        return {**self._content(), "refused": refused}

    def undo(self) -> dict:
        """Takes back the last action of this session."""
        if not self._changes:
            raise UsageError("nothing was done here that could be undone")
        if self._changes[-1]:  # 0: the action changed nothing
            self._ledger.undo(self._changes[-1])
        self._changes.pop()
        self._open = self._next()
        return self._content()

    def _next(self) -> list:
        self._asked += 1
        return self._questions.first(1)

    def _content(self) -> dict:
        return content_of(self._ledger, self._open, self._asked)


class ReviewServer(ThreadingHTTPServer):
    """Serves one ledger's questions at :attr:`address` until :meth:`shutdown`.

    Args:
        path: of the ledger.
        port: 0: a free one.
    """

    daemon_threads = True

    def __init__(self, path: str, port: int = 0):
        self.token = secrets.token_urlsafe(32)
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._session = self._worker.submit(Session, path).result()
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:  # server_close was called
            raise UsageError(f"port {port} cannot be used ({error.strerror}); name another --port") from error

    @property
    def host(self) -> str:
        """As a request must name it."""
        return f"{HOST}:{self.server_address[1]}"

    @property
    def address(self) -> str:
        """To open in a browser; knows the token."""
        return f"http://{self.host}/?token={self.token}"

    def do(self, what: Callable[[Session], Any]) -> Any:
        """Something with the session, one after another."""
        return self._worker.submit(what, self._session).result()

    def server_close(self) -> None:
        """Frees port and ledger."""
        super().server_close()
        self._worker.submit(self._session.close).result()
        self._worker.shutdown()


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    server_version, sys_version = "ise-identities", ""
    timeout = _PATIENCE

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if self._refused(parse_qs(address.query).get("token", [""])[0]):
            return
        if address.path != "/":
            self._send(HTTPStatus.NOT_FOUND, b"nothing is here")
            return
        self._send(HTTPStatus.OK, self.server.do(Session.page).encode(), "text/html; charset=utf-8")

    def do_POST(self) -> None:
        if self._refused(self.headers.get("X-Review-Token", ""), changes=True):
            return
        actions: dict[str, Callable[[Session, Any], dict]] = {
            "/act": lambda session, body: session.act(body),
            "/undo": lambda session, body: session.undo(),
        }
        if self.path not in actions:
            self._send(HTTPStatus.NOT_FOUND, b"nothing is here")
            return
        try:
            length = int(self.headers.get("Content-Length", ""))
            if not 0 <= length <= _MOST_BYTES:
                raise ValueError
            body = json.loads(self.rfile.read(length))
        except (ValueError, RecursionError):
            self._send(HTTPStatus.BAD_REQUEST, b"no JSON, or too much of it")
            return
        try:
            reply = self.server.do(lambda session: actions[self.path](session, body))
        except UsageError as error:
            reply = {"error": str(error)}
        self._send(HTTPStatus.OK, json.dumps(reply).encode(), "application/json")

    def _refused(self, token: str, changes: bool = False) -> bool:
        """Whether a request is not from this server's own page; it is answered then."""
        own = f"http://{self.server.host}"
        origin = self.headers.get("Origin")
        reason = None
        if self.headers.get_all("Host") != [self.server.host]:
            reason = "this server answers to its own address alone"
        elif origin not in ((own,) if changes else (None, own)):
            reason = "asked by another page"
        elif not hmac.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode()):
            reason = "without the token; open the address that ise-identities review printed"
        elif changes and self.headers.get_content_type() != "application/json":
            reason = "no JSON"
        if reason:
            self._send(HTTPStatus.FORBIDDEN, reason.encode())
        return reason is not None

    def _send(self, status: HTTPStatus, content: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the first line of a request has the token."""
