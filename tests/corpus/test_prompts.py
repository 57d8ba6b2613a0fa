"""Prompts of tokenizers that close whatever they encode."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from jaxforget.corpus.prompts import encode_prompt, encode_prompts
from jaxforget.evals.familiarity import encode_probe
from jaxforget.evals.memorization import cut_passages
from jaxforget.evals.multiple_choice import Document, encode_choices
from jaxforget.evals.probes import Probe
from jaxforget.evals.tofu import Asker
from jaxforget.lm.completion import continuation

WORDS = ["<s>", "</s>", "the", "dog", "ran", "far"]


def tokenizer(template: str, bos: str = "<s>") -> PreTrainedTokenizerFast:
    """A tokenizer of single words; `template` says what it adds, with `$A` for the text."""
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="far"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [(word, number) for number, word in enumerate(WORDS[:2])]
    core.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=bos, eos_token="</s>")


@pytest.mark.parametrize(
    ("template", "bos", "opened"),
    [
        ("<s> $A </s>", "<s>", [0]),
        ("<s> $A", "<s>", [0]),
        ("$A </s>", "<s>", []),
        ("$A", "<s>", []),
        ("</s> $A </s>", "</s>", [1]),  # one token is both, as in GPT-2's family
        ("<s> $A </s> </s>", "<s>", [0]),
    ],
)
def test_a_prompt_is_opened_as_the_tokenizer_opens_and_never_closed(template, bos, opened):
    some = tokenizer(template, bos)
    assert encode_prompt(some, "the dog") == [*opened, 2, 3]
    assert encode_prompt(some, "") == opened
    assert encode_prompts(some, ["the", "", "the dog ran"]) == [[*opened, 2], opened, [*opened, 2, 3, 4]]
    assert encode_prompts(some, []) == []


def test_an_end_token_in_the_text_itself_is_kept():
    assert encode_prompt(tokenizer("<s> $A </s>"), "the </s>") == [0, 2, 1]


def test_every_suite_asks_a_closing_tokenizer_as_it_asks_one_that_does_not_close():
    closing, plain = tokenizer("<s> $A </s>"), tokenizer("<s> $A")
    documents = [Document("the dog", ("ran", "far"), 0), Document("", ("the dog",), 0)]

    def asked(some):
        return [
            encode_probe(Probe("the dog", " ran far"), some),
            encode_choices(documents, some),
            cut_passages(["the dog ran far"], some, length=3),
            Asker(None, None, some, template="{question}")._encode("the dog", " ran"),
            continuation(some, "the dog", [4, 5]),
        ]

    assert asked(closing) == asked(plain)
    probe, choices, passages, (ids, start), text = asked(closing)
    assert (probe.ids, probe.start) == ((0, 2, 3, 4, 5), 3)
    assert choices == [([0, 2, 3], [4]), ([0, 2, 3], [5]), ([0], [2, 3])]
    assert passages == [[0, 2, 3, 4]]
    # TOFU's published convention counts one end token as part of the answer.
    assert (ids, start) == ([0, 2, 3, 4, 1], 3)
    assert text.split() == ["ran", "far"]
