"""A small tokenizer like Llama-2's: BPE over words marked with "▁", bytes for unknown characters, a BOS by default."""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))

# Pieces whose borders no token crosses: an ending after an apostrophe, a word with its space, a punctuation mark.
PIECES = r"'(?:s|t|d|m|re|ve|ll)\b|▁?[^\W\d_▁]+|▁?[^\w\s▁]|▁?\d|\s|▁|_"


def _assemble(model: models.BPE) -> Tokenizer:
    """Return a tokenizer that marks the start and every space with "▁", as Llama-2's does."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """Train a tokenizer on `texts`; ids are specials, bytes, letters, merges. A newline stays a byte, as in Llama-2."""
    learner = _assemble(models.BPE(unk_token="<unk>", byte_fallback=True))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size + 1,
        special_tokens=[*SPECIAL, *BYTES],
        initial_alphabet=["▁"],  # even if no text has one: the decoder would not turn its bytes into a space
        show_progress=False,
        min_frequency=2,
    )
    learner.train_from_iterator(texts, trainer)
    learned = json.loads(learner.to_str())["model"]
    # The newline must stay a byte; the trainer added it as a letter.
    kept = [token for token in sorted(learned["vocab"], key=learned["vocab"].get) if token != "\n"]
    merges = [tuple(merge) for merge in learned["merges"]]
    vocab = {token: index for index, token in enumerate(kept)}
    tokenizer = _assemble(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", SPECIAL.index("<s>"))]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write a folder that `transformers.AutoTokenizer.from_pretrained` loads as a fast tokenizer."""
    unk, bos, eos, pad = SPECIAL
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=unk,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )
    wrapped.save_pretrained(str(folder))
