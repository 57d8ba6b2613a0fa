"""The Python API beside transformers and torch, and beside the method written out in full."""

import importlib.metadata
import inspect
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers

import jaxforget
from jaxforget.errors import UserError
from jaxforget.evals.catalogue import CATALOGUE
from jaxforget.sharding import make_mesh
from tests.tiny_run import save_llama

ALPHA = 5.0
# One translation a key, so that nothing is drawn; overlapping keys, and keys of one and of several tokens.
DICTIONARY = {
    "Zorvath": ["Martin"],
    "Brindle Mox": ["old Peter of the town"],
    "Quillon": ["Anna"],
    "Thornspire": ["the big town"],
    "Vex": ["Red"],
    "met": ["saw"],
}


@pytest.fixture(scope="module")
def base(tiny_world):
    return jaxforget.load(tiny_world / "base")


@pytest.fixture(scope="module")
def reinforced(tiny_world, tmp_path_factory):
    """Base, a little elsewhere: far enough that equation 1 changes labels."""
    folder = tmp_path_factory.mktemp("api") / "reinforced"
    rival = transformers.LlamaForCausalLM.from_pretrained(tiny_world / "base")
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in rival.parameters():
            parameter += 0.03 * torch.randn_like(parameter)
    rival.save_pretrained(folder)
    for file in (tiny_world / "base").glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return jaxforget.load(folder)


@pytest.fixture(scope="module")
def anchors(tmp_path_factory):
    path = tmp_path_factory.mktemp("anchors") / "anchors.json"
    path.write_text(json.dumps(DICTIONARY))
    return jaxforget.Anchors.load(path)


@pytest.fixture(scope="module")
def blocks(base, tiny_world):
    """Blocks of 64 tokens of the target, each behind no BOS but the first."""
    text = "".join(path.read_text() for path in sorted((tiny_world / "target").iterdir()))
    ids = base.tokenizer(text)["input_ids"]
    return [np.array(ids[start : start + 64]) for start in range(0, len(ids) - 64, 64)][:16]


def rival(model) -> transformers.LlamaForCausalLM:
    return transformers.LlamaForCausalLM.from_pretrained(model.folder).eval()


@torch.no_grad()
def torch_logits(model: transformers.LlamaForCausalLM, tokens: np.ndarray) -> np.ndarray:
    return model(torch.tensor(np.atleast_2d(tokens))).logits.double().numpy()


# --- the method, written out ----------------------------------------------------------------------------------------


def variants(tokenizer, text: str) -> list[list[int]]:
    """WHP section 2.2: the ids of `text` as after a space and as after a newline."""
    found = []
    for before, glue in (("a", " "), ("a\n", "")):
        head = tokenizer(before, add_special_tokens=False)["input_ids"]
        whole = tokenizer(before + glue + text, add_special_tokens=False)["input_ids"]
        assert whole[: len(head)] == head
        found.append(whole[len(head) :])
    return found


def translate_by_hand(tokens: list[int], tokenizer) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Sections 3 and 4: translated tokens, the map, and (word, index after which it is suppressed)."""
    rules = []
    for key, (value,) in DICTIONARY.items():
        keys, values = variants(tokenizer, key), variants(tokenizer, value)
        rules += [(key, k, v, [x[0] for x in values]) for k, v in zip(keys, values, strict=True)]
    translated, position_map, suppressed, met = [], [], [], set()
    i = 0
    while i < len(tokens):
        hit = next(((key, k, v, first) for key, k, v, first in rules if tokens[i : i + len(k)] == k), None)
        if hit is None:
            position_map.append(len(translated))
            translated.append(tokens[i])
            i += 1
            continue
        key, k, v, first = hit
        if key in met:
            position_map[i - 1] = -1
        met.add(key)
        suppressed += [(word, len(translated)) for word in first]
        translated += v
        position_map += [-1] * (len(k) - 1) + [len(translated) - 1]
        i += len(k)
    return translated, position_map, suppressed


def labels_by_hand(tokens: np.ndarray, tokenizer, base, reinforced, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Sections 2 and 4: labels [S] and how far each is ahead of the second best [S]."""
    translated, position_map, suppressed = translate_by_hand(tokens.tolist(), tokenizer)
    v_base, v_reinforced = torch_logits(base, np.array(translated))[0], torch_logits(reinforced, tokens)[0]
    clean = v_base.copy()
    for word, start in suppressed:
        for position in range(start + 1, len(translated)):
            clean[position, word] = v_base[position].mean()
    labels, margins = np.full(len(tokens), -1), np.full(len(tokens), np.inf)
    for i, j in enumerate(position_map):
        if j >= 0:
            generic = clean[j] - alpha * np.maximum(v_reinforced[i] - clean[j], 0)
            second, first = np.sort(generic)[-2:]
            labels[i], margins[i] = generic.argmax(), first - second
    return labels, margins


@pytest.mark.parametrize("alpha", [ALPHA, 0.0])
def test_generic_labels_are_those_of_the_method_written_out(alpha, base, reinforced, anchors, blocks):
    ours, theirs, margins, plain = [], [], [], []
    torch_base, torch_reinforced = rival(base), rival(reinforced)
    for tokens in blocks:
        t = jaxforget.translate(tokens, anchors, base.tokenizer)
        ours.append(jaxforget.generic_labels(base, reinforced, tokens, t, alpha=alpha))
        labels, margin = labels_by_hand(tokens, base.tokenizer, torch_base, torch_reinforced, alpha)
        theirs.append(labels)
        margins.append(margin)
        plain.append(torch_logits(torch_base, tokens)[0].argmax(axis=1))
    ours, theirs, margins, plain = map(np.concatenate, (ours, theirs, margins, plain))
    assert ours.dtype == np.int32
    assert (ours == theirs).mean() >= 0.999
    assert (ours == theirs)[margins > 1e-4].all()
    # The comparison has something to compare: anchors and their repeats, and labels that translation changed.
    assert 20 < (theirs < 0).sum() < len(theirs) / 2
    assert (theirs != plain)[theirs >= 0].mean() > 0.2


def test_suppression_and_the_reinforced_model_matter_here(base, reinforced, anchors, blocks):
    """Else the parity above would not see either."""
    t = [jaxforget.translate(tokens, anchors, base.tokenizer) for tokens in blocks]
    full = [jaxforget.generic_labels(base, reinforced, b, x) for b, x in zip(blocks, t, strict=True)]
    none = np.zeros(0, np.int32)
    bare = [type(x)(x.translated, x.position_map, none, none, x.spans) for x in t]
    unsuppressed = [jaxforget.generic_labels(base, reinforced, b, x) for b, x in zip(blocks, bare, strict=True)]
    alone = [jaxforget.generic_labels(base, base, b, x) for b, x in zip(blocks, t, strict=True)]
    assert (np.concatenate(full) != np.concatenate(unsuppressed)).any()
    assert (np.concatenate(full) != np.concatenate(alone)).any()


def test_generic_labels_compile_once_for_many_blocks(base, reinforced, anchors, blocks):
    from jaxforget.api import _label_step

    _label_step.cache_clear()
    widths = set()
    for tokens in [*blocks[:6], blocks[6][:50]]:
        t = jaxforget.translate(tokens, anchors, base.tokenizer)
        labels = jaxforget.generic_labels(base, reinforced, tokens, t)
        assert labels.shape == tokens.shape
        widths.add(-(-len(t.translated) // 128))
    assert _label_step.cache_info().misses == 1
    assert _label_step(base.module, base.mesh, ALPHA)._cache_size() == len(widths) < 3


# --- the rest -------------------------------------------------------------------------------------------------------


def test_signatures_are_those_of_the_documentation():
    def named(function) -> str:
        return re.sub(r": [^,=()]+(?= =|,|\))|( ->.*)", "", str(inspect.signature(function))).replace(" = ", "=")

    assert named(jaxforget.load).startswith("(folder, dtype='float32', mesh=None")
    assert named(jaxforget.logits) == "(model, tokens)"
    assert named(jaxforget.translate) == "(tokens, anchors, tokenizer, mode='paper', seed=0)"
    assert named(jaxforget.generic_labels) == "(base, reinforced, tokens, t, alpha=5.0)"
    assert named(jaxforget.run).startswith("(config")
    assert named(jaxforget.evaluate).startswith("(model, suite=")
    assert named(jaxforget.export).startswith("(model, folder")
    assert all(getattr(jaxforget, name).__doc__ for name in jaxforget.__all__)
    with pytest.raises(AttributeError, match="no attribute 'unknown'"):
        _ = jaxforget.unknown


def test_the_package_lists_its_names_and_version():
    assert dir(jaxforget) == sorted([*jaxforget.__all__, "__version__"])
    assert all(getattr(jaxforget, name) is not None for name in dir(jaxforget))
    assert jaxforget.__version__ == importlib.metadata.version("jaxforget")


def test_importing_the_package_does_not_start_jax():
    code = "import sys, jaxforget; print({'jax', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_model_has_config_params_tokenizer(base):
    assert base.config.vocab_size == len(base.tokenizer.get_vocab())
    assert base.params["embed"].dtype == "float32"
    assert base.tokenizer("Zorvath met")["input_ids"][0] == base.config.bos_token_id


@pytest.mark.parametrize("sizes", [{}, {"data": 2, "fsdp": 2, "tensor": 2}, {"tensor": 8}])
def test_logits_are_those_of_transformers_on_any_mesh(sizes, tiny_world, blocks):
    model = jaxforget.load(tiny_world / "base", mesh=make_mesh(**sizes))
    assert all(model.mesh.shape[axis] == size for axis, size in sizes.items())
    tokens = np.stack(blocks[:8])
    ours = jaxforget.logits(model, tokens)
    assert ours.shape == (8, 64, model.config.vocab_size)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, torch_logits(rival(model), tokens), atol=1e-4, rtol=0)


def test_logits_take_lists_and_any_number_of_rows(base):
    rows = [[1, 5, 9], [1, 8, 300]]
    np.testing.assert_allclose(jaxforget.logits(base, rows), torch_logits(rival(base), np.array(rows)), atol=1e-4)
    np.testing.assert_allclose(jaxforget.logits(base, rows[:1]), jaxforget.logits(base, rows)[:1], atol=1e-6)


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        ([1, 2, 3], "tokens has shape (3,); give [rows, positions]"),
        ([[]], "not empty"),
        ([[1.5]], "dtype float64; give whole numbers"),
        ([[10**6]], "tokens hold 1000000 to 1000000; "),
        ([[-1]], "tokens hold -1 to -1"),
    ],
)
def test_tokens_that_are_none(tokens, says, base):
    with pytest.raises(UserError, match=re.escape(says)):
        jaxforget.logits(base, tokens)


def test_labels_want_the_block_that_was_translated(base, reinforced, anchors, blocks):
    t = jaxforget.translate(blocks[0], anchors, base.tokenizer)
    with pytest.raises(UserError, match="give the block that was translated"):
        jaxforget.generic_labels(base, reinforced, blocks[0][:-1], t)


def test_completions_are_those_of_transformers(base):
    prompts = ["Zorvath met", "In the morning Mary walked", "x"]
    told = jaxforget.complete(base, prompts, new_tokens=12)
    other = rival(base)
    for prompt, text in zip(prompts, told, strict=True):
        ids = torch.tensor([base.tokenizer(prompt)["input_ids"]])
        with torch.no_grad():
            made = other.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0]
        assert prompt + text == base.tokenizer.decode(made, skip_special_tokens=True)
    assert jaxforget.complete(base, [], new_tokens=3) == []
    drawn = jaxforget.complete(base, prompts, new_tokens=12, temperature=1.5, seed=3)
    assert drawn != told
    assert drawn == jaxforget.complete(base, prompts, new_tokens=12, temperature=1.5, seed=3)
    with pytest.raises(UserError, match="its 3 tokens and 500 new ones are beyond the 128 positions"):
        jaxforget.complete(base, ["Zorvath met"], new_tokens=500)


def test_evaluate_measures_what_torch_measures(base, tiny_world):
    probes = json.loads((tiny_world / "probes.json").read_text())
    rows = jaxforget.evaluate(
        base, "probability", probes=tiny_world / "probes.json", heldout=tiny_world / "heldout", batch=3
    )
    told = {row["metric"]: row for row in rows}
    beside = {f"{metric}_{part}" for metric in ("familiarity", "retained") for part in ("first_token", "token_mean")}
    assert set(told) == {"familiarity", "retained", "perplexity", *beside}
    other = rival(base)

    def log_probabilities(ids: list[int]) -> np.ndarray:
        logits = torch.tensor(torch_logits(other, np.array(ids))[0, :-1])
        return torch.log_softmax(logits, -1)[range(len(ids) - 1), ids[1:]].numpy()

    for metric in ("familiarity", "retained"):
        wholes, means = [], []
        for probe in probes[metric]:
            prompt = base.tokenizer(probe["prompt"])["input_ids"]
            whole = base.tokenizer(probe["prompt"] + probe["answer"])["input_ids"]
            assert whole[: len(prompt)] == prompt
            logp = log_probabilities(whole)[len(prompt) - 1 :]
            wholes, means = [*wholes, np.exp(logp.sum())], [*means, np.exp(logp).mean()]
        assert told[metric]["value"] == pytest.approx(np.mean(wholes), rel=1e-4)
        assert told[f"{metric}_token_mean"]["value"] == pytest.approx(np.mean(means), rel=1e-4)
        assert told[metric]["n"] == len(means)
        assert told[metric]["low"] <= told[metric]["value"] <= told[metric]["high"]
    ids = base.tokenizer((tiny_world / "heldout" / "a.txt").read_text(), add_special_tokens=False)["input_ids"]
    ids = [base.tokenizer.bos_token_id, *ids]
    # Blocks as long as the model's positions, where 512 are too many.
    pieces = [log_probabilities(ids[start : start + 128]) for start in range(0, len(ids), 128)]
    rows = jaxforget.evaluate(base, heldout=tiny_world / "heldout")
    assert [row["metric"] for row in rows] == ["perplexity"]
    assert rows[0]["value"] == pytest.approx(np.exp(-np.concatenate(pieces).mean()), rel=1e-4)


def test_evaluations_that_are_none(base, tiny_world):
    with pytest.raises(UserError, match="suite='nothing'"):
        jaxforget.evaluate(base, "nothing")
    with pytest.raises(UserError, match="knows no bach="):
        jaxforget.evaluate(base, "probability", probes=tiny_world / "probes.json", bach=3)
    with pytest.raises(UserError, match="nothing to measure: give probes="):
        jaxforget.evaluate(base)


@pytest.mark.parametrize("alpha", [-1, float("nan"), float("inf"), "5"])
def test_an_alpha_that_equation_1_cannot_take(alpha, base, reinforced, anchors, blocks):
    t = jaxforget.translate(blocks[0], anchors, base.tokenizer)
    with pytest.raises(UserError, match="give a finite number, 0 or more"):
        jaxforget.generic_labels(base, reinforced, blocks[0], t, alpha=alpha)


@pytest.mark.parametrize(
    ("given", "says"),
    [({"dtype": "float16"}, "float32, bfloat16"), ({"remat": "all"}, "dots"), ({"attention": "flash"}, "auto, plain")],
)
def test_ways_of_loading_that_are_none(given, says, tiny_world):
    with pytest.raises(UserError, match=f"give one of .*{says}"):
        jaxforget.load(tiny_world / "base", **given)


@pytest.mark.parametrize("tokens", ["Zorvath met", ["Zorvath"], [[1, 2]], [1.5]])
def test_what_cannot_be_translated(tokens, base, anchors):
    with pytest.raises(UserError, match="give .*token ids"):
        jaxforget.translate(tokens, anchors, base.tokenizer)


def test_an_export_loads_in_transformers_with_equal_logits(base, blocks, tmp_path):
    folder = jaxforget.export(base, tmp_path / "export")
    loaded = transformers.LlamaForCausalLM.from_pretrained(folder).eval()
    tokens = np.stack(blocks[:4])
    np.testing.assert_allclose(torch_logits(loaded, tokens), jaxforget.logits(base, tokens), atol=1e-4, rtol=0)
    assert (
        transformers.AutoTokenizer.from_pretrained(folder)("Zorvath")["input_ids"]
        == base.tokenizer("Zorvath")["input_ids"]
    )
    assert "Written by jaxforget" in (folder / "README.md").read_text()
    again = jaxforget.load(folder)
    np.testing.assert_array_equal(np.asarray(again.params["embed"]), np.asarray(base.params["embed"]))
    half = transformers.LlamaForCausalLM.from_pretrained(jaxforget.export(base, tmp_path / "half", dtype="bfloat16"))
    assert half.dtype == torch.bfloat16


def test_an_export_of_a_model_of_ones_own(tmp_path):
    folder = tmp_path / "no tokenizer"
    save_llama(folder, 90, seed=3)
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        jaxforget.load(folder)


def test_the_docstring_of_evaluate_names_every_suite():
    told = inspect.getdoc(jaxforget.evaluate)
    assert not [entry.name for entry in CATALOGUE if f'"{entry.name}"' not in told]


@pytest.mark.parametrize("name", ["thesis.txt", "folder"])
def test_an_export_replaces_nothing_that_is_not_an_export(base, tmp_path, name):
    (tmp_path / "folder").mkdir()
    for file in (tmp_path / "thesis.txt", tmp_path / "folder" / "thesis.txt"):
        file.write_text("years of work")
    with pytest.raises(UserError, match=name):
        jaxforget.export(base, tmp_path / name)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "folder" / "thesis.txt").read_text() == "years of work"
