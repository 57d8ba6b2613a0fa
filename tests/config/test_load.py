"""The schema, its reader, and the presets."""

import dataclasses
import math
import os
import re
import threading
from pathlib import Path

import pytest

from jaxforget.config import Config, config_from, load_config, options, stages_of, to_yaml
from jaxforget.config.option import LAYOUT, PLACE, RESULT
from jaxforget.errors import UserError

PRESETS = Path(__file__).parents[2] / "configs"
STAGES = {"anchors", "prepare", "reinforce", "forget", "undo", "eval", "export", "report", "suites"}


def value(config: Config, name: str):
    for part in name.split("."):
        config = getattr(config, part)
    return config


def error(*words: str, **values) -> str:
    """The message that the words, or nested values, are refused with."""
    with pytest.raises(UserError) as caught:
        config_from(values, words)
    message = str(caught.value)
    assert "\n" not in message
    return message


def read_error(tmp_path: Path, content: str | bytes) -> str:
    """The message that a YAML file of this content is refused with; it names the file."""
    path = tmp_path / "c.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        load_config(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_every_dataclass_is_frozen_and_every_option_has_help():
    assert Config.__dataclass_params__.frozen
    for field in dataclasses.fields(Config):
        if dataclasses.is_dataclass(field.type):
            assert field.type.__dataclass_params__.frozen, field.name
    for name, field in options():
        assert len(field.metadata["help"]) > 8, name
        assert field.metadata["help"][0].islower() or field.metadata["help"].startswith(("AdamW", "JSON")), name
        assert field.metadata["affects"] in (RESULT, LAYOUT, PLACE), name
        assert set(stages_of(name, field)) <= STAGES, name
        assert (field.metadata["path"] is not None) == (field.metadata["affects"] == PLACE), name


def test_defaults_satisfy_their_own_rules():
    assert config_from({}) == Config()


def test_words_override_the_file_and_later_words_win(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("seed: 3\nforget:\n  batch: 16\n  learning_rate: 1e-5\n")
    config = load_config(path, ["forget.batch=32", "targets.cache=true", "forget.batch=64", "forget.max_steps=7"])
    assert (config.seed, config.forget.batch, config.forget.learning_rate) == (3, 64, 1e-5)
    assert (config.targets.cache, config.forget.max_steps) == (True, 7)
    assert load_config(path, ["forget.max_steps=7", "forget.max_steps=null"]).forget.max_steps is None


def test_text_is_taken_as_it_stands():
    for place in ("2024", "true", "{x", "[x", "a: b", "a,b", "a=b", "#x", "x${y}", "'quoted'", "naïve"):
        config = config_from({}, [f"out={place}", f"evals.compare.other={place}"])
        assert config.out == place
        assert config.evals.compare == {"other": place}
    assert config_from({}, ["corpus.path=null"]).corpus.path is None


def test_awkward_text_survives_a_round_trip(tmp_path):
    words = ["out=x${y}: {#", "corpus.path=~x", "evals.compare.a b=c: d", "model.folder=a/b"]
    config = config_from({}, words)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "config.yaml") == config


def test_home_is_written_out(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    config = config_from({}, ["corpus.path=~/books", "evals.compare.old=~/old", "model.folder=owner/name"])
    assert config.corpus.path == "/home/someone/books"
    assert config.evals.compare == {"old": "/home/someone/old"}
    assert config.model.folder == "owner/name"


def test_a_section_without_keys_is_the_default(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("forget:\n  # batch: 3\nseed: 1\n")
    assert load_config(path) == config_from({"seed": 1})
    path.write_text("")
    assert load_config(path) == Config()


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("forget.bach=3", "forget.batch"),
        ("forget.lerning_rate=3", "forget.learning_rate"),
        ("froget.batch=3", "forget.batch"),
        ("anchor.path=x", "anchors.path"),
        ("sed=3", "seed"),
        ("batch=3", "reinforce.batch or forget.batch or undo.batch or evals.batch"),
        ("max_step=3", "reinforce.max_steps or forget.max_steps or undo.max_steps"),
        ("froget=3", "forget"),
        ("outt=x", "out"),
        ("suit=all", "`jaxforget eval CONFIG suite=NAME`"),
        ("suite=all", "`jaxforget eval CONFIG suite=NAME`"),
        ("eval.suites=all", "`jaxforget eval CONFIG suite=NAME`"),
        ("slice=v5e-8", "`jaxforget plan CONFIG --slice NAME`"),
        ("model.path=x", "corpus.path or retain.path or anchors.path or ilu.path"),
    ],
)
def test_unknown_key_is_refused_with_the_nearest(word, near):
    assert error(word).endswith(f"; did you mean {near}?")
    assert error(word).startswith(f"{word}: unknown key '{word[:3]}")


def test_unknown_key_of_a_file_names_the_file(tmp_path):
    assert read_error(tmp_path, "forget:\n  bach: 3\n") == "unknown key 'forget.bach'; did you mean forget.batch?"
    assert "jaxforget run --help" in read_error(tmp_path, "zzzzzz: 3\n")
    assert "unknown key '1'" in read_error(tmp_path, "1: 3\n")


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("forget.batch=abc", "forget.batch takes a whole number"),
        ("forget.batch=1.5", "forget.batch takes a whole number"),
        ("forget.batch=", "forget.batch takes a whole number"),
        ("forget.batch=true", "forget.batch takes a whole number"),
        ("forget.max_steps=x", "forget.max_steps takes a whole number or null"),
        ("forget.learning_rate=fast", "forget.learning_rate takes a number"),
        ("targets.cache=maybe", "targets.cache takes true or false"),
        ("forget=3", "forget is a section; set keys inside it, as forget.KEY=VALUE"),
        ("evals.compare=x", "evals.compare takes a mapping of names to folders"),
        ("model.dtype=fp8", "model.dtype is 'fp8'; it must be one of bfloat16, float32"),
        ("model.dtype=null", "it must be one of bfloat16, float32"),
        ("forget.select=best", "it must be one of last, familiarity, retained, perplexity"),
        ("word", "options are written key=value"),
        ("=3", "options are written key=value"),
        ("evals.compare.base=x", "every run has a model of that name"),
        ("evals.compare.a.b=x", "evals.compare.NAME=FOLDER"),
        ("forget.batch=[1", "forget.batch=[1"),
    ],
)
def test_value_of_another_type_is_refused(word, wanted):
    assert wanted in error(word)


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("seed", [-1, 2**32], [0, 2**32 - 1]),
        ("forget.batch", [99999999999999, 2**20 + 1], [2**20]),
        ("retain.rows", [99999999999999], [0]),
        ("forget.max_steps", [10**18], [10**9]),
        ("blocks.length", [10**12], [4096]),
        ("forget.learning_rate", [1e30, 1.1], [1.0]),
        ("reinforce.learning_rate", [1e30], [1.0]),
        ("evals.relearn_rate", [1e30], [1.0]),
        ("checkpoints.keep", [2**31], [9]),
        ("retain.weight", [-0.1], [0.0]),
        ("blocks.length", [1], [2]),
        ("blocks.holdout", [-0.01, 1.0], [0.0, 0.99]),
        ("targets.alpha", [-1.0], [0.0, 5.0]),
        ("targets.tile", [0], [1]),
        ("forget.batch", [0, -8], [1]),
        ("forget.accumulate", [0], [1]),
        ("forget.epochs", [0.0], [0.5]),
        ("forget.max_steps", [0, -1], [1]),
        ("forget.learning_rate", [0.0, -1e-6], [1e-9]),
        ("forget.b2", [1.0, -0.1], [0.0]),
        ("forget.eps", [0.0], [1e-12]),
        ("forget.clip_norm", [0.0, -1.0], [0.1]),
        ("forget.weight_decay", [-0.1], [0.1]),
        ("reinforce.warmup_steps", [-1], [0]),
        ("evals.every", [-1], [0]),
        ("evals.heldout_blocks", [0], [1]),
        ("checkpoints.every", [0], [1]),
        ("checkpoints.keep", [0], [1]),
        ("export.shard_gigabytes", [0.0], [0.001]),
    ],
)
def test_ranges_are_closed_where_they_should_be(name, bad, good):
    for number in bad:
        assert error(f"{name}={number}").startswith(f"{name} is {number}; it must be ")
    for number in good:
        assert value(config_from({}, [f"{name}={number}"]), name) == number


def test_no_number_may_be_infinite_or_not_a_number():
    names = [name for name, _ in options() if isinstance(value(Config(), name), float)]
    assert len(names) > 10
    for name in names:
        for bad in ("nan", "inf"):
            assert error(f"{name}={bad}") == f"{name} is {bad}; it must be a finite number"
        assert math.isfinite(value(Config(), name))


def test_options_that_must_agree():
    assert "does not divide the 10 rows" in error("forget.batch=10", "forget.accumulate=3")
    assert config_from({}, ["forget.batch=10", "forget.accumulate=5"]).forget.accumulate == 5
    assert "set both, or neither" in error("retain.weight=1")
    assert "set both, or neither" in error("retain.rows=4")
    assert "retain.path" in error("retain.rows=4", "retain.weight=1")
    # Retain rows are part of a step's batch, and only of forget's.
    rows = ["retain.rows=6", "retain.weight=1", "retain.path=x", "forget.batch=10", "forget.accumulate=8"]
    assert config_from({}, rows).forget.accumulate == 8


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x7fELF\x00\xff\xfe", "not UTF-8 at byte 5"),
        (b"caf\xe9: 1", "not UTF-8 at byte 3"),
        (b"seed: \x00", "not YAML"),
        ("seed: 1\nseed: 2\n", "line 2 column 1: not YAML: found duplicate key seed"),
        ("a: b: c", "line 1 column 5: not YAML"),
        ("- a\n- b\n", "a configuration is a mapping"),
        ("hello", "unknown key 'hello'"),
        ("forget: [1]", "forget is a section"),
        ("seed: ${nothing}", "nothing"),
        ("seed: !!python/object:os.system x", "not YAML"),
        ("{" * 3000, ""),
        ("&a [*a]", "not YAML"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path, content, says):
    assert says in read_error(tmp_path, content)


def test_a_place_that_holds_no_configuration(tmp_path):
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}: holds no config.yaml")):
        load_config(tmp_path)
    with pytest.raises(UserError, match="no such file; give a YAML file or a run's folder"):
        load_config(tmp_path / "nothing.yaml")
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(UserError, match="config.yaml: cannot be read: Is a directory"):
        load_config(tmp_path)


def test_a_fault_names_the_file_only_where_the_file_has_it(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("forget: {batch: 0}\n")
    with pytest.raises(UserError, match=r"mine\.yaml: forget\.batch is 0"):
        load_config(file)
    with pytest.raises(UserError) as caught:
        load_config(file, ["forget.batch=-3"])
    assert str(caught.value) == "forget.batch is -3; it must be above 0"


def test_warm_up_leaves_steps_to_train():
    assert error("forget.warmup_steps=20", "forget.max_steps=20") == (
        "forget.warmup_steps is 20; it must be below max_steps 20"
    )
    assert config_from({}, ["forget.warmup_steps=19", "forget.max_steps=20"]).forget.warmup_steps == 19


def test_a_file_is_laid_over_another(tmp_path):
    (tmp_path / "below.yaml").write_text("seed: 3\nforget: {batch: 16, accumulate: 4}\nevals: {compare: {a: x}}\n")
    (tmp_path / "sub").mkdir()
    above = tmp_path / "sub" / "above.yaml"
    above.write_text("like: ../below.yaml\nforget: {accumulate: 2}\nevals:\nretain:\n")
    config = load_config(above, ["evals.every=7"])
    assert (config.seed, config.forget.batch, config.forget.accumulate, config.evals.every) == (3, 16, 2, 7)
    assert config.evals.compare == {"a": "x"}
    assert "like" not in to_yaml(config)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("like: none.yaml", "like: none.yaml: no such file beside it"),
        ("like: 3", "like is 3; name a YAML file"),
        ("like: c.yaml", "like: c.yaml leads back to itself"),
        ("like: d.yaml\nforget: {batsh: 3}", "batsh"),
    ],
)
def test_what_a_file_cannot_be_laid_over(tmp_path, content, message):
    (tmp_path / "d.yaml").write_text("seed: 1\n")
    assert message in read_error(tmp_path, content)


def test_a_saved_configuration_moves_with_its_run(tmp_path, monkeypatch):
    """Places inside the run are stored relative to it, others as absolute paths; names of the hub stay names."""
    monkeypatch.chdir(tmp_path)
    for name in ("run/world", "other", "run/old"):
        (tmp_path / name).mkdir(parents=True)
    words = ["out=run", "model.folder=owner/name", "corpus.path=run/world", "retain.path=other", "evals.heldout=tfds:x"]
    config = config_from({}, [*words, "evals.compare.old=run/old", "evals.probes=missing.json"])
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(config, "run"))
    (tmp_path / "run" / "manifest.json").write_text("{}")
    (tmp_path / "run").rename(tmp_path / "moved")
    monkeypatch.chdir("/")
    moved = load_config(tmp_path / "moved")
    assert moved.out == f"{tmp_path}/moved"
    assert moved.corpus.path == f"{tmp_path}/moved/world"
    assert moved.evals.compare == {"old": f"{tmp_path}/moved/old"}
    assert moved.retain.path == f"{tmp_path}/other"
    assert (moved.model.folder, moved.evals.heldout, moved.evals.probes) == ("owner/name", "tfds:x", "missing.json")
    assert load_config(tmp_path / "moved" / "config.yaml") == moved
    # Another `out` takes nothing inside the run along.
    assert load_config(tmp_path / "moved", ["out=new"]).corpus.path == f"{tmp_path}/moved/world"


def test_settings_of_a_method_are_a_free_section_of_numbers():
    assert load_config(None, ["method=npo", "objective.beta=0.2"]).objective == {"beta": 0.2}
    assert "objective.beta" in error("objective.beta=much")


@pytest.mark.parametrize("number", ["010", "-0_17", "1:30", "0b11"])
def test_a_number_that_only_yaml_1_1_reads_so_is_refused(tmp_path, number):
    """Before, forget.batch=010 was 8 and seed=1:30 was 90."""
    assert f"{number} is no decimal number" in error(f"seed={number}")
    assert f"{number} is no decimal number" in read_error(tmp_path, f"forget: {{batch: {number}}}")
    assert config_from({}, [f"corpus.path={number}"]).corpus.path == number, "a text is no number"


def test_numbers_of_both_versions_of_yaml_are_read(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("seed: 0x10\nforget: {learning_rate: 1e-5, batch: 12}\nout: '010'\n")
    config = load_config(path, ["reinforce.learning_rate=2E-6"])
    assert (config.seed, config.forget.learning_rate, config.forget.batch, config.out) == (16, 1e-5, 12, "010")
    assert config.reinforce.learning_rate == 2e-6


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("seed: ???", "seed is ???, which is no value"),
        ("evals: {compare: [w/base]}", "evals.compare takes a mapping of names to folders"),
        ("evals: {forgotten: [x]}", "evals.forgotten takes a mapping of names to folders"),
        ("objective: [1]", "objective takes a mapping of names to values"),
        ('out: "a\\0b"', "it must be a text without NUL characters"),
        ('evals: {compare: {a: "a\\0b"}}', "it must be a text without NUL characters"),
        ("evals: {compare: {'': w}}", "'' is no name; write evals.compare.NAME=FOLDER"),
        ("evals: {forgotten: {../a: w}}", "'../a' is no name; write evals.forgotten.NAME=FOLDER"),
        ("seed: " + "9" * 5000, "Exceeds the limit"),
    ],
)
def test_values_that_once_were_taken_or_crashed(tmp_path, content, says):
    assert says in read_error(tmp_path, content)


def test_words_without_a_name_or_a_value_are_refused(monkeypatch):
    assert "'' is no name" in error("evals.compare.=w/control")
    assert "out is ???" in error("out=???")
    monkeypatch.setenv("HOME", "/home/me")
    assert config_from({}, ["out=~"]).out == "/home/me"


def test_a_configuration_may_come_from_a_pipe_and_refer_to_other_layers(tmp_path):
    path = tmp_path / "c.yaml"
    os.mkfifo(path)
    text = "seed: 7\nmodel: {control: '${model.folder}'}\n"
    threading.Thread(target=path.write_text, args=(text,), daemon=True).start()
    config = load_config(path, ["model.folder=base"])
    assert (config.seed, config.model.control) == (7, "base")
