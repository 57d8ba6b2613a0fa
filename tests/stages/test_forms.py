"""Runs whose weights are held or trained in other forms than whole: the same chain, its artefacts and its promises."""

import dataclasses
import gc
import json
import shutil
import weakref
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

import jaxforget
from jaxforget import cli, pipeline
from jaxforget.config import config_from
from jaxforget.errors import UserError
from jaxforget.lm.model import load, load_delta
from jaxforget.models.adapters import CONFIG, WEIGHTS
from jaxforget.models.weights import apply_delta
from jaxforget.pipeline import run_chain
from jaxforget.sharding import make_mesh
from jaxforget.stages import fit as fitting
from jaxforget.stages import forget as forgetting
from jaxforget.stages import frozen_models, labels
from jaxforget.stages.run import Run
from tests.tiny_run import settings

RANK, ALPHA = 4, 8.0
LORA = {
    "lora": {"rank": RANK, "alpha": ALPHA},
    "reinforce": {"weights": "lora", "learning_rate": 5e-2, "max_steps": 6},
    "forget": {"weights": "lora", "learning_rate": 2e-2, "max_steps": 16},
}


def chain(world: Path, out: Path, stages: tuple[str, ...] | None = None, **sections) -> Run:
    config = config_from(settings(world, out, **sections))
    return run_chain(config, again=True) if stages is None else run_chain(config, stages, again=True)


def losses(run: Path, stage: str) -> list[float]:
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record["loss"] for record in records if (record["stage"], record["kind"]) == (stage, "train")]


@pytest.fixture(scope="module")
def adapted(tiny_world, tmp_path_factory) -> Path:
    """A finished run in which both trained models are adapters, its checkpoints aside; not to be changed."""
    folder = tmp_path_factory.mktemp("forms")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "discard", lambda made: made.exists() and made.rename(folder / made.name))
        return chain(tiny_world, folder / "run", **LORA).folder


def test_what_an_adapter_run_leaves(adapted, tiny_world):
    for name in ("reinforced", "unlearned"):
        raw = json.loads((adapted / name / CONFIG).read_text())
        assert (raw["r"], raw["lora_alpha"], raw["peft_type"]) == (RANK, ALPHA, "LORA")
        assert Path(raw["base_model_name_or_path"]) == tiny_world / "base"
        assert raw["target_modules"] == sorted(f"{n}_proj" for n in ("q", "k", "v", "o", "gate", "up", "down"))
        assert not (adapted / name / "model.safetensors").exists()
        stored = safetensors.numpy.load_file(adapted / name / WEIGHTS)
        assert len(stored) == 2 * 7 * 2
        assert stored["base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"].shape == (RANK, 48)
        assert all(np.abs(tensor).max() > 0 for tensor in stored.values())
    assert "| what trained | LoRA of rank 4 and alpha 8 over base |" in (adapted / "export" / "README.md").read_text()
    inputs = json.loads((adapted / "manifest.json").read_text())["stages"]["forget"]["inputs"]
    assert inputs["forget.weights"] == "'lora'"
    assert inputs["lora.rank"] == "4"


def test_checkpoints_hold_only_what_trains(adapted):
    # Orbax's own list of what lies in a checkpoint: files are not named by it.
    noted = next((adapted.parent / "forget").rglob("_METADATA"))
    names = list(json.loads(noted.read_text())["tree_metadata"])
    trained = [name for name in names if name.startswith("('params'")]
    assert trained
    assert all("'lora'" in name for name in trained)
    assert not any("embed" in name or "kernel" in name for name in names)


def test_an_adapter_forgets_and_starts_as_base(adapted, tiny_run):
    assert losses(adapted, "forget")[-1] < 0.9 * losses(adapted, "forget")[0]
    assert losses(adapted, "reinforce")[-1] < losses(adapted, "reinforce")[0]
    # Before the first step the student is base, which a run of whole weights measured, too.
    first, other = (json.loads((run / "evals" / "curve.json").read_text())["rows"][0] for run in (adapted, tiny_run))
    assert first == other


def test_the_export_is_base_and_the_product_in_fp32(adapted, tiny_world):
    base = safetensors.numpy.load_file(tiny_world / "base" / "model.safetensors")
    factors = safetensors.numpy.load_file(adapted / "unlearned" / WEIGHTS)
    found = safetensors.numpy.load_file(adapted / "export" / "model.safetensors")
    changed = 0
    for name, tensor in base.items():
        a, b = (factors.get(f"base_model.model.{name.removesuffix('.weight')}.lora_{x}.weight") for x in "AB")
        if a is None:
            np.testing.assert_array_equal(found[name], tensor)
            continue
        expected = tensor.astype(np.float64) + ALPHA / RANK * (b.astype(np.float64) @ a.astype(np.float64))
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-6)
        assert not np.array_equal(found[name], tensor)
        changed += 1
    assert changed == 14


def test_the_export_loads_in_transformers_with_equal_logits(adapted):
    tokens = np.random.default_rng(0).integers(0, 300, (2, 24))
    theirs = transformers.LlamaForCausalLM.from_pretrained(adapted / "export")
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens)).logits.numpy()
    for name in ("export", "unlearned"):
        np.testing.assert_allclose(jaxforget.logits(load(adapted / name), tokens), expected, atol=1e-4, rtol=0)


def test_a_loaded_adapter_is_exported_merged(adapted, tmp_path):
    jaxforget.export(load(adapted / "unlearned"), tmp_path / "out")
    found, expected = (
        safetensors.numpy.load_file(folder / "model.safetensors") for folder in (tmp_path / "out", adapted / "export")
    )
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor, rtol=1e-6, atol=1e-6)


def test_an_adapter_is_evaluated_and_generates_as_its_export_does(adapted, capsys):
    models = [str(adapted / name) for name in ("unlearned", "export")]
    assert cli.main(["generate", *models, "--prompt", "Mary met", "--json"]) == 0
    ours, merged = json.loads(capsys.readouterr().out)["completions"].values()
    assert ours == merged
    summary = json.loads((adapted / "evals" / "summary.json").read_text())["rows"]
    assert {row["model"] for row in summary} == {"base", "reinforced", "unlearned"}
    probes = json.loads((adapted / "config.yaml").read_text().split("probes: ")[1].split("\n")[0].join('""'))
    for row in jaxforget.evaluate(load(adapted / "export"), probes=probes):
        same = next(r for r in summary if (r["model"], r["metric"]) == ("unlearned", row["metric"]))
        assert row["value"] == pytest.approx(same["value"], rel=1e-4)


def test_a_run_cut_short_goes_on_bit_for_bit(adapted, tiny_world, tmp_path, monkeypatch):
    real, left = fitting.put_batch, [11]

    def until_killed(batch, mesh):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(batch, mesh)

    given = {"model": {"reinforced": str(adapted / "reinforced")}}
    monkeypatch.setattr(fitting, "put_batch", until_killed)
    with pytest.raises(KeyboardInterrupt):
        chain(tiny_world, tmp_path / "run", ("anchors", "prepare", "reinforce", "forget"), **LORA, **given)
    monkeypatch.setattr(fitting, "put_batch", real)
    said = []
    monkeypatch.setattr(Run, "say", lambda self, text, **_: said.append(text))
    run = chain(tiny_world, tmp_path / "run", ("forget",), **LORA, **given)
    assert "  continuing from the checkpoint of step 10" in said
    assert (run.unlearned / WEIGHTS).read_bytes() == (adapted / "unlearned" / WEIGHTS).read_bytes()


def test_over_an_int8_base(adapted, tiny_world, tmp_path):
    """Trained and judged over int8, exported over base's own weights."""
    copy = shutil.copytree(adapted, tmp_path / "run")
    stages = ("reinforce", "forget", "eval", "export")
    run = chain(tiny_world, copy, stages, **LORA, model={"base": "int8"})
    assert losses(copy, "forget")[-1] < 0.9 * losses(copy, "forget")[0]
    first = json.loads((run.evals / "curve.json").read_text())["rows"][0]
    held = load(tiny_world / "base", form="int8")
    assert held.params["layers"]["gate"]["kernel"].values.dtype == np.int8
    rows = jaxforget.evaluate(held, probes=tiny_world / "probes.json")
    assert first["familiarity"] == pytest.approx(next(r["value"] for r in rows if r["metric"] == "familiarity"))
    base = safetensors.numpy.load_file(tiny_world / "base" / "model.safetensors")
    found = safetensors.numpy.load_file(run.export / "model.safetensors")
    np.testing.assert_array_equal(found["model.embed_tokens.weight"], base["model.embed_tokens.weight"])
    name = "model.layers.0.self_attn.v_proj.weight"
    factors = safetensors.numpy.load_file(run.unlearned / WEIGHTS)
    a, b = (factors[f"base_model.model.{name.removesuffix('.weight')}.lora_{x}.weight"] for x in "AB")
    np.testing.assert_allclose(found[name], base[name] + ALPHA / RANK * (b @ a), rtol=1e-6, atol=1e-6)
    assert "over int8 base" in (run.unlearned / "README.md").read_text()


def test_int8_differences_give_almost_every_label(tiny_world, tmp_path):
    """A reinforced model trained until its labels are not base's, held as int8 over base: where two labels differ, the
    exact ones were all but tied."""
    trained = chain(
        tiny_world,
        tmp_path / "run",
        ("anchors", "prepare", "reinforce"),
        reinforce={"max_steps": 12, "learning_rate": 5e-3},
    )
    labels = {}
    for weights in ("full", "int8-delta"):
        sections = {"targets": {"cache": True}, "forget": {"max_steps": 1}}
        more = {"reinforce": {"max_steps": 12, "learning_rate": 5e-3, "weights": weights}}
        run = chain(tiny_world, trained.folder, ("forget",), **sections, **more)
        labels[weights] = np.load(run.folder / "labels" / "train.npy")
    used = labels["full"] >= 0
    base, reinforced = load(tiny_world / "base"), load(trained.reinforced)
    tokens = np.random.default_rng(0).integers(0, 300, (8, 24))
    apart = np.abs(jaxforget.logits(base, tokens) - jaxforget.logits(reinforced, tokens)).max()
    own = load_delta(trained.reinforced, base, "float32", "int8-delta")
    assert own["layers"]["q"]["delta"].values.dtype == np.int8
    assert "kernel" not in own["layers"]["q"]
    held = dataclasses.replace(base, params=apply_delta(base.params, own))
    assert np.abs(jaxforget.logits(held, tokens) - jaxforget.logits(reinforced, tokens)).max() < 0.02 * apart
    assert used.sum() > 500
    assert (labels["full"] == labels["int8-delta"])[used].mean() > 0.99
    assert (labels["int8-delta"][~used] == -1).all()


# --- what is in memory when --------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["full", "lora"])
def test_base_is_gone_where_cached_labels_leave_it_no_use(
    adapted, tiny_run, tiny_world, tmp_path, monkeypatch, weights
):
    held: dict[str, list] = {"base": [], "control": []}
    real = frozen_models.load

    def noted(folder, *rest, **more):
        model = real(folder, *rest, **more)
        held[Path(folder).name].append(weakref.ref(model.params["layers"]["q"]["kernel"]))
        return model

    alive = {}

    def fit(*given):
        gc.collect()
        alive.update({name: [ref() is not None for ref in refs] for name, refs in held.items()})
        return fitting.fit(*given)

    monkeypatch.setattr(frozen_models, "load", noted)
    monkeypatch.setattr(forgetting, "load", noted)
    monkeypatch.setattr(forgetting, "fit", fit)
    source = adapted if weights == "lora" else tiny_run
    form = LORA if weights == "lora" else {}
    copy = shutil.copytree(source, tmp_path / "run")
    model = {"control": str(tiny_world / "control")}
    form = {**form, "forget": {**form.get("forget", {}), "max_steps": 1}}
    run = chain(tiny_world, copy, ("forget",), **form, targets={"cache": True}, model=model)
    assert (run.folder / "labels").is_dir()
    # An adapter's student is base and more; the control is asked before there is a student, and never kept.
    assert alive == {"base": [weights == "lora"], "control": [False]}
    tops = json.loads((run.evals / "dynamics.json").read_text())["prompts"][0]["models"]
    assert tops["base"] != tops["control"]


def test_labels_are_made_again_only_where_they_would_differ(tiny_world, tiny_run, tmp_path, monkeypatch):
    made = []
    real = labels.make_label_step
    monkeypatch.setattr(labels, "make_label_step", lambda *given: made.append(1) or real(*given))
    copy = shutil.copytree(tiny_run, tmp_path / "run")

    def forget(**changes):
        made.clear()
        sections = {
            "forget": {"max_steps": 1, **changes.pop("forget", {})},
            "targets": {"cache": True, **changes.pop("targets", {})},
        }
        chain(tiny_world, copy, ("forget",), **sections, **changes)
        return bool(made)

    assert forget()
    assert not forget(forget={"learning_rate": 5e-4})
    assert not forget(forget={"max_steps": 2}, targets={"tile": 32})
    assert forget(targets={"alpha": 1.0})
    assert forget(targets={"alpha": 1.0}, forget={"batch": 16})
    assert forget(targets={"alpha": 1.0}, forget={"batch": 16}, model={"base": "int8"})


# --- what makes no sense ------------------------------------------------------------------------------------------


def test_forms_that_do_not_go_together(adapted, tiny_run, tiny_world, tmp_path):
    def told(**sections) -> str:
        with pytest.raises(UserError) as error:
            chain(tiny_world, tmp_path / "run", ("forget",), **sections)
        assert "\n" not in str(error.value)
        return str(error.value)

    whole, adapter = str(tiny_run / "reinforced"), str(adapted / "reinforced")
    lora = {"reinforce": {"weights": "lora"}, "lora": {"rank": 4}}
    assert f"model.reinforced={adapter}: is a LoRA adapter; set reinforce.weights=lora" in told(
        model={"reinforced": adapter}
    )
    message = told(model={"reinforced": whole}, **lora)
    assert message.startswith(
        f"reinforce.weights=lora: model.reinforced={whole} holds whole weights; set reinforce.weights=full"
    )
    assert "lora.rank is 16, and the model's narrowest dense layer 16 wide" in told(forget={"weights": "lora"})
    assert "lora.rank is 0; it must be above 0" in told(lora={"rank": 0})
    assert "one of full, lora" in told(forget={"weights": "int8-delta"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"use_dora": True}, "use_dora is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"r": "four"}, "r and lora_alpha must be numbers"),
        ({"r": 5}, r"shape \[5, 48\]"),
    ],
)
def test_an_adapter_that_is_not_understood_is_refused(adapted, tmp_path, change, message):
    copy = shutil.copytree(adapted / "unlearned", tmp_path / "adapter")
    raw = json.loads((copy / CONFIG).read_text())
    (copy / CONFIG).write_text(json.dumps(raw | change))
    with pytest.raises(UserError, match=message) as error:
        load(copy)
    assert "\n" not in str(error.value)


def test_an_adapter_without_weights_and_one_of_another_base(adapted, tmp_path):
    copy = shutil.copytree(adapted / "unlearned", tmp_path / "adapter")
    (copy / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"adapter_model\.safetensors: no such file"):
        load(copy)
    shutil.copyfile(adapted / "unlearned" / WEIGHTS, copy / WEIGHTS)
    raw = json.loads((copy / CONFIG).read_text())
    (copy / CONFIG).write_text(json.dumps(raw | {"base_model_name_or_path": str(tmp_path / "gone")}))
    with pytest.raises(UserError, match="gone: no such folder"):
        load(copy)


def test_an_adapter_lies_on_the_mesh_as_its_table_says(adapted):
    model = load(adapted / "unlearned", mesh=make_mesh(1, 4, 2))
    lora = model.params["layers"]["up"]["lora"]
    assert lora.a.sharding.shard_shape(lora.a.shape) == (2, 8, 4)
    assert lora.b.sharding.shard_shape(lora.b.shape) == (2, 1, 24)
    one = load(adapted / "unlearned", mesh=make_mesh(devices=jax.devices()[:1]))
    tokens = np.arange(24)[None].repeat(4, 0)
    np.testing.assert_allclose(jaxforget.logits(model, tokens), jaxforget.logits(one, tokens), atol=1e-5, rtol=1e-5)
