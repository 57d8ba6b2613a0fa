"""Wrong inputs of `run` and its stages: each gives one line that names the input and the remedy."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.cli.saying import fault, status_of
from tests.tiny_run import save_llama
from tests.train.test_metrics import FakeWandb


def altered(folder: Path, source: Path, **changes) -> Path:
    """A copy of a model whose config.json says something else."""
    shutil.copytree(source, folder)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | changes))
    return folder


def test_out(capsys, config, tiny_world, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert f"out={tmp_path}/file: is a file; name a folder" in fault(capsys, "run", config, f"out={tmp_path}/file")
    assert "is a file; name a folder" in fault(capsys, "run", config, f"out={tmp_path}/file/run")
    assert "out=gs://mine/run: a run fills a local folder" in fault(capsys, "run", config, "out=gs://mine/run")
    inside = tiny_world / "target" / "run"
    assert f"lies inside corpus.path={tiny_world}/target" in fault(capsys, "run", config, f"out={inside}")
    assert f"lies inside model.folder={tiny_world}/base" in fault(capsys, "run", config, f"out={tiny_world}/base")
    assert not inside.exists()
    mine = tmp_path / "config.yaml"
    mine.write_text("seed: 9\n")
    assert f"{mine}: no run wrote it" in fault(capsys, "run", config, f"out={tmp_path}")
    assert mine.read_text() == "seed: 9\n"
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("model.folder=null", "model.folder is not set; it names a model's folder or hub id"),
        ("model.folder=/nowhere", "/nowhere: no such folder; give one, a hub id"),
        ("model.folder=WORLD/anchors.json", "anchors.json: is a file; give the model's folder"),
        ("model.folder=WORLD/target", "target/config.json: no such file; a model folder holds config.json"),
        ("model.folder=nobody/nothing", "nobody/nothing: no such folder here, and the hub could not be reached"),
        ("model.folder=nofs://x/y", "nofs:// is not an address"),
        ("model.control=/nowhere", "/nowhere: no such folder"),
        ("model.reinforced=/nowhere", "/nowhere: no such folder"),
        ("evals.compare.other=/nowhere", "/nowhere: no such folder"),
        ("corpus.path=null", "corpus.path is not set; it names the text to forget"),
        ("anchors.path=/nowhere.json", "/nowhere.json: no such file; give one"),
        ("anchors.path=WORLD", "is a folder; name a dictionary of anchors"),
        ("anchors.path=WORLD/target/0.txt", "0.txt: line 1 column 1: not JSON"),
        ("evals.probes=/nowhere.json", "/nowhere.json: no such file"),
        ("evals.probes=WORLD", "is a folder; give a file of {"),
        ("evals.probes=WORLD/anchors.json", "unknown key 'Zorvath'; give a file of {\"familiarity\""),
        ("evals.prompts=WORLD/probes.json", "unknown key 'familiarity'; give a file of {\"dynamics\""),
        ("evals.heldout=/nowhere", "/nowhere: no such file or folder"),
        ("evals.heldout=WORLD/base", "the folder holds no .txt, .md, .jsonl file"),
        ("forget.batch=3", "forget.batch: 3 blocks a step cannot be shared by 2 devices in 1 microbatch;"),
        ("reinforce.batch=1", "reinforce.batch: 1 blocks a step cannot be shared by 2 devices"),
        ("forget.accumulate=8", "make it a multiple of 16, or lower forget.accumulate"),
        ("mesh.data=3", "mesh.data=3, mesh.fsdp=-1, mesh.tensor=1: does not divide 8 devices"),
        ("mesh.fsdp=0", "sizes are positive"),
        ("mesh.data=-1", "at most one is -1"),
        ("blocks.length=256", "blocks.length is 256, beyond the 128 positions"),
    ],
)
def test_faults_are_told_before_anything_is_made(word, says, capsys, config, tiny_world, tmp_path):
    assert says in fault(capsys, "run", config, word.replace("WORLD", str(tiny_world)))
    assert not (tmp_path / "run").exists()


def test_models_that_are_not_the_one(capsys, config, tiny_world, tmp_path):
    base = tiny_world / "base"
    other = altered(tmp_path / "bert", base, model_type="bert")
    assert "config.json: model_type is 'bert'" in fault(capsys, "run", config, f"model.folder={other}")
    short = shutil.copytree(base, tmp_path / "short")
    weights = short / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert f"{weights}: truncated: " in fault(capsys, "run", config, f"model.folder={short}")
    assert f"{weights}: truncated: " in fault(capsys, "run", config, f"evals.compare.short={short}")
    pickled = shutil.copytree(base, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    assert "pickled weights run code" in fault(capsys, "run", config, f"model.folder={pickled}")
    deeper = altered(tmp_path / "deeper", base, num_hidden_layers=3)
    assert "tensor model.layers.2.self_attn.q_proj.weight is missing" in fault(
        capsys, "run", config, f"model.folder={deeper}"
    )
    wider = tmp_path / "wider"
    save_llama(wider, 420, seed=0, hidden_size=64)
    shutil.copy(base / "tokenizer.json", wider)
    for key in ("model.control", "model.reinforced"):
        assert f"{wider}: its config.json describes another model than {base}" in fault(
            capsys, "run", config, f"{key}={wider}"
        )
    mute = shutil.copytree(base, tmp_path / "mute")
    (mute / "tokenizer.json").unlink()
    assert f"{mute}: no tokenizer.json" in fault(capsys, "run", config, f"model.folder={mute}")
    garbled = shutil.copytree(base, tmp_path / "garbled")
    (garbled / "tokenizer.json").write_text("{}")
    assert f"{garbled}: its tokenizer cannot be read" in fault(capsys, "run", config, f"model.folder={garbled}")
    small = tmp_path / "small"
    save_llama(small, 50, seed=0)
    shutil.copy(base / "tokenizer.json", small)
    assert "beyond the model's vocab_size 50" in fault(capsys, "run", config, f"model.folder={small}")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "text: the folder holds no .txt, .md, .jsonl file"),
        ({"a.txt": b""}, "a.txt: the file is empty"),
        ({"a.txt": b" \n\n"}, "a.txt: the file is empty"),
        ({"a.txt": b"fine text", "b.txt": "Café".encode("latin-1")}, "b.txt: not UTF-8 at byte 3"),
        ({"a.txt": bytes(range(128, 256))}, "a.txt: not UTF-8 at byte 0"),
        ({"a.pdf": b"%PDF"}, "the folder holds no .txt"),
        ({"a.jsonl": b'{"text": "a"}\n{"txt": "b"}\n'}, "a.jsonl:2: no field 'text'; it has 'txt'"),
        ({"a.jsonl": b'{"text": "a"}\nnonsense\n'}, "a.jsonl:2: column 1: not JSON"),
    ],
)
def test_text_that_cannot_be_read(files, says, capsys, config, tmp_path):
    (tmp_path / "text").mkdir()
    for name, content in files.items():
        (tmp_path / "text" / name).write_bytes(content)
    assert says in fault(capsys, "run", config, f"corpus.path={tmp_path}/text")
    assert says in fault(capsys, "run", config, f"evals.heldout={tmp_path}/text")
    words = ["retain.weight=1", "retain.rows=8", f"retain.path={tmp_path}/text"]
    assert says in fault(capsys, "run", config, *words)


def test_no_such_text(capsys, config):
    assert "no such file" in fault(capsys, "run", config, "corpus.path=/nowhere")
    assert "no such file, folder or tensorflow-datasets data set" in fault(capsys, "run", config, "corpus.path=nowhere")
    assert "corpus.path: tfds:nope: no such file" in fault(capsys, "run", config, "corpus.path=tfds:nope")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{}", "no anchors; give at least one"),
        ("[1]", "is no object of anchors; write an anchor as"),
        ('{"Zorvath": []}', "'Zorvath': generic is a list, but must have at least 1 item"),
        ('{"Zorvath": 3}', "'Zorvath': it is 3, but must be a string, a list of strings, or"),
        ('{"Zorvath": [""]}', "'Zorvath': generic[0] is a string, but must be a text that is not empty"),
        ('{"": ["x"]}', "an anchor is empty"),
        ('{"Zorvath": ["x"],}', "line 1 column "),
    ],
)
def test_dictionaries(content, says, capsys, config, tmp_path):
    path = tmp_path / "anchors.json"
    path.write_text(content)
    assert fault(capsys, "run", config, f"anchors.path={path}").startswith(f"anchors.path: {path}: ")
    assert says in fault(capsys, "run", config, f"anchors.path={path}")


def test_anchors_that_never_occur(capsys, config, tmp_path):
    path = tmp_path / "anchors.json"
    path.write_text('{"Gandalf": ["Robert"], "zorvath": ["martin"]}')
    told = fault(capsys, "run", config, f"anchors.path={path}", lines=9)
    assert f"{path}: none of its anchors occurs in " in told
    assert "matching is case-sensitive" in told


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "it is a list, but must be an object"),
        ('{"familiarity": {}}', "familiarity is an object, but must be a list"),
        ('{"familiarity": [{"prompt": "x"}]}', "no field 'familiarity[0].answer'"),
        (
            '{"familiarity": [{"prompt": "x", "answer": ""}]}',
            "[0].answer is a string, but must be a text",
        ),
        ('{"familiarity": ["x"]}', "familiarity[0] is 'x', but must be an object"),
        ('{"familiarity": [', "not JSON"),
    ],
)
def test_probes(content, says, capsys, config, tmp_path):
    path = tmp_path / "probes.json"
    path.write_text(content)
    assert says in fault(capsys, "run", config, f"evals.probes={path}")


@pytest.mark.parametrize(
    ("command", "before"),
    [("prepare", "anchors"), ("reinforce", "prepare"), ("forget", "prepare"), ("eval", "forget"), ("export", "forget")],
)
def test_a_stage_before_its_turn_names_the_command(command, before, capsys, config, tmp_path):
    told = fault(capsys, command, config)
    assert told.startswith(
        f"{tmp_path}/run: stage {before} has not finished; run jaxforget {before} (or jaxforget run)"
    )


def test_a_stage_whose_predecessor_is_of_other_inputs_says_so(capsys, copied):
    before = (copied / "config.yaml").read_bytes()
    told = fault(capsys, "forget", copied, "blocks.length=16")
    assert "since stage prepare ran, blocks.length changed; run jaxforget prepare" in told
    told = fault(capsys, "export", copied, "forget.learning_rate=1e-4")
    assert "since stage forget ran, forget.learning_rate changed; run jaxforget forget" in told
    assert (copied / "config.yaml").read_bytes() == before, "a refused configuration replaced the run's own"


def test_a_stage_whose_predecessor_lost_its_output_says_so(capsys, copied):
    shutil.rmtree(copied / "unlearned")
    told = fault(capsys, "export", copied)
    assert f"{copied}/unlearned/config.json: stage forget wrote it, and it is gone; run jaxforget forget" in told


def test_a_moved_run_goes_on_where_it_is(capsys, copied, tiny_run):
    before = sorted(path.stat().st_mtime_ns for path in tiny_run.rglob("*"))
    assert status_of("run", copied) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[:6] == [
        f"stage {number} of 7, {name}: up to date"
        for number, name in enumerate(("anchors", "prepare", "reinforce", "forget", "eval", "export"), 1)
    ]
    assert f"  {copied}/report.html" in said
    assert sorted(path.stat().st_mtime_ns for path in tiny_run.rglob("*")) == before


@pytest.mark.parametrize("content", ["[]", '{"stages": 3}', '{"hashes": []}', "{"])
def test_a_manifest_that_is_none(content, capsys, copied):
    (copied / "manifest.json").write_text(content)
    assert fault(capsys, "run", copied).startswith(f"{copied}/manifest.json: ")


def test_a_dry_run_of_anchors_shows_a_prompt(capsys, config, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-to-be-shown")
    words = ["anchors.path=null", "anchors.extractor=endpoint", "endpoint.model=m", "endpoint.price_in=1"]
    assert status_of("anchors", config, *words, "endpoint.price_out=1", "--dry-run") == 0
    said = capsys.readouterr()
    assert "calls to make" in said.out
    assert "$0.0" in said.out
    assert "Below is a passage" in said.out
    assert "sk-not" not in said.out + said.err
    told = fault(capsys, "anchors", config, "--dry-run")
    assert "set anchors.extractor=endpoint" in told


def test_a_dry_run_shows_the_run_and_makes_nothing(capsys, config, tmp_path):
    assert status_of("run", config, "--dry-run", "--price", "2") == 0
    said = capsys.readouterr()
    assert "nothing was run or changed" in said.out
    assert "price: " in said.out
    assert not (tmp_path / "run").exists()
    assert "--price 2: give a price of at least 0, together with --dry-run" in fault(
        capsys, "run", config, "--price", "2"
    )


def test_wandb_that_is_not_installed_is_refused_before_anything_runs(capsys, config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    said = fault(capsys, "run", config, "log.wandb=mine")
    assert said.startswith("log.wandb is set, but wandb does not import (")
    assert said.endswith("); run pip install wandb")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_training_stages_send_their_metrics_to_wandb(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", fake := FakeWandb())
    for stage in ("anchors", "prepare", "reinforce"):
        assert status_of(stage, config, "log.wandb=mine") == 0
    (start,) = fake.starts
    assert (start["project"], start["name"]) == ("mine", "run reinforce")
    assert start["config"]["reinforce"]["max_steps"] == 3
    steps = [step for step, values in fake.logged[start["id"]] if "train/loss" in values]
    assert steps == [1, 2, 3]
    assert fake.finished == [start["id"]]
