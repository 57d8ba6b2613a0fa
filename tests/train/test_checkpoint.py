"""Checkpoints: exact restoration on any number of devices, retention, and refusal of other inputs' checkpoints."""

from pathlib import Path

import jax
import numpy as np
import pytest

from jaxforget.errors import UserError
from jaxforget.train.checkpoint import SEAL
from tests.train.looping import abstract, batches, compiled, fresh, opened, shardings
from tests.train.tiny import assert_same_bits


def advance(state, steps: int, devices: int = 1, start: int = 0):
    for _, batch in zip(range(steps), batches(start, devices=devices), strict=False):
        state, _ = compiled(devices)(state, batch)
    return state


def held(state):
    """Return a copy that donation does not affect."""
    return jax.tree.map(lambda leaf: np.array(leaf, copy=True), state)


def steps_in(folder: Path) -> set[int]:
    return {int(path.name) for path in (folder / "checkpoints" / "steps").iterdir() if path.name.isdigit()}


def test_any_number_of_devices(tmp_path):
    state = advance(fresh(8), 3, devices=8)
    with opened(tmp_path) as checkpoints:
        checkpoints.save(3, state)
    for devices in (8, 4, 1):
        with opened(tmp_path) as checkpoints:
            assert checkpoints.latest() == 3
            found = checkpoints.restore(3, abstract(devices))
        assert_same_bits(found, state)
        assert jax.tree.map(lambda leaf: leaf.sharding, found) == shardings(devices)
        assert int(advance(found, 1, devices, start=3).step) == 4


def test_saving_does_not_see_later_steps(tmp_path):
    # The next step donates the buffers of the state while the save still writes.
    state, kept = fresh(8), {}
    with opened(tmp_path, keep=10) as checkpoints:
        for step in range(1, 5):
            state = advance(state, 1, devices=8, start=step)
            kept[step] = held(state)
            checkpoints.save(step, state)
            state = advance(state, 3, devices=8, start=step)
    with opened(tmp_path, keep=10) as checkpoints:
        for step, state in kept.items():
            assert_same_bits(checkpoints.restore(step, abstract(8)), state)


def test_another_fingerprint_is_discarded(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(3, fresh())
    with opened(tmp_path) as checkpoints:
        assert (checkpoints.latest(), checkpoints.discarded) == (3, None)
    with opened(tmp_path, fingerprint="other") as checkpoints:
        assert checkpoints.discarded == 3
        assert checkpoints.latest() is None
        assert checkpoints.best() is None
    with opened(tmp_path) as checkpoints:
        assert checkpoints.latest() is None


@pytest.mark.parametrize("content", [None, "", "[]", '{"finger'])
def test_a_fingerprint_that_cannot_be_read_does_not_match(tmp_path, content):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(3, fresh())
    path = tmp_path / "checkpoints" / "fingerprint.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with opened(tmp_path) as checkpoints:
        assert checkpoints.latest() is None


def test_only_the_latest_stay(tmp_path):
    with opened(tmp_path, keep=2) as checkpoints:
        for step in (2, 4, 6):
            checkpoints.save(step, fresh(), {"familiarity": step / 10})
        assert checkpoints.best() == 6
    assert steps_in(tmp_path) == {4, 6}


@pytest.mark.parametrize(
    ("select", "values", "best"),
    [
        ("familiarity", [0.5, 0.1, 0.3, 0.4], 4),
        ("perplexity", [9.0, 5.0, 7.0, 8.0], 4),
        ("retained", [0.2, 0.9, 0.3, 0.4], 4),
        ("retained", [0.9, 0.9, 0.3, 0.4], 4),  # the later of two equal ones
        ("familiarity", [0.1, None, 0.2, None], 2),  # only some checkpoints have a measure
        ("perplexity", [float("nan"), 5.0, float("nan"), float("inf")], 4),
        ("familiarity", [None, None, None, None], 8),
    ],
)
def test_the_best_stays_beside_the_latest(tmp_path, select, values, best):
    state = fresh()
    with opened(tmp_path, keep=1, select=select) as checkpoints:
        for step, value in zip((2, 4, 6, 8), values, strict=True):
            state = advance(state, 2, start=step - 2)
            if step == best:
                kept = held(state)
            checkpoints.save(step, state, {} if value is None else {select: value, "other": 1.0})
        assert checkpoints.best() == best
    assert steps_in(tmp_path) == {best, 8}
    # After a restart the measures are read from disk.
    with opened(tmp_path, keep=1, select=select) as checkpoints:
        assert (checkpoints.best(), checkpoints.latest()) == (best, 8)
        assert_same_bits(checkpoints.restore(best, abstract()), kept)


def test_a_half_written_checkpoint_is_none_and_goes(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(2, fresh())
    steps = tmp_path / "checkpoints" / "steps"
    # A killed process may have written everything but the final rename.
    half = steps / "4.orbax-checkpoint-tmp"
    (steps / "2").rename(half)
    with opened(tmp_path) as checkpoints:
        assert checkpoints.latest() is None
        checkpoints.save(2, fresh())
    assert not half.exists()
    assert steps_in(tmp_path) == {2}


def test_saving_a_step_twice_keeps_the_first(tmp_path):
    first, later = held(fresh()), advance(fresh(), 1)
    with opened(tmp_path) as checkpoints:
        checkpoints.save(2, fresh())
        checkpoints.save(2, later)
        checkpoints.wait()
        assert_same_bits(checkpoints.restore(2, abstract()), first)


def files_of(folder: Path, step: int) -> list[Path]:
    saved = folder / "checkpoints" / "steps" / str(step)
    # Orbax writes _CHECKPOINT_METADATA and commit_success.txt beside these when all else is written.
    return [saved / SEAL, *sorted(path for path in saved.glob("*/**/*") if path.is_file())]


def test_a_flipped_byte_anywhere_is_found_and_the_older_checkpoint_is_taken(tmp_path):
    state = fresh()
    with opened(tmp_path, keep=10) as checkpoints:
        checkpoints.save(1, state)
        checkpoints.wait()
    for number, path in enumerate(files_of(tmp_path, 1)):
        with opened(tmp_path, keep=10) as checkpoints:
            checkpoints.save(2, state)
            checkpoints.wait()
            # Another save of the same state may lie in fewer files.
            paths = files_of(tmp_path, 2)
            path = paths[number % len(paths)]
            content = bytearray(path.read_bytes() or b"x")
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
            with pytest.raises(UserError, match="(is damaged|is gone|cannot be read)"):
                checkpoints.restore(2, abstract())
            (line,) = checkpoints.drop_damaged()
            assert path.name in line or path == paths[0]
            assert checkpoints.latest() == 1
            assert checkpoints.drop_damaged() == []
            assert_same_bits(checkpoints.restore(1, abstract()), state)


def test_a_file_of_a_checkpoint_that_is_gone_is_named(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, fresh())
        checkpoints.wait()
        path = files_of(tmp_path, 1)[0]
        path.unlink()
        assert str(path) in checkpoints.drop_damaged()[0]
        assert checkpoints.latest() is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (SEAL, b""),
        ("default/manifest.ocdbt", b"x"),
        ("metrics/metrics", b""),
        ("metrics/metrics", b'{"familiarity": 0.9}'),
        ("metrics/metrics", None),
    ],
)
def test_a_damaged_file_of_the_best_leaves_the_best_of_the_others(tmp_path, name, content):
    with opened(tmp_path, keep=10, select="familiarity") as checkpoints:
        for step, value in zip((2, 4, 6, 8), (0.3, 0.1, 0.2, 0.4), strict=True):
            checkpoints.save(step, fresh(), {"familiarity": value})
    path = tmp_path / "checkpoints" / "steps" / "4" / name
    assert path.is_file()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with opened(tmp_path, keep=10, select="familiarity") as checkpoints:
        (line,) = checkpoints.drop_damaged(best=True)
        assert line.startswith(str(path))
        assert line.endswith("is removed")
        assert checkpoints.drop_damaged(best=True) == []
        assert checkpoints.best() == 6
        assert checkpoints.latest() == 8
