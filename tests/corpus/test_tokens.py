import random

import numpy as np
import pytest

from jaxforget.corpus.text import Document
from jaxforget.corpus.tokens import cut_blocks, tokenize
from jaxforget.errors import UserError
from tests.corpus.toy_text import KINDS, ids, make_text, make_tokenizer, make_words


def sample_text(sentences=400):
    rng = random.Random(2)
    return make_text(rng, make_words(rng, 300) + ["🧙", "Ωmega", "naïve"], sentences)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [1000, 3001])
def test_windows_give_the_tokens_of_one_call(kind, window):
    text = sample_text()
    assert len(text) > 20_000
    tokenizer = make_tokenizer(kind)
    calls = []

    class Watched:
        is_fast = True

        def __call__(self, given, **options):
            calls.append(len(given))
            return tokenizer(given, **options)

    assert tokenize(Watched(), text, window=window, overlap=400).tolist() == ids(tokenizer, text)
    assert len(calls) > 5
    assert max(calls) <= window, "the whole text was never given at once"


def test_text_without_a_seam_is_still_right():
    tokenizer = make_tokenizer("llama3")
    text = "ka" * 2000  # one word, which windows split differently than one call
    assert tokenize(tokenizer, text, window=500, overlap=100).tolist() == ids(tokenizer, text)


def test_document_mode_keeps_the_tail_and_never_crosses_documents():
    tokenizer = make_tokenizer("llama2")
    texts = ["lo mi ren " * 9, "tha bor"]
    blocks, count = cut_blocks([Document("x", text) for text in texts], tokenizer, length=8)
    streams = [[tokenizer.bos_token_id, *ids(tokenizer, text)] for text in texts]
    expected = [stream[at : at + 8] for stream in streams for at in range(0, len(stream), 8)]
    assert [block.tolist() for block in blocks] == expected
    assert count == 2
    assert any(len(block) < 8 for block in blocks[:-1]), "the first document's tail is a block of its own"
    assert {block.dtype for block in blocks} == {np.dtype(np.int32)}


def test_paper_mode_joins_pieces_of_10000_characters_and_drops_the_tail():
    tokenizer = make_tokenizer("llama2")
    texts = [sample_text(), "lo mi ren tha"]
    stream = []
    for text in texts:
        for at in range(0, len(text), 10_000):
            stream += [tokenizer.bos_token_id, *ids(tokenizer, text[at : at + 10_000])]
    blocks, _ = cut_blocks([Document("x", text) for text in texts], tokenizer, length=50, mode="paper")
    assert np.concatenate(blocks).tolist() == stream[: len(stream) // 50 * 50]
    assert {len(block) for block in blocks} == {50}
    assert stream.count(tokenizer.bos_token_id) == sum(-(-len(text) // 10_000) for text in texts)


def test_a_tokenizer_without_bos_adds_none():
    from transformers import PreTrainedTokenizerFast

    plain = PreTrainedTokenizerFast(tokenizer_object=make_tokenizer("llama3").backend_tokenizer)
    assert plain.bos_token_id is None
    (block,), _ = cut_blocks([Document("x", "lo mi")], plain, length=8)
    assert block.tolist() == ids(plain, "lo mi")


def test_faults():
    tokenizer = make_tokenizer("llama2")
    document = Document("x", "lo mi")
    with pytest.raises(UserError, match="blocks: 'script' is not one of document, paper"):
        cut_blocks([document], tokenizer, length=8, mode="script")
    with pytest.raises(UserError, match="length: 1 must be at least 2"):
        cut_blocks([document], tokenizer, length=1)
    with pytest.raises(UserError, match="no documents"):
        cut_blocks([], tokenizer, length=8)
    with pytest.raises(UserError, match="do not fill one block of 512"):
        cut_blocks([document], tokenizer, length=512, mode="paper")
