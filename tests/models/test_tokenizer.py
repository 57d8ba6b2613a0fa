"""Tokenizers: found, read, and as large as the model."""

import subprocess
import sys

import pytest
import tokenizers
import transformers

from jaxforget.errors import UserError
from jaxforget.models.export import save_params
from jaxforget.models.folders import read_config
from jaxforget.models.load import load_params
from jaxforget.models.tokenizer import check_tokenizer, load_tokenizer
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
    check_tokenizer(tokenizer, config)


def test_added_tokens_beyond_the_embedding_are_named(folder):
    config, _ = read_config(folder)
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens([f"word{number}" for number in range(123)])
    check_tokenizer(tokenizer, config)  # ids 0..127: just fits
    tokenizer.add_tokens(["straw"])
    with pytest.raises(UserError, match=r"id 128 \('straw'\) is beyond the model's vocab_size 128"):
        check_tokenizer(tokenizer, config)


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
