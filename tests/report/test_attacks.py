"""Attacks against the control and the audit on the page."""

import json
import re

import pytest

from jaxforget.errors import UserError
from jaxforget.evals.rows import Row
from jaxforget.report.artefacts import Audit, LeakingWord
from jaxforget.report.attacks import attacks, audit
from jaxforget.report.page import render
from tests.report.synthetic import attack_rows, attacked, write_run
from tests.report.test_page import HOSTILE, read


def write_attacked(folder, **changed):
    """Write a run with attacks and an audit; `changed` replaces files by their place in the folder."""
    write_run(folder)
    for name, content in (attacked() | changed).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


def measured(rows) -> tuple[Row, ...]:
    return tuple(Row(**row) for row in rows)


def test_every_attack_stands_beside_the_control():
    rows = attack_rows()
    found = attacks(measured(rows), frozenset(row["metric"] for row in rows))
    assert found["models"] == ["base", "unlearned", "control"]
    assert [row["attack"] for row in found["rows"]] == [
        "asked plainly",
        "rounding to 4 bits",
        "relearning 0 steps",
        "relearning 24 steps",
    ]
    four = found["rows"][1]
    assert four["cells"] == [
        ("base", 0.91, "0.910", "+0.880 (0.860 to 0.900)"),
        ("unlearned", 0.21, "0.210", "+0.180 (0.160 to 0.200)"),
        ("control", 0.03, "0.030", ""),
    ]
    assert found["rows"][2]["cells"][0] == ("base", None, "", "")
    assert "Most comes back under relearning 24 steps: 0.640, which is 0.580 above the control." in found["readings"][0]
    assert [bar["attack"] for bar in found["bars"]] == ["relearning 24 steps", "rounding to 4 bits"]
    assert found["bars"][0]["bars"] == [("unlearned", "0.640", 64.0), ("control", "0.060", 6.0)]
    ((title, drawn),) = found["charts"]
    assert title == "Relearning on target text"
    assert "unlearned 0.640" in drawn
    assert "control 0.060" in drawn


def test_several_runs_have_a_sentence_and_bars_each():
    rows = [row for row in attack_rows() if row["model"] in ("unlearned", "control")]
    rows += [{**row, "model": "npo: unlearned", "value": row["value"] / 2} for row in rows if row["model"] != "control"]
    names = {"unlearned": "whp: unlearned"}
    rows = [{**row, "model": names.get(row["model"], row["model"])} for row in rows]
    found = attacks(measured(rows), frozenset(row["metric"] for row in rows))
    assert [reading.split(". Most")[0] for reading in found["readings"]] == [
        "Asked plainly, whp: unlearned scores 0.040",
        "Asked plainly, npo: unlearned scores 0.020",
    ]
    assert [name for name, _, _ in found["bars"][0]["bars"]] == ["whp: unlearned", "npo: unlearned", "control"]


def test_without_a_control_nothing_is_claimed():
    rows = [row for row in attack_rows() if row["model"] == "unlearned" and "above" not in row["metric"]]
    found = attacks(measured(rows), frozenset(row["metric"] for row in rows))
    assert found["readings"] == [
        "No attack on the unlearned model can be compared with a control, so the score of no knowledge is unknown."
    ]
    assert attacks(measured(rows), frozenset()) is None


def test_the_page_shows_attacks_once_and_the_words_to_read(tmp_path):
    page = render(write_attacked(tmp_path))
    text = read(page).text
    assert "Most comes back under relearning 24 steps" in text
    assert re.search(r"Maren\s*5\s*3\s*0\.710\s*0\.020", text)
    assert re.search(r'class="w anchor"><bdi>Maren</bdi><small>0.710 / 0.020</small>', page)
    assert re.search(r'class="w same"><bdi>sang</bdi>', page)
    assert "Passage 7, mean excess 0.310" in text
    # Attacks have their own table: none of them is among the evidence's.
    assert "int4 above control" not in text
    assert "Strongest attack brings back 0.640 (relearning 24 steps)." in text
    assert text.count("probability of the whole answer; int4") == 0  # the convention is a title
    assert 'title="probability of the whole answer; int4"' in page
    assert "familiarity" in text


def test_names_of_the_target_stand_before_common_words():
    """Before, the figures of a demo were listed with "his" first."""
    figures = {"his": (105, 0.802, 0.439), "had": (187, 0.604, 0.551), "Flovkin": (344, 0.034, 1e-5)}
    words = tuple(LeakingWord(word, n, 1, p, r) for word, (n, p, r) in figures.items())
    assert [word[0] for word in audit(Audit("control", words, ()))["words"]] == ["Flovkin", "his", "had"]
    assert [word[0] for word in audit(Audit("base", words, ()))["words"]] == ["his", "had", "Flovkin"]


def test_a_run_without_attacks_says_how_to_try_them(tmp_path):
    text = read(render(write_run(tmp_path))).text
    assert f"jaxforget eval {tmp_path} suite=robustness" in text
    assert f"jaxforget eval {tmp_path} suite=audit" in text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_words_stay_text(tmp_path, hostile):
    word = {"text": hostile, "model": 0.7, "reference": 0.1, "leaked": True}
    audited = {
        "against": hostile,
        "words": [{"word": hostile, "count": 1, "leaked": 1, "model": 0.7, "reference": 0.1}],
        "passages": [{"number": 0, "excess": 0.1, "words": [word]}],
    }
    rows = [{**row, "metric": hostile, "convention": hostile, "model": hostile} for row in attack_rows()[:1]]
    run = write_attacked(
        tmp_path / "run",
        **{
            "evals/audit/unlearned.json": audited,
            "evals/summary.json": {"rows": rows},
            "evals/rows/relearning/unlearned.json": {"rows": rows},
        },
    )
    page, clean = read(render(run)), read(render(write_attacked(tmp_path / "clean")))
    assert set(page.tags) <= set(clean.tags)
    assert set(page.attributes) <= set(clean.attributes)
    shown = "".join(c if c >= " " and not "\ud800" <= c <= "\udfff" else "\ufffd" for c in hostile)
    assert page.text.count(" ".join(shown.split())) >= 4


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (
            {"against": "base", "words": [{"word": 3}], "passages": []},
            r"audit/unlearned\.json: words\[0\]\.word is 3, but must be a string",
        ),
        ({"against": "base", "words": [], "passages": [{"number": "x"}]}, r"passages\[0\]"),
        ([], r"it is a list, but must be an object"),
    ],
)
def test_a_malformed_audit_is_one_line(tmp_path, content, fault):
    with pytest.raises(UserError, match=fault):
        render(write_attacked(tmp_path, **{"evals/audit/unlearned.json": content}))
