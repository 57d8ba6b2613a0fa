"""Access control of the review page: every kind of request that must be refused."""

import http.client
import json
import socket
import threading

import pytest

from jaxforget.anchors.contexts import sentences_with
from jaxforget.anchors.review.server import LARGEST, ReviewServer
from jaxforget.corpus.text import Document
from jaxforget.errors import UserError
from tests.anchors.review.given import make_review

TEXT = 'Long ago Zorvath slept. Mr. Zorvath\'s friend said: "Wake up, Zorvath!" Nobody came.\n\nOnly Zorvath\nstayed.'


@pytest.fixture
def server(tmp_path):
    served = ReviewServer(make_review(tmp_path), lambda: [Document("a", TEXT)])
    thread = threading.Thread(target=served.serve)
    thread.start()
    yield served
    served.close()
    thread.join()


def ask(server, method, path, body=None, **headers):
    """Return (status, JSON or text, headers)."""
    connection = http.client.HTTPConnection(*server.origin.removeprefix("http://").split(":"), timeout=10)
    content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, content, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    kind = answer.headers["content-type"]
    return answer.status, json.loads(text) if "json" in kind else text, answer.headers


def good(server) -> dict[str, str]:
    return {"X_Token": server.token, "Origin": server.origin, "Content_Type": "application/json"}


def save(server, **headers):
    body = {"version": server.review.version(), "changes": [{"anchor": "wand", "verdict": "dropped"}]}
    return ask(server, "POST", "/save", body, **{**good(server), **headers})[0]


def test_the_page_wants_the_token(server):
    assert ask(server, "GET", f"/?token={server.token}")[0] == 200
    for path in ("/", "/?token=", "/?token=x", f"/?token={server.token}x", "/?token=%FF"):
        assert ask(server, "GET", path)[0] == 403
    assert ask(server, "GET", "/data")[0] == 403
    assert ask(server, "GET", f"/data?token={server.token}")[0] == 403, "data require the token in the header"
    assert ask(server, "GET", "/data", X_Token=server.token)[0] == 200
    assert ask(server, "GET", "/nothing", X_Token=server.token)[0] == 404


def test_no_other_origin_can_post(server):
    for origin in ("http://evil.example", "null", server.origin.replace("127.0.0.1", "localhost"), ""):
        assert save(server, Origin=origin) == 403
    assert save(server, X_Token="x") == 403
    assert save(server, Host="evil.example") == 403
    assert save(server, Content_Type="text/plain") == 415
    assert "wand" in server.review.anchors.read_text()
    assert save(server) == 200
    assert "wand" not in server.review.anchors.read_text()


def test_another_name_for_this_machine_gets_nothing(server):
    status, told, _ = ask(server, "GET", f"/?token={server.token}", Host="rebound.example")
    assert (status, told) == (403, {"error": "the request names another host"})


def test_it_listens_on_the_loopback_only(server):
    assert server._server.server_address[0] == "127.0.0.1"
    outside = socket.gethostbyname(socket.gethostname())
    if not outside.startswith("127."):
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((outside, server._server.server_port), timeout=2)


@pytest.mark.parametrize(
    ("line", "status"),
    [("GET http://[/ HTTP/1.1", 400), ("POST /save HTTP/1.1\r\nContent-Length: " + "9" * 5000, 413)],
)
def test_a_malformed_request_is_refused(server, line, status, capsys):
    place = server.origin.removeprefix("http://").split(":")
    with socket.create_connection((place[0], int(place[1])), timeout=10) as connection:
        connection.sendall(f"{line}\r\nHost: {':'.join(place)}\r\n\r\n".encode())
        assert connection.recv(1000).startswith(f"HTTP/1.0 {status}".encode())
    assert "Traceback" not in capsys.readouterr().err


def test_what_a_page_may_do_is_bounded(server):
    _, page, headers = ask(server, "GET", f"/?token={server.token}")
    policy = headers["content-security-policy"]
    nonce = policy.split("'nonce-")[1].split("'")[0]
    assert page.count(f'nonce="{nonce}"') == 2
    assert "NONCE" not in page
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["referrer-policy"] == "no-referrer"
    assert server.token not in page
    assert nonce not in ask(server, "GET", f"/?token={server.token}")[1], "every answer has its own nonce"


def test_a_conflict_and_faults_are_told(server):
    old = server.review.version()
    assert save(server) == 200
    stale = {"version": old, "changes": [{"anchor": "Quillon", "verdict": "dropped"}]}
    status, told, _ = ask(server, "POST", "/save", stale, **good(server))
    assert status == 409
    assert "changed since it was read" in told["error"]
    now = server.review.version()
    for body in (
        {"version": now, "changes": [{"anchor": "Nobody", "verdict": "accepted", "generic": ["a"]}]},
        {"version": now},
        {"changes": []},
        [],
        b"{",
        b"[" * 100_000,
    ):
        assert ask(server, "POST", "/save", body, **good(server))[0] == 400
    assert ask(server, "POST", "/save", b"", **{**good(server), "Content_Length": str(LARGEST + 1)})[0] == 413
    assert server.review.version() == now


def test_sentences_of_an_anchor(server):
    told = ask(server, "GET", "/sentences?anchor=Zorvath", X_Token=server.token)[1]
    assert told == [
        ["Long ago ", "Zorvath", " slept."],
        ["Mr. ", "Zorvath", '\'s friend said: "Wake up, Zorvath!"'],
        ["Mr. Zorvath's friend said: \"Wake up, ", "Zorvath", '!"'],
        ["Only ", "Zorvath", " stayed."],
    ]
    assert ask(server, "GET", "/sentences?anchor=Zorv", X_Token=server.token)[1] == []
    many = [Document("a", "Bo ran. " * 900)]
    assert len(sentences_with(many, "Bo")) == 5


def test_done_ends_it(tmp_path):
    server = ReviewServer(make_review(tmp_path), list)
    thread = threading.Thread(target=server.serve)
    thread.start()
    assert ask(server, "POST", "/done", {}, **good(server))[0] == 200
    thread.join(10)
    assert not thread.is_alive()


def test_a_port_that_is_taken(server, tmp_path):
    with pytest.raises(UserError, match="--port .*: cannot be opened: Address already in use; give another"):
        ReviewServer(server.review, list, port=server._server.server_port)
