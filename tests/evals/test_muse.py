"""MUSE's figures worked out by hand on words and a table; tests/stages has them beside torch."""

import json

import numpy as np
import pytest

from jaxforget.errors import UserError
from jaxforget.evals.muse import Pair, Quiz, knowmem, load_muse, muse_rows, privleak, privleak_auc, verbmem
from tests.evals.words import BOS, Table, Words

FILES = {
    "verbmem_forget": [{"prompt": "p", "gt": "g"}],
    "knowmem_forget_qa": [{"question": "q", "answer": "a"}],
    "knowmem_forget_qa_icl": [{"question": "q", "answer": "a"}],
    "knowmem_retain_qa": [{"question": "q", "answer": "a"}],
    "knowmem_retain_qa_icl": [{"question": "q", "answer": "a"}],
    "privleak_forget": ["bad bad bad", "fair fair fair"],
    "privleak_retain": ["good good good"],
    "privleak_holdout": ["good good good", "fair fair fair", "bad good good"],
}
GIVEN = {"good": -1.0, "fair": -2.0, "bad": -3.0}


@pytest.fixture
def folder(tmp_path):
    for name, value in FILES.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    return tmp_path


def answering(texts: list[str], tokenizer: Words, seen: list):
    """A model that says `texts` whatever it is asked; notes what it was asked."""

    def complete(prompts, new_tokens):
        seen.append((prompts, new_tokens))
        return [tokenizer(text)["input_ids"][1 : 1 + new_tokens] for text in texts]

    return complete


def test_verbmem_reference_is_128_ids_with_the_begin_token():
    words, seen = Words(), []
    reference = " ".join(f"w{i}" for i in range(200))
    said = " ".join(f"w{i}" for i in range(127))
    values = verbmem(
        [Pair("once upon", reference), Pair("a", "b c")], answering([said, "b"], words, seen), words, stem=False
    )
    # Of w0 to w199 the reference keeps w0 to w126, and that is what was said; then 1 of 2 words with precision 1.
    assert values == pytest.approx([1.0, 2 * 1 * 0.5 / 1.5])
    assert seen == [([words("once upon")["input_ids"], words("a")["input_ids"]], 128)]


class Characters:
    """A token a character, so that a prompt's last space can be seen."""

    def __call__(self, texts, add_special_tokens=True):
        return {"input_ids": [[BOS] * add_special_tokens + list(map(ord, text)) for text in texts]}

    def decode(self, ids, **_):
        return "".join(map(chr, ids))


def test_knowmem_prompt_and_cut():
    seen = []

    def complete(prompts, new_tokens):
        seen.append((["".join(map(chr, ids[1:])) for ids in prompts], new_tokens))
        return [list(map(ord, text)) for text in ("the red fox\nQuestion: red", "running\n\nfox", "Question: cat")]

    quiz = Quiz(
        (Pair("Who?", "red fox"), Pair("How?", "runs"), Pair("Why?", "cat")), (Pair("A?", "b"), Pair("C?", "d"))
    )
    values = knowmem(quiz, complete, Characters(), stem=False)
    assert values == pytest.approx([2 * (2 / 3) * 1 / (2 / 3 + 1), 0, 0])
    shots = "Question: A?\nAnswer: b\n\nQuestion: C?\nAnswer: d\n\n"
    assert seen == [([f"{shots}Question: {q}\nAnswer: " for q in ("Who?", "How?", "Why?")], 32)]
    assert knowmem(quiz, complete, Characters(), stem=True)[1] == 1  # run


def rows_of(folder, convention="muse", auc_control=0.6):
    words, seen = Words(), []
    found = muse_rows(
        load_muse(folder),
        scorer=Table(words, GIVEN),
        params=None,
        complete=answering(["a"], words, seen),
        tokenizer=words,
        model="m",
        convention=convention,
        auc_control=auc_control,
    )
    return {row.metric: row for row in found}


def test_privleak_by_hand(folder):
    rows = rows_of(folder)
    # Three tokens to predict: int(1.2) = 1, the lowest. Forget -3, -2; holdout -1, -2, -3; retain -1.
    # Pairs holdout > forget: -1 beats both (2), -2 beats -3 and ties (1.5), -3 ties (0.5): 4 of 6.
    assert rows["privleak_auc"].value == pytest.approx(4 / 6)
    assert rows["privleak"].value == pytest.approx(100 * (4 / 6 - 0.6) / 0.6)
    assert rows["privleak_auc_retain"].value == pytest.approx(0.5 / 3)
    assert [getattr(rows["privleak"], key) for key in ("convention", "model", "n")] == ["muse", "m", 2]
    assert rows["privleak"].low <= rows["privleak"].value <= rows["privleak"].high
    words = Words()
    assert privleak_auc(load_muse(folder), Table(words, GIVEN), None, words) == pytest.approx(4 / 6)
    assert set(rows) == {
        *("verbmem_forget", "knowmem_forget", "knowmem_retain", "privleak"),
        *("privleak_auc", "privleak_auc_retain"),
    }
    assert rows["knowmem_forget"].value == 1


def test_privleak_is_minus_100_where_all_is_remembered():
    assert privleak(0, 0.5393) == -100
    assert privleak(0.5393, 0.5393) == 0
    assert privleak(1, 0.5) == 100


def test_without_a_control_there_is_no_privleak(folder):
    assert "privleak" not in rows_of(folder, auc_control=None)


def test_a_text_of_which_40_percent_is_no_token(folder):
    (folder / "privleak_holdout.json").write_text('["good good good", "bad good"]')
    with pytest.raises(UserError, match="privleak_holdout.json: item 1 has 2 tokens to predict"):
        rows_of(folder)
    # open-unlearning takes one: holdout -1, -3 against -3, -2: 2 + 0.5 of 4.
    assert rows_of(folder, "open-unlearning")["privleak_auc"].value == pytest.approx(2.5 / 4)


@pytest.mark.parametrize("value", [0, -0.1, 1.1, "half"])
def test_control_out_of_range(folder, value):
    with pytest.raises(UserError, match="auc_control="):
        rows_of(folder, auc_control=value)


def test_unknown_convention(folder):
    with pytest.raises(UserError, match="convention='tofu': the conventions are muse and open-unlearning"):
        rows_of(folder, "tofu")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_and_an_empty_one(folder, name):
    (folder / f"{name}.json").write_text("[]")
    with pytest.raises(UserError, match=f"{name}.json: holds no records"):
        load_muse(folder)
    (folder / f"{name}.json").unlink()
    with pytest.raises(UserError, match=f"{name}.json: no such file"):
        load_muse(folder)


def test_a_missing_field(folder):
    (folder / "verbmem_forget.json").write_text('[{"prompt": "p", "gt": "g"}, {"prompt": "p"}]')
    with pytest.raises(UserError, match="verbmem_forget.json: item 1: no field 'gt'"):
        load_muse(folder)


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        load_muse(tmp_path / "none")


def test_intervals_hold_the_mean(folder):
    row = rows_of(folder)["verbmem_forget"]
    assert np.isfinite([row.low, row.value, row.high]).all()


def test_the_folders_as_published_hold_the_same(folder, tmp_path):
    published = tmp_path / "published"
    for name in FILES:
        part, _, rest = name.partition("_")
        (published / part).mkdir(parents=True, exist_ok=True)
        (published / part / f"{rest}.json").write_text((folder / f"{name}.json").read_text())
    assert load_muse(published) == load_muse(folder)
    (published / "knowmem" / "retain_qa_icl.json").unlink()
    with pytest.raises(UserError, match=r"knowmem_retain_qa_icl.json: no such file, nor knowmem/retain_qa_icl.json"):
        load_muse(published)
