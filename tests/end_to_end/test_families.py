"""The chain on a tiny model of every family, without its evaluation, up to an export that transformers loads."""

import numpy as np
import pytest
import torch
import transformers

import jaxforget
from jaxforget.config import config_from
from jaxforget.pipeline import run_chain
from tests.models.family_cases import CASES, save_family
from tests.tiny_run import settings

# Every form of weights that trains or is frozen, over the families. The others forget by a method without a reinforced
# model, whose forward pass would be that of base.
LORA = {"model": {"base": "int8"}, "reinforce": {"weights": "lora"}, "forget": {"weights": "lora"}, "lora": {"rank": 2}}
FORMS = {"phi3": LORA, "gemma2": LORA, "qwen3": {"reinforce": {"weights": "int8-delta"}}}


@pytest.mark.parametrize("family", [family for family in CASES if family != "llama"])
def test_the_chain_runs_and_transformers_loads_its_export(tiny_world, tmp_path, family):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_world / "base")
    base = tmp_path / "base"
    save_family(base, family, CASES[family][0] | {"vocab_size": len(tokenizer)})
    for path in (tiny_world / "base").glob("*token*"):
        (base / path.name).write_bytes(path.read_bytes())
    sections = FORMS.get(family, {"method": "npo", "anchors": {"path": None}})
    model = sections.get("model", {}) | {"folder": str(base)}
    values = settings(tiny_world, tmp_path / "run", **sections | {"model": model})
    values["evals"] |= {"probes": None, "prompts": None, "heldout": None}
    stages = (
        ("anchors", "prepare", "reinforce", "forget", "export") if family in FORMS else ("prepare", "forget", "export")
    )
    run = run_chain(config_from(values), stages)
    exported = run.folder / "export"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(exported, attn_implementation="eager").eval()
    ours = jaxforget.load(exported)
    tokens = np.random.default_rng(0).integers(0, len(tokenizer), (2, 20))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens)).logits.float().numpy()
    logits = jaxforget.logits(ours, tokens)
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()
    before = jaxforget.logits(jaxforget.load(base), tokens)
    assert np.abs(logits - before).max() > 1e-3, "the model did not change"
