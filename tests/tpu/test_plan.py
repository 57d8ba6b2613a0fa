"""Plans by the real TPU compiler, of models tiny and impossible; and the searches around it, by a stand-in."""

import json
import re

import pytest

from jaxforget.cli import main
from jaxforget.errors import UserError
from jaxforget.models.published import read_shape
from jaxforget.sharding import make_mesh
from jaxforget.tpu import plan as planning
from jaxforget.tpu.advice import Option, candidates
from jaxforget.tpu.compiler import Compiled
from jaxforget.tpu.flops import product_flops
from jaxforget.tpu.plan import most_units, plan
from jaxforget.tpu.programs import batch_widths, make_step
from jaxforget.tpu.table import as_markdown, as_text
from jaxforget.tpu.topology import find_slice, slice_devices
from tests.tpu.tiny import HEADS, INNER, LAYERS, PRODUCTS, WIDTH, WORDS, memory_of, model_folder, tiny_config

GIB = 2**30
DEVICES = 8
PARAMETERS = LAYERS * (sum(PRODUCTS.values()) + 2 * WIDTH) + 2 * WORDS * WIDTH + WIDTH


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("plan") / "model")


@pytest.fixture(scope="module")
def rows(model):
    """A tiny model on v5e-8, every step."""
    return {row["step"]: row for row in plan(tiny_config(model), ["v5e-8"])}


@pytest.fixture(scope="module")
def impossible(tmp_path_factory):
    """A model of 9 G parameters a layer on v5e-8; of the options that could help, only the cache is tried."""
    folder = model_folder(tmp_path_factory.mktemp("plan") / "huge", width=32768, inner=65536)
    config = tiny_config(folder, "forget.batch=8", "forget.moment_dtype=bfloat16")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "candidates", lambda *_: [Option({"targets.cache": True}, "a pass more")])
        return plan(config, ["v5e-8"], steps=["forget"])[0]


def test_undo_is_planned_where_the_run_has_it(model, tmp_path):
    config = tiny_config(model, "undo.alpha=0.3", f"retain.path={tmp_path}")
    [row] = plan(config, ["v5e-8"], steps=["undo"])
    assert row["fits"]
    assert row["trainable"] == "every parameter"
    assert row["weights"].endswith("unlearned model bfloat16")
    assert {option.arguments[0].partition("=")[0] for option in candidates(config, make_mesh(), "undo")} <= {
        "model.remat",
        "targets.tile",
        "undo.accumulate",
        "undo.moment_dtype",
    }
    with pytest.raises(UserError, match=r"no step undo: undo.alpha is 0"):
        plan(tiny_config(model), ["v5e-8"], steps=["undo"])


def test_every_step_of_a_tiny_model_fits(rows):
    assert list(rows) == ["reinforce", "forget", "score", "decode"]
    for row in rows.values():
        assert row["fits"]
        assert row["slice"] == "v5e-8"
        assert row["limit_hbm_bytes"] == 15.75 * GIB
        assert 0 < row["argument_bytes"] < row["peak_hbm_bytes"] < GIB
        assert row["compile_seconds"] > 0
        assert row["parameters"] == PARAMETERS
    assert rows["forget"]["blocks"] == 16
    assert rows["forget"]["flops_per_token"] == 10 * PARAMETERS


def test_arguments_are_what_the_stages_hold(rows):
    """fp32 weights and two fp32 moments, 12 bytes a parameter; two frozen models in bf16, 2 each; split over 8."""
    batches = 24 * 1024  # norms that every device holds, too
    assert rows["reinforce"]["argument_bytes"] == pytest.approx(12 * PARAMETERS / DEVICES, abs=batches)
    extra = rows["forget"]["argument_bytes"] - rows["reinforce"]["argument_bytes"]
    assert extra == pytest.approx(4 * PARAMETERS / DEVICES, abs=batches)
    # Scoring happens beside all of it.
    assert rows["score"]["argument_bytes"] == pytest.approx(rows["forget"]["argument_bytes"], abs=batches)
    assert rows["decode"]["argument_bytes"] == pytest.approx(2 * PARAMETERS / DEVICES, abs=batches)


def test_gradients_are_scattered_once(rows):
    """Every matrix's gradient in bf16, the head's in fp32, seven eighths of each sent; the embedding sends rows."""
    layers, head = LAYERS * sum(PRODUCTS.values()) * 2, WORDS * WIDTH * 4
    for step in ("reinforce", "forget"):
        assert rows[step]["collective_bytes"]["reduce-scatter"] == (layers + head) * 7 // 8
    assert "reduce-scatter" not in rows["score"]["collective_bytes"]
    # The student's weights are gathered twice, forward and backward; two frozen models add a pass each.
    student = rows["reinforce"]["collective_bytes"]["all-gather"]
    assert 1.8 * student < rows["forget"]["collective_bytes"]["all-gather"] < 2.7 * student


def test_a_projection_says_that_it_is_one(rows):
    for row in rows.values():
        projection = row["projection"]
        assert "projection" in projection["what"]
        assert projection["step_seconds"] == max(projection["seconds"].values())
        assert 0 < projection["mfu_bound"] <= 1
    forget = rows["forget"]
    compute = forget["hardware_flops_per_token"] * forget["tokens"] / DEVICES / 197e12
    assert forget["projection"]["seconds"]["compute"] == pytest.approx(compute)


def test_an_impossible_model_is_refused_with_what_it_needs(impossible):
    assert not impossible["fits"]
    assert impossible["out_of_memory"]
    assert impossible["peak_hbm_bytes"] > impossible["limit_hbm_bytes"] == 15.75 * GIB
    assert impossible["projection"] is None
    [option] = impossible["options"]
    assert option["options"] == ["targets.cache=true"]
    assert option["saved_bytes"] > 0
    assert not option["fits"]


@pytest.fixture(scope="module")
def adapted(model):
    """Adapters over an int8 base, by the real compiler."""
    words = ("forget.weights=lora", "reinforce.weights=lora", "model.base=int8", "lora.rank=8")
    return {row["step"]: row for row in plan(tiny_config(model, *words), ["v5e-8"], steps=["reinforce", "forget"])}


def test_adapters_over_int8_hold_base_once_and_train_little(rows, adapted):
    """At least a byte a weight of the layers, two of words and norms, 12 an adapter's number; padding comes on top:
    a TPU fills the last axis of so small an adapter up to 128 numbers, and int8 rows up to 32."""
    layers = LAYERS * sum(PRODUCTS.values())
    rank = 8
    adapter = LAYERS * rank * (4 * 2 * WIDTH + 3 * (WIDTH + INNER))
    held = (layers + 2 * (PARAMETERS - layers) + 12 * adapter) / DEVICES
    assert held < adapted["reinforce"]["argument_bytes"] < rows["reinforce"]["argument_bytes"] / 2
    # A second base, for the reinforced model or the student, would be a byte a weight more.
    extra = adapted["forget"]["argument_bytes"] - adapted["reinforce"]["argument_bytes"]
    assert 0 < extra < layers / DEVICES
    assert adapted["reinforce"]["fits"]
    assert adapted["forget"]["fits"]
    assert adapted["forget"]["trainable"] == "LoRA of rank 8 and alpha 32 over int8 base"
    for part in ("student LoRA over base", "base int8", "reinforced LoRA over base"):
        assert part in adapted["forget"]["weights"]
    # No gradient of a frozen weight, the head's above all, is made or sent.
    assert "reduce-scatter" not in adapted["forget"]["collective_bytes"]
    assert adapted["forget"]["collective_bytes"]["all-reduce"] < 2 * 4 * adapter


def test_int8_differences_take_half_of_a_frozen_model(model, rows):
    [row] = plan(tiny_config(model, "reinforce.weights=int8-delta"), ["v5e-8"], steps=["forget"])
    layers = LAYERS * sum(PRODUCTS.values())
    saved = rows["forget"]["argument_bytes"] - row["argument_bytes"]
    assert saved == pytest.approx(layers / DEVICES, abs=4 * LAYERS * (5 * WIDTH + 2 * INNER))
    assert row["trainable"] == "every parameter"
    assert "reinforced int8 over base" in row["weights"]


def test_the_table_says_all_of_it(rows, impossible):
    text = as_text([*rows.values(), impossible])
    assert "with targets.cache=true: saves" in text
    assert "does not fit" in text
    assert "10N for the forget step" in text
    assert "projection" in text
    assert "with targets.cache=true: saves" in text[text.index("options that change more than time") :]
    assert text.count("attention: plain") == 5
    assert "of 176 tokens with their prompts" in text
    assert "unknown" not in text
    forget = json.loads(json.dumps(rows["forget"]))
    forget["collective_bytes"] = forget["projection"]["seconds"]["interconnect"] = None
    forget["projection"]["mfu_bound"] = 1.5
    text = as_text([forget])
    assert f"{forget['projection']['step_seconds']:.3g}*" in text
    assert "* the bytes that it sends are unknown and not part of s/step" in text
    assert "MFU above 100 %: N counts the embedding" in text
    assert max(map(len, text.splitlines())) < 500
    assert as_markdown(list(rows.values())).count("\n") == 5


def test_the_command_prints_json_for_programs(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(planning, "_compile", lambda *_: Compiled(True, 1.0, 3 * GIB, GIB, 2 * GIB, 1000, {}, 0))
    path = tmp_path / "c.yaml"
    path.write_text(f"model: {{folder: {model}}}\nblocks: {{length: 32}}\n")
    words = ["plan", str(path), "--slice", "v5e-8", "--slice", "v4-8", "--step", "forget", "--json", "forget.batch=64"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["slice"], row["blocks"], row["peak_hbm_bytes"]) for row in found] == [
        ("v5e-8", 64, 3 * GIB),
        ("v4-8", 64, 3 * GIB),
    ]
    assert {"step", "fits", "limit_hbm_bytes", "trainable", "weights", "flops_per_token", "collective_bytes"} <= set(
        found[0]
    )
    assert main(words[:2] + ["--slice", "v5e-8"]) == 0
    assert "v5e-8  reinforce" in capsys.readouterr().out


def test_what_was_found_is_printed_though_the_rest_is_interrupted(model, tmp_path, capsys, monkeypatch):
    def compiled(config, llama, site, *_):
        if site.place.name == "v4-8":
            raise KeyboardInterrupt
        return Compiled(True, 1.0, 3 * GIB, GIB, 2 * GIB, 1000, {}, 0)

    monkeypatch.setattr(planning, "_compile", compiled)
    path = tmp_path / "c.yaml"
    path.write_text(f"model: {{folder: {model}}}\nblocks: {{length: 32}}\n")
    words = ["plan", str(path), "--slice", "v5e-8", "--slice", "v4-8", "--step", "forget", "--json"]
    assert main(words) == 130
    told = capsys.readouterr()
    assert [row["slice"] for row in json.loads(told.out)] == ["v5e-8"]
    assert "v5e-8: forget fits, 3.00 of 15.75 GiB\n" in told.err
    assert told.err.endswith("jaxforget: interrupted\n")  # nothing to go on from


def test_labels_cached_beforehand_are_a_step_of_their_own(model):
    label, forget = plan(tiny_config(model, "targets.cache=true"), ["v5e-8"], steps=["label", "forget"])
    assert (label["step"], label["blocks"], label["fits"]) == ("label", 16, True)
    assert label["flops_per_token"] == 4 * PARAMETERS
    assert label["weights"] == "base bfloat16, reinforced bfloat16"
    # Both teachers in bf16 and no student.
    assert label["argument_bytes"] == pytest.approx(4 * PARAMETERS / DEVICES, abs=24 * 1024)
    assert forget["flops_per_token"] == 6 * PARAMETERS


def test_a_given_reinforced_model_is_not_planned_for(model, monkeypatch):
    monkeypatch.setattr(planning, "_compile", lambda *_: Compiled(True, 1.0, 3, 1, 2, 1, {}, 0))
    assert [row["step"] for row in plan(tiny_config(model, "model.reinforced=x"), ["v5e-1"])] == [
        "forget",
        "score",
        "decode",
    ]


@pytest.mark.parametrize(
    ("overrides", "slices", "message"),
    [
        ((), ["v5e-8", "v9-8"], r"--slice v9-8: no such slice"),
        ((), ["v5e-8", "v5e-64"], r"v5e-64: reinforce.batch: 16 blocks .* 64 devices"),
        (("mesh.tensor=3",), ["v5e-8"], r"mesh.tensor=3"),
        (("blocks.length=4096",), ["v5e-8"], r"blocks.length is 4096"),
        (("model.folder=no/such/folder",), ["v5e-8"], r"no/such/folder: no such folder"),
        (("model.folder=gs://b/m",), ["v5e-8"], r"gs://b/m: a plan reads config.json alone; copy that"),
        (("model.folder=null",), ["v5e-8"], r"model.folder is not set"),
        (("reinforce.weights=lora", "lora.rank=999"), ["v5e-8"], r"lora.rank"),
        (("forget.batch=100",), ["v5e-8"], r"100 blocks a step .* 8 devices in 1 microbatch; make it a multiple of 8"),
        (
            ("retain.rows=4", "retain.weight=1", "retain.path=x"),
            ["v5e-8"],
            r"and 4 retain rows .* make blocks and rows together a multiple of 8",
        ),
    ],
)
def test_what_no_compiler_needs_to_be_asked_is_told_at_once(model, monkeypatch, overrides, slices, message):
    monkeypatch.setattr(planning, "_compile", lambda *_: pytest.fail("compiled"))
    with pytest.raises(UserError, match=message):
        plan(tiny_config(model, *overrides), slices)


def test_a_step_that_the_run_has_not_is_refused(model):
    with pytest.raises(UserError, match="no step reinforce: model.reinforced is set; leave --step out, or change that"):
        plan(tiny_config(model, "model.reinforced=x"), ["v5e-8"], steps=["reinforce"])
    with pytest.raises(UserError, match="no step label: targets.cache is false"):
        plan(tiny_config(model), ["v5e-8"], steps=["label"])
    with pytest.raises(UserError, match="no step reinforce: method=npo needs no reinforced model"):
        plan(tiny_config(model, "method=npo"), ["v5e-8"], steps=["reinforce"])
    with pytest.raises(UserError, match="no step forget: method=task_vector trains nothing"):
        plan(tiny_config(model, "method=task_vector"), ["v5e-8"], steps=["forget"])


def test_every_remat_is_compiled_on_request(model, monkeypatch):
    sizes = {"full": 4 * GIB, "mlp": 12 * GIB, "dots": 20 * GIB, "none": 40 * GIB}

    def stand_in(config, *_, read=True):
        size = sizes[config.model.remat]
        flops = {"full": 100, "mlp": 99}.get(config.model.remat, 98)
        refusal = None if size < 15 * GIB else "RESOURCE_EXHAUSTED: too much"
        return Compiled(size < 15 * GIB, 1.0, size, 1, 1, flops * 10**9, {}, 0, refusal=refusal)

    monkeypatch.setattr(planning, "_compile", stand_in)
    [row] = plan(tiny_config(model, "model.remat=mlp"), ["v5e-8"], steps=["forget"], remats=True)
    found = [(entry["remat"], entry["fits"], entry["peak_hbm_bytes"]) for entry in row["remats"]]
    assert found == [(remat, size < 15 * GIB, size) for remat, size in sizes.items()]
    assert row["remats"][1]["hardware_flops_per_token"] == row["hardware_flops_per_token"]
    text = as_text([row])
    assert "  model.remat=full: 4.00 GiB, fits; " in text
    assert re.search(r"  model\.remat=dots: 20\.00 GiB, does not fit; .* hardware GFLOP a token, 2 % less\n", text)
    row["remats"][2] |= {"peak_hbm_bytes": None, "out_of_memory": False}
    assert "  model.remat=dots: ? GiB, the compiler failed; " in as_text([row])
    # What the advice would compile too is there already.
    [row] = plan(tiny_config(model, "model.remat=dots"), ["v5e-8"], steps=["forget"], remats=True)
    assert not [option for option in row["options"] if option["options"][0].startswith("model.remat")]
    with pytest.raises(UserError, match="--remat: of training steps alone, which score is not; add --step forget"):
        plan(tiny_config(model), ["v5e-8"], steps=["score"], remats=True)
    given = tiny_config(model, "model.reinforced=x")
    with pytest.raises(UserError, match="--max-batch and --remat: of training steps alone, which score is not"):
        plan(given, ["v5e-8"], steps=["score", "reinforce"], remats=True, max_batch=True)


def test_the_most_blocks_keep_to_what_the_devices_share(model, monkeypatch):
    monkeypatch.setattr(planning, "_compile", lambda config, *_, read=True: memory_of(config, GIB / 16, 8 * GIB))
    [row] = plan(tiny_config(model), ["v5e-8"], steps=["forget"], max_batch=True)
    assert row["max_blocks"] == 120  # 124 would fit, but eight devices share them
    assert row["max_blocks_compilations"] < 8


@pytest.mark.parametrize("room", [0, 1, 2, 3, 7, 63, 64, 65, 1000])
@pytest.mark.parametrize("start", [1, 64])
@pytest.mark.parametrize("told", [True, False])
def test_the_most_units_are_found_whatever_the_start(room, start, told):
    asked = []

    def measure(units: int) -> tuple[bool, int | None]:
        asked.append(units)
        return units <= room, 100 + units**2 if told else None

    assert most_units(measure, start, 1, 500, 100 + room**2) == min(room, 500)
    assert len(set(asked)) <= 16


def test_a_run_that_has_its_blocks_is_planned_with_their_widths(model, monkeypatch, tmp_path):
    monkeypatch.setattr(planning, "_compile", lambda *_: Compiled(True, 1.0, 3, 1, 2, 1, {}, 0))
    folder = tmp_path / "blocks" / "target"
    folder.mkdir(parents=True)
    (folder / "blocks.json").write_text(json.dumps({"length": 32, "translated_length": 64, "suppress": 8}))
    [row] = plan(tiny_config(model, f"out={tmp_path}"), ["v5e-1"], steps=["forget"])
    assert row["translated_length"] == 64
    assert "prepared" in row["widths"]


@pytest.mark.parametrize("name", ["v4-8", "v6e-8", "tpu7x-8"])
def test_splash_attention_compiles_where_there_is_one_and_what_is_sent_is_known(name, tmp_path):
    """Heads of 128 and blocks of 128 tokens. JAX cannot print what SparseCores (v6e, tpu7x) take part in."""
    folder = model_folder(tmp_path / "model", width=HEADS * 128, positions=128)
    config, plain = (
        tiny_config(folder, "blocks.length=128", f"model.attention={attention}") for attention in ("auto", "plain")
    )
    [found] = plan(config, [name], steps=["forget"])
    assert found["fits"]
    assert found["note"] is None
    assert found["attention"] == "splash"
    assert found["collective_bytes"]["reduce-scatter"] > 0
    # The kernel makes scores once more backward than keeping them does: that is how its use can be told.
    mesh = make_mesh(devices=slice_devices(find_slice(name)))
    step = make_step(plain, read_shape(str(folder))[0], mesh, batch_widths(plain), "forget")
    assert found["hardware_flops_per_token"] > product_flops(step.trace().jaxpr, step.trips) / step.tokens
