"""The format's own reader and writer beside the reference library's, and damaged files."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

from jaxforget.errors import UserError
from jaxforget.models import safetensors_io
from jaxforget.models.safetensors_io import FLOATS, MappedFile, copy_cast, read_header, write_file

KINDS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


def sample(shape, code="F32"):
    return np.random.default_rng(0).standard_normal(shape).astype(FLOATS[code])


@pytest.mark.parametrize("code", KINDS)
def test_reads_what_the_reference_library_writes(tmp_path, code):
    wide = torch.randn(7, 5).to(KINDS[code])
    safetensors.torch.save_file({"a": wide, "b": wide[0].clone(), "c": torch.arange(3)}, tmp_path / "x.safetensors")
    file = MappedFile(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(file.view("a").astype(np.float64), wide.double().numpy())
    np.testing.assert_array_equal(file.view("b").astype(np.float64), wide[0].double().numpy())
    assert file.tensors["c"].code == "I64"


@pytest.mark.parametrize("code", ["F32", "F16", "BF16"])
def test_the_reference_library_reads_what_is_written(tmp_path, code):
    tensors = {"a": sample((7, 5), code), "b": sample((3,), code)}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    write_file(tmp_path / "x.safetensors", FLOATS[code], shapes, iter(tensors.values()))
    read = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert {name: tensor.dtype for name, tensor in read.items()} == dict.fromkeys("ab", KINDS[code])
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name].double().numpy(), tensor.astype(np.float64))
    with safetensors.safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_tensor_that_was_announced_otherwise_is_refused(tmp_path):
    with pytest.raises(ValueError, match="announced"):
        write_file(tmp_path / "x", FLOATS["F32"], {"a": (2, 3)}, iter([sample((3, 2))]))


@pytest.mark.parametrize("into", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("code", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("transpose", [False, True])
def test_copies_across_dtypes_equal_numpys(code, into, transpose):
    source = sample((300, 140), code)[3:, 1:130]  # more than a tile, no multiple of one, not contiguous
    whole = np.zeros((129, 310) if transpose else (310, 129), FLOATS[into])
    out = whole[:, 5:302] if transpose else whole[5:302]
    copy_cast(out, source, transpose=transpose)
    expected = source.astype(FLOATS[into])
    np.testing.assert_array_equal(out, expected.T if transpose else expected)
    assert np.count_nonzero(whole) <= np.count_nonzero(expected)  # nothing beside the window


def test_bfloat16_widens_exactly_and_rounds_to_even():
    exact = np.array([1.0, np.inf, -0.0, 1e-40], np.float32)
    out = np.empty(4, np.float32)
    copy_cast(out, exact.astype(ml_dtypes.bfloat16))
    np.testing.assert_array_equal(out, exact.astype(ml_dtypes.bfloat16).astype(np.float32))
    narrow = np.empty(2, ml_dtypes.bfloat16)
    copy_cast(narrow, np.array([257.0, 259.0], np.float32))
    np.testing.assert_array_equal(narrow.astype(np.float32), [256.0, 260.0])


def damage(path, header, data=b"\0" * 24):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


GOOD = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}


@pytest.mark.parametrize(
    ("header", "data", "said"),
    [
        (GOOD, b"\0" * 20, "truncated"),
        (GOOD, b"\0" * 30, "6 bytes beyond"),
        (b"{not json", b"", "corrupt safetensors header"),
        (b"[]", b"", "corrupt safetensors header"),
        (b"\xff\xfe{}", b"", "corrupt safetensors header"),
        ({"a": {"dtype": "F32", "shape": [2, 3]}}, b"\0" * 24, "corrupt safetensors header"),
        ({"a": GOOD["a"] | {"shape": [-2, 3]}}, b"\0" * 24, "corrupt safetensors header"),
        ({"a": GOOD["a"] | {"shape": [2, 4]}}, b"\0" * 24, "offsets of a"),
        ({"a": GOOD["a"] | {"data_offsets": [4, 28]}}, b"\0" * 28, "offsets of a"),
        ({"a": GOOD["a"] | {"dtype": "F3"}}, b"\0" * 24, "unknown dtype F3"),
    ],
)
def test_damaged_files_are_named(tmp_path, header, data, said):
    path = tmp_path / "x.safetensors"
    damage(path, header, data)
    with pytest.raises(UserError) as caught:
        read_header(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no safetensors header"),
        (b"\xff" * 8, "no safetensors header"),
        (struct.pack("<Q", 99) + b"{", "truncated"),
    ],
)
def test_files_without_a_whole_header_are_named(tmp_path, content, said):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_header(path)


def test_a_full_disk_that_is_told_behind_the_writing_is_not_lost(tmp_path, monkeypatch):
    tensors = {name: sample((7, 5)) for name in "abc"}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    monkeypatch.setattr(safetensors_io, "SYNCED", 1)
    write_file(tmp_path / "x.safetensors", FLOATS["F32"], shapes, iter(tensors.values()))
    read = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name], tensor)
    calls = []

    def full_once(handle):
        calls.append(handle)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors_io.os, "fsync", full_once)
    with pytest.raises(OSError, match="No space left"):
        write_file(tmp_path / "y.safetensors", FLOATS["F32"], shapes, iter(tensors.values()))
