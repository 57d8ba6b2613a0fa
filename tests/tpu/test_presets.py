"""The presets of slices: what the compiler says of the tightest, and rows that are kept until something changes."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from jaxforget.errors import UserError
from jaxforget.models.published import PUBLISHED
from jaxforget.tpu import presets
from jaxforget.tpu.plan import plan
from jaxforget.tpu.presets import as_markdown, compile_presets, find_presets, kept_row, preset_for
from jaxforget.tpu.topology import find_slice

FOLDER = Path(__file__).parents[2] / "configs" / "slices"
GIB = 2**30
ROW = {
    "fits": True,
    "blocks": 128,
    "peak_hbm_bytes": 14 * GIB,
    "limit_hbm_bytes": 16 * GIB,
    "argument_bytes": 9 * GIB,
    "temporary_bytes": 5 * GIB,
    "trainable": "every parameter",
    "weights": "student float32",
    "collective_bytes": {"all-gather": GIB, "reduce-scatter": 2 * GIB},
    "projection": {"seconds": {"compute": 3.25}},
}


def test_every_preset_forgets_on_as_many_blocks_as_the_paper():
    seen = {preset.name: preset.config.forget.max_steps * preset.config.forget.batch for preset in find_presets(FOLDER)}
    assert len(seen) >= 13
    assert set(seen.values()) == {120 * 128}


def test_llama_2_7b_trains_whole_on_a_v5e_8():
    """Every parameter, in fp32, by the paper's batch of 128 blocks, in one step: the real compiler, minutes."""
    [preset] = find_presets(FOLDER, ["llama2_7b_v5e-8"])
    [row] = plan(preset.config, [preset.slice], steps=["forget"], advise=False)
    assert row["fits"]
    assert (row["blocks"], row["block_length"], row["parameters"]) == (128, 512, 6_738_415_616)
    assert row["trainable"] == "every parameter"
    # An exact weight of 4 bytes, two moments of 2, two frozen models of 2 each.
    assert row["argument_bytes"] == pytest.approx(12 * row["parameters"] / 8, rel=0.001)
    assert row["peak_hbm_bytes"] <= 14.5 * GIB


def test_a_run_goes_on_where_it_stopped(tmp_path):
    chosen = find_presets(FOLDER)[:3]
    made = []

    def compile_one(preset):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(preset.name)
        return ROW

    with pytest.raises(KeyboardInterrupt):
        compile_presets(chosen, tmp_path, compile_one)
    assert made == [preset.name for preset in chosen[:2]]
    made.clear()
    assert [row for _, row in compile_presets(chosen, tmp_path, compile_one)] == [ROW] * 3
    assert made == [chosen[2].name]


def test_a_row_is_kept_until_what_it_depends_on_changes(tmp_path, monkeypatch):
    [preset] = find_presets(FOLDER, ["llama2_7b_v5e-8"])
    assert kept_row(preset, tmp_path) is None
    compile_presets([preset], tmp_path, lambda _: ROW)
    assert kept_row(preset, tmp_path) == ROW
    now = presets.fingerprint(preset)
    for changed, with_any_code in (("code", ROW), ("config", None), ("jax", None), ("libtpu", None)):
        monkeypatch.setattr(presets, "fingerprint", lambda _, changed=changed: {**now, changed: "other"})
        assert kept_row(preset, tmp_path) is None
        assert kept_row(preset, tmp_path, any_code=True) == with_any_code


def test_the_code_that_makes_a_step_is_part_of_a_row(tmp_path, monkeypatch):
    [preset] = find_presets(FOLDER, ["llama2_7b_v5e-8"])
    before = presets.fingerprint(preset)["code"]
    monkeypatch.setattr(presets, "CODE", presets.CODE[1:])
    assert presets.fingerprint(preset)["code"] != before


def test_the_table(tmp_path):
    rows = [(preset, ROW) for preset in find_presets(FOLDER, ["llama2_7b_v5e-8"])]
    rows.append((find_presets(FOLDER, ["llama2_70b_v5p-128"])[0], {**ROW, "fits": False, "collective_bytes": None}))
    header, line, first, second = as_markdown(rows).splitlines()
    assert header.count("|") == line.count("|") == first.count("|") == second.count("|")
    assert "[v5e-8](llama2_7b_v5e-8.yaml) | Llama-2-7b | every parameter; student float32 | 128" in first
    assert "| 14.00 | 16.00 | 9.00 | 5.00 | 3.00 | 3.25 |" in first
    assert "| does not fit: 14.00 | 16.00 | 9.00 | 5.00 | ? | 3.25 |" in second


def test_what_is_no_preset_is_told(tmp_path):
    with pytest.raises(UserError, match=r"nothing: no such preset; .* holds .*llama2_7b_v5e-8"):
        find_presets(FOLDER, ["nothing"])
    (tmp_path / "llama2_7b_v9-8.yaml").write_text(json.dumps({"seed": 1}))
    with pytest.raises(UserError, match="v9-8: no such slice"):
        find_presets(tmp_path)


def test_the_preset_of_a_slice_is_named_for_the_same_shape():
    llama = PUBLISHED["meta-llama/Llama-2-7b-hf"]
    assert preset_for(find_slice("v5e-8"), llama) == "configs/slices/llama2_7b_v5e-8.yaml"
    assert preset_for(find_slice("v5e-32"), llama) is None
    assert preset_for(find_slice("v5e-8"), PUBLISHED["meta-llama/Llama-2-13b-hf"]) is None


def test_a_file_of_ones_own_costs_no_plan_its_rows(tmp_path, monkeypatch):
    slices = tmp_path / "configs" / "slices"
    slices.mkdir(parents=True)
    monkeypatch.setattr(presets, "__file__", str(tmp_path / "jaxforget" / "tpu" / "presets.py"))
    for name, text in {"mine": "", "a_v5e-8": "seed: 1\n", "b_v5e-8": "nonsense: 1\n"}.items():
        (slices / f"{name}.yaml").write_text(text)
    llama = PUBLISHED["meta-llama/Llama-2-7b-hf"]
    assert preset_for(find_slice("v5e-8"), llama) is None
    (slices / "c_v5e-8.yaml").write_text("model: {folder: meta-llama/Llama-2-7b-hf}\n")
    other_ids = dataclasses.replace(llama, eos_token_id=7)
    assert preset_for(find_slice("v5e-8"), other_ids) == "configs/slices/c_v5e-8.yaml"


def test_the_readme_has_a_row_of_every_preset_or_names_it_as_not_compiled():
    text = (FOLDER / "README.md").read_text()
    table = text.split("<!-- plan: written by scripts/plan_table -->")[1].split("<!-- end of plan -->")[0]
    rows = [line for line in table.splitlines() if line.startswith("| [")]
    missing = set(re.findall(r"\[([^\]]+)\]\(", table.partition("Not compiled yet: ")[2]))
    assert [cell.strip() for cell in table.splitlines()[1].split("|")[1:-1]] == list(presets.HEADER)
    remat = presets.HEADER.index("remat") + 1
    found = {line.split("](")[1].split(".yaml)")[0]: line.split("|")[remat].strip() for line in rows}
    known = {preset.name: preset.config.model.remat for preset in find_presets(FOLDER)}
    assert found == {name: remat for name, remat in known.items() if name not in missing}
    assert missing <= known.keys()
    assert not [line for line in rows if "?" in line or "does not fit" in line]
