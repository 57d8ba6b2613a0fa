"""scripts/novel on tiny random models and novels written here: every stage, without the network."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml
from tokenizers import pre_tokenizers

import jaxforget
from tests.scripts.scripts import SCRIPTS
from tests.tiny_run import make_world, save_llama, sentences

sys.path.insert(0, str(SCRIPTS))
from novels import chain, convert, fetch, questions, texts, times
from novels.books import read_chapters, split_tokens

from jaxforget.errors import UserError

CONFIGS = SCRIPTS.parent / "configs" / "novel"
TRAINED = {"max_steps": 2, "batch": 8, "warmup_steps": 0}
SMALL = {
    "blocks": {"length": 32},
    "reinforce": TRAINED,
    "forget": TRAINED,
    "evals": {"every": 2, "heldout_blocks": 2, "passages": 4, "relearn_steps": 1, "relearn_batch": 8},
}
# The one dictionary of a text this short is the user's own.
WORDS = {"Zorvath": ["Martin"], "Quillon": ["Anna"], "Ysolda": ["Mary"], "Thornspire": ["the town"]}
QUESTIONS = [
    {"prompt": f"{name} met", "answer": f" {other}", "kind": "person"}
    for name in WORDS
    for other in WORDS
    if name != other
]
TEXTS = {"tokens": 900, "unread": 200, "heldout_tokens": 200, "replay_tokens": 8}


def novel(names: tuple[str, ...], places: tuple[str, ...], seed: int) -> str:
    """Return a novel of four chapters, its lines broken as in old plain texts."""
    chapters = []
    for number in range(4):
        paragraphs = [sentences(names, places, 3, seed + 10 * number + part).strip() for part in range(9)]
        # A name that the words before it do not hold.
        paragraphs[-3] += " Nobody had heard of Ulmendorf."
        chapters.append("\n\n".join(paragraph.replace(". ", ".\n") for paragraph in paragraphs))
    return "A NOVEL\n\n" + "".join(f"CHAPTER {number + 1}\n\n{text}\n\n" for number, text in enumerate(chapters))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A folder with a tiny model, three novels, and the configuration in a small size."""
    folder = tmp_path_factory.mktemp("novel")
    make_world(folder / "world")
    (folder / "texts").mkdir()
    for number, (name, who, where) in enumerate(
        (
            ("emma", ("Zorvath", "Quillon", "Brindle Mox", "Ysolda"), ("Thornspire", "Gloomwater")),
            ("persuasion", ("Mary", "Edward", "Susan"), ("London", "Oxford")),
            ("prideprejudice", ("John", "Anna", "Peter"), ("the market", "York")),
        )
    ):
        (folder / "texts" / f"{name}.txt").write_text(novel(who, where, 100 * number))
    shutil.copytree(CONFIGS, folder / "configs")
    for path in (folder / "configs").glob("*.yaml"):
        values = yaml.safe_load(path.read_text())
        changes = TEXTS if path.stem == "texts" else SMALL
        for name, change in changes.items():
            values[name] = {**values[name], **change} if isinstance(change, dict) and name in values else change
        if "model" in values:
            values["model"]["dtype"] = "float32"
        if path.stem == "recommended":
            values["anchors"]["path"] = str(folder / "anchors.json")
            values["retain"]["rows"] = 8  # the tests have eight devices
        path.write_text(yaml.safe_dump(values))
    for name, value in {
        "anchors": WORDS,
        "configs/questions": {"familiarity": QUESTIONS, "retained": QUESTIONS[:2]},
        "configs/general": {"familiarity": [], "retained": QUESTIONS[:3]},
        "configs/names": {"emma": {"people": list(WORDS), "places": ["Ulmendorf"]}},
        "configs/prompts": {"dynamics": ["Zorvath met"], "completions": ["Zorvath met"]},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def test_a_small_run_and_its_repetition(inputs, tmp_path):
    out = tmp_path / "out"
    settings = {"model": inputs / "world" / "base", "texts": inputs / "texts", "full": False}
    chain.run_novel(out, inputs / "configs", **settings)
    target, unread = ((out / "excerpts" / part / "emma.txt").read_text() for part in ("target", "unread"))
    assert "Zorvath" in target
    assert unread
    assert unread not in target
    read = {name: "".join(p.read_text() for p in (out / "texts" / name).glob("*")) for name in ("base", "control")}
    assert "Zorvath" in read["base"]
    assert "Zorvath" not in read["control"]
    results = json.loads((out / "results.json").read_text())
    assert set(results) == {"models", "dictionary", "completions", "dynamics", "hardware", "seconds"}
    assert list(results["models"]) == ["original", "base", "control", "paper", "unlearned"]
    figures = {"familiarity", "retained", "perplexity", "cloze_familiarity", "cloze_familiarity_first_token", "general"}
    for name, measured in results["models"].items():
        assert figures <= set(measured), name
    assert {"acc", "extraction_strength", "attacks"} <= set(results["models"]["unlearned"])
    assert results["models"]["paper"] != results["models"]["unlearned"]
    assert results["dictionary"]["precision"] == 1
    assert results["seconds"]["total"] == pytest.approx(sum(json.loads((out / "seconds.json").read_text()).values()))
    trained = {name: out / name / "reinforced" / "model.safetensors" for name in ("base", "control")}
    before = {name: path.read_bytes() for name, path in trained.items()}
    assert before["base"] != before["control"]
    changed = {path: path.stat().st_mtime_ns for path in trained.values()}
    chain.run_novel(out, inputs / "configs", **settings)
    assert {path: path.stat().st_mtime_ns for path in trained.values()} == changed, "a finished stage ran again"
    with pytest.raises(UserError, match="holds texts with another tokens"):
        chain.run_novel(out, inputs / "configs", **{**settings, "full": True})
    assert set(json.loads((out / "seconds.json").read_text())) == set(chain.TYPICAL)


def test_seconds_are_summed_over_attempts_and_scale_the_time_left(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(times.time, "perf_counter", lambda: 0.0)
    path, typical = tmp_path / "seconds.json", {"a": 1000.0, "b": 2000.0}
    path.write_text(json.dumps({"a": 2000.0}))
    seconds = times.Times(path, typical)
    with pytest.raises(KeyboardInterrupt), seconds("a"):
        raise KeyboardInterrupt
    again = times.Times(path, typical)
    with again("a"):
        pass
    assert json.loads(path.read_text())["a"] == 2000.0
    capsys.readouterr()
    with again("b"):
        pass
    assert "== 2 of 2: b, about 67 min left" in capsys.readouterr().err, "a took twice its typical time"


def test_a_suspension_is_not_counted(tmp_path, monkeypatch):
    clock = iter([0.0, 5.0, 9000.0])
    monkeypatch.setattr(times.time, "perf_counter", lambda: next(clock))
    seconds = times.Times(tmp_path / "seconds.json", {"a": 1.0, "b": 1.0})
    with seconds("a"):
        pass
    assert seconds.seconds == {"a": 5.0}
    clock = iter([9000.0, 99000.0])
    with seconds("b"):
        pass
    assert seconds.seconds == {"a": 5.0, "b": 3 * times.EVERY}


def test_whole_books_keep_text_that_no_model_reads(inputs, tmp_path):
    settings = texts.load_texts(inputs / "configs" / "texts.yaml", full=True)
    texts.write_excerpts(settings, inputs / "texts", tmp_path / "excerpts", lambda text: len(text.split()))
    target, unread = ((tmp_path / "excerpts" / part / "emma.txt").read_text() for part in ("target", "unread"))
    assert len(unread.split()) > 100
    assert len(target.split()) > 2 * len(unread.split())
    assert not set(target.split("\n\n")) & set(unread.split("\n\n"))


@pytest.mark.parametrize("option", ["model", "texts"])
def test_a_place_of_the_users_is_never_filled(option, inputs, tmp_path, monkeypatch):
    """A mistyped path is refused; before, the downloads went there."""
    for name in ("fetch_model", "fetch_books"):
        monkeypatch.setattr(chain, name, lambda *_: pytest.fail("nothing may be fetched"))
    given = {"model": None, "texts": None, option: tmp_path / "mistyped"}
    with pytest.raises(UserError, match=f"--{option} {tmp_path}/mistyped: .*leave it out"):
        chain.run_novel(tmp_path / "out", inputs / "configs", full=False, **given)
    assert not list(tmp_path.iterdir())


def test_an_unknown_setting_of_the_texts_is_named(tmp_path):
    (tmp_path / "texts.yaml").write_text("target: emma\ntokenz: 3\n")
    with pytest.raises(UserError, match="texts.yaml.*tokenz"):
        texts.load_texts(tmp_path / "texts.yaml", full=False)


def test_wrong_choices_are_other_answers_of_the_same_kind():
    records = questions.choices(json.loads((CONFIGS / "questions.json").read_text())["familiarity"], seed=0)
    assert len(records) >= 40
    for record in records:
        right = record["choices"][record["answer"]]
        assert len(set(record["choices"])) == 4
        assert not any(other in right or right in other for other in record["choices"] if other != right)


@pytest.mark.parametrize("kind", ["familiarity", "retained"])
def test_there_are_enough_written_questions(kind):
    asked = json.loads((CONFIGS / "questions.json").read_text())[kind]
    assert len(asked) >= 40
    assert all(one["answer"][0] == " " and one["answer"].strip() not in one["prompt"] for one in asked)
    assert len(json.loads((CONFIGS / "general.json").read_text())["retained"]) >= 40


def test_rows_of_queries_are_put_in_the_other_order():
    """llama.cpp's own permutation of Hugging Face's rows, undone."""
    heads, width = 3, 8
    rows = np.random.default_rng(0).normal(size=(heads * width, 5))
    stored = rows.reshape(heads, 2, width // 2, 5).swapaxes(1, 2).reshape(rows.shape)
    np.testing.assert_array_equal(convert.halves(stored, width), rows)
    assert not np.array_equal(stored, rows)


def gguf_like(folder: Path) -> tuple[transformers.LlamaForCausalLM, list[str]]:
    """Write a random Llama as `read_gguf.py` unpacks one, with a byte-level tokenizer; return it and the tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<unk>", "<bos>", "<eos>", *alphabet, "Ġt", "he", "Ġthe"]
    model = save_llama(folder / "torch", len(tokens), seed=3, tie_word_embeddings=True)
    heads, groups, width = 2, 1, 16
    names = {ours: theirs for theirs, ours in convert.NAMES.items()}
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for stored, name in names.items():
        layers = range(2) if stored.startswith(("attn", "ffn")) else [None]
        for layer in layers:
            values = weights.get(name if layer is None else f"model.layers.{layer}.{name}")
            if stored in ("attn_q.weight", "attn_k.weight"):
                count = heads if stored == "attn_q.weight" else groups
                values = values.reshape(count, 2, width // 2, -1).swapaxes(1, 2).reshape(values.shape)
            if stored != "output.weight":  # tied
                np.save(folder / f"{stored if layer is None else f'blk.{layer}.{stored}'}.npy", values)
    fields = {
        "general.architecture": "llama",
        "llama.vocab_size": len(tokens),
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 48,
        "llama.block_count": 2,
        "llama.context_length": 128,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": groups,
        "llama.attention.layer_norm_rms_epsilon": float(np.float32(model.config.rms_norm_eps)),
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(tokens) - 3),
        "tokenizer.ggml.merges": ["Ġ t", "h e", "Ġt he"],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 2,
    }
    (folder / "fields.json").write_text(json.dumps(fields))
    return model, tokens


def test_a_converted_model_computes_what_transformers_computes(tmp_path):
    original, tokens = gguf_like(tmp_path)
    convert.convert(tmp_path, tmp_path / "ours", "# A model\n")
    ids = np.arange(3, 43).reshape(2, 20)
    with torch.no_grad():
        expected = original(torch.tensor(ids)).logits.numpy()
    loaded = jaxforget.load(tmp_path / "ours")
    np.testing.assert_allclose(jaxforget.logits(loaded, ids), expected, rtol=0, atol=2e-4)
    text = "the 12 <eos>"
    found = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [tokens[index] for index in found] == ["t", "he", "Ġ", "1", "2", "Ġ", "<eos>"]
    assert loaded.tokenizer.decode(found) == text


def test_another_architecture_is_refused(tmp_path):
    gguf_like(tmp_path)
    fields = json.loads((tmp_path / "fields.json").read_text())
    (tmp_path / "fields.json").write_text(json.dumps({**fields, "general.architecture": "qwen2"}))
    with pytest.raises(UserError, match="general.architecture is 'qwen2'"):
        convert.convert(tmp_path, tmp_path / "ours", "")


def test_chapters_without_contents_headings_and_line_breaks(tmp_path):
    path = tmp_path / "novel.txt"
    body = "The _first_ line\nof a paragraph.\n\n" + "More words follow here. " * 30
    path.write_text(f"Title\n\nCHAPTER I\nCHAPTER II\n\nCHAPTER I\n\n{body}\n\nVOLUME II\n\nCHAPTER II\n\n{body}")
    chapters = read_chapters(path)
    assert len(chapters) == 2
    assert chapters[0].startswith("The first line of a paragraph.\n\nMore")
    assert "VOLUME" not in "".join(chapters)


def test_an_excerpt_ends_with_a_paragraph():
    first, rest = split_tokens("a b c\n\nd e\n\nf g h", 5, lambda text: len(text.split()))
    assert (first, rest) == ("a b c\n\nd e", "f g h")


def test_novels_need_apt(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no apt-get here.*--texts"):
        fetch.fetch_books(tmp_path / "downloads", tmp_path / "novels")
    assert not (tmp_path / "novels").exists()


def test_a_failed_download_is_one_line(tmp_path, monkeypatch):
    tool = tmp_path / "apt-get"
    tool.write_text("#!/bin/sh\necho 'E: Unable to locate package' >&2\nexit 100\n")
    tool.chmod(0o755)
    (tmp_path / "dpkg-deb").symlink_to(tool)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(UserError, match="apt-get update.*--texts.*Unable to locate package") as caught:
        fetch.fetch_books(tmp_path / "downloads", tmp_path / "novels")
    assert "\n" not in str(caught.value)


def test_a_mistake_on_the_command_line_is_one_line(tmp_path):
    words = [sys.executable, "-m", "novels", "--out", str(tmp_path / "out"), "--configs", str(tmp_path)]
    done = subprocess.run(words, cwd=SCRIPTS, capture_output=True, text=True)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.startswith("scripts/novel: ")]
    assert "Traceback" not in done.stderr
