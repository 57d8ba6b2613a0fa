"""A real headless browser, driven by its DevTools protocol."""

import contextlib
import importlib.resources
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--no-proxy-server",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)
AXE = (importlib.resources.files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
PATIENCE = 60.0  # seconds; for a machine that does much else


class Tab:
    """One page. `console` keeps what it reports, and `requests` its requests once Network.enable was sent."""

    def __init__(self, address: str):
        self._socket = websocket.create_connection(address, timeout=PATIENCE, suppress_origin=True)
        self._number = 0
        self.console: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and return its result; events that arrive meanwhile are kept."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.console.append(json.dumps(message["params"]))
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("method") == "Page.javascriptDialogOpening":
                self.console.append("dialog: " + message["params"]["message"])
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    def open(self, address: str) -> None:
        """Open an address."""
        self.send("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def run(self, code: str) -> Any:
        """Return the value of an expression in the page; a promise is awaited."""
        told = self.send("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait(self, code: str) -> None:
        """Wait until the expression is true."""
        deadline = time.monotonic() + PATIENCE
        while not self.run(code):
            assert time.monotonic() < deadline, f"not true within {PATIENCE:g} s: {code}; {self.console}"
            time.sleep(0.05)

    def axe_faults(self) -> list[str]:
        """Return the violations that axe-core finds in what is shown, each with its first element."""
        # Axe starts after observers of the page have run.
        self.run(f"{AXE}; new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        return self.run(
            "axe.run(document, {iframes: false}).then(found => found.violations.map("
            "rule => `${rule.id}: ${rule.nodes.length} × ${rule.nodes[0].html.slice(0, 120)}`))"
        )

    def click(self, selector: str) -> None:
        """Click the middle of an element with the mouse."""
        box = self.run(
            f"(() => {{ const at = document.querySelector({json.dumps(selector)});"
            " at.scrollIntoView({block: 'center'});"
            " const box = at.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def write(self, selector: str, text: str) -> None:
        """Replace the content of a field by typing, then leave the field."""
        self.click(selector)
        self.run(f"document.querySelector({json.dumps(selector)}).select()")
        self.send("Input.insertText", text=text)
        self.run("document.activeElement.blur()")


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Tab]:
    """Start a browser with its profile in `folder`."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    assert program, "no chromium on this machine; scripts/test installs it as root (Debian: apt-get install chromium)"
    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"], stderr=subprocess.PIPE, text=True
    )
    try:
        for line in process.stderr:
            if found := re.search(r"ws://([\d.:]+)/", line):
                break
        else:
            raise AssertionError("the browser ended before it listened")
        yield Tab(_first_page(found[1]))
    finally:
        process.terminate()
        process.wait(PATIENCE)
        process.stderr.close()


def _first_page(host: str) -> str:
    """Return the DevTools address of the browser's first page."""
    from urllib.request import ProxyHandler, build_opener

    with build_opener(ProxyHandler({})).open(f"http://{host}/json/list", timeout=PATIENCE) as answer:
        pages = json.load(answer)
    return next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
