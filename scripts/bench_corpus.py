#!/usr/bin/env python3
"""Time the dictionary's work on text: finding candidates, and translating with 160 and with 1,600 anchors.

Text, tokenizer and anchors are random. The ratio of both translations says what more anchors cost; a scan and a
translation are each the fastest of several rounds.
"""

import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import bench.command as command
import numpy as np

FEW, MANY = 160, 1600
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def fastest(function: Callable[[], object], rounds: int) -> float:
    """Return the seconds of the fastest of `rounds` calls."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def main(words: Sequence[str]) -> None:
    """Measure and print a JSON object."""
    parser = command.Parser(__file__, __doc__)
    parser.add_argument("--words", type=command.number(int, 100), default=100_000, help="words of text [100000]")
    parser.add_argument("--rounds", type=command.number(int, 1), default=5, help="rounds of each measurement [5]")
    given = parser.parse_args(words)
    from jaxforget.anchors.scan import scan
    from jaxforget.corpus.dictionary import Anchors
    from jaxforget.corpus.text import Document
    from jaxforget.corpus.translate import Translator
    from jaxforget.demo.tokenizer import save_tokenizer, train_tokenizer
    from jaxforget.models.tokenizer import load_tokenizer

    rng = random.Random(0)
    known = ["".join(rng.choices(LETTERS, k=rng.randint(3, 8))) for _ in range(4 * MANY)]
    names = [word.capitalize() for word in known[: 2 * MANY]]
    entries = {" ".join(names[2 * i : 2 * i + 1 + i % 2]): (rng.choice(names),) for i in range(MANY)}
    met = list(entries)[:FEW]  # the text has anchors of the smaller dictionary only, so both replace as many
    text = " ".join(rng.choice(met) if rng.random() < 0.05 else rng.choice(known) for _ in range(given.words))
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(train_tokenizer([text], 8000), folder)
        tokenizer = load_tokenizer(Path(folder))
    tokens = np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)
    found = {"words": given.words, "tokens": len(tokens), "translated_tokens_per_second": {}}
    for count in (FEW, MANY):
        translator = Translator(Anchors(dict(list(entries.items())[:count])), tokenizer)
        seconds = fastest(lambda translator=translator: translator.matches(tokens), given.rounds)
        found["translated_tokens_per_second"][count] = len(tokens) / seconds
    few, many = found["translated_tokens_per_second"].values()
    found["many_over_few"] = many / few
    found["scanned_words_per_second"] = given.words / fastest(lambda: scan([Document("0", text)]), given.rounds)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    command.run(__file__, main)
