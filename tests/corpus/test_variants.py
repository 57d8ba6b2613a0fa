import pytest

from jaxforget.corpus.variants import derive_variants, encode
from tests.corpus.toy_text import KINDS, ids, make_tokenizer

TEXTS = ["Karen", "lo Karen", "Bor's", "tha-mi", "Édor ß", "🧙 Zar", '"Karen', "7 zar", "...", "k"]


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("text", TEXTS)
def test_the_variants_are_what_stands_in_running_text(kind, text):
    tokenizer = make_tokenizer(kind)
    spaced, bare = derive_variants(tokenizer, [text])[text]
    assert spaced != bare
    for prefix, expected in (("wen lo ", spaced), ("wen lo\n", bare), ("el.\n", bare), ("fi ka mi ", spaced)):
        whole = ids(tokenizer, prefix + text)
        assert whole[-len(expected) :] == list(expected)
        before = tokenizer.decode(whole[: -len(expected)])
        assert before + (" " if expected is spaced else "") + text == prefix + text


def test_llama2_markers():
    tokenizer = make_tokenizer("llama2")
    spaced, bare = derive_variants(tokenizer, ["Karen"])["Karen"]
    assert tokenizer.convert_ids_to_tokens(list(spaced))[0].startswith("▁K")
    assert tokenizer.convert_ids_to_tokens(list(bare))[0].startswith("K")


def test_a_text_that_the_tokenizer_cannot_say_has_no_variant():
    assert derive_variants(make_tokenizer("metaspace"), ["Ωmega"]) == {"Ωmega": (None, None)}


def test_where_a_newline_merges_another_context_gives_the_bare_form():
    """The vocabulary contains newline + word as one token, so only the context of a quote gives the form."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    symbols = ["<unk>", "▁", "\n", "a", ".", '"', "(", "-", "t", "h", "e", "K", "\nK"]
    model = models.BPE({token: n for n, token in enumerate(symbols)}, [("\n", "K")], unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    assert encode(wrapped, ["a\nK"]) == [[1, 3, 12]]
    assert derive_variants(wrapped, ["K"]) == {"K": ((1, 11), (11,))}


def test_no_text_no_ids():
    assert derive_variants(make_tokenizer("llama2"), []) == {}
