"""The page's server: this machine's own address alone, a few doors, each checked.

A web page from elsewhere, open in the same browser, can send requests to this address. What keeps it out: the address that the
browser believes to speak with (Host: a foreign name that was made to point here is refused), the page that asks (Origin), and a
token in the path that only the printed address has. No path of a request names a file: pages are read once at the start,
images go by their number.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from socketserver import TCPServer
from typing import Any
from urllib.parse import unquote

from pydantic import ValidationError

from offramp.errors import InputError
from offramp.specs import explain
from offramp.viewing.session import Ask, Session

LOOPBACK = "127.0.0.1"
NAMES = (LOOPBACK, "localhost")
PAGES = {"": ("page.html", "text/html"), "view.js": ("view.js", "text/javascript"), "view.css": ("view.css", "text/css")}
"""What comes behind the token -> the file in this folder, and its type."""
LARGEST = {"image": 50_000_000, "answer": 100_000}
"""Bytes of what is sent to each door."""
JSON = "application/json"
IMAGE = "application/octet-stream"
LONGEST_NAME = 200

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Refusal(Exception):  # noqa: N818 - not an error of ours
    """A request that is not answered."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        """Say what is answered instead."""
        super().__init__(reason)
        self.status = status


class Viewer(ThreadingHTTPServer):
    """Serves one session on the loopback address. `serve_forever` runs it; `address` is what a browser opens."""

    daemon_threads = True

    def __init__(self, session: Session, port: int = 0) -> None:
        """Take the port, 0 for any free one.

        Raises:
            InputError: the port is taken.

        """
        self.session = session
        self.token = secrets.token_urlsafe(16)
        self.pages = {route: ((files(__package__) / name).read_bytes(), kind) for route, (name, kind) in PAGES.items()}
        try:
            super().__init__((LOOPBACK, port), Door)
        except OSError as error:
            raise InputError(
                f"cannot listen on port {port}: {error.strerror or error}; leave --port out for a free one"
            ) from error

    def server_bind(self) -> None:
        """Bind, without the base class's look-up of this machine's name, which may wait for a network."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = LOOPBACK, int(self.server_address[1])

    @property
    def address(self) -> str:
        """What a browser opens, token included."""
        return f"http://{LOOPBACK}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over browsers that hang up; anything else is told as the base class does."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class Door(BaseHTTPRequestHandler):
    """One request."""

    server: Viewer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "offramp", ""
    timeout = 60
    """Seconds that a connection may be silent."""

    def do_GET(self) -> None:
        """The page and its parts, and what it must know of the package."""
        self._respond(self._get)

    def do_POST(self) -> None:
        """An image, or a question."""
        self._respond(self._post)

    def _respond(self, make: Callable[[str], tuple[bytes, str]]) -> None:
        try:
            content, kind = make(self._route())
        except Refusal as refusal:
            self._refuse(refusal.status, str(refusal))
        except InputError as error:
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), read=True)
        except Exception as error:  # noqa: BLE001 - an engine's own errors; the page shows them and the server goes on
            reason = (str(error).splitlines() or [""])[0]
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"no answer: {type(error).__name__}: {reason}")
        else:
            self._send(HTTPStatus.OK, content, kind)

    def _route(self) -> str:
        """What comes behind the token, if who asks may ask at all."""
        own = {f"{name}:{self.server.server_port}" for name in NAMES}
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or hosts[0] not in own:
            raise Refusal(HTTPStatus.FORBIDDEN, "this page is there for its own machine alone, by its own address")
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{hosts[0]}":
            raise Refusal(HTTPStatus.FORBIDDEN, "another page's requests are not answered")
        if self.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
            raise Refusal(HTTPStatus.FORBIDDEN, "another page's requests are not answered")
        _, token, *rest = [*self.path.split("/", 2), ""][:3]
        if not secrets.compare_digest(token.encode(), self.server.token.encode()):
            raise Refusal(HTTPStatus.FORBIDDEN, "open the address that offramp view printed, with all that stands in it")
        return rest[0]

    def _get(self, route: str) -> tuple[bytes, str]:
        if route == "facts":
            return json.dumps(self.server.session.facts()).encode(), JSON
        if route in self.server.pages:
            return self.server.pages[route]
        raise _nothing_here()

    def _post(self, route: str) -> tuple[bytes, str]:
        session = self.server.session
        if route == "image":
            body = self._body(route, IMAGE)
            name = unquote(self.headers.get("X-Name", "image"))[:LONGEST_NAME]
            return json.dumps(session.drop(body, name)).encode(), JSON
        if route == "answer":
            body = self._body(route, JSON)
            try:
                ask = Ask.model_validate_json(body)
            except ValidationError as error:
                raise InputError(f"the question makes no sense: {explain(error)}") from error
            return json.dumps(session.answer(ask)).encode(), JSON
        raise _nothing_here()

    def _body(self, route: str, kind: str) -> bytes:
        if self.headers.get("Content-Type") != kind:
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"this must be sent as {kind}")
        lengths = self.headers.get_all("Content-Length", [])
        length = lengths[0] if len(lengths) == 1 else ""
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdecimal()):
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "the length must be said before")
        if len(length) > 20 or int(length) > LARGEST[route]:
            said = f"{LARGEST[route] / 1e6:g} MB"
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"too large: at most {said} are taken")
        return self.rfile.read(int(length))

    def _refuse(self, status: HTTPStatus, reason: str, *, read: bool = False) -> None:
        # What was sent with a request that was refused has not been read, so the connection cannot be used again.
        self.close_connection = self.close_connection or not read
        self._send(status, json.dumps({"error": " ".join(reason.split())}).encode(), JSON)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses (methods, syntax), with our headers and no page of its own."""
        del explain
        self._refuse(HTTPStatus(code), message or HTTPStatus(code).phrase)

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing: addresses hold the token."""


def _nothing_here() -> Refusal:
    return Refusal(HTTPStatus.NOT_FOUND, "there is nothing of that name")
