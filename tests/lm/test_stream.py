"""Streaming gives the tokens that generation gives, and a conversation keeps its turns."""

import pytest

import jaxforget
from jaxforget.corpus.prompts import encode_prompt
from jaxforget.errors import UserError, printable
from jaxforget.lm.completion import complete, completer
from jaxforget.lm.conversation import Conversation
from jaxforget.lm.stream import stream


@pytest.fixture(scope="module")
def base(tiny_world):
    return jaxforget.load(tiny_world / "base")


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9, "seed": 3}, {"temperature": 0.9, "top_k": 5}])
@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_all_groups_are_what_generation_gives(base, sampling, chunk):
    ids = encode_prompt(base.tokenizer, "Zorvath met")
    groups = list(stream(base, ids, new_tokens=17, chunk=chunk, **sampling))
    assert all(len(group) <= chunk for group in groups)
    assert [[token for group in groups for token in group]] == completer(base, **sampling)([ids], 17)


def test_the_answer_is_the_completion_and_the_turn_is_kept(base):
    talk = Conversation(base)
    assert "".join(talk.answer("Zorvath met", 9)) == complete(base, ["Zorvath met"], 9)[0].rstrip("\ufffd")
    first = talk.turns[0][1]
    again = "".join(talk.answer("Mary", 9))
    assert again == complete(base, [f"Zorvath met{first}\nMary"], 9)[0].rstrip("\ufffd")
    talk.reset()
    assert talk.turns == []


def test_an_answer_that_is_left_early_is_kept_as_far_as_it_came(base):
    talk = Conversation(base)
    pieces = talk.answer("Zorvath met", 40)
    first = next(pieces)
    pieces.close()
    assert talk.turns == [("Zorvath met", first)]


def test_old_turns_make_room_and_a_prompt_without_room_is_refused(base):
    talk = Conversation(base)
    talk.turns = [("Zorvath met Quillon. " * 5, " ") for _ in range(6)]
    list(talk.answer("Mary", 8))
    assert talk.turns[-1][0] == "Mary"
    assert len(talk.turns) < 7
    with pytest.raises(UserError, match="beyond the 128 positions"):
        list(talk.answer("x " * 200, 8))


def test_what_a_model_writes_cannot_command_a_terminal():
    assert printable("a\x1b[2J\x07b\r\n\tc\u202e") == "a\ufffd[2J\ufffdb\ufffd\n\tc\ufffd"
