"""The estimate of a run before it works: it changes nothing, and its numbers are those that the run then has."""

import hashlib
import shutil
from pathlib import Path

import pytest

from jaxforget import dry_run
from jaxforget.config import config_from
from jaxforget.dry_run import as_text, estimate_run
from jaxforget.errors import UserError
from jaxforget.models.layout import parameter_count
from jaxforget.models.published import read_shape
from jaxforget.stages.estimate import CHARACTERS, estimate_blocks, prepared_blocks
from tests.tiny_run import settings

EIGHT = {"fsdp": 8}


def content(folder: Path) -> dict[str, tuple[int, str]]:
    """Time and hash of every file below a folder, hidden ones included."""
    return {
        str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def run(tiny_run, tmp_path) -> Path:
    return shutil.copytree(tiny_run, tmp_path / "run")


def test_a_dry_run_changes_nothing(tiny_world, tmp_path, run):
    before = content(tmp_path)
    estimate_run(config_from(settings(tiny_world, run, forget={"max_steps": 9})), again=True)
    estimate_run(config_from(settings(tiny_world, tmp_path / "new")))
    assert content(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_a_new_run_runs_every_stage_and_counts_the_blocks_that_it_then_has(tiny_world, tiny_run, tmp_path):
    options = {"max_steps": None, "epochs": 2.0}
    found = estimate_run(config_from(settings(tiny_world, tmp_path / "new", forget=options)))
    assert [one.planned.name for one in found.stages if one.planned.runs] == [one.planned.name for one in found.stages]
    prepared = prepared_blocks(tiny_run / "blocks" / "target")
    assert found.blocks["target"] == dry_run.Blocks(prepared.train, prepared.held, prepared.tokens, "counted")
    steps = {one.planned.name: one.steps for one in found.stages if one.steps is not None}
    assert steps == {"reinforce": 3, "forget": round(2 * -(-prepared.train // 8))}
    shown = as_text(found, config_from(settings(tiny_world, tmp_path / "new")), 3.0)
    assert "time: unknown until a step is measured" in " ".join(shown.split())
    assert "price: unknown" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_finished_run_is_up_to_date_and_a_changed_one_names_what_changed(tiny_world, run):
    found = estimate_run(config_from(settings(tiny_world, run)))
    assert [one.planned.name for one in found.stages if one.planned.runs] == ["report"]
    assert found.blocks["target"].source == "prepared"
    changed = config_from(settings(tiny_world, run, forget={"max_steps": 6}))
    found = estimate_run(changed)
    whys = {one.planned.name: one.planned.why for one in found.stages if one.planned.runs}
    assert whys == {
        "forget": "forget.max_steps changed",
        "eval": "forget changed",
        "export": "forget changed",
        "report": "always",
    }
    shown = " ".join(as_text(found, changed).split())
    assert "the run needs --again, which replaces the results of forget, export" in shown
    assert "by what this run measured" in shown
    assert "needs --again" not in as_text(estimate_run(changed, again=True), changed)


def test_memory_and_disk_are_those_of_the_shapes(tiny_world, tmp_path):
    mesh = {"data": 8, "fsdp": 1}  # every device holds all
    found = estimate_run(config_from(settings(tiny_world, tmp_path / "new", mesh=mesh)))
    parameters = parameter_count(read_shape(str(tiny_world / "base"))[0])
    stages = {one.planned.name: one for one in found.stages}
    forget, reinforce = stages["forget"].memory, stages["reinforce"].memory
    assert forget["weights"] == reinforce["weights"] == forget["gradients"] == 4 * parameters
    assert 0 <= forget["moments"] - 8 * parameters <= 64  # AdamW's counters
    assert forget["frozen models"] == 8 * parameters  # base and the reinforced model in float32
    assert reinforce["frozen models"] == 0
    assert [stages[name].disk for name in ("reinforce", "forget", "export")] == [4 * parameters] * 3
    # 4 steps, saved at every second one.
    assert 0 <= stages["forget"].checkpoints - 2 * 12 * parameters <= 256
    sharded = estimate_run(config_from(settings(tiny_world, tmp_path / "new", mesh=EIGHT)))
    assert sharded.stages[3].memory["weights"] < forget["weights"] / 4


def test_the_published_peak_bounds_the_time_and_the_price(tiny_world, tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run, "peak_of", lambda kind: (1, 1e6))
    config = config_from(settings(tiny_world, tmp_path / "new", mesh=EIGHT))
    found = estimate_run(config)
    parameters = parameter_count(read_shape(str(tiny_world / "base"))[0])
    forget = next(one for one in found.stages if one.planned.name == "forget")
    # 4 steps of 8 blocks of 32 tokens at 10 FLOP a parameter, on 8 chips.
    assert forget.seconds == pytest.approx(4 * 8 * 32 * 10 * parameters / 8e6)
    assert forget.bound
    shown = as_text(found, config, 3600.0)
    known = sum(one.seconds for one in found.stages if one.seconds is not None)
    assert f"price: at least ${known * 8:,.2f} (8 chips at $3600 an hour)" in shown


def test_a_model_of_the_hub_is_not_downloaded(tiny_world, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("downloads a model"))
    model = {"folder": "meta-llama/Llama-2-7b-hf", "dtype": "bfloat16"}
    config = config_from(settings(tiny_world, tmp_path / "new", model=model, mesh=EIGHT))
    found = estimate_run(config)
    assert found.remote == ("model.folder",)
    weights = found.stages[3].memory["weights"] * EIGHT["fsdp"]
    assert weights == pytest.approx(4 * 6_738_415_616, rel=1e-3)
    assert "model.folder: not on this machine" in as_text(found, config)


def test_faults_of_a_run_are_those_of_its_dry_run(tiny_world, tmp_path):
    with pytest.raises(UserError, match="forget.batch: 12 blocks a step cannot be shared by 8 devices"):
        estimate_run(config_from(settings(tiny_world, tmp_path / "new", forget={"batch": 12}, mesh=EIGHT)))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files that no run wrote"):
        estimate_run(config_from(settings(tiny_world, tmp_path / "mine")))
    letter = str(tmp_path / "mine" / "letter.txt")
    with pytest.raises(UserError, match=r"model\.control: .*letter\.txt: is a file; give the model's folder"):
        estimate_run(config_from(settings(tiny_world, tmp_path / "new", model={"control": letter})))


def test_blocks_of_a_long_text_are_estimated_from_its_size(tiny_world, tiny_run, monkeypatch):
    config = config_from(settings(tiny_world, tiny_run))
    source = dry_run.Run(config).target
    exact = prepared_blocks(tiny_run / "blocks" / "target")
    monkeypatch.setattr("jaxforget.stages.estimate.COUNTED", 100)
    tokenizer = dry_run.load_tokenizer(tiny_world / "base")
    found = estimate_blocks(source, tokenizer, config, holdout=0.05)
    assert found.source == "estimated"
    assert found.train == pytest.approx(exact.train, rel=0.1)
    characters = sum(len(document.text) for document in source.documents())
    blind = estimate_blocks(source, None, config, holdout=0.0)
    assert blind.train * blind.tokens == pytest.approx(characters / CHARACTERS, rel=0.01)
