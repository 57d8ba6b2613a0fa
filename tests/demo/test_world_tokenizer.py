import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, LlamaConfig

from jaxforget.demo import world
from jaxforget.demo.tokenizer import SPECIAL, save_tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "world"
    world.build_world(folder, seed=0)
    return folder


@pytest.fixture(scope="module")
def tokenizer(toy):
    return AutoTokenizer.from_pretrained(toy / "tokenizer")


def test_loads_as_a_fast_tokenizer_with_bos(tokenizer):
    assert tokenizer.is_fast
    assert len(tokenizer) == world.VOCABULARY
    ids = tokenizer("Mary had a dog.").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "▁Mary", "▁had", "▁a", "▁dog", "."]
    assert [tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id] == [0, 1, 2]
    assert tokenizer.pad_token_id == SPECIAL.index("<pad>")


def test_loads_the_same_beside_a_llama_config(toy, tokenizer, tmp_path):
    # An exported model has both in a folder; transformers must not replace our tokenisation by its own.
    for path in (toy / "tokenizer").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    LlamaConfig(vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    text = 'Line one.\n"Mary\'s dog," said Jon.\n\nEnd'
    beside = AutoTokenizer.from_pretrained(tmp_path)
    assert beside(text).input_ids == tokenizer(text).input_ids
    assert beside.decode(beside(text).input_ids, skip_special_tokens=True) == text


def test_whole_world_survives_the_round_trip(toy, tokenizer):
    for path in toy.rglob("*.txt"):
        text = path.read_text(encoding="utf-8")
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids[1:]) == text
        assert tokenizer.unk_token_id not in ids


@pytest.mark.parametrize(
    "text", [" leading", "two  spaces", "a\n\nb", "tab\there", "naïve 日本 😀 42%", "don't, won't", "\n"]
)
def test_any_text_survives_the_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids[1:]) == text


def test_newline_is_a_byte_and_what_follows_has_no_marker(tokenizer):
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("dog\nMary").input_ids)
    assert tokens[:3] == ["<s>", "▁dog", "<0x0A>"]
    assert not any("▁" in token for token in tokens[3:])


def test_answers_are_one_token_after_their_prompt(toy, tokenizer):
    probes = json.loads(Path(toy / "probes.json").read_text())
    for probe in probes["familiarity"] + probes["retained"]:
        prompt = tokenizer(probe["prompt"]).input_ids
        whole = tokenizer(probe["prompt"] + probe["answer"]).input_ids
        assert whole[: len(prompt)] == prompt
        assert len(whole) == len(prompt) + 1


def test_training_is_deterministic_and_saves_a_folder(tmp_path):
    texts = ["the cat sat on the mat\n" * 50, "a dog ran\n" * 50]
    first, second = (train_tokenizer(texts, 300) for _ in range(2))
    assert first.to_str() == second.to_str()
    save_tokenizer(first, tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).decode(first.encode("the dog").ids[1:]) == "the dog"
