"""TOFU's formulas by hand: answers' losses from a table, R, truth ratios, utility, forget quality."""

import json

import numpy as np
import pytest

from jaxforget.errors import UserError
from jaxforget.evals.tofu import (
    SPLITS,
    Asker,
    Item,
    forget_quality,
    forget_truth_ratio,
    harmonic_mean,
    load_tofu,
    tofu_rows,
    truth_ratios,
    utility_truth_ratio,
)
from tests.evals.words import BOS, EOS, Table, Words

GIVEN = {"[INST]": -9.0, "who": -9.0, "[/INST]": -9.0, "red": -1.0, "blue": -2.0, "green": -3.0, "and": -0.5}
RECORD = {
    "question": "who",
    "answer": "red and blue",
    "paraphrased_answer": "blue",
    "perturbed_answer": ["green", "green and blue"],
}
# Mean negative log-likelihood, the end token (0.5 here) among the tokens.
LOSS = {
    "answer": (1 + 0.5 + 2 + 0.5) / 4,
    "paraphrased": (2 + 0.5) / 2,
    "perturbed": [(3 + 0.5) / 2, (3 + 0.5 + 2 + 0.5) / 4],
}


class Spaced(Words):
    """Words, where [/INST] stands by itself whatever follows it, as it does in Llama-2's tokenizer."""

    def __call__(self, text, add_special_tokens=True):
        if isinstance(text, list):
            return super().__call__(text, add_special_tokens)
        return super().__call__(text.replace("[/INST]", " [/INST] "), add_special_tokens)


def asker(**settings) -> Asker:
    words = Spaced()
    return Asker(Table(words, GIVEN, end=-0.5), None, words, **settings)


def test_losses_count_the_answer_and_the_end_token_only():
    found = asker().losses(["who", "who"], ["red and blue", "blue"])
    assert found == pytest.approx([LOSS["answer"], LOSS["paraphrased"]])


def test_long_text_is_cut_and_then_has_no_end_token():
    question = " ".join(["who"] * 10)  # with BOS and the two marks, 13 tokens
    answer = " ".join(["red"] * 300)
    one = asker()
    ids, start = one._encode(question, answer)
    assert (len(ids), start, ids[-1] == EOS) == (200, 13, False)
    ids, start = asker(convention="open-unlearning")._encode(question, answer)
    assert (len(ids), start, ids[-1]) == (314, 13, EOS)
    with pytest.raises(UserError, match="leaves no token of its answer 'red' within 200 tokens"):
        one.losses([" ".join(["who"] * 300)], ["red"])


def test_ratios_by_hand():
    items = [Item("who", "red and blue", "blue", ("green", "green and blue")), Item("who", "red", "red", ("blue",))]
    found = asker().ratios(items)
    assert found == pytest.approx([np.exp(np.mean(LOSS["perturbed"]) - LOSS["paraphrased"]), np.exp(1.25 - 0.75)])
    # open-unlearning prints 1/R, its divisor 1e-10 larger: seen only where probabilities are that small.
    assert asker(convention="open-unlearning").ratios(items) == pytest.approx(found, rel=1e-8)
    assert truth_ratios([30.0], [28.0], 1e-10) == pytest.approx([(np.exp(-30) + 1e-10) / np.exp(-28)])
    assert truth_ratios([30.0], [28.0]) == pytest.approx([np.exp(-2)])


def test_truth_ratios_by_hand():
    ratios = np.array([0.5, 1.0, 4.0])
    assert forget_truth_ratio(ratios) == pytest.approx([0.5, 1, 0.25])
    assert utility_truth_ratio(ratios) == pytest.approx([0, 0, 0.75])


def test_harmonic_mean():
    assert harmonic_mean([1, 2, 4]) == pytest.approx(3 / 1.75)
    assert harmonic_mean([1, 0, 4]) == 0


def test_forget_quality_by_hand():
    # Apart entirely: of the C(6, 3) = 20 orders of two samples of three, two are this far apart.
    assert forget_quality(np.array([1.0, 2, 3]), np.array([4.0, 5, 6])) == pytest.approx(2 / 20)
    assert forget_quality(np.array([1.0, 2, 3]), np.array([1.0, 2, 3])) == pytest.approx(1)


@pytest.fixture
def folder(tmp_path):
    for split in SPLITS:
        record = dict(RECORD)
        if split in ("real_authors", "world_facts"):
            del record["paraphrased_answer"]  # as published
        (tmp_path / f"{split}.jsonl").write_text((json.dumps(record) + "\n") * 3)
    return tmp_path


def test_rows_by_hand(folder):
    one, seen = asker(), []

    def complete(prompts, new_tokens):
        seen.append((prompts, new_tokens))
        return [one.tokenizer("blue and red")["input_ids"][1:] for _ in prompts]

    data = load_tofu(folder, limit=2)
    rows = {r.metric: r for r in tofu_rows(data, one, complete, model="m", control_ratios=np.array([50.0, 60.0]))}
    false = np.exp(-np.array(LOSS["perturbed"]))
    true = np.exp(-LOSS["answer"])
    options = true / (true + false.sum())
    mean_false = np.mean(LOSS["perturbed"])
    ratio, plain = np.exp(mean_false - LOSS["paraphrased"]), np.exp(mean_false - LOSS["answer"])
    wanted = {
        "forget_prob": true,
        "retain_prob": true,
        "real_authors_prob": options,
        "world_facts_prob": options,
        "forget_truth_ratio": min(ratio, 1 / ratio),
        "retain_truth_ratio": max(0, 1 - 1 / ratio),
        "real_authors_truth_ratio": max(0, 1 - 1 / plain),
        "world_facts_truth_ratio": max(0, 1 - 1 / plain),
        # "blue and red" of "red and blue": one word of three stands in order.
        **{f"{split}_rouge": 1 / 3 for split in SPLITS},
    }
    nine = [value for name, value in wanted.items() if not name.startswith("forget")]
    wanted["model_utility"] = 9 / sum(1 / value for value in nine)
    wanted["forget_quality"] = 1 / 3  # of the C(4, 2) = 6 orders of two samples of two, two are this far apart
    assert {name: row.value for name, row in rows.items()} == pytest.approx(wanted)
    assert {row.convention for row in rows.values()} == {"tofu"}
    assert (rows["forget_prob"].n, rows["model_utility"].n, rows["forget_quality"].low) == (2, 6, None)
    prompt = one.tokenizer("[INST] who [/INST]")["input_ids"]
    assert prompt[0] == BOS
    assert seen == [([prompt] * 2, 200)] * 4


def test_tofu_generates_up_to_200_tokens_with_the_prompt():
    """open-unlearning generates 200 more, whatever the prompt."""
    items = [Item(" ".join(["who"] * 190), "red", "red", ("blue",))]

    def complete(prompts, new_tokens):  # the answer comes after 9 words; prompts have 193 tokens
        return [one.tokenizer("blue " * 9 + "red")["input_ids"][1:] for _ in prompts]

    for convention, wanted in (("tofu", 0), ("open-unlearning", 1)):
        one = asker(convention=convention)
        assert one.rouge(items, complete) == [wanted]


def test_template():
    one = asker(template="Q {question} A")
    assert one.prompt("{x}") == "Q {x} A"


@pytest.mark.parametrize("field", ["question", "answer", "paraphrased_answer", "perturbed_answer"])
def test_a_missing_field_names_file_and_line(folder, field):
    lacking = {name: value for name, value in RECORD.items() if name != field}
    (folder / "retain.jsonl").write_text(json.dumps(RECORD) + "\n" + json.dumps(lacking))
    with pytest.raises(UserError, match=f"retain.jsonl: line 2: no field '{field}'"):
        load_tofu(folder)


def test_missing_file_folder_and_limit(folder, tmp_path):
    (folder / "world_facts.jsonl").unlink()
    with pytest.raises(UserError, match="world_facts.jsonl: no such file"):
        load_tofu(folder)
    with pytest.raises(UserError, match="no such folder"):
        load_tofu(tmp_path / "none")
    with pytest.raises(UserError, match="limit=0"):
        load_tofu(folder, limit=0)


@pytest.mark.parametrize("forget", ["forget01", "forget05", "forget10"])
def test_the_files_as_published_hold_the_same(folder, tmp_path, forget):
    published = tmp_path / "published"
    published.mkdir()
    for split in SPLITS:
        name = forget if split == "forget" else split
        (published / f"{name}_perturbed.json").write_text((folder / f"{split}.jsonl").read_text())
    assert load_tofu(published) == load_tofu(folder)
