"""The page of a run: complete, with missing files, with malformed files, with hostile text; and of several runs."""

import base64
import hashlib
import json
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest

import jaxforget.report.page as page_module
from jaxforget.errors import UserError
from jaxforget.report.page import render, write_report
from jaxforget.report.run_data import read_runs, side_by_side
from tests.report.synthetic import artefacts, write_run

HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "</pre></style><!-- {{ 7*7 }} {% raw %} &amp;",
    "مرحبا بالعالم \u202e reversed",
    "🧙🏽‍♀️ emoji \ud800 alone \x00\x1b[31m",
]
ADDRESSED = {"src", "srcset", "data", "action", "poster", "background"}
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Reader(HTMLParser):
    """Collects tags, attributes, links and text outside scripts and styles, and checks that tags nest."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.words, self.open = [], [], [], []
        self.links, self.ids = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.links += [value for name, value in attrs if name == "href"]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert not reader.open
    return reader


def test_whole_run_shows_every_artefact_and_reaches_for_nothing(tmp_path):
    run = write_run(tmp_path / "demo")
    path = write_report(run)
    assert path == run / "report.html"
    html = path.read_text(encoding="utf-8")
    page = read(html)
    for said in [
        "familiarity 0.931 → 0.044",
        "A control that never read the text scores 0.031; the unlearned model is 0.013 above it",
        "97.9% of base's score",
        "Forgotten",
        "0.931 → 0.044 (control 0.031). Kept: 97.9 %. Perplexity +1.3 %.",
        ": +1.3 %",
        "runs/demo/world/target",
        "3f2a91c0de, with changes",
        "whp (alpha 5.0); retain term of weight 1 on runs/demo/world/retain",
        "1 × cpu",
        "2026-11-22 08:31 UTC",
        "target/03-the-lamp.txt",
        "completion, offline grader, score/N",
        "0.917 to 0.945",
        "max_steps: 120",
        "120 steps, 344,520 trained tokens",
        "2 anchors; 812 occurrences in the target; 94% of its positions follow one closely; 1 that never occur",
        "2 questions with the probability of the whole answer",
        "kind person, contrast 7.25",
    ]:
        assert said in page.text, said
    assert "missing" not in page.text
    assert not ADDRESSED & set(page.attributes)
    assert not {"link", "img", "iframe", "object"} & set(page.tags)
    assert page.tags.count("script") == 1
    assert len(page.links) > 10
    assert all(link[0] == "#" and link[1:] in page.ids for link in page.links), "links stay inside the page"
    assert len(set(page.ids)) == len(page.ids)
    assert "@import" not in html
    assert "url(" not in html
    assert "http:" not in html
    assert "https:" not in html


def test_drawing_twice_gives_the_same_page_and_leaves_nothing_else(tmp_path):
    run = write_run(tmp_path)
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    assert not [p for p in run.iterdir() if p.name.startswith(".report")]


@pytest.mark.parametrize(
    ("stem", "command"),
    [
        ("curve", "forget"),
        ("dynamics", "forget"),
        ("metrics", "forget"),
        ("completions", "eval"),
        ("passage", "eval"),
        ("config", "run"),
        ("manifest", "run"),
    ],
)
def test_a_missing_artefact_is_named_with_its_command(tmp_path, stem, command):
    name = next(path for path in artefacts() if path.split("/")[-1].startswith(f"{stem}."))
    text = read(render(write_run(tmp_path, **{stem: None}))).text
    assert f"{name} is missing. Make it with jaxforget {command}" in text
    assert text.count("is missing") == 1


def test_without_a_summary_the_curve_gives_before_and_after(tmp_path):
    text = read(render(write_run(tmp_path, summary=None))).text
    assert "familiarity 0.931 → 0.044" in text
    assert "first and last evaluation during training" in text
    assert "There is no control" in text


def test_a_run_that_was_not_evaluated_says_so_and_keeps_the_colours(tmp_path):
    html = render(write_run(tmp_path, summary=None))
    assert "The models of this run were not evaluated yet" in read(html).text.replace("the models", "The models")
    assert 'class="t-base"><span class="who"' in html
    assert "name some in evals.probes" not in html


def test_the_cost_shows_peak_memory_and_the_price_where_one_is_given(tmp_path):
    run = write_run(tmp_path)
    text = read(render(run)).text
    assert "reinforce41.3" in text.replace(" ", "")
    assert "1.5" in text
    assert "dollars" not in text
    text = read(write_report(run, price=3600.0).read_text(encoding="utf-8")).text
    # 132.77 s on one device at a dollar a second.
    assert "132.8" in text
    assert "132.77" in text
    assert "3600 dollars a device and hour" in text


def test_an_empty_folder_still_has_a_page_and_no_folder_is_an_error(tmp_path):
    text = read(render(tmp_path)).text
    assert text.count("is missing") == 9  # two sections name the summary's file
    assert "How far to trust this" in text
    with pytest.raises(UserError, match="no such run"):
        write_report(tmp_path / "absent")


def test_quantities_that_nobody_asked_for_are_left_out(tmp_path):
    rows = [{"step": s, "familiarity": None, "retained": None, "perplexity": 10 + s} for s in (0, 5)]
    html = render(write_run(tmp_path, curve={"rows": rows}, summary=None))
    assert "perplexity against steps" in html
    assert "familiarity against steps" not in html
    assert "Nothing was evaluated" in render(write_run(tmp_path, curve={"rows": []}))


def test_a_run_without_questions_says_so(tmp_path):
    text = read(render(write_run(tmp_path, summary={"rows": []}, curve={"rows": []}))).text
    assert "Nothing was measured" in text
    assert "No evaluation was asked for" in text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_stays_text_wherever_it_stands(tmp_path, hostile):
    top = [{"token": hostile, "p": 0.5}, {"token": "▁the", "p": 0.1}]
    measured = {
        "metric": hostile,
        "convention": hostile,
        "model": hostile,
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "n": 3,
    }
    clean = write_run(tmp_path / "clean")
    run = write_run(
        tmp_path / "run",
        dynamics={
            "prompts": [
                {
                    "prompt": hostile,
                    "models": {"base": top, "control": top},
                    "steps": [{"step": 5, "top": top}],
                }
            ]
        },
        completions={"prompts": [{"prompt": hostile, "completions": {hostile: hostile, "base": hostile}}]},
        passage={
            "document": hostile,
            "tokens": [{"text": hostile, "label": hostile, "anchor": True, "probability": {"base": 0.5}}] * 2,
        },
        questions={
            "questions": [{"kind": hostile, "prompt": hostile, "answer": hostile, "probability": {hostile: 0.5}}]
        },
        summary={"rows": [measured, measured | {"metric": "familiarity"}]},
        manifest={
            "git": hostile,
            "devices": [hostile],
            "versions": {hostile: hostile},
            "stages": {hostile: {"seconds": 1}},
        },
        config="model: " + json.dumps(hostile),
        metrics=json.dumps({"stage": hostile, "step": 1, "loss": 1.0}) + "\n",
    )
    page = read(write_report(run).read_text(encoding="utf-8"))
    reference = read(render(clean))
    assert set(page.tags) <= set(reference.tags)
    assert set(page.attributes) <= set(reference.attributes)
    shown = "".join(c if c >= " " and not "\ud800" <= c <= "\udfff" else "\ufffd" for c in hostile)
    assert page.text.count(" ".join(shown.split())) >= 10
    # Arabic, or an override, may not drag its neighbours along: such text stands in elements of its own.
    assert page.attributes.count("dir") > 5


def test_only_the_pages_own_script_may_run(tmp_path):
    html = render(write_run(tmp_path))
    script = re.search(r"<script>(.*?)</script>", html, re.S)[1]
    allowed = re.search(r"script-src 'sha256-([^']+)'", html)[1]
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() == allowed
    assert "default-src 'none'" in html


def test_several_runs_stand_side_by_side(tmp_path):
    summary = artefacts()["evals/summary.json"]["rows"]
    worse = [row | {"value": 0.5} if (row["metric"], row["model"]) == ("retained", "unlearned") else row
             for row in summary]  # fmt: skip
    completions = {"prompts": [{"prompt": "Maren opened", "completions": {"unlearned": "a window."}}]}
    first = write_run(tmp_path / "whp")
    second = write_run(tmp_path / "npo", summary={"rows": worse}, completions=completions, config="seed: 7\n")
    path = write_report(first, second)
    assert path == first / "comparison.html"
    html = path.read_text(encoding="utf-8")
    text = read(html).text
    assert "whp: Forgotten" in text
    assert "npo: Forgotten, with harm" in text
    assert "npo: unlearned" in text
    assert "npo: base" not in text, "both runs measured the same base, which is one column"
    assert "npo: reinforced" not in text, "nor does the reinforced model"
    assert "npo: paper" in text
    assert "Shown of the first run, whp." in text
    assert "a window." in text
    assert "seed: 7" in text
    curve = re.search(r'<section id="curves">.*?</section>', html, re.S)[0]
    assert "whp: unlearned 0.0" in curve
    assert "npo: unlearned 0.0" in curve
    assert write_report(first).name == "report.html"


def test_a_shared_model_has_one_column_where_common_figures_agree(tmp_path):
    """Before, a run with more suites than another had a base of its own."""
    one, two, three = (write_run(tmp_path / name) for name in ("one", "two", "three"))
    rows = artefacts()["evals/summary.json"]["rows"]
    more = {"metric": "acc", "convention": "c", "model": "base", "value": 0.5, "low": None, "high": None, "n": 3}
    (one / "evals/summary.json").write_text(json.dumps({"rows": rows[:3]}))
    (two / "evals/summary.json").write_text(json.dumps({"rows": [*rows, more]}))
    other = [{**row, "value": 0.5} if row["model"] == "base" else row for row in rows]
    (three / "evals/summary.json").write_text(json.dumps({"rows": other}))
    found = side_by_side(read_runs([one, two, three]))
    bases = {row.model for row in found if row.model.endswith("base")}
    assert bases == {"base", "three: base"}
    assert any(row.model == "base" and row.metric == "acc" for row in found)
    assert len({(row.metric, row.convention, row.model) for row in found}) == len(found)


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path):
    folders = [write_run(tmp_path / where / "run") for where in ("a", "b")]
    text = read(render(*folders)).text
    assert f"{folders[0]}: Forgotten" in text
    assert f"{folders[1]}: Forgotten" in text


def test_devices_are_those_that_the_stages_ran_on(tmp_path):
    tpu, cpu = {"count": 8, "kind": "TPU v5 lite", "processes": 1}, {"count": 1, "kind": "cpu", "processes": 1}

    def shown(**devices):
        stages = {name: {"seconds": 1, "devices": of} for name, of in devices.items()}
        run = write_run(tmp_path / "run", manifest={"devices": cpu, "stages": stages})
        return read(write_report(run).read_text(encoding="utf-8")).text

    assert "8 × TPU v5 lite (forget, eval); 1 × cpu (export)" in shown(forget=tpu, eval=tpu, export=cpu)
    assert "not noted (forget); 1 × cpu (export)" in shown(forget=None, export=cpu)
    assert "cpu" not in shown(forget=tpu, report=cpu), "the page itself needs no devices"
    text = shown(forget=tpu)
    assert "8 × TPU v5 lite" in text
    assert "1 × cpu" not in text


@pytest.mark.parametrize(
    ("stem", "content", "fault"),
    [
        ("curve", "{", r"evals/curve\.json: line 1 column 2"),
        ("curve", {"rows": {}}, r"evals/curve\.json: rows is an object, but must be a list; delete the file"),
        ("curve", {"rows": [{"familiarity": 1}]}, r"no field 'rows\[0\]\.step'"),
        ("curve", {"rows": [{"step": 0, "retained": "x"}]}, r"rows\[0\]\.retained is 'x', but must be a number"),
        (
            "dynamics",
            {"prompts": [{"prompt": "a", "models": {}}]},
            r"evals/dynamics\.json: no field 'prompts\[0\]\.steps'",
        ),
        (
            "completions",
            {"prompts": [{"prompt": 3, "completions": {}}]},
            r"prompts\[0\]\.prompt is 3, but must be a string",
        ),
        ("passage", {"document": "d", "tokens": [{"text": None}]}, r"tokens\[0\]\.text is null, but must be a string"),
        ("summary", {"rows": [[]]}, r"evals/summary\.json: rows\[0\] is a list, but must be an object"),
        ("manifest", "[]", r"manifest\.json: it is a list, but must be an object"),
        ("metrics", '{"stage":"forget","step":1}\nnonsense\n', r"metrics\.jsonl: line 2: column 1: not JSON"),
        ("metrics", '{"step":1}\n', r"metrics\.jsonl: line 1: no field 'stage'"),
        ("questions", {"questions": [{"kind": "x"}]}, r"no field 'questions\[0\]\.prompt'"),
        ("anchors", "[]", r"anchors\.json"),
        ("diagnosis", "[]", r"diagnosis\.json: it is a list, but must be an object"),
        ("config", "a: [", r"config\.yaml: line \d+: not YAML"),
        ("config", "just text", r"config\.yaml: holds no settings"),
    ],
)
def test_a_malformed_artefact_is_one_line_that_names_file_and_place(tmp_path, stem, content, fault):
    run = write_run(tmp_path, **{stem: content})
    with pytest.raises(UserError, match=fault) as caught:
        write_report(run)
    assert "\n" not in str(caught.value)
    assert str(run) in str(caught.value)
    assert not (run / "report.html").exists()


def test_the_label_of_a_position_stands_under_the_token_that_it_predicts(tmp_path):
    pieces = [("▁Harry", "▁Jon", True), ("▁went", None, False), ("<0x0A>", "▁home", False), ("Ġhome", None, False)]
    tokens = [{"text": text, "label": label, "anchor": anchor} for text, label, anchor in pieces]
    html = render(write_run(tmp_path, passage={"document": "d", "tokens": tokens}))
    drawn = re.findall(r'<span class="w([^"]*)"><bdi>(.*?)</bdi><small><bdi>(.*?)</bdi>', html)
    assert drawn == [
        (" anchor untrained", "Harry", "\u00a0"),
        ("", "went", "Jon"),
        (" untrained", "⏎", "\u00a0"),
        (" same", "home", "home"),
    ]


@pytest.mark.parametrize(("trained", "told"), [("1", False), ("2", True), (None, True)])
def test_a_result_trained_again_since_it_was_measured_is_told(tmp_path, trained, told):
    stages = {"eval": {"seconds": 1.0, "inputs": {"forget": "1"}}}
    if trained is not None:
        stages["forget"] = {"seconds": 1.0, "inputs": {}, "fingerprint": trained}
    page = render(write_run(tmp_path / "run", manifest={"stages": stages}))
    assert ("trained again since the models were measured" in page) == told


def test_every_file_that_the_page_reads_is_packaged():
    root = Path(page_module.__file__).parents[2]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    files = {path for path in Path(page_module.__file__).parent.iterdir() if path.suffix not in (".py", ".pyc", "")}
    packaged = {path for pattern in patterns["jaxforget.report"] for path in (root / "jaxforget/report").glob(pattern)}
    assert files == packaged
