"""The review page, served on the loopback interface to holders of a token that is new at every start.

The page and its data require the token. A change also requires this server's own Origin and the content type JSON, so
that no page of another origin can post one. The Host must be this server's own, so that no foreign name that resolves
to this machine (DNS rebinding) gets an answer. The page's markup contains no text of the dictionary.
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
LARGEST = 16_000_000  # maximal bytes of a request
# The page loads nothing from elsewhere, no page may frame it, and only the script with this answer's nonce runs.
POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


class ReviewServer:
    """A server of one review, which runs until `close` or until the page reports that the review is done.

    Args:
      review: the review to serve.
      documents: reads the text, when its sentences are first shown.
      port: port to listen on; 0 chooses a free one.

    Raises:
      UserError: the port cannot be opened.
    """

    def __init__(self, review: Review, documents: Callable[[], list[Document]], *, port: int = 0):
        self.review = review
        self.token = secrets.token_urlsafe(32)
        self._documents, self._read = documents, None
        self._lock = threading.Lock()
        try:
            self._server = ThreadingHTTPServer((LOOPBACK, port), self._handler())
        except OSError as error:
            raise UserError(f"--port {port}: cannot be opened: {error.strerror}; give another or omit it") from None
        self._server.daemon_threads = True

    @property
    def origin(self) -> str:
        """The server's origin, as the browser sends it."""
        return f"http://{LOOPBACK}:{self._server.server_port}"

    @property
    def address(self) -> str:
        """The page's address, with the token."""
        return f"{self.origin}/?token={self.token}"

    def serve(self) -> None:
        """Serve until the page reports that the review is done, or until `close`."""
        self._server.serve_forever(poll_interval=0.1)
        self._server.server_close()

    def close(self) -> None:
        """End `serve`; call it from another thread."""
        self._server.shutdown()

    def data(self) -> dict[str, Any]:
        """Return the version and the entries for the page."""
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
        """Apply the page's changes and return the new version.

        Raises:
          UserError: `body` has no version, or a change is malformed.
          ConflictError: the dictionary changed since that version.
        """
        if not isinstance(body, dict) or not isinstance(body.get("version"), str):
            raise UserError('changes: give {"version": text, "changes": [...]}')
        with self._lock:
            return {"version": self.review.save(body["version"], changes_from(body.get("changes")))}

    def sentences(self, anchor: str) -> list[tuple[str, str, str]]:
        """Return some of an anchor's sentences as (before, anchor, after)."""
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
                """Log nothing, because the address contains the token."""

        return Handler


def _get(page: ReviewServer, request: BaseHTTPRequestHandler) -> None:
    try:
        place = urlsplit(request.path)
    except ValueError:
        return _send(request, HTTPStatus.BAD_REQUEST, {"error": "the request's path is malformed"})
    query = parse_qs(place.query)
    if not _own_host(page, request):
        return _send(request, HTTPStatus.FORBIDDEN, {"error": "the request names another host"})
    if place.path == "/":
        return _send_page(request) if _is_token(page, query.get("token", [""])[0]) else _refuse_token(request)
    if not _is_token(page, request.headers.get("X-Token", "")):
        return _refuse_token(request)
    if place.path == "/data":
        return _answer(request, page.data)
    if place.path == "/sentences":
        return _answer(request, lambda: page.sentences(query.get("anchor", [""])[0]))
    return _send(request, HTTPStatus.NOT_FOUND, {"error": "no such page"})


def _post(page: ReviewServer, request: BaseHTTPRequestHandler) -> None:
    length = request.headers.get("Content-Length", "")
    # `int` refuses numbers of thousands of digits.
    size = int(length) if length.isascii() and length.isdigit() and len(length) <= len(str(LARGEST)) else -1
    if not 0 <= size <= LARGEST:
        fault = f"the request has no Content-Length, or one above {LARGEST}"
        return _send(request, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": fault})
    # The body is read before it is checked. A refusal while the browser still sends would look like a lost connection.
    content = request.rfile.read(size)
    if not _own_host(page, request) or request.headers.get("Origin") != page.origin:
        return _send(request, HTTPStatus.FORBIDDEN, {"error": "the request comes from another origin"})
    if not _is_token(page, request.headers.get("X-Token", "")):
        return _refuse_token(request)
    if request.headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
        return _send(request, HTTPStatus.UNSUPPORTED_MEDIA_TYPE, {"error": "the content type is not JSON"})
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return _send(request, HTTPStatus.BAD_REQUEST, {"error": "the request is not JSON"})
    if request.path == "/save":
        return _answer(request, lambda: page.save(body))
    if request.path == "/done":
        _send(request, HTTPStatus.OK, {})
        # `close` must run in another thread, because it waits for the loop that runs this handler.
        threading.Thread(target=page.close, daemon=True).start()
        return None
    return _send(request, HTTPStatus.NOT_FOUND, {"error": "no such page"})


def _own_host(page: ReviewServer, request: BaseHTTPRequestHandler) -> bool:
    return request.headers.get("Host") == urlsplit(page.origin).netloc


def _is_token(page: ReviewServer, given: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), page.token.encode())


def _refuse_token(request: BaseHTTPRequestHandler) -> None:
    fault = "the token is missing or belongs to an earlier start; open the address that the program printed"
    _send(request, HTTPStatus.FORBIDDEN, {"error": fault})


def _answer(request: BaseHTTPRequestHandler, work: Callable[[], Any]) -> None:
    """Send the result of `work`, or its error as one line."""
    try:
        value = work()
    except ConflictError as error:
        return _send(request, HTTPStatus.CONFLICT, {"error": str(error)})
    except UserError as error:
        return _send(request, HTTPStatus.BAD_REQUEST, {"error": str(error)})
    except OSError as error:
        fault = f"{error.filename}: {error.strerror}; correct this and save again"
        return _send(request, HTTPStatus.INTERNAL_SERVER_ERROR, {"error": fault})
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
