import itertools
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from jaxforget.corpus.batches import make_batches, open_blocks, read_all, read_summary
from jaxforget.corpus.blocks import prepare_blocks
from jaxforget.corpus.dictionary import Anchors
from jaxforget.corpus.translate import Translator
from jaxforget.errors import UserError
from tests.corpus.test_blocks import make_documents
from tests.corpus.toy_text import make_tokenizer


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A forget folder with blocks of 32 tokens and a retain folder with blocks of 48."""
    root = tmp_path_factory.mktemp("blocks")
    tokenizer = make_tokenizer("llama2")
    translator = Translator(Anchors({"ka": ("Wen Jo", "Bor"), "lo mi": ("zar",)}), tokenizer)
    prepare_blocks(root / "forget", make_documents(3), tokenizer, length=32, translator=translator)
    prepare_blocks(root / "retain", make_documents(2), tokenizer, length=48, retain=True)
    return root / "forget", root / "retain"


def take(count, *args, **options):
    iterator = make_batches(*args, **options)
    batches = [next(iterator) for _ in range(count)]
    iterator.close()
    return batches


def same(one, other):
    assert one.keys() == other.keys()
    return all((one[name] == other[name]).all() for name in one)


def keys_of(batch):
    """Return each row's tokens as bytes, without padding."""
    return [row[w > 0].tobytes() for row, w in zip(batch["tokens"], batch["weights"], strict=True)]


def test_a_batch_has_the_static_widths_and_pads_on_the_right(folders):
    summary = read_summary(folders[0])
    (batch,) = take(1, folders[0], "train", batch_size=6)
    S, T, K = (summary[name] for name in ("length", "translated_length", "suppress"))
    shapes = {"tokens": (6, S), "translated": (6, T), "position_map": (6, S), "suppress_ids": (6, K)}
    shapes |= {"suppress_from": (6, K), "weights": (6, S), "retain": (6,)}
    assert {name: array.shape for name, array in batch.items()} == shapes
    for name, array in batch.items():
        assert array.dtype == (np.float32 if name in ("weights", "retain") else np.int32)
    records = {row["tokens"].tobytes(): row for row in open_blocks(folders[0], "train")}
    fills = {"tokens": summary["pad_id"], "translated": summary["pad_id"], "weights": 0}
    for at, key in enumerate(keys_of(batch)):
        for name in shapes.keys() - {"retain"}:
            record = records[key][name]
            assert batch[name][at, : len(record)].tolist() == record.tolist()
            assert (batch[name][at, len(record) :] == fills.get(name, -1)).all()


def test_every_epoch_holds_every_block_once_in_another_order(folders):
    count = read_summary(folders[0])["splits"]["train"]
    size = 4
    epochs = 3 * count // size + 1
    stream = [key for batch in take(epochs, folders[0], "train", batch_size=size, seed=3) for key in keys_of(batch)]
    first, second = stream[:count], stream[count : 2 * count]
    assert (
        sorted(first) == sorted(second) == sorted(row["tokens"].tobytes() for row in open_blocks(folders[0], "train"))
    )
    assert first != second
    plain = take(count // size, folders[0], "train", batch_size=size, shuffle=False)
    in_order = [row["tokens"].tobytes() for row in open_blocks(folders[0], "train")]
    assert [key for batch in plain for key in keys_of(batch)] == in_order[: count // size * size]
    other = take(2, folders[0], "train", batch_size=size, seed=4)
    assert [key for batch in other for key in keys_of(batch)] != stream[: 2 * size]


def test_resume_by_start_and_by_state(folders):
    options = {"batch_size": 5, "seed": 1, "retain_folder": folders[1], "retain_rows": 3}
    whole = take(30, folders[0], "train", **options)
    resumed = take(10, folders[0], "train", start=20, **options)
    assert all(same(*pair) for pair in zip(whole[20:], resumed, strict=True))
    iterator = make_batches(folders[0], "train", **options)
    for _ in range(7):
        next(iterator)
    state = iterator.get_state()
    assert same(next(iterator), whole[7])
    other = make_batches(folders[0], "train", **options)
    other.set_state(state)
    assert same(next(other), whole[7])
    other.set_state({"next_index": 2})
    assert same(next(other), whole[2])
    iterator.close()
    other.close()


@pytest.mark.parametrize("processes", [2, 4])
def test_the_processes_rows_together_are_the_single_process_batch(folders, processes):
    options = {"batch_size": 6, "seed": 2, "retain_folder": folders[1], "retain_rows": 2}
    single = take(8, folders[0], "train", **options)
    parts = [
        take(8, folders[0], "train", process_index=p, process_count=processes, **options) for p in range(processes)
    ]
    for step, batch in enumerate(single):
        joined = {name: np.concatenate([part[step][name] for part in parts]) for name in batch}
        assert same(joined, batch)
        assert len(parts[0][step]["tokens"]) == 8 // processes


@pytest.mark.parametrize(("forget", "retain"), [(8, 8), (6, 2), (9, 3), (5, 3), (4, 0), (2, 6)])
def test_any_slice_gets_its_share_of_retain_rows(folders, forget, retain):
    (batch,) = take(1, folders[0], "train", batch_size=forget, retain_folder=folders[1], retain_rows=retain)
    marks = batch["retain"]
    total = forget + retain
    assert marks.sum() == retain
    for start, stop in itertools.combinations(range(total + 1), 2):
        share = (stop - start) * retain / total
        found = marks[start:stop].sum()
        assert abs(found - share) < 1
        if share.is_integer():
            assert found == share


def test_retain_rows_are_a_stream_of_their_own(folders):
    options = {"batch_size": 4, "seed": 5, "retain_folder": folders[1]}
    alone = take(6, folders[0], "train", batch_size=4, seed=5)
    mixed = take(6, folders[0], "train", retain_rows=4, **options)
    summaries = [read_summary(folder) for folder in folders]
    retained = []
    for one, both in zip(alone, mixed, strict=True):
        for name, width in (
            ("tokens", "length"),
            ("translated", "translated_length"),
            ("suppress_ids", "suppress"),
        ):
            assert both[name].shape == (8, max(summary[width] for summary in summaries))
        keys = keys_of(both)
        assert [key for key, mark in zip(keys, both["retain"], strict=True) if not mark] == keys_of(one)
        retained += [key for key, mark in zip(keys, both["retain"], strict=True) if mark]
        for mark, mapped, weights in zip(both["retain"], both["position_map"], both["weights"], strict=True):
            if mark:
                length = int(weights.sum())
                assert mapped[:length].tolist() == list(range(length))
    known = {row["tokens"].tobytes() for row in open_blocks(folders[1], "train")}
    count = len(known)
    assert set(retained[:count]) <= known
    assert len(set(retained[: min(count, 24)])) == min(count, 24), "an epoch of retain rows repeats none"


def test_read_all_is_ordered_and_fills_the_last_batch(folders):
    rows = list(open_blocks(folders[0], "train"))
    size = next(size for size in (7, 5, 3) if len(rows) % size)  # so that the last batch is partial
    batches = list(read_all(folders[0], "train", size))
    assert len(batches) == -(-len(rows) // size)
    keys = [key for batch in batches for key in keys_of(batch)]
    assert keys[: len(rows)] == [row["tokens"].tobytes() for row in rows]
    assert {batch["tokens"].shape for batch in batches} == {(size, 32)}
    empty = len(rows) % size
    assert (batches[-1]["weights"][empty:] == 0).all()
    assert (batches[-1]["position_map"][empty:] == -1).all()


def test_faults_in_one_line(folders, tmp_path):
    forget, retain = folders
    cases = [
        (lambda: make_batches(tmp_path, "train", batch_size=1), "contains no prepared blocks"),
        (lambda: open_blocks(forget, "test"), "no split 'test'; it has train, validation"),
        (
            lambda: make_batches(forget, "train", batch_size=3, process_count=2),
            "3 rows are not divisible by 2",
        ),
        (lambda: make_batches(forget, "train", batch_size=0), "batch_size must be at least 1"),
        (lambda: make_batches(forget, "train", batch_size=1, seed=-1), "seed=-1, start=0: both must be at least 0"),
        (lambda: make_batches(forget, "train", batch_size=1, retain_rows=1), "there is no retained text"),
    ]
    tokenizer = make_tokenizer("llama2")
    prepare_blocks(tmp_path / "small", make_documents(1), tokenizer, length=32, holdout=0)
    cases.append((lambda: make_batches(tmp_path / "small", "validation", batch_size=1), "has no blocks"))
    for call, message in cases:
        with pytest.raises(UserError) as error:
            call()
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_an_open_iterator_does_not_keep_a_process_from_ending(folders):
    code = f"""
        from jaxforget.corpus.batches import make_batches
        iterator = make_batches({str(folders[0])!r}, "train", batch_size=4)
        for _ in range(3):
            next(iterator)
        print("done")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("damage", ["empty", "no records", "other bytes"])
def test_damaged_records_are_told_in_a_line(damage, folders, tmp_path):
    folder = shutil.copytree(folders[0], tmp_path / "blocks")
    path = next(folder.glob("*/*/*train.array_record*"))
    whole = path.read_bytes()
    other = whole[:200] + bytes(byte ^ 255 for byte in whole[200:900]) + whole[900:]
    path.write_bytes({"empty": b"", "no records": b"x" * len(whole), "other bytes": other}[damage])
    with pytest.raises(
        UserError, match="blocks: its records are damaged .*; delete the folder and run jaxforget prepare"
    ) as told:
        list(open_blocks(folder, "train"))
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match="its records are damaged"):
        list(read_all(folder, "train", 4))
