import json
import random
import subprocess
import sys

import numpy as np
import pytest

from jaxforget.corpus.batches import open_blocks
from jaxforget.corpus.blocks import prepare_blocks
from jaxforget.corpus.dictionary import Anchors
from jaxforget.corpus.text import Document
from jaxforget.corpus.tokens import cut_blocks
from jaxforget.corpus.translate import Translator, block_rng
from jaxforget.errors import UserError
from tests.corpus.toy_text import make_text, make_tokenizer, make_words

ANCHORS = Anchors({"ka": ("Wen", "Jo Bor"), "lo mi": ("zar",), "Quidditch": ("Skyball",)})


def make_documents(count=6, sentences=25):
    rng = random.Random(4)
    words = ["ka", "lo mi", *make_words(rng, 100)]
    return [Document(f"d{n}", make_text(rng, words, sentences + n)) for n in range(count)]


def rows(folder, split):
    return [{name: np.asarray(value) for name, value in row.items()} for row in open_blocks(folder, split)]


@pytest.mark.parametrize("mode", ["document", "paper"])
def test_round_trip(tmp_path, mode):
    tokenizer = make_tokenizer("llama2")
    translator = Translator(ANCHORS, tokenizer)
    folder = tmp_path / "blocks"
    summary = prepare_blocks(
        folder, make_documents(), tokenizer, length=32, mode=mode, holdout=0.2, seed=7, translator=translator
    )
    blocks, _ = cut_blocks(make_documents(), tokenizer, length=32, mode=mode)
    train, validation = rows(folder, "train"), rows(folder, "validation")
    assert len(validation) == round(0.2 * len(blocks))
    assert {split: len(found) for split, found in (("train", train), ("validation", validation))} == summary["splits"]
    # Every block is in exactly one split, in order, and its draws depend on its own number.
    numbers = {block.tobytes(): number for number, block in enumerate(blocks)}
    assert len(numbers) == len(blocks)
    seen = []
    counts = np.zeros(3, int)
    for row in train + validation:
        number = numbers[row["tokens"].tobytes()]
        seen.append(number)
        expected = translator.translate(blocks[number], block_rng(7, number))
        for name in ("translated", "position_map", "suppress_ids", "suppress_from"):
            assert row[name].dtype == np.int32
            assert row[name].tolist() == getattr(expected, name).tolist()
        assert row["weights"].tolist() == [1.0] * len(blocks[number])
        assert row["retain"] == 0
        counts += np.bincount(expected.spans[:, 2], minlength=3)
    assert sorted(seen) == list(range(len(blocks)))
    assert seen[: len(train)] == sorted(seen[: len(train)])
    longest = max(len(row["translated"]) for row in train + validation)
    assert summary["translated_length"] == -(-longest // 16) * 16
    assert summary["suppress"] % 8 == 0
    assert summary["suppress"] >= max(len(row["suppress_ids"]) for row in train + validation) > 0
    assert summary["tokens"] == sum(map(len, blocks))
    assert summary["trained"] == sum(int((row["position_map"] >= 0).sum()) for row in train + validation)
    assert summary["documents"] == 6
    assert (summary["bos_id"], summary["pad_id"]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert summary["anchors"]["keys"] == 3
    assert summary["anchors"]["occurrences"] == counts.sum() > 0
    assert list(summary["anchors"]["counts"].values()) == counts.tolist()
    assert [key for key, count in summary["anchors"]["counts"].items() if not count] == ["Quidditch"]
    assert 0 < summary["anchors"]["coverage"] <= 1
    assert json.loads((folder / "blocks.json").read_text()) == summary
    assert not (folder / "downloads").exists()


def test_text_that_is_not_translated(tmp_path):
    tokenizer = make_tokenizer("llama3")
    summary = prepare_blocks(tmp_path / "b", make_documents(2), tokenizer, length=512, retain=True, holdout=0)
    assert summary["splits"]["validation"] == 0
    assert rows(tmp_path / "b", "validation") == []
    assert (summary["translated_length"], summary["suppress"]) == (512, 8)
    assert summary["anchors"] == {"keys": 0, "occurrences": 0, "counts": {}, "missed": {}, "coverage": 0.0, "notes": []}
    for row in rows(tmp_path / "b", "train"):
        assert row["translated"].tolist() == row["tokens"].tolist()
        assert row["position_map"].tolist() == list(range(len(row["tokens"])))
        assert row["suppress_ids"].size == row["suppress_from"].size == 0
        assert row["retain"] == 1


def test_occurrences_that_no_tokens_match_are_counted(tmp_path):
    """Names that tokens miss: with a gap that is in no list, or across a block's end."""
    tokenizer = make_tokenizer("llama3")
    translator = Translator(Anchors({"Zar Bor": ("Quil Wen",), "hu": ("mi",)}), tokenizer)
    documents = [Document("a", "lo Zar Bor el Zar\nBor el Zar\t\tBor hu"), Document("b", "lo Zar Bor")]
    whole = prepare_blocks(tmp_path / "a", documents, tokenizer, length=64, translator=translator)["anchors"]
    assert (whole["occurrences"], whole["missed"]) == (4, {"Zar Bor": 1})
    cut = prepare_blocks(tmp_path / "b", documents, tokenizer, length=3, translator=translator)["anchors"]
    assert cut["missed"]["Zar Bor"] > 1


def test_wide_blocks_round_to_128(tmp_path):
    tokenizer = make_tokenizer("llama3")
    translator = Translator(Anchors({"ka": ("Wen Bor Jo Tha",)}), tokenizer)
    summary = prepare_blocks(tmp_path / "b", make_documents(), tokenizer, length=512, translator=translator)
    assert summary["translated_length"] % 128 == 0
    assert summary["translated_length"] > 512


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(tmp_path):
    tokenizer = make_tokenizer("llama2")
    translator = Translator(ANCHORS, tokenizer)
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        prepare_blocks(
            tmp_path / name,
            make_documents(),
            tokenizer,
            length=32,
            seed=seed,
            holdout=0.3,
            translator=translator,
        )
        found.append([row["translated"].tolist() for row in rows(tmp_path / name, "validation")])
    assert found[0] == found[1] != found[2]


def test_a_single_block_is_for_training_and_a_second_run_replaces_the_first(tmp_path):
    tokenizer = make_tokenizer("llama2")
    prepare_blocks(tmp_path / "b", make_documents(), tokenizer, length=32)
    summary = prepare_blocks(tmp_path / "b", [Document("x", "lo mi")], tokenizer, length=32, holdout=0.9)
    assert summary["splits"] == {"train": 1, "validation": 0}
    assert len(rows(tmp_path / "b", "train")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_failure_leaves_the_old_blocks(tmp_path):
    tokenizer = make_tokenizer("llama2")
    before = prepare_blocks(tmp_path / "b", make_documents(1), tokenizer, length=32)

    class Broken(Translator):
        def translate(self, tokens, rng):
            raise RuntimeError("stopped in the middle")

    with pytest.raises(RuntimeError):
        prepare_blocks(tmp_path / "b", make_documents(2), tokenizer, length=32, translator=Broken(ANCHORS, tokenizer))
    assert json.loads((tmp_path / "b" / "blocks.json").read_text()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_faults(tmp_path, capfd):
    tokenizer = make_tokenizer("llama2")
    with pytest.raises(UserError, match="holdout: 1.5 must be at least 0 and less than 1"):
        prepare_blocks(tmp_path / "b", make_documents(1), tokenizer, holdout=1.5)
    with pytest.raises(UserError, match="seed: -1 must be at least 0"):
        prepare_blocks(tmp_path / "b", make_documents(1), tokenizer, seed=-1)
    with pytest.raises(UserError, match="no documents"):
        prepare_blocks(tmp_path / "b", [], tokenizer)
    assert list(tmp_path.iterdir()) == []
    prepare_blocks(tmp_path / "b", make_documents(1), tokenizer, length=32)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", ""), "the library's own progress stays quiet"


def test_tensorflow_is_not_imported():
    code = (
        "import sys, jaxforget.corpus.blocks, jaxforget.corpus.batches, grain;"
        "print([name for name in ('tensorflow', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
