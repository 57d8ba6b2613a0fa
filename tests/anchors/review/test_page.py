"""The review page in a real browser: edit, save, reload, conflict, bad token, hostile text."""

import json
import threading

import pytest

from jaxforget.anchors.review.server import ReviewServer
from jaxforget.corpus.dictionary import Anchors
from jaxforget.corpus.text import Document
from tests.anchors.review.browser import browser
from tests.anchors.review.given import ENTRIES, make_review

HOSTILE = '<img src=x onerror="document.title=1">'
TEXT = f'Zorvath took the wand. "Zorvath!" cried Quillon. {HOSTILE} came too. The wand broke.'
GENERIC = "textarea[aria-label='translations of {}']"


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    """One browser for all tests of this file, because its start takes seconds."""
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def server(tmp_path):
    entries = {**ENTRIES, HOSTILE: {"generic": ["</textarea><script>document.title=2</script>"], "example": HOSTILE}}
    served = ReviewServer(make_review(tmp_path, entries), lambda: [Document("a", TEXT)])
    thread = threading.Thread(target=served.serve)
    thread.start()
    yield served
    served.close()
    thread.join()


def opened(tab, server) -> None:
    # A page with unsaved changes would ask before it is left.
    tab.run("typeof changed === 'undefined' || changed.clear()")
    tab.open(server.address)
    tab.wait("document.querySelectorAll('article').length > 0")


def status(tab) -> str:
    return tab.run("document.getElementById('status').textContent")


def standing(server) -> dict:
    return dict(Anchors.load(server.review.anchors, keep_all=True).entries)


def test_edit_save_and_reload(tab, server):
    opened(tab, server)
    assert tab.run("document.querySelectorAll('article').length") == 5
    tab.write(GENERIC.format("Zorvath"), "Martin | Paul | Martin")
    tab.click("button[aria-label='Accept Quillon']")
    tab.click("button[aria-label='Drop wand']")
    tab.write("#newanchor", "Vex Hollow")
    tab.write("#newgeneric", "Mill Lane")
    tab.click("#adding button")
    assert "4 changes not saved" in tab.run("document.getElementById('count').textContent")
    assert standing(server)["Zorvath"] == ("Kate", "Paul"), "nothing is written before Save"
    tab.click("#save")
    tab.wait("document.getElementById('status').textContent.includes('Saved 4 changes')")
    found = standing(server)
    assert found["Zorvath"] == ("Martin", "Paul")
    assert found["Vex Hollow"] == ("Mill Lane",)
    assert "wand" not in found
    tab.open(server.address)
    tab.wait("document.querySelectorAll('article').length === 6")
    assert tab.run(f'document.querySelector("{GENERIC.format("Zorvath")}").value') == "Martin | Paul"
    verdicts = tab.run(
        "Object.fromEntries([...document.querySelectorAll('article')].map("
        "one => [one.querySelector('.name').textContent, one.className]))"
    )
    assert verdicts["Quillon"] == "accepted"
    assert verdicts["wand"] == "dropped"
    assert verdicts["Vex Hollow"] == "added"
    tab.click("button[aria-label='Undo wand']")
    tab.click("#save")
    tab.wait("document.getElementById('status').textContent.includes('Saved 1 changes')")
    assert standing(server)["wand"] == ("staff", "stick")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault(tab, server, width, scheme):
    tab.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
    tab.send("Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": scheme}])
    opened(tab, server)
    assert tab.axe_faults() == []
    tab.send("Emulation.clearDeviceMetricsOverride")
    tab.send("Emulation.setEmulatedMedia", media="", features=[])


def test_a_conflict_keeps_what_was_decided(tab, server):
    opened(tab, server)
    tab.click("button[aria-label='Drop wand']")
    server.review.anchors.write_text(json.dumps({**ENTRIES, "Elsewhere": ["Here"]}))
    tab.click("#save")
    tab.wait("document.getElementById('status').className === 'bad'")
    assert "changed since it was read" in status(tab)
    assert "Press Reload" in status(tab)
    assert "wand" in standing(server)
    assert tab.run("changed.size") == 1
    tab.click("#reload")
    tab.wait("document.body.textContent.includes('Elsewhere')")
    tab.click("button[aria-label='Drop wand']")
    tab.click("#save")
    tab.wait("document.getElementById('status').textContent.includes('Saved')")
    assert set(standing(server)) == set(ENTRIES) - {"wand"} | {"Elsewhere"}


def test_a_bad_token_shows_nothing(tab, server):
    tab.run("typeof changed === 'undefined' || changed.clear()")
    tab.open(server.address[:-1])
    assert "belongs to an earlier start" in tab.run("document.body.textContent")
    assert tab.run("document.querySelectorAll('article, script').length") == 0
    opened(tab, server)
    # The page was opened before the program was restarted.
    server.token = "another"
    tab.click("button[aria-label='Drop wand']")
    tab.click("#save")
    tab.wait("document.getElementById('status').className === 'bad'")
    assert "the token is missing or belongs to an earlier start" in status(tab)
    assert "wand" in standing(server)


def test_another_origin_cannot_post(tab, server, tmp_path):
    other = ReviewServer(make_review(tmp_path), list)
    thread = threading.Thread(target=other.serve)
    thread.start()
    try:
        opened(tab, server)
        # The browser sends the origin, so the server refuses even a request with the right token.
        body = json.dumps({"version": other.review.version(), "changes": [{"anchor": "wand", "verdict": "dropped"}]})
        # The review page's own policy forbids connections elsewhere; an attacker's page would have none.
        tab.open("about:blank")
        tab.run(
            f"fetch('{other.origin}/save', {{method: 'POST', mode: 'no-cors', body: {json.dumps(body)},"
            f" headers: {{'Content-Type': 'text/plain'}}}}).catch(() => null).then(() => 1)"
        )
        assert "wand" in standing(other)
    finally:
        other.close()
        thread.join()


def test_anchors_in_their_sentences_with_the_translation_in_place(tab, server):
    opened(tab, server)
    tab.write(GENERIC.format("wand"), "staff | torch")
    tab.run("[...document.querySelectorAll('article')].find(a => a.textContent.includes('wand'))"
            ".querySelector('details').open = true")  # fmt: skip
    tab.wait("document.querySelectorAll('details[open] p').length === 2")
    lines = tab.run("[...document.querySelectorAll('details[open] p')].map(line => line.textContent)")
    assert lines == ["Zorvath took the wand staff.", "The wand torch broke."]
    assert tab.run("document.querySelector('details[open] mark').textContent") == "staff"
    tab.run("changed.clear()")


def test_text_is_only_ever_text(tab, server):
    opened(tab, server)
    tab.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    tab.wait("document.querySelectorAll('details p').length >= 5")
    assert tab.run("document.title") == "Review of the anchors"
    assert tab.run("document.images.length + document.querySelectorAll('script').length") == 1
    names = tab.run("[...document.querySelectorAll('.name')].map(one => one.textContent)")
    assert HOSTILE in names


def test_finding_showing_and_accepting_what_is_shown(tab, server):
    opened(tab, server)
    tab.write("#find", "zor")
    assert tab.run("document.querySelectorAll('article').length") == 1
    tab.click("#acceptall")
    tab.write("#find", "")
    tab.run(
        "const show = document.getElementById('show'); show.value = 'open'; show.dispatchEvent(new Event('change'))"
    )
    assert tab.run("document.querySelectorAll('article').length") == 4
    tab.click("#done")
    assert "unsaved changes" in status(tab)
    tab.click("#save")
    tab.wait("document.getElementById('status').textContent.includes('Saved 1')")
    entries = {entry.anchor: entry.verdict for entry in server.review.entries()}
    assert entries["Zorvath"] == "accepted"
    assert not any("Uncaught" in line for line in tab.console), tab.console


def press(tab, key: str) -> None:
    """Press and release a key."""
    for kind in ("keyDown", "keyUp"):
        tab.send("Input.dispatchKeyEvent", type=kind, key=key, text=key if kind == "keyDown" else "")


def choose(tab, field: str, value: str) -> None:
    """Choose an option of a selection."""
    tab.run(
        f"(() => {{ const at = document.getElementById('{field}'); at.value = '{value}';"
        " at.dispatchEvent(new Event('change')); })()"
    )


def test_keys_decide_and_move(tab, server):
    opened(tab, server)
    focused = "document.activeElement.querySelector('.name')?.textContent"
    names = tab.run("[...document.querySelectorAll('.name')].map(one => one.textContent)")
    press(tab, "j")
    assert tab.run(focused) == names[0]
    press(tab, "d")
    press(tab, "j")
    assert tab.run(focused) == names[1]
    press(tab, "a")
    press(tab, "k")
    press(tab, "u")
    assert tab.run("[...document.querySelectorAll('article')].map(one => one.className)")[:2] == ["", "accepted"]
    press(tab, "j")
    press(tab, "e")
    assert tab.run("document.activeElement.tagName") == "TEXTAREA"
    press(tab, "k")
    assert tab.run("changed.size") == 1
    assert tab.run("document.activeElement.tagName") == "TEXTAREA", "in a text field, keys are text"
    tab.run("document.activeElement.blur(); changed.clear()")


def test_a_dropped_row_stays_until_it_is_saved(tab, server):
    opened(tab, server)
    choose(tab, "show", "open")
    before = tab.run("document.querySelectorAll('article').length")
    tab.click("button[aria-label='Drop wand']")
    choose(tab, "show", "open")
    assert tab.run("document.querySelectorAll('article').length") == before
    assert "1 dropped, 1 changes not saved" in tab.run("document.getElementById('count').textContent")
    tab.click("#save")
    tab.wait("document.getElementById('status').textContent.includes('Saved 1')")
    assert "out of date" in status(tab)
    assert tab.run("document.querySelectorAll('article').length") == before - 1


def test_doubtful_anchors_come_first_when_they_are_sorted_so(tab, server):
    opened(tab, server)
    choose(tab, "sort", "doubt")
    doubts = tab.run(
        "[...document.querySelectorAll('.name')].map(one => doubtOf(entries.find(e => e.anchor === one.textContent)))"
    )
    assert doubts == sorted(doubts, reverse=True)
    assert len(set(doubts)) > 1
