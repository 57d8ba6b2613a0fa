"""Small tokenizers that treat spaces like Llama 2, like Llama 3, and in a third way."""

import functools
import json
import random

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

KINDS = ("llama2", "llama3", "metaspace")
_SYLLABLES = ["ka", "lo", "mi", "ren", "tha", "bor", "dun", "el", "fi", "gar", "hu", "is", "jo", "wen"]
_SYLLABLES += ["quil", "zar", "an", "or", "ed", "ing", "é", "ß"]
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make_words(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choices(_SYLLABLES, k=rng.randint(1, 4))) for _ in range(count)]


def make_text(rng: random.Random, words: list[str], sentences: int) -> str:
    """Return sentences of 12 words with reciprocal frequencies, some of them quoted, some on a new line."""
    weights = [1 / (rank + 1) for rank in range(len(words))]
    ends = (". ", ".\n", ',"\n', "? ", ".\n\n")
    return "".join(" ".join(rng.choices(words, weights, k=12)) + rng.choice(ends) for _ in range(sentences))


@functools.cache
def make_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    rng = random.Random(1)
    words = make_words(rng, 800)
    text = make_text(rng, words + [word.capitalize() for word in words], 3000).splitlines(keepends=True)
    special = ["<unk>", "<s>", "</s>"]
    if kind == "llama3":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_LLAMA3), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=1500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(text, trainer)
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=True)
        splits = [pre_tokenizers.Split("\n", "removed" if kind == "llama2" else "isolated"), metaspace]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
        tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="first")
        fallback = [f"<0x{byte:02X}>" for byte in range(256)] if kind == "llama2" else []
        trainer = trainers.BpeTrainer(
            vocab_size=1500,
            special_tokens=special + fallback,
            initial_alphabet=[*"▁\n\"'.,-?!", *map(chr, range(48, 58)), *map(chr, range(65, 91))],
            show_progress=False,
        )
        tokenizer.train_from_iterator(text, trainer)
        if kind == "llama2":
            # Like Llama 2's fast tokenizer: no pre-tokenizer, spaces become "▁", unknown characters become bytes.
            trained = json.loads(tokenizer.to_str())["model"]
            vocab = {token: number for token, number in trained["vocab"].items() if token != "\n"}
            merges = [tuple(pair) for pair in trained["merges"]]
            tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
            tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
            tokenizer.decoder = decoders.Sequence(
                [
                    decoders.Replace("▁", " "),
                    decoders.ByteFallback(),
                    decoders.Fuse(),
                    decoders.Strip(" ", 1, 0),
                ]
            )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
