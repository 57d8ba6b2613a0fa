"""The script's folders, as transformers and this project read them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import transformers

import jaxforget

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_random_llama.py"
SMALL = ["--layers", "2", "--width", "32", "--inner", "48", "--heads", "2", "--words", "300"]


def make(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True)


def test_a_folder_in_two_files_is_one_model_to_both_libraries(tmp_path):
    done = make(tmp_path / "m", *SMALL, "--dtype", "float32", "--shard-gigabytes", "0.00008")
    assert done.returncode == 0, done.stderr
    # 2 x 300 x 32, two layers of 4 x 32 x 32 + 3 x 32 x 48 + 2 x 32, and 32.
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


def test_faults_are_one_line(tmp_path):
    (tmp_path / "taken").write_text("")
    for words, said in (([tmp_path], "not empty"), ([tmp_path / "m", "--width", "30", "--heads", "4"], "even number")):
        done = make(*words)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert said in done.stderr
