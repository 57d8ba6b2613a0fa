"""A local server of the chat protocol with faults on demand."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


def completion(text: str | None, *, finish: str = "stop", usage: bool = True) -> dict[str, Any]:
    """Return the body of an answer with `text` and a usage of 10 + 5 tokens."""
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
    body["choices"] = [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}]
    return body | ({"usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}} if usage else {})


class Fake:
    """Server that answers each request by `reply(request, number)`.

    A text or a body is sent with status 200, a number as that status, and (status, headers, body) as they are. "HANG"
    sends nothing, "DROP" closes the connection, and "HALF" closes it halfway through the body.
    """

    def __init__(self, reply: Callable[[dict[str, Any], int], Any]):
        self.reply, self.requests, self.headers = reply, [], []
        self.most_at_once = 0
        self._busy, self._lock = 0, threading.Lock()
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self._lock:
            number = len(self.requests)
            self.requests.append(body)
            self.headers.append(dict(handler.headers))
            self._busy += 1
            self.most_at_once = max(self.most_at_once, self._busy)
        try:
            given = self.reply(body, number)
        finally:
            with self._lock:
                self._busy -= 1
        if given == "HANG":
            self.released.wait(20)
            return
        if given == "DROP":
            return
        status, headers, content = given if isinstance(given, tuple) else (200, {}, given)
        if isinstance(content, int):
            status, content = content, {"error": {"message": f"told to say {content}", "type": "test"}}
        half = content == "HALF"
        if half:
            content = completion("never read whole")
        elif isinstance(content, str):
            content = completion(content)
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        handler.send_response(status)
        handler.send_header("content-type", headers.get("content-type", "application/json"))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw[: len(raw) // 2] if half else raw)


@contextlib.contextmanager
def serving(reply: Callable[[dict[str, Any], int], Any]) -> Iterator[Fake]:
    """Serve a `Fake` on a free local port."""
    fake = Fake(reply)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            fake.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    fake.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=fake.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        fake.released.set()
        fake.server.shutdown()
        thread.join()
        fake.server.server_close()


@pytest.fixture
def serve(monkeypatch):
    """Return `serve(reply)`, which starts a `Fake` that runs until the test ends."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with contextlib.ExitStack() as stack:
        yield lambda reply: stack.enter_context(serving(reply))
