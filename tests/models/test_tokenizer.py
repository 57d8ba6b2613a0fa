"""Tokenizers: found, read, and as large as the model."""

import dataclasses
import importlib.util
import subprocess
import sys

import pytest
import sentencepiece
import tokenizers
import transformers

from jaxforget.errors import UserError
from jaxforget.models.export import save_params
from jaxforget.models.folders import read_config
from jaxforget.models.load import load_params
from jaxforget.models.tokenizer import check_ids, fit_tokenizer, load_tokenizer
from tests.models.tiny import save_tiny


@pytest.fixture
def folder(tmp_path):
    """A model of 128 words and a tokenizer of 5."""
    save_tiny(tmp_path)
    words = {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "ab": 4}
    fast = tokenizers.Tokenizer(tokenizers.models.BPE(words, [("a", "b")]))
    transformers.PreTrainedTokenizerFast(tokenizer_object=fast, bos_token="<s>", eos_token="</s>").save_pretrained(
        tmp_path
    )
    return tmp_path


def test_loads_and_fits(folder):
    tokenizer = load_tokenizer(folder)
    assert tokenizer("abb", add_special_tokens=False)["input_ids"] == [4, 3]
    config, _ = read_config(folder)
    fit_tokenizer(tokenizer, config)


def test_an_ordinary_token_beyond_the_embedding_is_named(folder):
    config, _ = read_config(folder)
    with pytest.raises(UserError, match=r"id 4 \('ab'\) is beyond the model's vocab_size 4"):
        fit_tokenizer(load_tokenizer(folder), dataclasses.replace(config, vocab_size=4))


def test_a_padding_token_beyond_the_embedding_is_not_used(folder):
    config, _ = read_config(folder)
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens([f"word{number}" for number in range(123)])
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    assert tokenizer.pad_token_id == config.vocab_size
    fit_tokenizer(tokenizer, config)
    assert tokenizer.pad_token_id is None
    tokenizer.add_special_tokens({"pad_token": "word0"})
    fit_tokenizer(tokenizer, config)
    assert tokenizer.pad_token == "word0"


def test_a_text_that_gives_an_id_beyond_the_embedding_is_refused(folder):
    config, _ = read_config(folder)
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens([f"word{number}" for number in range(124)])
    fit_tokenizer(tokenizer, config)
    check_ids([tokenizer("a word122")["input_ids"], []], config.vocab_size)
    with pytest.raises(UserError, match="token id 128, beyond the model's vocabulary of 128"):
        check_ids([[1], tokenizer("a word123")["input_ids"]], config.vocab_size)


def test_a_missing_package_is_named(folder, monkeypatch):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"x")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install sentencepiece"):
        load_tokenizer(folder)


def test_a_sentencepiece_model_alone_is_read(tmp_path):
    """As OpenLLaMA and the first Llama were published: tokenizer.model and no tokenizer.json."""
    texts = ["the dog ran to the old house", "a house near the river", "the river ran past the dog"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=40,
        model_type="bpe",
        minloglevel=2,
    )
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer("the dog ran", add_special_tokens=False)["input_ids"]
    assert ids == sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model")).encode(
        "the dog ran"
    )
    assert tokenizer.decode(ids) == "the dog ran"


def test_it_survives_an_export(folder, tmp_path):
    config, raw = read_config(folder)
    params = load_params(folder, config, dtype="float32")
    for number, source in enumerate((folder, load_tokenizer(folder))):
        out = tmp_path / str(number)
        save_params(out, params, config, raw, source, dtype="float32", model_card="")
        assert load_tokenizer(out)("abb")["input_ids"] == load_tokenizer(folder)("abb")["input_ids"]


def test_none_there(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer\.json or tokenizer\.model"):
        load_tokenizer(tmp_path)


def test_a_torn_one_is_named(folder):
    (folder / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(UserError) as caught:
        load_tokenizer(folder)
    assert str(caught.value).startswith(f"{folder}: its tokenizer cannot be read")
    assert "\n" not in str(caught.value)


def test_weights_need_neither_torch_nor_transformers():
    code = "import sys, jaxforget.models.load, jaxforget.models.tokenizer, jaxforget.lm.generate\n"
    code += "print({'torch', 'transformers'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"
