"""The page in a real browser: links, sorting, contrast, labels, hostile text, and nothing from outside."""

import json
from pathlib import Path

import pytest

from jaxforget.report.page import render, write_report
from tests.anchors.review.browser import browser
from tests.report.synthetic import artefacts, write_run
from tests.report.test_attacks import write_attacked

WIDTHS = (390, 1280)
SCHEMES = ("light", "dark")
HOSTILE = (
    '</script><script>document.title="owned"</script>'
    '<img src="https://example.org/x" onerror="document.title=\'owned\'">'
)

CHECKS = Path(__file__).with_name("accessibility.js").read_text(encoding="utf-8")
CONTRAST, RULES = (f"(() => {{ {CHECKS} return {name}(); }})()" for name in ("contrastFaults", "ruleFaults"))


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    """One browser for all tests of this file, because its start takes seconds; it reports every request."""
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.send("Network.enable")
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a run with everything in it."""
    return write_report(write_attacked(tmp_path_factory.mktemp("run")))


def show(tab, path, width=1280, scheme="light"):
    tab.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
    tab.send("Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": scheme}])
    tab.console.clear()
    tab.requests.clear()
    tab.open(path.as_uri())


def unfold(tab):
    tab.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_page_is_readable_and_silent(tab, page, width, scheme):
    show(tab, page, width, scheme)
    assert tab.run("document.documentElement.scrollWidth") <= width, "nothing is wider than the window"
    assert tab.axe_faults() == []
    unfold(tab)
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run(CONTRAST) == []
    assert tab.run(RULES) == []
    assert tab.axe_faults() == []
    assert tab.console == []
    assert tab.requests == [page.as_uri()]


def test_several_runs_and_an_empty_folder_are_readable_too(tab, tmp_path):
    pages = {"two": render(write_run(tmp_path / "a"), write_run(tmp_path / "b", questions=None))}
    (tmp_path / "empty").mkdir()
    pages["none"] = render(tmp_path / "empty")
    for name, html in pages.items():
        path = tmp_path / f"{name}.html"
        path.write_text(html, encoding="utf-8")
        show(tab, path)
        unfold(tab)
        assert tab.run(CONTRAST) == []
        assert tab.run(RULES) == []
        assert tab.axe_faults() == []
        assert tab.console == []


@pytest.mark.parametrize("width", WIDTHS)
def test_every_link_of_the_contents_lands(tab, page, width):
    show(tab, page, width)
    names = tab.run("[...document.querySelectorAll('nav a')].map(link => link.hash.slice(1))")
    assert len(names) == 14
    for name in names:
        tab.run(f"document.querySelector('nav a[href=\"#{name}\"]').click()")
        tab.wait(f"location.hash === '#{name}'")
        tab.wait(
            f"(() => {{ const at = document.getElementById('{name}').getBoundingClientRect();"
            # A section near the end is too short to reach the top: the page is then scrolled to its end.
            " const last = scrollY + innerHeight >= document.documentElement.scrollHeight - 80;"
            " return at.top < innerHeight && (Math.abs(at.top) < 80 || last); })()"
        )
        # The contents stay in view.
        tab.wait("Math.abs(document.querySelector('nav').getBoundingClientRect().top) < 2 || scrollY < 60")


def test_the_page_fits_in_9000_pixels(tab, page):
    show(tab, page)
    assert tab.run("document.documentElement.scrollHeight") <= 9000


def test_tables_sort_and_are_saved(tab, page):
    show(tab, page)
    rows = (
        "[...document.querySelectorAll('#evidence table.data')[0].tBodies[0].rows].map(row => row.cells[1].dataset.v)"
    )
    before = tab.run(rows)
    assert len(before) == 3
    tab.click("#evidence table.data thead th:nth-child(2) .sort")
    assert [float(v) for v in tab.run(rows)] == sorted(map(float, before), reverse=True)
    assert tab.run("document.querySelector('#evidence th[aria-sort]').getAttribute('aria-sort')") == "descending"
    tab.click("#evidence table.data thead th:nth-child(2) .sort")
    assert [float(v) for v in tab.run(rows)] == sorted(map(float, before))
    csv = tab.run("csvOf(document.querySelector('#evidence table.data'))").splitlines()
    assert csv[0] == "metric,base,reinforced,paper,unlearned,control,n"
    assert csv[1].startswith("familiarity,0.931,0.972,0.061,0.044,0.031,")
    assert tab.run("guard('=SUM(A1)')") == "'=SUM(A1)"


def test_a_link_opens_the_fold_of_its_section(tab, page):
    show(tab, page)
    tab.click("nav a[href='#questions']")
    tab.wait("document.querySelector('#questions > details').open")


def test_hostile_text_is_inert(tab, tmp_path):
    measured = artefacts()["evals/summary.json"]["rows"][0]
    top = [{"token": HOSTILE, "p": 0.5}]
    run = write_run(
        tmp_path,
        dynamics={"prompts": [{"prompt": HOSTILE, "models": {"base": top}, "steps": [{"step": 5, "top": top}]}]},
        completions={"prompts": [{"prompt": HOSTILE, "completions": {"base": HOSTILE, "unlearned": HOSTILE}}]},
        passage={
            "document": HOSTILE,
            "tokens": [{"text": HOSTILE, "label": HOSTILE, "anchor": True, "probability": {"base": 0.5}}],
        },
        questions={
            "questions": [{"kind": HOSTILE, "prompt": HOSTILE, "answer": HOSTILE, "probability": {"base": 0.1}}]
        },
        summary={"rows": [measured | {"metric": HOSTILE, "convention": HOSTILE, "model": HOSTILE}]},
        anchors={HOSTILE: {"generic": [HOSTILE], "kind": HOSTILE}},
        config="model: " + json.dumps(HOSTILE),
    )
    path = write_report(run)
    show(tab, path)
    unfold(tab)
    assert "owned" not in tab.run("document.title")
    assert tab.run("document.images.length") == 0
    assert tab.run("document.scripts.length") == 1
    assert tab.requests == [path.as_uri()]
    assert tab.console == []
    assert tab.run("document.body.innerText.split('document.title').length") > 10


def test_a_script_in_the_page_would_not_run(tab, page, tmp_path):
    """The policy is a second line of defence: it stops a script that escaping had let through."""
    path = tmp_path / "open.html"
    path.write_text(page.read_text().replace("<h1>", '<script>document.title="owned"</script><h1>', 1))
    show(tab, path)
    assert "owned" not in tab.run("document.title")
    assert any("Content Security Policy" in line for line in tab.console)


def test_a_printed_page_cuts_no_figure(tab, page):
    show(tab, page)
    tab.send("Emulation.setEmulatedMedia", media="print")
    cut = tab.run(
        "[...document.querySelectorAll('figure, .card, .prompt, .verdict')]"
        ".filter(one => getComputedStyle(one).breakInside !== 'avoid').length"
    )
    assert cut == 0
    # A figure higher than a page would be cut all the same: A4 at 96 pixels an inch, without its margins.
    assert tab.run("Math.max(...[...document.querySelectorAll('figure')].map(one => one.offsetHeight))") < 1000
    assert tab.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    # A section whose content is folded still says what it holds.
    sections = "[...document.querySelectorAll('main section')].map(one => one.innerText.trim().split('\\n').length)"
    assert min(tab.run(sections)) > 1
    assert len(tab.send("Page.printToPDF")["data"]) > 10_000
    tab.send("Emulation.setEmulatedMedia", media="")
