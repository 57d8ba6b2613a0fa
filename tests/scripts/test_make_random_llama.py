"""scripts/make_random_llama.py: transformers and this project read its folders."""

import errno
import subprocess
import sys

import numpy as np
import pytest
import transformers

import jaxforget
from jaxforget.demo import tokenizer
from jaxforget.models import export
from tests.scripts.scripts import SCRIPTS, as_module, fault

SCRIPT = SCRIPTS / "make_random_llama.py"
SMALL = ["--layers", "2", "--width", "32", "--inner", "48", "--heads", "2", "--vocabulary", "300"]


def make(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True)


def test_a_folder_in_two_files_is_one_model_to_both_libraries(tmp_path):
    done = make(tmp_path / "m", *SMALL, "--dtype", "float32", "--shard-gigabytes", "0.00008")
    assert done.returncode == 0, done.stderr
    # Parameters: 2 x 300 x 32, two layers of 4 x 32 x 32 + 3 x 32 x 48 + 2 x 32, and 32.
    assert "36,768 parameters, 0.00 GB" in done.stdout
    assert len(list((tmp_path / "m").glob("*.safetensors"))) == 2
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "m")
    ours = jaxforget.load(tmp_path / "m")
    tokens = np.arange(24).reshape(2, 12)
    import torch

    expected = theirs(torch.from_numpy(tokens)).logits.detach().numpy()
    np.testing.assert_allclose(jaxforget.logits(ours, tokens), expected, atol=1e-5)
    kernel = np.asarray(ours.params["layers"]["gate"]["kernel"])
    assert abs(kernel.std() - 0.02) < 0.001
    assert (kernel[0] != kernel[1]).any()
    assert ours.tokenizer.decode(ours.tokenizer("Hm, ü")["input_ids"], skip_special_tokens=True) == "Hm, ü"


@pytest.fixture
def script():
    return as_module("make_random_llama.py")


def test_a_folder_like_another_with_its_tokenizer(script, tmp_path):
    script.main([str(tmp_path / "m"), *SMALL])
    words = ["--like", tmp_path / "m", "--tokenizer", tmp_path / "m", "--layers", "3"]
    script.main([str(tmp_path / "n"), *map(str, words)])
    ours = jaxforget.load(tmp_path / "n")
    assert (ours.config.num_hidden_layers, ours.config.vocab_size) == (3, 300)
    assert ours.tokenizer("ü")["input_ids"] == jaxforget.load(tmp_path / "m").tokenizer("ü")["input_ids"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", "-1"], "--seed: '-1': give a whole number from 0"),
        (["--layers", "0"], "--layers: '0': give a whole number from 1"),
        (["--shard-gigabytes", "nan"], "--shard-gigabytes: 'nan': give a number from 1e-06"),
        (["--shard-gigabytes", "0"], "--shard-gigabytes: '0'"),
        (["--shard-gigabytes", "1e300"], "--shard-gigabytes: '1e300'"),
        (["--heads", "3"], "--width 32, --heads 3: "),  # 3 does not divide 32
        (["--heads", "32"], "--width 32, --heads 32: "),  # heads of width 1; the width must be even
        (["--vocabulary", "260"], "260 tokens are too few for the tokenizer of bytes"),
        (["--tokenizer", "/nowhere"], "--tokenizer /nowhere: no such folder"),
        (["--tokenizer", "EMPTY"], "no tokenizer.json"),
        (["--like", "nosuch"], "--like nosuch: no such folder, nor a hub id (owner/name); known here are meta-llama/"),
        (["--like", "EMPTY"], "config.json: no such file"),
        (["--layers", "2000000000"], "35,072.0 GB are to be written, its disk has"),
        (["--dtype", "int8"], "--dtype: invalid choice: 'int8'"),
        (["another"], "unrecognized arguments: another"),
    ],
)
def test_faults_are_one_line_and_write_nothing(script, tmp_path, monkeypatch, capsys, words, said):
    (tmp_path / "empty").mkdir()
    words = [str(tmp_path / "empty") if word == "EMPTY" else word for word in words]
    assert said in fault(script, monkeypatch, capsys, tmp_path / "m", *SMALL, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_words_that_the_models_own_special_tokens_exceed(script, tmp_path, monkeypatch, capsys):
    script.main([str(tmp_path / "m"), *SMALL])
    config = (tmp_path / "m" / "config.json").read_text()
    (tmp_path / "m" / "config.json").write_text(config.replace('"bos_token_id": 1', '"bos_token_id": 299'))
    words = [tmp_path / "n", "--like", tmp_path / "m", "--vocabulary", "299"]
    assert "give --vocabulary 300 or more" in fault(script, monkeypatch, capsys, *words)


def test_places_that_cannot_become_the_folder(script, tmp_path, monkeypatch, capsys):
    (tmp_path / "taken").write_text("")
    monkeypatch.setattr(script.os.path, "ismount", lambda path: path == tmp_path / "disk")
    (tmp_path / "disk").mkdir()
    for place, said in (
        (tmp_path, "is not empty; name a new folder"),
        (tmp_path / "taken", "taken: is a file; name a new folder"),
        (tmp_path / "taken" / "m", "taken/m: cannot be written: "),
        (tmp_path / "disk", "disk: is where a disk is mounted"),
    ):
        assert said in fault(script, monkeypatch, capsys, place, *SMALL)
    assert {path.name for path in tmp_path.iterdir()} == {"taken", "disk"}


@pytest.mark.parametrize(
    ("module", "name"), [(export, "write_file"), (export, "write_companion_files"), (tokenizer, "save_tokenizer")]
)
def test_a_disk_that_fills_up_leaves_nothing(script, tmp_path, monkeypatch, capsys, module, name):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, name, full)
    assert "No space left on device; free space" in fault(script, monkeypatch, capsys, tmp_path / "m", *SMALL)
    assert not list(tmp_path.iterdir())


def test_a_drifted_model_is_a_relative_of_the_same_spread():
    script = as_module(SCRIPT)
    config = script.shape_of(script.parse(["x", *SMALL]))
    first, again, far, drifted = (
        np.concatenate([x.ravel() for x in script.random_tensors(config, np.dtype(np.float32), seed, drift)])
        for seed, drift in ((0, 0.0), (0, 0.0), (1, 0.0), (0, 0.3))
    )
    np.testing.assert_array_equal(first, again)
    drawn = first != 1  # all but the norms
    assert abs(np.corrcoef(first[drawn], far[drawn])[0, 1]) < 0.02
    assert np.corrcoef(first[drawn], drifted[drawn])[0, 1] == pytest.approx(0.91**0.5, abs=0.01)
    assert drifted[drawn].std() == pytest.approx(first[drawn].std(), rel=0.02)
