"""Rows of questions and answers: exact tokens and answer marks, in the plain form and in chat formats."""

import copy
import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from jaxforget.corpus.batches import make_batches, open_blocks
from jaxforget.corpus.blocks import prepare_blocks
from jaxforget.corpus.dictionary import Anchors
from jaxforget.corpus.questions import Question
from jaxforget.corpus.rows import cut_rows
from jaxforget.corpus.text import Document
from jaxforget.corpus.translate import Translator
from jaxforget.errors import UserError
from tests.corpus.test_blocks import make_documents
from tests.corpus.toy_text import ids, make_tokenizer

WORDS = [
    "<s>",
    "</s>",
    "<unk>",
    "<user>",
    "<reply>",
    "<done>",
    "Question",
    "Answer",
    ":",
    "who",
    "ran",
    "Bo",
    "Al",
    "far",
]
CHATML = (
    "{% for m in messages %}{{ '<user>' if m.role == 'user' else '<reply>' }} {{ m.content }}<done>\n{% endfor %}"
    "{% if add_generation_prompt %}<reply>{% endif %}"
)
LLAMA = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + 'who: ' + m.content + ':' }}"
    "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)


def words_tokenizer(template: str | None = None, added: str = "<s> $A </s>") -> PreTrainedTokenizerFast:
    """A tokenizer of whole words that closes what it encodes; `template` is its chat template."""
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace()])
    core.add_special_tokens(WORDS[:6])
    special = [(word, number) for number, word in enumerate(WORDS[:2])]
    core.post_processor = processors.TemplateProcessing(single=added, special_tokens=special)
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **roles)
    tokenizer.chat_template = template
    return tokenizer


def document(question: str, answer: str, *alternates: str, name: str = "q") -> Document:
    one = Question(question, answer, alternates)
    return Document(name, one.text, one)


def spelled(row, tokenizer) -> tuple[str, str]:
    """All tokens of a row as words, and those that count."""
    words = tokenizer.convert_ids_to_tokens(row.tokens.tolist())
    return " ".join(words), " ".join(word for word, counts in zip(words, row.answer, strict=True) if counts)


def test_the_plain_form_is_opened_and_not_closed():
    tokenizer = words_tokenizer()
    (row,), count = cut_rows([document("who ran", "Bo ran far")], tokenizer, length=32)
    assert count == 1
    assert spelled(row, tokenizer) == ("<s> Question : who ran Answer : Bo ran far", "Bo ran far")
    assert (row.tokens.dtype, row.answer.dtype, row.alternate, row.cut) == (np.int32, np.float32, None, False)


@pytest.mark.parametrize(
    ("template", "row", "answer"),
    [
        (CHATML, "<user> who ran <done> <reply> Bo ran far <done>", "Bo ran far <done>"),
        (LLAMA, "<s> who : who ran : Bo ran far </s>", "Bo ran far </s>"),
        (LLAMA.replace(" + ' ' + eos_token", " + '\n'"), "<s> who : who ran : Bo ran far", "Bo ran far"),
    ],
)
def test_a_chat_format_is_kept_to_the_end_token_of_the_answer(template, row, answer):
    tokenizer = words_tokenizer(template)
    (made,), _ = cut_rows([document("who ran", "Bo ran far")], tokenizer, length=32, template="chat")
    assert spelled(made, tokenizer) == (row, answer)


def test_a_space_before_an_answer_is_part_of_it():
    tokenizer = copy.deepcopy(make_tokenizer("llama3"))
    tokenizer.chat_template = LLAMA
    (row,), _ = cut_rows([document("ka lo mi?", "Tharen bor.")], tokenizer, length=64, template="chat")
    assert tokenizer.decode(row.tokens[row.answer == 0]) == "<s>who: ka lo mi?:"
    assert tokenizer.decode(row.tokens[row.answer > 0]) == " Tharen bor. </s>"


def test_special_tokens_of_an_answer_do_not_end_it():
    tokenizer = words_tokenizer(CHATML)
    (made,), _ = cut_rows([document("who <done> ran", "Bo <done> far")], tokenizer, length=32, template="chat")
    assert spelled(made, tokenizer)[1] == "Bo <done> far <done>"


@pytest.mark.parametrize("kind", ["llama2", "llama3", "metaspace"])
def test_rows_of_subwords_spell_the_plain_form(kind):
    tokenizer = make_tokenizer(kind)
    question = Question("ka lo mi?", "Tharen bor, dun.")
    (row,), _ = cut_rows([Document("q", question.text, question)], tokenizer, length=64)
    assert row.tokens.tolist() == ids(tokenizer, "Question: ka lo mi?\nAnswer: Tharen bor, dun.")
    start = int(np.argmax(row.answer))
    assert row.answer.tolist() == [0.0] * start + [1.0] * (len(row.tokens) - start)
    assert tokenizer.decode(row.tokens[start:]).strip() == "Tharen bor, dun."


def test_the_end_of_a_long_answer_is_cut():
    tokenizer = words_tokenizer()
    (row,), _ = cut_rows([document("who ran", "Bo ran far")], tokenizer, length=9)
    assert spelled(row, tokenizer) == ("<s> Question : who ran Answer : Bo ran", "Bo ran")
    assert row.cut


def test_alternative_answers_are_drawn_by_the_seed():
    tokenizer = words_tokenizer()
    documents = [document("who ran", "Bo", "Al", "far", name=str(n)) for n in range(12)]

    def drawn(seed, alternates=()):
        rows, _ = cut_rows(documents, tokenizer, length=32, seed=seed, alternates=alternates)
        return [spelled(row.alternate, tokenizer) for row in rows]

    assert set(drawn(0)) == {(f"<s> Question : who ran Answer : {word}", word) for word in ("Al", "far")}
    assert drawn(0) == drawn(0) != drawn(1)
    assert {answer for _, answer in drawn(0, ["ran far"])} == {"ran far"}, "a file of answers replaces those of records"


def fault(documents, tokenizer, **options) -> str:
    with pytest.raises(UserError) as error:
        cut_rows(documents, tokenizer, **{"length": 32, **options})
    assert "\n" not in str(error.value)
    return str(error.value)


def test_faults_are_told_in_a_line():
    plain, one = words_tokenizer(), document("who ran", "Bo", name="a.jsonl:7")
    assert fault([one], plain, length=7) == (
        "a.jsonl:7: the question takes 7 of blocks.length=7 tokens and leaves none for its answer; raise "
        "blocks.length, or shorten the question"
    )
    assert "set corpus.template=plain" in fault([one], plain, template="chat")
    assert "set blocks.mode=document" in fault([one], plain, mode="paper")
    assert "b.txt: holds a text, but the files before it hold questions" in fault([one, Document("b.txt", "x")], plain)
    assert "holds a question, but the files before it hold texts" in fault([Document("b.txt", "x"), one], plain)
    changing = words_tokenizer(CHATML.replace("m.content", "m.content | upper"))
    assert "changes the answer 'Bo'" in fault([one], changing, template="chat")
    failing = words_tokenizer("{{ raise_exception('no assistant') }}")
    assert "fails on a question and an answer (no assistant)" in fault([one], failing, template="chat")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Forget rows with alternative answers and an anchor, retain rows of questions, and retain blocks of a text."""
    root, tokenizer = tmp_path_factory.mktemp("rows"), make_tokenizer("llama2")
    translator = Translator(Anchors({"ka": ("Wen Jo", "Bor")}), tokenizer)
    asked = [document(f"lo ka mi {'ren ' * n}?", f"tha ka {'bor ' * n}", f"dun {'el ' * n}") for n in range(10)]
    kept = [document(f"zar {'an ' * n}?", f"quil {'or ' * n}") for n in range(6)]
    given = {"length": 64, "holdout": 0.2}
    prepare_blocks(root / "forget", asked, tokenizer, translator=translator, **given)
    prepare_blocks(root / "retain", kept, tokenizer, retain=True, **given)
    prepare_blocks(root / "text", make_documents(1), tokenizer, retain=True, length=48)
    return root


def test_blocks_hold_the_answers_and_translate_question_and_answer(folders):
    tokenizer = make_tokenizer("llama2")
    summary = json.loads((folders / "forget" / "blocks.json").read_text())
    records = [*open_blocks(folders / "forget", "train"), *open_blocks(folders / "forget", "validation")]
    assert (summary["documents"], summary["splits"], summary["alternates"], summary["cut"]) == (
        10,
        {"train": 8, "validation": 2},
        10,
        0,
    )
    assert summary["answer_tokens"] == sum(int(record["answer"].sum()) for record in records)
    assert summary["longest"] == max(len(record["tokens"]) for record in records)
    assert summary["anchors"]["occurrences"] == 20, "one in each question and one in each answer"
    assert summary["anchors"]["missed"] == {}
    for record in records:
        size, other = len(record["tokens"]), len(record["alternate"])
        assert [len(record[name]) for name in ("answer", "weights", "position_map")] == [size] * 3
        assert [len(record[name]) for name in ("alternate_weights", "alternate_answer")] == [other] * 2
        assert (record["alternate_weights"] == 1).all()
        text = tokenizer.decode(record["tokens"][record["answer"] > 0])
        assert text.strip().startswith("tha ka")
        assert tokenizer.decode(record["alternate"][record["alternate_answer"] > 0]).strip().startswith("dun")
    trained = sum(int(((r["position_map"][:-1] >= 0) & (r["answer"][1:] > 0)).sum()) for r in records)
    assert summary["trained"] == trained < summary["answer_tokens"]
    for record in records:
        assert "ka" in tokenizer.decode(record["tokens"]).split()
        assert "ka" not in tokenizer.decode(record["translated"]).split()


def test_batches_pad_answers_and_give_retain_rows_no_alternative(folders):
    options = {"batch_size": 6, "retain_folder": folders / "retain", "retain_rows": 2}
    iterator = make_batches(folders / "forget", "train", **options)
    batch = next(iterator)
    iterator.close()
    for name in ("answer", "alternate_weights", "alternate_answer"):
        assert (batch[name].shape, batch[name].dtype) == ((8, 64), np.float32)
    assert (batch["alternate"].shape, batch["alternate"].dtype) == ((8, 64), np.int32)
    kept = batch["retain"] > 0
    assert kept.sum() == 2
    assert (batch["alternate_weights"][kept] == 0).all()
    assert (batch["alternate_answer"][~kept].sum(axis=1) > 0).all()
    assert ((batch["answer"] > 0) <= (batch["weights"] > 0)).all()
    assert (batch["answer"].sum(axis=1) < batch["weights"].sum(axis=1)).all(), "no question counts"


def test_every_token_of_a_text_beside_questions_counts(folders):
    options = {"batch_size": 6, "retain_folder": folders / "text", "retain_rows": 2}
    iterator = make_batches(folders / "forget", "train", **options)
    batch = next(iterator)
    iterator.close()
    kept = batch["retain"] > 0
    assert (batch["answer"][kept] == 1).all()
    assert (batch["answer"][~kept].sum(axis=1) < 40).all()


def test_batches_of_a_text_have_no_answers(folders):
    iterator = make_batches(folders / "text", "train", batch_size=2)
    assert not {"answer", "alternate"} & set(next(iterator))
    iterator.close()
