"""The review page: served to this machine only, and only to whoever has this start's token.

Who may do what: the page and everything behind it want the token; a change wants, besides, this server's own Origin and
JSON as its type, so that no page of another origin can post one; the Host must be this server's own, so that no foreign
name that points here (DNS rebinding) gets an answer. No text of the dictionary is ever part of the page's markup.
"""

import hmac
import importlib.resources
import json
import secrets
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from jaxforget.anchors.contexts import sentences_with
from jaxforget.anchors.review.edits import ConflictError, Review, changes_from
from jaxforget.corpus.text import Document
from jaxforget.errors import UserError

LOOPBACK = "127.0.0.1"
LARGEST = 16_000_000  # bytes of a request
# Nothing is loaded from anywhere, nothing frames the page, and only the script of this start runs.
POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


class ReviewServer:
    """Serves a review on a free port, or on `port`, until `close` or until the page says that it is done.

    Raises:
      UserError: the port is taken.
    """

    def __init__(self, review: Review, documents: Callable[[], list[Document]], *, port: int = 0):
        self.review = review
        self.token = secrets.token_urlsafe(32)
        self._documents, self._read = documents, None
        self._lock = threading.Lock()
        try:
            self._server = ThreadingHTTPServer((LOOPBACK, port), self._handler())
        except OSError as error:
            raise UserError(f"--port {port}: cannot be opened: {error.strerror}; give another, or none") from None
        self._server.daemon_threads = True

    @property
    def origin(self) -> str:
        """What the browser calls this server."""
        return f"http://{LOOPBACK}:{self._server.server_port}"

    @property
    def address(self) -> str:
        """Where the page is, the token included."""
        return f"{self.origin}/?token={self.token}"

    def serve(self) -> None:
        """Returns when the page says that it is done, or after `close`."""
        self._server.serve_forever(poll_interval=0.1)
        self._server.server_close()

    def close(self) -> None:
        """Ends `serve`, from another thread."""
        self._server.shutdown()

    def data(self) -> dict[str, Any]:
        """Version and entries, as the page wants them."""
        with self._lock:
            version, entries = self.review.version(), self.review.entries()
        rows = [
            {
                "anchor": e.anchor,
                "generic": list(e.generic),
                "verdict": e.verdict,
                "evidence": dict(e.evidence),
                "was": list(e.was),
            }
            for e in entries
        ]
        return {"version": version, "entries": rows, "file": str(self.review.anchors)}

    def save(self, body: Any) -> dict[str, Any]:
        """Applies the page's changes; the new version."""
        if not isinstance(body, dict) or not isinstance(body.get("version"), str):
            raise UserError('changes: give {"version": text, "changes": [...]}')
        with self._lock:
            return {"version": self.review.save(body["version"], changes_from(body.get("changes")))}

    def sentences(self, anchor: str) -> list[tuple[str, str, str]]:
        """Some of an anchor's sentences, in three parts each."""
        with self._lock:
            if self._read is None:
                self._read = self._documents()
        return sentences_with(self._read, anchor)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        page = self

        class Handler(BaseHTTPRequestHandler):
            server_version, sys_version = "jaxforget", ""

            def do_GET(self) -> None:
                _get(page, self)

            def do_POST(self) -> None:
                _post(page, self)

            def log_message(self, *_: object) -> None:
                """Nothing: the address holds the token."""

        return Handler


def _get(page: ReviewServer, request: BaseHTTPRequestHandler) -> None:
    place = urlsplit(request.path)
    query = parse_qs(place.query)
    if not _own_host(page, request):
        return _send(request, HTTPStatus.FORBIDDEN, {"error": "another host's name"})
    if place.path == "/":
        if not _is_token(page, query.get("token", [""])[0]):
            return _send(request, HTTPStatus.FORBIDDEN, {"error": "no token, or another start's: use the address told"})
        return _send_page(request)
    if not _is_token(page, request.headers.get("X-Token", "")):
        return _send(request, HTTPStatus.FORBIDDEN, {"error": "no token, or another start's"})
    if place.path == "/data":
        return _answer(request, page.data)
    if place.path == "/sentences":
        return _answer(request, lambda: page.sentences(query.get("anchor", [""])[0]))
    return _send(request, HTTPStatus.NOT_FOUND, {"error": "no such page"})


def _post(page: ReviewServer, request: BaseHTTPRequestHandler) -> None:
    length = request.headers.get("Content-Length", "")
    size = int(length) if length.isascii() and length.isdigit() else -1
    if not 0 <= size <= LARGEST:
        return _send(request, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": "no length, or too long"})
    # Read before it is judged: a refusal while the browser still sends would look like a broken connection.
    content = request.rfile.read(size)
    if not _own_host(page, request) or request.headers.get("Origin") != page.origin:
        return _send(request, HTTPStatus.FORBIDDEN, {"error": "another origin"})
    if not _is_token(page, request.headers.get("X-Token", "")):
        return _send(request, HTTPStatus.FORBIDDEN, {"error": "no token, or another start's"})
    if request.headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
        return _send(request, HTTPStatus.UNSUPPORTED_MEDIA_TYPE, {"error": "not JSON"})
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return _send(request, HTTPStatus.BAD_REQUEST, {"error": "not JSON"})
    if request.path == "/save":
        return _answer(request, lambda: page.save(body))
    if request.path == "/done":
        _send(request, HTTPStatus.OK, {})
        # Not from this thread: shutdown waits for the loop, which waits for nobody.
        threading.Thread(target=page.close, daemon=True).start()
        return None
    return _send(request, HTTPStatus.NOT_FOUND, {"error": "no such page"})


def _own_host(page: ReviewServer, request: BaseHTTPRequestHandler) -> bool:
    return request.headers.get("Host") == urlsplit(page.origin).netloc


def _is_token(page: ReviewServer, given: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), page.token.encode())


def _answer(request: BaseHTTPRequestHandler, work: Callable[[], Any]) -> None:
    """What `work` gives, or its fault in a line."""
    try:
        value = work()
    except ConflictError as error:
        return _send(request, HTTPStatus.CONFLICT, {"error": str(error)})
    except UserError as error:
        return _send(request, HTTPStatus.BAD_REQUEST, {"error": str(error)})
    except OSError as error:
        told = f"{error.filename}: {error.strerror}; mend that and save again"
        return _send(request, HTTPStatus.INTERNAL_SERVER_ERROR, {"error": told})
    return _send(request, HTTPStatus.OK, value)


def _send(request: BaseHTTPRequestHandler, status: HTTPStatus, value: Any) -> None:
    _write(request, status, json.dumps(value).encode(), "application/json")


def _send_page(request: BaseHTTPRequestHandler) -> None:
    nonce = secrets.token_urlsafe(16)
    page = importlib.resources.files(__package__) / "page.html"
    content = page.read_text(encoding="utf-8").replace("NONCE", nonce).encode()
    _write(request, HTTPStatus.OK, content, "text/html; charset=utf-8", policy=POLICY.format(nonce=nonce))


def _write(
    request: BaseHTTPRequestHandler, status: HTTPStatus, content: bytes, kind: str, policy: str = "default-src 'none'"
) -> None:
    request.send_response(status)
    for name, value in {
        "Content-Type": kind,
        "Content-Length": str(len(content)),
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
        "Cross-Origin-Resource-Policy": "same-origin",
    }.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(content)
